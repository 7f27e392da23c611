"""Pins the environment and imports once what fails when imported twice in one process, as pytester would do."""

from pytest_peftbench.measure import environment

environment.pin()

import datasets  # noqa: E402, F401
import peft  # noqa: E402, F401
import pytest  # noqa: E402
import scipy.stats  # noqa: E402, F401
import torch._inductor.config  # noqa: E402
from support import Bench  # noqa: E402

torch.set_num_threads(1)

pytest_plugins = ["pytester"]
OF_GITHUB = ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE")
# A user's own folder of benchmarks, which a test runs elsewhere.
collect_ignore = ["own_task"]


def pytest_configure(config):
    """xdist begins with the files of the most tests unless told otherwise, and ends with one worker at the longest."""
    config.option.loadscopereorder = False


@pytest.fixture
def bench(pytester, monkeypatch):
    """A folder with a suite of three experiments, MetaMathQA/mini, and a test whose results are not measured."""
    monkeypatch.setenv("COLUMNS", "400")  # paths of temporary folders are long
    # with CI set, pytest words its summary otherwise; with GitHub's, these runs would write into that of their own job
    for variable in ("CI", "BUILD_NUMBER", *OF_GITHUB, "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(variable, raising=False)
    return Bench(pytester.path, pytester)
