"""Baselines: where they lie, what is refused, what a diff of them shows."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_peftbench.compare.noise import check_noise, refreshed, with_noise
from pytest_peftbench.results.baseline import baseline_path, from_result, problem, read, within_margin, write
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS, Metric
from pytest_peftbench.results.result import CaseId, Result, SeedRun

CASE = CaseId("MetaMathQA", "tiny", "loha", "rank8")


IMPORTED = {"run_info": {"train_config": {}, "peft_config": None}}


def a_result(**changes):
    result = Result(
        case=CASE,
        case_version="v1",
        environment={"transformers": "5.0.0", "torch": "2.13.0", "device": "cpu"},
        metrics={
            "step_time_ratio": 1.23456789,
            "step_time_s": 0.0123,
            "train_step.flops": 1_204_000_000,
            "checkpoint.tensors": {"*.hada_w1_a": "4 x [8, 128] F32"},
            "merge.same_output": "ok",
        },
        seeds=[a_run(0), a_run(1)],
        operators={"train_step": {"aten.mm @ B": [2, 3], "aten.mm @ A": [1, 2]}},
        peak_tensors={"train_step": {"float32 @ weights": [2, 8], "[2, 2] float32 @ A.f": [1, 16]}},
    )
    return replace(result, **changes)


def a_run(seed, **metrics):
    values = {
        "train_loss": 1.23456789,
        "test_accuracy": 2 / 3,
        "first_losses": [5.541234567890123, 0.1 + 0.2],
        "valid_accuracy": 0.5,
    }
    samples = {"test_correct": "0110", "forgetting_per_document": [0.123456789, 0.2]}
    return SeedRun(seed, {**values, **metrics}, samples)


def written(tmp_path, **changes):
    """A baseline file whose JSON `changes` replace."""
    path = tmp_path / "x.json"
    write(from_result(a_result()), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


# Where


def test_a_baseline_lies_below_its_task_and_base_model():
    assert baseline_path(Path("baselines"), CASE) == Path("baselines/MetaMathQA/tiny/loha--rank8.json")


@pytest.mark.parametrize("part", ["..", "", "a/b", "a\\b"])
def test_a_baseline_never_lies_outside_of_its_folder(part):
    with pytest.raises(InputError, match="cannot be part"):
        baseline_path(Path("baselines"), replace(CASE, base_model=part))


def test_two_cases_never_share_a_baseline():
    with pytest.raises(InputError, match="separates method and name"):
        baseline_path(Path("b"), CaseId("t", "m", "lo--ha", "rank8"))


# From a result


def test_information_that_is_never_compared_is_left_out():
    baseline = from_result(a_result())

    assert "step_time_s" not in baseline.metrics
    assert "valid_accuracy" not in baseline.seeds[0].metrics


def test_noisy_and_quality_values_are_rounded_to_six_digits():
    baseline = from_result(a_result())

    assert baseline.metrics["step_time_ratio"] == 1.23457
    assert baseline.seeds[0].metrics["test_accuracy"] == 0.666667
    assert baseline.seeds[0].samples["forgetting_per_document"] == [0.123457, 0.2]


def test_numerics_keep_every_bit(tmp_path):
    write(from_result(a_result()), tmp_path / "x.json")

    assert read(tmp_path / "x.json").seeds[0].metrics["first_losses"] == [5.541234567890123, 0.1 + 0.2]


def test_metrics_stand_in_the_order_of_their_declaration():
    assert list(from_result(a_result(metrics={"zzz": 1, "step_time_ratio": 1.0, "params.total": 1})).metrics) == [
        "params.total",
        "step_time_ratio",
        "zzz",
    ]


def test_a_result_that_failed_makes_no_baseline():
    with pytest.raises(InputError, match="status 'failed': out of memory"):
        from_result(a_result(status="failed", error_msg="out of memory"))


# Written and read


def test_what_was_written_reads_back_equal(tmp_path):
    baseline = from_result(a_result())
    write(baseline, tmp_path / "new" / "x.json")

    assert read(tmp_path / "new" / "x.json") == baseline
    assert read(tmp_path / "new" / "x.json").path == tmp_path / "new" / "x.json"


def test_writing_twice_writes_the_same_bytes_whatever_the_order_of_measuring(tmp_path):
    result = a_result()
    reordered = replace(
        result,
        metrics=dict(reversed(result.metrics.items())),
        environment=dict(reversed(result.environment.items())),
        seeds=result.seeds[::-1],
    )
    write(from_result(result), tmp_path / "a.json")
    write(from_result(reordered), tmp_path / "b.json")

    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_keys_of_a_file_are_in_a_fixed_order(tmp_path):
    write(from_result(a_result()), tmp_path / "x.json")

    assert list(json.loads((tmp_path / "x.json").read_text())) == [
        "schema",
        "case",
        "case_version",
        "environment",
        "metrics",
        "seeds",
        "noise",
        "operators",
        "peak_tensors",
        "base",
    ]


def test_a_crash_while_writing_leaves_the_old_baseline(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write(from_result(a_result()), path)
    before = path.read_bytes()

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        write(from_result(a_result(case_version="v2")), path)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (a_result(metrics={"step_time_ratio": math.nan}), "step_time_ratio is NaN"),
        (a_result(metrics={"params.total": math.inf}), "params.total is infinite"),
        (a_result(metrics={"params.total": True}), "params.total holds a boolean"),
        (a_result(seeds=[a_run(0, test_accuracy=math.nan)]), "seed 0 test_accuracy is NaN"),
        (a_result(seeds=[a_run(0, test_accuracy=None)]), "seed 0 test_accuracy holds null"),
        (a_result(seeds=[a_run(0, first_losses=[])]), "seed 0 first_losses is empty"),
        (a_result(seeds=[SeedRun(0, {"train_loss": 1.0}, {"x": [math.nan]})]), "seed 0 x is NaN"),
        (a_result(seeds=[a_run(0), a_run(1, forgetting=0.1)]), "do not all hold forgetting"),
        (a_result(seeds=[SeedRun(0, {"adapter_sha256": "0" * 64})]), "seed 0 holds no quality metric"),
        (a_result(seeds=[a_run(0), a_run(0)]), "seeds must be ascending and differ"),
    ],
)
def test_what_no_run_could_be_held_against_is_never_written(tmp_path, result, words):
    with pytest.raises(InputError, match=f"x.json: not written: .*{words}"):
        write(from_result(result), tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


def test_a_footprint_without_training_is_written(tmp_path):
    baseline = from_result(a_result(seeds=[]))
    write(baseline, tmp_path / "x.json")

    assert read(tmp_path / "x.json") == baseline


# Refused when reading


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 3}, r"schema 3 is newer than this version reads \(2\); update pytest-peftbench"),
        ({"schema": 0}, "schema 0 is unknown"),
        ({"schema": True}, "schema holds a boolean, expected an integer"),
        ({"schema": "1"}, "schema holds text, expected an integer"),
        ({"schema": 1.0}, "schema holds a number, expected an integer"),
        ({"case": {"task": "t"}}, "key case.base_model is missing"),
        ({"case_version": None}, "case_version holds null, expected text"),
        ({"environment": {"threads": 1}}, "environment.threads holds an integer, expected text"),
        ({"metrics": []}, "metrics holds a list, expected an object"),
        ({"metrics": {"params.total": True}}, "metrics.params.total holds a boolean, expected a number"),
        ({"metrics": {"params.total": None}}, "metrics.params.total holds null, expected a number"),
        ({"metrics": {"params.total": {"a": {}}}}, "metrics.params.total holds an object, expected a number"),
        ({"metrics": {"params.total": "12"}}, "metrics.params.total holds text, expected a number"),
        ({"metrics": {"params.total": 10**400}}, "metrics.params.total is infinite"),
        ({"metrics": {"merge.same_output": 1}}, "metrics.merge.same_output holds an integer, expected text"),
        ({"metrics": {"merge.same_output": ""}}, "metrics.merge.same_output is empty"),
        ({"metrics": {"checkpoint.tensors": {"a": 1}}}, "metrics.checkpoint.tensors holds an object, expected an obj"),
        ({"metrics": {"unheard.of": [None]}}, "metrics.unheard.of holds a list, expected a number, text"),
        ({"seeds": {}}, "seeds holds an object, expected a list"),
        ({"seeds": [1]}, r"seeds\[0\] holds an integer, expected an object"),
        ({"seeds": [{"seed": 0, "metrics": {}}]}, r"key seeds\[0\].samples is missing"),
        ({"seeds": [{"seed": "0", "metrics": {}, "samples": {}}]}, r"seeds\[0\].seed holds text"),
        (
            {"seeds": [{"seed": 0, "metrics": {"forgetting": "x"}, "samples": {}}]},
            r"seeds\[0\].metrics.forgetting holds",
        ),
        ({"seeds": [{"seed": 0, "metrics": {}, "samples": {"a": 1}}]}, r"seeds\[0\].samples.a must be"),
        (
            {"seeds": [{"seed": n, "metrics": {}, "samples": {}} for n in (1, 0)]},
            "seeds must be ascending .* found 1, 0",
        ),
        (
            {"seeds": [{"seed": n, "metrics": {}, "samples": {}} for n in (0, 0)]},
            "seeds must be ascending .* found 0, 0",
        ),
        ({"operators": {"train_step": 1}}, "operators.train_step holds an integer"),
        (
            {"operators": {"train_step": {"A.f": {"aten.mm": [1]}}}},
            "operators.train_step.A.f.aten.mm must be two integers",
        ),
        (
            {"operators": {"train_step": {"A.f": {"aten.mm": [1, True]}}}},
            "operators.train_step.A.f.aten.mm must be two",
        ),
        ({"operators": {"train_step": {"A.f": {"aten.mm": [1, 10**400]}}}}, "operators.train_step.A.f.aten.mm is inf"),
        ({"noise": False}, "noise holds a boolean, expected an object"),
        ({"noise": []}, "noise holds a list, expected an object"),
        ({"noise": {"forgetting": {"sd": -1.0, "seeds": 5, "detectable": 1.0}}}, "noise.forgetting.sd is negative"),
        ({"noise": {"forgetting": {"sd": 1.0, "seeds": 5, "detectable": -0.1}}}, "noise.forgetting.detectable is neg"),
        (
            {"noise": {"forgetting": {"sd": 1.0, "seeds": 1, "detectable": 1.0}}},
            "noise.forgetting.seeds must be from 2",
        ),
        ({"noise": {"forgetting": {"sd": 1.0, "seeds": 10**400, "detectable": 1.0}}}, "noise.forgetting.seeds must be"),
        ({"seeds": [{"seed": 0, "metrics": {}, "samples": {"a": [10**400]}}]}, r"seeds\[0\].samples.a is infinite"),
        ({"imported": IMPORTED, "seeds": []}, "seeds is empty; an imported baseline holds the one"),
        ({"base": {"losses": [1.0], "metrics": {}, "operators": {}}}, "base.operators is empty"),
        (
            {"base": {"losses": [1.0], "metrics": {}, "operators": {"train_step": {}}}},
            "base.operators.train_step is empty",
        ),
        ({"peak_tensors": []}, "peak_tensors holds a list, expected an object"),
        ({"peak_tensors": {"train_step": {"A.f": {"[2] float32": [1, 1.5]}}}}, r"peak_tensors.train_step.A.f.\[2\] fl"),
    ],
)
def test_a_baseline_that_cannot_be_used_names_file_and_key(tmp_path, changes, words):
    with pytest.raises(InputError, match=f"x.json: {words}"):
        read(written(tmp_path, **changes))


@pytest.mark.parametrize("key", ["schema", "case", "case_version", "environment", "metrics", "seeds", "operators"])
def test_a_missing_key_is_named(tmp_path, key):
    path = written(tmp_path)
    data = json.loads(path.read_text())
    del data[key]
    path.write_text(json.dumps(data))

    with pytest.raises(InputError, match=f"x.json: key {key} is missing"):
        read(path)


def test_an_older_baseline_without_tensors_at_the_peak_can_still_be_read(tmp_path):
    path = written(tmp_path)
    data = json.loads(path.read_text())
    assert list(data.pop("peak_tensors")["train_step"]) == ["A.f", "weights"]
    path.write_text(json.dumps(data))

    assert read(path) == replace(from_result(a_result()), peak_tensors={})


@pytest.mark.parametrize("noise", [{}, {"noise": None}])
def test_an_older_baseline_without_noise_can_still_be_read(tmp_path, noise):
    path = written(tmp_path)
    data = json.loads(path.read_text())
    del data["noise"]
    path.write_text(json.dumps({**data, **noise}))

    assert read(path).noise == {}


def test_nan_in_a_baseline_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.forgetting is NaN"):
        read(written(tmp_path, metrics={"forgetting": math.nan}))


def test_an_unknown_metric_is_left_to_comparing(tmp_path):
    assert read(written(tmp_path, metrics={"unheard.of": 1})).metrics == {"unheard.of": 1}


# Values


def test_values_of_every_kind_are_told_apart():
    assert problem(1, "number") == problem("a", "text") == problem([1.0], "list") == problem({"a": "b"}, "table") == ""
    assert problem({}, "table") == ""
    assert problem(object()).startswith("holds object")
    assert problem([1.0, math.nan], "list") == "is NaN"
    assert problem(-math.inf, "number") == "is infinite"


def test_a_difference_of_just_the_margin_is_within_it():
    metric = Metric("a", "fraction", "higher", "quality", "", absolute_margin=0.05)

    assert 0.55 - 0.5 > 0.05
    assert within_margin(metric, 0.55, 0.5)
    assert not within_margin(metric, 0.55001, 0.5)


def test_the_wider_of_two_margins_holds():
    metric = METRICS["forgetting"]

    assert metric.margin(0.1) == metric.absolute_margin
    assert metric.margin(10.0) == metric.relative_margin * 10
    assert metric.margin(-10.0) == metric.margin(10.0)


# Refreshed


def with_ratio(ratio, **changes):
    result = a_result(**changes)
    return from_result(replace(result, metrics={**result.metrics, "step_time_ratio": ratio}))


def test_an_update_that_moves_only_noise_keeps_the_old_baseline():
    assert refreshed(with_ratio(1.0), with_ratio(1.1)) == with_ratio(1.0)


def test_an_update_records_a_time_beyond_its_margin():
    assert refreshed(with_ratio(1.0), with_ratio(1.4)) == with_ratio(1.4)


def test_an_update_that_changes_anything_else_records_everything():
    new = with_ratio(1.1, case_version="v2")

    assert refreshed(with_ratio(1.0), new) == new


def test_an_update_with_more_seeds_records_everything():
    new = with_ratio(1.1, seeds=[a_run(0), a_run(1), a_run(2)])

    assert refreshed(with_ratio(1.0), new) == new


def test_an_update_records_a_noisy_metric_that_is_new_or_vanished():
    without = from_result(a_result(metrics={"params.total": 1}))
    having = from_result(a_result(metrics={"params.total": 1, "step_time_ratio": 1.0}))

    assert refreshed(without, having) == having
    assert refreshed(having, without) == without


def test_an_update_keeps_the_noise_of_more_seeds():
    old = with_noise(with_ratio(1.0, seeds=[a_run(0), a_run(1, train_loss=1.5)]), [a_run(2)], METRICS)
    one = with_noise(with_ratio(2.0, seeds=[a_run(0)]), (), METRICS)
    another = with_noise(with_ratio(2.0, case_version="v2", seeds=[a_run(0)]), (), METRICS)

    assert one.noise == {}
    assert refreshed(old, one).noise == old.noise
    assert old.noise["train_loss"].seeds == 3
    assert refreshed(old, another).noise == {}


def test_a_seed_that_lacks_a_quality_or_holds_nan_cannot_calibrate():
    baseline = from_result(a_result())
    run = a_run(7)
    less = replace(run, metrics={name: value for name, value in run.metrics.items() if name != "train_loss"})

    check_noise(baseline, [run], METRICS)
    with pytest.raises(InputError, match=f"{CASE}: not calibrated: seed 7: train_loss is missing"):
        check_noise(baseline, [run, less], METRICS)
    with pytest.raises(InputError, match=f"{CASE}: not calibrated: seed 7: test_accuracy is NaN"):
        check_noise(baseline, [a_run(7, test_accuracy=math.nan)], METRICS)


def test_the_first_update_records_the_result():
    assert refreshed(None, with_ratio(1.0)) == with_ratio(1.0)
