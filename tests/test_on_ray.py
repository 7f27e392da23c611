"""`peftbench run --on ray`: a run in tasks of a cluster is the run that it would have been here."""

import operator
import re
import sys
from argparse import Namespace
from functools import partial

import pytest
from support import PLUGINS, output

from pytest_peftbench.commands import main, on_ray
from pytest_peftbench.results.files import InputError

SLOWER = {"train_step.flops": 2_000_000_000}


@pytest.fixture
def cluster(bench, monkeypatch):
    """A folder of three cases with baselines, one of which regressed, and a function that runs it on Ray."""
    pytest.importorskip("ray")
    bench.record()
    bench.measures("loha", SLOWER)
    monkeypatch.chdir(bench.path)
    command = partial(operator.add, [sys.executable, "-m", "pytest", *PLUGINS])

    def run(*arguments):
        job = on_ray.Job(command, arguments, {}, count=0)
        return on_ray.run(job, Namespace(address=None, tasks=2), bench.path / "baselines")

    return run


def verdicts(text):
    return dict(re.findall(r"^(?:MetaMathQA-mini-)?(\S+-(?:r4|default)) +((?:\w+ )*\w+)", text, re.M))


def test_a_run_on_a_cluster_is_that_of_one_machine(cluster, bench, capsys):
    together = bench.run("--peft-json=whole")
    capsys.readouterr()

    code = cluster("--peft-json=results", "--peft-html=page.html")
    told = capsys.readouterr()

    assert (code, together.ret) == (1, 1)
    assert verdicts(told.out) == verdicts(output(together))
    assert "2 shards, 3 cases, 1 red" in told.out
    assert "2 of 2 tasks" in told.err
    assert (bench.path / "page.html").exists()
    results = sorted(file.name for file in (bench.path / "results" / "MetaMathQA").rglob("*.json"))
    assert results == ["full-finetuning--default.json", "loha--r4.json", "lora--r4.json"]

    stored = on_ray._stored(bench.path / "results", ["test_mini.py::test_mini[MetaMathQA-mini-loha-r4]"])
    assert list(stored) == ["MetaMathQA/mini/loha--r4.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--on ray: add --peft-json=DIR"),
        (("--peft-json=results", "--peft-shard=1/2"), "--on ray: takes no --peft-shard"),
        (("--peft-json=results", "--peft-update-baselines"), "--on ray: takes no --peft-update-baselines"),
        (("--peft-json=results", "-k", "no-such"), "--on ray: pytest collects nothing to run"),
    ],
)
def test_what_cannot_be_run_on_a_cluster_is_refused_in_words(cluster, arguments, words):
    with pytest.raises(InputError, match=re.escape(words)):
        cluster(*arguments)


@pytest.mark.parametrize("arguments", [("--tasks", "2"), ("--address", "auto"), ("--on", "ray", "--tasks", "0")])
def test_what_makes_no_sense_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["run", *arguments])

    assert "--on ray" in capsys.readouterr().err or "0" in arguments


def test_without_ray_it_is_said_how_to_install_it(capsys):
    if on_ray.is_installed():
        pytest.skip("Ray is installed")
    with pytest.raises(SystemExit, match="2"):
        main(["run", "--on", "ray", "--peft-json=results"])

    assert "pip install 'pytest-peftbench[ray]'" in capsys.readouterr().err
