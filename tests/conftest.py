"""Pins the environment and imports once what fails, or takes long, when imported again, as pytester would do."""

import os

from pytest_peftbench.measure import environment

environment.pin()
# of sessions in processes of their own, too: paths of temporary folders are long, and lines would be folded
os.environ["COLUMNS"] = "400"

import pytest  # noqa: E402
from support import Bench  # noqa: E402

pytest_plugins = ["pytester"]
OF_GITHUB = ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE")
# A user's own folder of benchmarks, which a test runs elsewhere.
collect_ignore = ["own_task"]
# The files that take longest, about half of the time together, the longest first.
LONGEST = """
    test_faults test_image_generation test_plugin test_faults_catalogue test_witness test_life_cycle test_trained
    test_local_models test_unchanged test_footprint test_silent_pass test_own_task test_bisection test_crash
""".split()


def pytest_configure(config):
    """xdist begins with the files of the most tests unless told otherwise, and ends with one worker at the longest."""
    config.option.loadscopereorder = False  # but as they are collected


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session):
    """Import where tests run, not in xdist's controller, whose workers would wait for it; coverage is on by now."""
    if hasattr(session.config, "workerinput") or not getattr(session.config.option, "numprocesses", None):
        _import_once()


def pytest_collection_modifyitems(items):
    """The longest files come first, so that the workers end at the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def _import_once():
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch._inductor.config
    import transformers.models.llama.modeling_llama  # noqa: F401

    import pytest_peftbench.cases.trained
    import pytest_peftbench.tasks.math_reasoning.task  # noqa: F401

    torch.set_num_threads(1)


@pytest.fixture
def bench(pytester, monkeypatch):
    """A folder with a suite of three experiments, MetaMathQA/mini, and a test whose results are not measured."""
    # with CI set, pytest words its summary otherwise; with GitHub's, these runs would write into that of their own job
    for variable in ("CI", "BUILD_NUMBER", *OF_GITHUB, "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(variable, raising=False)
    return Bench(pytester.path, pytester)
