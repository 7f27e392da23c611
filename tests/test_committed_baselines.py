"""The committed baselines, all of them: read once here, which takes seconds."""

import difflib
import json
import os
from dataclasses import replace

import pytest
from own_functions import own_names, owners_of
from support import REPOSITORY, skip_under_an_older_peft

from pytest_peftbench.cases.kinds import KINDS
from pytest_peftbench.compare.noise import disagreement, refreshed
from pytest_peftbench.results.baseline import read, write
from pytest_peftbench.results.metrics import METRICS

skip_under_an_older_peft()

BASELINES = REPOSITORY / "baselines"


@pytest.fixture(scope="module")
def recorded():
    """The committed baselines, by file."""
    return {path: read(path) for path in sorted(BASELINES.rglob("*--*.json"))}


def test_each_is_what_would_be_written(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for path, baseline in recorded.items():
        write(baseline, tmp_path / "x.json")
        text = (tmp_path / "x.json").read_text()

        assert text == path.read_text()
        assert max(map(len, text.splitlines())) <= 120
    assert len(recorded) >= 200


def test_accepting_a_counter_changes_its_line_and_its_operator_s_alone(recorded, tmp_path):
    old = recorded[REPOSITORY / "baselines/MetaMathQA/tiny/loha--rank8.json"]
    rows = old.operators["train_step"]
    (calls, flops) = rows["aten.mul @ HadaWeight.forward"]
    measured = replace(
        old,
        metrics={
            **old.metrics,
            "train_step.calls": old.metrics["train_step.calls"] + 1,
            "step_time_ratio": old.metrics["step_time_ratio"] * 1.1,
        },
        operators={**old.operators, "train_step": {**rows, "aten.mul @ HadaWeight.forward": [calls + 1, flops]}},
    )

    write(refreshed(old, measured, METRICS), tmp_path / "x.json")

    before, after = (path.read_text().splitlines() for path in (old.path, tmp_path / "x.json"))
    lines = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:3] not in ("---", "+++")]
    added = [line for line in lines if line.startswith("+")]
    assert len(added) == len([line for line in lines if line.startswith("-")]) == 2
    assert added[0] == f'+    "train_step.calls": {old.metrics["train_step.calls"] + 1},'
    assert f'"aten.mul": [{calls + 1}, {flops}]' in added[1]


def test_each_can_tell_what_it_says(recorded):
    told = [disagreement(baseline) for baseline in recorded.values()]

    assert len(told) >= 200
    assert not any(told)


def test_each_trained_case_has_a_witness_with_a_narrow_bound(recorded):
    trained = [baseline for baseline in recorded.values() if baseline.case.kind == ""]
    quantised = [baseline for baseline in trained if baseline.case.name.endswith("-int8")]

    assert len(trained) == 127
    assert [baseline.witness for baseline in quantised] == [None]  # its kernels know no double precision
    for baseline in trained:
        if baseline in quantised:
            continue
        assert baseline.witness is not None, baseline.case
        assert baseline.witness.bound <= 3e-8


# What the witness tells where a check had an outcome other than an exception.
OUTPUTS = {
    "disable.restores_base": "disabled output",
    "reload.same_output": "reloaded output",
    "merge.same_output": "merged output",
    "unmerge.restores_base": "unmerged output",
}


def test_a_witness_holds_each_output_that_its_case_can_give(recorded):
    """One that failed in double precision alone would be missed by every comparison, on both sides."""
    for baseline in (baseline for baseline in recorded.values() if baseline.witness):
        checked = [name for name in OUTPUTS if str(baseline.metrics.get(name)).partition(":")[0] in ("ok", "differs")]
        unreached = {output for name, output in OUTPUTS.items() if baseline.metrics.get(name) == "not reached"}
        told = (baseline.witness.quantities.keys() & set(OUTPUTS.values())) - unreached
        assert told == {OUTPUTS[name] for name in checked}, baseline.case


def test_all_baselines_of_a_kind_were_recorded_in_one_environment(recorded):
    """But for the processor's last digits, which the witness makes no matter of."""
    environments = {
        (baseline.case.kind, json.dumps({**baseline.environment, "arithmetic": ""})) for baseline in recorded.values()
    }

    assert sorted(kind for kind, _ in environments) == sorted(KINDS)


def test_no_baseline_names_a_function_of_ours(recorded):
    """It would change with each renaming. A library that has one of the same name asks for another name of ours."""
    of_cases = [phases for baseline in recorded.values() for phases in (baseline.operators, baseline.peak_tensors)]
    of_base_models = [baseline.base.operators for baseline in recorded.values() if baseline.base is not None]

    assert not owners_of(*of_cases, *of_base_models) & own_names()
