"""Baselines: where they lie, what is refused, what a diff of them shows."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support import REPOSITORY

from pytest_peftbench.compare.noise import check_pairs, refreshed, with_noise
from pytest_peftbench.results.baseline import (
    baseline_path,
    from_result,
    problem,
    read,
    read_if_current,
    within_margin,
    write,
)
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS, Metric
from pytest_peftbench.results.result import BaseReference, CaseId, Result, SeedRun

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
        operators={"train_step": {"aten.mm @ B": [2, 1_203_999_998], "aten.mm @ A": [1, 2]}},
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
    samples = {"test_correct": "011", "forgetting_per_document": [0.123456789, 0.2]}
    return SeedRun(seed, {**values, **metrics}, samples)


def written(tmp_path, **changes):
    """A baseline file whose JSON `changes` replace; those of the evidence by its keys."""
    path = tmp_path / "x.json"
    write(from_result(a_result()), path)
    data = json.loads(path.read_text())
    evidence = {**data["evidence"], **changes.pop("evidence", {})}
    path.write_text(json.dumps({**data, "evidence": evidence, **changes}))
    return path


FILE = """\
{
  "schema": 3,
  "case": {
    "task": "MetaMathQA",
    "base_model": "tiny",
    "method": "loha",
    "name": "rank8"
  },
  "case_version": "v1",
  "holds": 7,
  "environment": {
    "device": "cpu",
    "torch": "2.13.0",
    "transformers": "5.0.0"
  },
  "metrics": {
    "train_step.flops": 1204000000,
    "merge.same_output": "ok",
    "step_time_ratio": 1.23457
  },
  "seeds": [0, 1],
  "per_seed": {
    "test_accuracy": [0.666667, 0.666667],
    "train_loss": [1.23457, 1.23457]
  },
  "noise": {
    "test_accuracy": {"sd": 0.0, "seeds": 2, "detectable": 0.05},
    "train_loss": {"sd": 0.0, "seeds": 2, "detectable": 0.0246914}
  },
  "evidence": {
    "metrics": {"checkpoint.tensors": {"*.hada_w1_a": "4 x [8, 128] F32"}},
    "per_seed": {"first_losses": [[5.541234567890123, 0.30000000000000004], [5.541234567890123, 0.30000000000000004]]},
    "samples": {},
    "answers": {
      "test_correct": [["0110110110110110110110110110110110110110110110110110110110110110", "11011011011011"],
       ["0110110110110110110110110110110110110110110110110110110110110110", "11011011011011"]]
    },
    "operators": {"train_step": {"A": {"aten.mm": [1, 2]}, "B": {"aten.mm": [2, 1203999998]}}},
    "peak_tensors": {},
    "base": null
  }
}
"""


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
        "holds",
        "environment",
        "metrics",
        "seeds",
        "per_seed",
        "noise",
        "evidence",
    ]


def test_a_file_shows_its_figures_first_a_line_each(tmp_path):
    seeds = [replace(a_run(seed), samples={"test_correct": "011" * 26}) for seed in (0, 1)]
    write(with_noise(from_result(a_result(seeds=seeds, peak_tensors={})), (), METRICS), tmp_path / "x.json")

    text = (tmp_path / "x.json").read_text()

    assert text == FILE


def test_a_crash_while_writing_leaves_the_old_baseline(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write(from_result(a_result()), path)
    before = path.read_bytes()

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(InputError, match=r"x\.json: cannot be written: disk full"):
        write(from_result(a_result(case_version="v2")), path)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (a_result(metrics={"step_time_ratio": math.nan}), "step_time_ratio is NaN"),
        (a_result(metrics={"params.total": math.inf}), "params.total is infinite"),
        (a_result(metrics={"params.total": True}), "params.total holds bool, expected a number"),
        (a_result(seeds=[a_run(0, test_accuracy=math.nan)]), "seed 0: test_accuracy is NaN"),
        (a_result(seeds=[a_run(0, test_accuracy=None)]), "seed 0: test_accuracy holds NoneType, expected a number"),
        (a_result(seeds=[a_run(0, first_losses=[])]), "seed 0: first_losses is empty"),
        (a_result(seeds=[SeedRun(0, {"train_loss": 1.0}, {"x": [math.nan]})]), "seed 0: x is NaN"),
        (a_result(seeds=[a_run(0), a_run(1, forgetting=0.15)]), "do not all hold forgetting"),
        (a_result(seeds=[a_run(0), replace(a_run(1), samples={})]), "do not all hold forgetting_per_document, test_co"),
        (a_result(base=BaseReference([2.5], {}, {})), "base.operators is empty"),
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


NOISE = {"sd": 1.0, "seeds": 5, "detectable": 1.0}
WITNESS = {"quantities": {"losses": [1.0]}, "bound": 1e-9, "rate": 1.0, "version": 1}
BASE = {"losses": [1.0], "metrics": {}, "operators": {"train_step": {"A.f": {"aten.mm": [1, 1]}}}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 4}, r"schema 4 is newer than this version reads \(3\); update pytest-peftbench"),
        ({"schema": 0}, "schema 0 is unknown"),
        ({"schema": True}, "schema: expected `int`, found true"),
        ({"schema": "1"}, 'schema: expected `int`, found "1"'),
        ({"schema": 1.0}, "schema: expected `int`, found 1.0"),
        ({"case": {"task": "t"}}, "case: object missing required field `base_model`"),
        ({"case_version": None}, "case_version: expected `str`, found null"),
        ({"environment": {"threads": 1}}, "environment.threads: expected `str`, found 1"),
        ({"metrics": []}, "metrics: expected `object`, got `array`"),
        ({"metrics": {"params.total": True}}, "metrics.params.total holds bool, expected a number"),
        ({"metrics": {"params.total": None}}, "metrics.params.total holds NoneType, expected a number"),
        ({"metrics": {"params.total": {"a": {}}}}, "metrics.params.total holds dict, expected a number"),
        ({"metrics": {"params.total": "12"}}, "metrics.params.total holds text, expected a number"),
        ({"metrics": {"params.total": 10**400}}, "metrics.params.total is NaN or infinite"),
        ({"metrics": {"merge.same_output": 1}}, "metrics.merge.same_output holds a number, expected text"),
        ({"metrics": {"merge.same_output": ""}}, "metrics.merge.same_output is empty"),
        (
            {"evidence": {"metrics": {"checkpoint.tensors": {"a": 1}}}},
            "metrics.checkpoint.tensors holds dict, expected",
        ),
        ({"metrics": {"checkpoint.tensors": {}}}, "metrics.checkpoint.tensors stands in evidence.metrics, too"),
        ({"metrics": {"unheard.of": [None]}}, "metrics.unheard.of holds list, expected a number, text"),
        ({"evidence": {"witness": {**WITNESS, "bound": 0.9}}}, "witness.bound must be between 1e-10 and 1e-07, is 0.9"),
        ({"evidence": {"witness": {**WITNESS, "bound": None}}}, "evidence.witness.bound: expected `float`, found null"),
        *(
            (
                {"evidence": {"witness": {key: value for key, value in WITNESS.items() if key != missing}}},
                f"evidence.witness: object missing required field `{missing}`",
            )
            for missing in WITNESS
        ),
        ({"evidence": {"witness": {**WITNESS, "rate": 0}}}, "witness.rate must be above 0 and at most 1, is 0"),
        ({"evidence": {"witness": {**WITNESS, "quantities": {}}}}, "witness.quantities is empty"),
        ({"evidence": {"witness": {**WITNESS, "quantities": {"a": []}}}}, "witness.quantities: a is empty"),
        ({"seeds": {}}, "seeds: expected `array`, got `object`"),
        ({"seeds": [0, "1"]}, r'seeds\[1\]: expected `int`, found "1"'),
        ({"seeds": [0]}, "per_seed.test_accuracy holds 2 values for 1 seeds"),
        ({"seeds": [1, 0]}, "seeds must be ascending .* found 1, 0"),
        ({"seeds": [0, 0]}, "seeds must be ascending .* found 0, 0"),
        ({"per_seed": {"train_loss": 1.0}}, "per_seed.train_loss: expected `array`, found 1.0"),
        ({"per_seed": {"train_loss": [1.0, "x"]}}, "seed 1: train_loss holds text, expected a number"),
        ({"per_seed": {"first_losses": [[1.0], [1.0]]}}, "per_seed.first_losses stands in evidence.per_seed, too"),
        ({"evidence": {"per_seed": {"first_losses": [[1.0], []]}}}, "seed 1: first_losses is empty"),
        ({"evidence": {"samples": {"a": [[1.0]]}}}, "evidence.samples.a holds 1 values for 2 seeds"),
        (
            {"evidence": {"samples": {"a": [[1.0], ["x"]]}}},
            r'evidence.samples.a\[1\]\[0\]: expected `float`, found "x"',
        ),
        ({"evidence": {"samples": {"a": [[1.0], [10**400]]}}}, r"evidence.samples.a\[1\]\[0\] is NaN or infinite"),
        ({"evidence": {"answers": {"a": ["01", "10"]}}}, r'evidence.answers.a\[0\]: expected `array`, found "01"'),
        ({"evidence": {"operators": {"train_step": 1}}}, "evidence.operators.train_step: expected `object`, found 1"),
        (
            {"evidence": {"operators": {"train_step": {"A.f": {"aten.mm": [1]}}}}},
            "evidence.operators.train_step.A.f.aten.mm: expected `array` of length >= 2",
        ),
        (
            {"evidence": {"operators": {"train_step": {"A.f": {"aten.mm": [1, True]}}}}},
            r"evidence.operators.train_step.A.f.aten.mm\[1\]: expected `int`, found true",
        ),
        (
            {"evidence": {"operators": {"train_step": {"A.f": {"aten.mm": [1, 10**400]}}}}},
            r"evidence.operators.train_step.A.f.aten.mm\[1\] is NaN or infinite",
        ),
        ({"evidence": {"peak_tensors": []}}, "evidence.peak_tensors: expected `object`, got `array`"),
        (
            {"evidence": {"peak_tensors": {"train_step": {"A.f": {"[2] float32": [1, 1.5]}}}}},
            r"evidence.peak_tensors.train_step.A.f.\[2\] float32\[1\]: expected `int`, found 1.5",
        ),
        ({"noise": False}, "noise: expected `object`, found false"),
        ({"noise": []}, "noise: expected `object`, got `array`"),
        ({"noise": {"forgetting": {**NOISE, "sd": -1.0}}}, "noise.forgetting.sd: expected `float` >= 0.0, found -1.0"),
        (
            {"noise": {"forgetting": {**NOISE, "detectable": -0.1}}},
            "noise.forgetting.detectable: expected `float` >= 0",
        ),
        (
            {"noise": {"forgetting": {**NOISE, "paired_sd": -1.0}}},
            r"noise.forgetting.paired_sd: expected `float` >= 0.0",
        ),
        ({"noise": {"forgetting": {**NOISE, "seeds": 1}}}, "noise.forgetting.seeds: expected `int` >= 2, found 1"),
        ({"noise": {"forgetting": {**NOISE, "seeds": 10**5}}}, "noise.forgetting.seeds: expected `int` <= 10000"),
        ({"noise": {"forgetting": {**NOISE, "seeds": 10**400}}}, "noise.forgetting.seeds is NaN or infinite"),
        ({"imported": {"run_info": {}}}, "imported.run_info: object missing required field `train_config`"),
        (
            {
                "imported": IMPORTED,
                "seeds": [],
                "per_seed": {},
                "evidence": {"per_seed": {}, "samples": {}, "answers": {}},
            },
            "seeds is empty; an imported baseline holds the one",
        ),
        (
            {"evidence": {"operators": {"train_step": {"A.f": {"aten.mm": [1, 3]}}}}},
            "operators.train_step adds up to 3, and train_step.flops is 1,204,000,000",
        ),
        ({"metrics": {"": 1}, "holds": 5}, "metrics. holds a figure without a name"),
        ({"metrics": {"train_step.flops": -1}, "holds": 5}, "metrics.train_step.flops is negative"),
        (
            {"per_seed": {"test_accuracy": [0.666667, 0.7], "train_loss": [1.0, 1.0]}},
            "seed 1: test_accuracy is 0.7, and its samples test_correct say 0.666667",
        ),
        (
            {"per_seed": {"forgetting": [0.3, 0.15], "train_loss": [1.0, 1.0]}},
            "seed 0: forgetting is 0.3, and its samples forgetting_per_document say 0.123457 to 0.2",
        ),
        ({"evidence": {"base": {**BASE, "losses": []}}}, "base.losses is empty"),
        ({"evidence": {"base": {**BASE, "operators": {}}}}, "base.operators is empty"),
        ({"evidence": {"base": {**BASE, "operators": {"train_step": {}}}}}, "base.operators.train_step is empty"),
    ],
)
def test_a_baseline_that_cannot_be_used_names_file_and_key(tmp_path, changes, words):
    with pytest.raises(InputError, match=f"x.json: {words}"):
        read(written(tmp_path, **changes))


@pytest.mark.parametrize(
    "key", ["case", "case_version", "holds", "environment", "metrics", "seeds", "per_seed", "evidence"]
)
def test_a_missing_key_is_named(tmp_path, key):
    path = written(tmp_path)
    data = json.loads(path.read_text())
    del data[key]
    path.write_text(json.dumps(data))

    with pytest.raises(InputError, match=f"x.json: object missing required field `{key}`"):
        read(path)


@pytest.mark.parametrize("schema", [1, 2])
def test_a_baseline_of_an_older_version_is_recorded_anew(tmp_path, schema):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"schema": schema, "metrics": {}, "seeds": [{"seed": 0}]}))

    with pytest.raises(InputError, match=f"x.json: schema {schema} is that of an older version.*--peft-update-baselin"):
        read(path)
    assert read_if_current(path) is None


def test_an_update_starts_from_a_baseline_that_can_be_read_or_from_nothing(tmp_path):
    path = written(tmp_path)

    assert read_if_current(path) == from_result(a_result())
    assert read_if_current(tmp_path / "absent.json") is None
    with pytest.raises(InputError, match="schema 99 is newer"):
        read_if_current(written(tmp_path, schema=99))


def test_nan_in_a_baseline_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.forgetting is NaN"):
        read(written(tmp_path, metrics={"forgetting": math.nan}))


def test_an_unknown_metric_is_left_to_comparing(tmp_path):
    path = written(tmp_path, metrics={"unheard.of": 1}, evidence={"metrics": {"unheard.of.too": [2]}}, holds=5)

    assert read(path).metrics == {"unheard.of": 1, "unheard.of.too": [2]}


@pytest.mark.parametrize("lost", [("metrics", "train_step.calls"), ("per_seed", "forgetting"), ("evidence", "metrics")])
def test_a_baseline_that_lost_a_metric_is_refused_and_not_taken_for_one_that_never_had_it(tmp_path, lost):
    path = next((REPOSITORY / "baselines/MetaMathQA/tiny").glob("loha--rank8.json"))
    data = json.loads(path.read_text())
    block, key = lost
    data[block][key] = {} if block == "evidence" else data[block].pop(key) and None
    data[block] = {name: value for name, value in data[block].items() if value is not None}
    (tmp_path / "x.json").write_text(json.dumps(data))

    with pytest.raises(
        InputError, match=r"x\.json: (holds \d+ metrics and says \d+|noise\..*); restore what is missin"
    ):
        read(tmp_path / "x.json")


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
    assert refreshed(with_ratio(1.0), with_ratio(1.1), METRICS) == with_ratio(1.0)


def test_an_update_records_a_time_beyond_its_margin():
    assert refreshed(with_ratio(1.0), with_ratio(1.4), METRICS) == with_ratio(1.4)


def test_an_update_of_another_case_version_records_everything():
    new = with_ratio(1.1, case_version="v2")

    assert refreshed(with_ratio(1.0), new, METRICS) == new


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [a_run(0), a_run(1), a_run(2)]},
        {"environment": {"torch": "2.14.0", "device": "cpu"}},
        {"operators": {"train_step": {"aten.mm @ A": [3, 4]}}},
    ],
)
def test_an_update_records_what_moved_and_keeps_what_did_not(changes):
    assert refreshed(with_ratio(1.0), with_ratio(1.1, **changes), METRICS) == with_ratio(1.0, **changes)


def test_an_update_records_the_memory_of_another_accelerator_though_it_is_near():
    def on(accelerator, peak):
        environment = {"device": "cuda", "accelerator": accelerator}
        return from_result(a_result(environment=environment, metrics={"gpu.allocated_peak_bytes": peak}))

    assert refreshed(on("L4", 1000), on("L4", 1001), METRICS) == on("L4", 1000)
    assert refreshed(on("L4", 1000), on("H100", 1001), METRICS) == on("H100", 1001)


def test_an_update_records_a_noisy_metric_that_is_new_or_vanished():
    without = from_result(a_result(metrics={"params.total": 1}))
    having = from_result(a_result(metrics={"params.total": 1, "step_time_ratio": 1.0}))

    assert refreshed(without, having, METRICS) == having
    assert refreshed(having, without, METRICS) == without


def test_an_update_keeps_the_noise_of_more_seeds():
    old = with_noise(with_ratio(1.0, seeds=[a_run(0), a_run(1, train_loss=1.5), a_run(2)]), (), METRICS)
    one = with_noise(with_ratio(2.0, seeds=[a_run(0)]), (), METRICS)
    another = with_noise(with_ratio(2.0, case_version="v2", seeds=[a_run(0)]), (), METRICS)

    assert one.noise == {}
    assert refreshed(old, one, METRICS).noise == old.noise
    assert old.noise["train_loss"].seeds == 3
    assert refreshed(old, another, METRICS).noise == {}


def of_two_seeds(change=0.0):
    """A baseline of two seeds whose losses are 1.25 and 1.5, both moved by `change`."""
    return with_ratio(1.0, seeds=[a_run(0, train_loss=1.25 + change), a_run(1, train_loss=1.5 + change)])


def test_pairs_move_by_their_differences_from_zero_and_tell_smaller_regressions():
    apart, pairs = (with_noise(of_two_seeds(), moved, METRICS).noise for moved in ((), of_two_seeds(0.002).seeds))

    assert apart["train_loss"].paired_sd is None
    # all seeds moved alike, so the differences scatter by nothing; but unchanged code moved by so much
    assert pairs["train_loss"].paired_sd == pytest.approx(0.002)
    assert pairs["train_loss"].sd == apart["train_loss"].sd
    assert pairs["train_loss"].detectable < apart["train_loss"].detectable
    assert pairs["test_accuracy"].paired_sd == 0.0


def test_the_noise_of_pairs_is_kept_in_the_file_and_left_out_where_it_was_not_measured(tmp_path):
    for moved in ((), of_two_seeds(0.002).seeds):
        baseline = with_noise(of_two_seeds(), moved, METRICS)
        write(baseline, tmp_path / "x.json")

        assert read(tmp_path / "x.json") == baseline
        assert ("paired_sd" in (tmp_path / "x.json").read_text()) == bool(moved)


def test_an_update_keeps_the_noise_of_pairs_where_it_has_as_many_seeds():
    old = with_noise(of_two_seeds(), of_two_seeds(0.002).seeds, METRICS)
    three = [*of_two_seeds().seeds, a_run(2)]

    again = refreshed(old, with_noise(of_two_seeds(), (), METRICS), METRICS)
    changed = refreshed(old, with_noise(of_two_seeds(0.1), (), METRICS), METRICS)
    more = refreshed(old, with_noise(with_ratio(1.0, seeds=three), (), METRICS), METRICS)
    calibrated = refreshed(old, with_noise(of_two_seeds(), of_two_seeds(0.004).seeds, METRICS), METRICS)

    assert again is old
    assert changed.noise["train_loss"].paired_sd == pytest.approx(0.002)
    assert more.noise["train_loss"].paired_sd is None
    assert calibrated.noise["train_loss"].paired_sd == pytest.approx(0.004)


def test_seeds_that_do_not_pair_up_cannot_calibrate():
    baseline = from_result(a_result(seeds=[a_run(0), a_run(7)]))
    run = a_run(7)
    less = replace(run, metrics={name: value for name, value in run.metrics.items() if name != "train_loss"})
    cannot = f"{CASE}: not calibrated: "

    check_pairs(baseline, baseline.seeds, METRICS)
    with pytest.raises(InputError, match=f"{cannot}one seed has no spread; record more with --peft-seeds"):
        check_pairs(replace(baseline, seeds=[run]), [run], METRICS)
    with pytest.raises(InputError, match=f"{cannot}seed 7 was not trained on moved base weights; pass second_stage="):
        check_pairs(baseline, [a_run(0)], METRICS)
    with pytest.raises(InputError, match=f"{cannot}seed 7 on moved base weights: train_loss is missing"):
        check_pairs(baseline, [a_run(0), less], METRICS)
    with pytest.raises(InputError, match=f"{cannot}seed 7 on moved base weights: test_accuracy is NaN"):
        check_pairs(baseline, [a_run(0), a_run(7, test_accuracy=math.nan)], METRICS)


def test_the_first_update_records_the_result():
    assert refreshed(None, with_ratio(1.0), METRICS) == with_ratio(1.0)
