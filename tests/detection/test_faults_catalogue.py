"""The catalogue of faults: each finds its place in the installed PEFT and is undone; they cover what they must."""

from functools import cache

import pytest
from few import Few
from support import REPOSITORY, TINY_SUITE, skip_under_an_older_peft

from pytest_peftbench.commands.selftest.faults import EXACT, FAULTS, LIFE_CYCLE, NOISY, NUMERICS, QUALITY
from pytest_peftbench.commands.selftest.patching import function_at, patched
from pytest_peftbench.commands.selftest.report import LANES
from pytest_peftbench.commands.selftest.runner import Outcome, Trial
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.suites import read_suite

skip_under_an_older_peft()

# One fault of each kind that a few items and three steps are enough for.
FOR_REAL = [
    ("loha/rank8", "delta weight computed twice"),
    ("lora/rank8", "inputs copied, and the copies kept for the backward pass"),
    ("lora/rank8", "norms of the base model left trainable"),
    ("loha/rank8", "rank silently halved"),
    ("hira/rank8", "merged weights off"),
    ("hira/rank8", "adapter not disabled in one kind of module"),
    ("lora/rank8", "dropout active in evaluation"),
    ("lora/rank8", "scaling off"),
    ("lora/rank8", "padding counted in the loss"),
]


def label(fault):
    return f"{fault.case}-{fault.name}-{fault.size}".replace(" ", "_")


@cache
def experiments(structure):
    """Those of a structure's suite, or of the trained one."""
    suite = REPOSITORY / "benchmarks" / "structures" / structure if structure else TINY_SUITE
    return {item.case.experiment for item in read_suite(suite)}


@pytest.mark.parametrize("fault", FAULTS, ids=label)
def test_each_fault_finds_its_place_and_is_undone(fault):
    functions = [function_at(edit.target) for edit in fault.edits]
    before = [function.__code__ for function in functions]
    with patched(fault.edits):
        faulty = [function.__code__ for function in functions]

    assert all(function.__code__ is code for function, code in zip(functions, before, strict=True))
    for code, other in zip(before, faulty, strict=True):
        assert (code.co_code, code.co_consts) != (other.co_code, other.co_consts)
        assert (code.co_filename, code.co_firstlineno, code.co_freevars) == (
            other.co_filename,
            other.co_firstlineno,
            other.co_freevars,
        )


@pytest.mark.parametrize("fault", FAULTS, ids=label)
def test_each_fault_is_tried_on_a_case_and_told_by_metrics_of_its_lane(fault):
    assert fault.experiment in experiments(fault.structure)
    assert fault.size
    assert fault.metrics
    lanes = {METRICS[name].lane for name in fault.metrics if name not in ("base model", "witness")}
    assert lanes == {fault.lane} or (fault.metrics == ("witness",) and fault.lane == "numerics")


def test_the_catalogue_covers_lanes_and_methods():
    methods = {fault.experiment.partition("/")[0] for fault in FAULTS} | {
        fault.experiment.rpartition("-")[2] for fault in FAULTS if "dora" in fault.experiment
    }

    assert len(FAULTS) >= 34
    assert [len(group) >= 3 for group in (EXACT, NUMERICS, QUALITY, NOISY)] == [True] * 4
    assert {fault.lane for fault in FAULTS} == set(LANES)
    assert len(methods) >= 15


def test_faults_of_the_life_cycle_are_of_most_methods_and_most_are_told_by_a_law():
    methods = {fault.experiment.partition("/")[0] for fault in LIFE_CYCLE}
    laws = [fault for fault in LIFE_CYCLE if fault.metrics[0].startswith("law.")]

    assert len(LIFE_CYCLE) >= 40
    assert len(methods) >= 20
    assert len(laws) >= 40
    assert {fault.structure for fault in FAULTS if fault not in LIFE_CYCLE} == {""}
    assert all(fault.structure and fault.any_arithmetic for fault in LIFE_CYCLE)


def test_no_two_faults_are_the_same():
    assert len({label(fault) for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.case, fault.edits) for fault in FAULTS}) == len(FAULTS)


def test_faults_of_the_benchmarks_own_pipeline_are_among_them():
    own = [fault for fault in FAULTS if all(edit.target.startswith("pytest_peftbench.") for edit in fault.edits)]

    assert {fault.lane for fault in own} == {"numerics", "quality"}
    assert len(own) >= 4


@pytest.fixture(scope="module")
def few():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Few(monkeypatch)


@pytest.mark.parametrize(("experiment", "name"), FOR_REAL)
def test_the_fault_is_caught_by_the_metric_that_should_tell_it(few, tmp_path, experiment, name):
    fault = next(fault for fault in FAULTS if (fault.case, fault.name) == (experiment, name))
    outcome = Outcome(Trial(experiment, tmp_path, tmp_path, fault), few.verdict(experiment, fault), 0.0)

    assert outcome.status == "caught", outcome.verdict.text()
    assert {finding.verdict for finding in outcome.caught_by} == {fault.verdict}


@pytest.mark.parametrize("experiment", sorted({experiment for experiment, _ in FOR_REAL}))
def test_without_a_fault_the_same_case_is_identical(few, experiment):
    assert few.verdict(experiment).verdict == "identical"
