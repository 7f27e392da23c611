"""Obtained and expected measurements in, verdicts and words out."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_peftbench.compare import (
    GREEN_BY_DEFAULT,
    SEVERITY,
    CaseVerdict,
    Finding,
    compare,
    corrected,
    diff_lines,
    is_green,
    margin_problems,
    second_stage,
)
from pytest_peftbench.compare.noise import with_noise
from pytest_peftbench.compare.witness import bounded, next_rate
from pytest_peftbench.results.baseline import from_result, read, write
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS, Metric
from pytest_peftbench.results.result import (
    WITNESS_VERSION,
    BaseReference,
    CaseId,
    Result,
    SecondStage,
    SeedRun,
    Witness,
)
from pytest_peftbench.results.words import bytes_text, flops_text

CASE = CaseId("MetaMathQA", "tiny", "loha", "rank8")
ENVIRONMENT = {
    "torch": "2.13.0",
    "transformers": "5.0.0",
    "peft": "0.20.0",
    "device": "cpu",
    "machine": "x86_64",
    "cpu_capability": "AVX2",
    "threads": "1",
    "arithmetic": "0123456789ab",
    "accelerator": "none",
}
PEAK_TENSORS = {
    "train_step": {"[128, 128] float32 @ LoHaLayer.get_delta_weight": [4, 262_144], "float32 @ weights": [9, 900]}
}
OPERATORS = {
    "train_step": {
        "aten.mm @ LoHaLayer.get_delta_weight": [48, 602_000_000],
        "aten.add @ Linear.forward": [9, 9],
        "aten.mm @ Linear.forward": [12, 601_999_991],
    }
}


def a_result(**changes):
    """A small result; `changes` replace fields, or with a metric's name its value."""
    result = Result(
        case=CASE,
        case_version="v1",
        environment=ENVIRONMENT,
        metrics={
            "params.trainable": 8192,
            "checkpoint.tensors": {"*.hada_w1_a": "4 x [8, 128] F32", "*.hada_w1_b": "4 x [128, 8] F32"},
            "train_step.flops": 1_204_000_000,
            "train_step.peak_bytes": 11_219_763,
            "merge.same_output": "ok",
            "step_time_ratio": 1.2,
            "step_time_interval": [1.2, 1.2],
        },
        seeds=[a_run(0), a_run(1)],
        operators=OPERATORS,
        peak_tensors=PEAK_TENSORS,
    )
    return replace(result, **changes)


def a_run(seed, **metrics):
    values = {
        "first_losses": [5.5, 5.4, 5.3],
        "adapter_sha256": "0" * 64,
        "test_accuracy": 0.5,
        "forgetting": 0.1,
        "train_loss": 1.0,
    }
    return SeedRun(seed, {**values, **metrics}, {"test_correct": "0101"})


def measuring(result=None, **metrics):
    """A result with some seedless metrics replaced; None takes one away. A time has an interval of no width."""
    result = result or a_result()
    if metrics.get("step_time_ratio") is not None:
        metrics.setdefault("step_time_interval", [metrics["step_time_ratio"]] * 2)
    values = {name.replace("__", "."): value for name, value in metrics.items()}
    return replace(result, metrics={k: v for k, v in {**result.metrics, **values}.items() if v is not None})


def training(**metrics):
    """A result with some metrics of both seeds replaced."""
    return a_result(seeds=[a_run(0, **metrics), a_run(1, **metrics)])


def quality_run(seed, accuracy, forgetting=0.1, **metrics):
    """A run whose samples have the means that its metrics say: 200 answers and 50 documents."""
    solved = round(200 * accuracy)
    run = a_run(seed, test_accuracy=solved / 200, forgetting=forgetting, **metrics)
    documents = [forgetting + 0.01 * (n % 5 - 2) for n in range(50)]
    return replace(
        run, samples={"test_correct": "1" * solved + "0" * (200 - solved), "forgetting_per_document": documents}
    )


def quality(accuracy=0.5, forgetting=0.1, spread=0.01, seeds=5, **metrics):
    """A result of several seeds, which lie around the figures at equal distances of `spread`."""
    steps = [spread * (seed - (seeds - 1) / 2) for seed in range(seeds)]
    runs = [quality_run(seed, accuracy + step, forgetting + step, **metrics) for seed, step in enumerate(steps)]
    return a_result(seeds=runs)


def held(obtained, baseline, metrics=METRICS, tests=1):
    """The verdict on a result, held against a baseline."""
    return compare(obtained, baseline, metrics, tests)


def against(obtained, expected=None):
    """The verdict on a result, held against the baseline that another one made."""
    return held(obtained, from_result(expected or a_result()))


def found(verdict, subject):
    return next(finding for finding in verdict.findings if finding.subject == subject)


def moved_metrics(verdict):
    return [finding.subject for finding in verdict.findings if finding.verdict != "identical"]


# The whole case


def test_the_same_measurement_again_is_identical():
    verdict = against(a_result())

    assert verdict.verdict == "identical"
    assert {finding.verdict for finding in verdict.findings} == {"identical"}
    assert verdict.text() == "all metrics identical"
    assert verdict.moved() == ""
    assert is_green(verdict)


def test_a_measurement_is_identical_to_its_own_file(tmp_path):
    result = training(test_accuracy=1 / 2, forgetting=0.1 + 0.2, first_losses=[5.541234567890123])
    result = replace(result, peak_tensors={})  # those of this page are no whole peak
    write(from_result(result), tmp_path / "x.json")

    assert held(result, read(tmp_path / "x.json")).verdict == "identical"


def test_findings_stand_in_the_order_in_which_metrics_are_declared():
    names = [finding.metric for finding in against(a_result()).findings]

    assert names == [name for name in METRICS if name in names]
    assert len(names) == 11


def test_a_case_without_a_baseline_is_not_green():
    verdict = held(a_result(), None)

    assert verdict.verdict == "no baseline"
    assert not is_green(verdict)
    assert verdict.text() == "case no baseline: nothing to compare with"
    assert verdict.moved() == "nothing to compare with"


def test_the_worst_finding_is_the_verdict():
    verdict = against(measuring(train_step__flops=2_000_000_000, params__trainable=1))

    assert found(verdict, "params.trainable").verdict == "improved"
    assert found(verdict, "train_step.flops").verdict == "regressed"
    assert verdict.verdict == "regressed"


def test_an_improvement_counts_only_when_nothing_is_worse():
    assert against(quality(0.9), quality()).verdict == "improved"
    assert against(quality(0.9, adapter_sha256="1" * 64), quality()).verdict == "numerics changed"


def test_only_what_is_no_worse_moved_with_its_environment_or_is_new_is_green():
    green = {"identical", "environment drift", "within noise", "same to rounding", "improved", "not recorded yet"}
    assert green == GREEN_BY_DEFAULT
    for word in SEVERITY:
        verdict = CaseVerdict(CASE, (Finding("a", word),))
        assert is_green(verdict) == (word in GREEN_BY_DEFAULT)
        assert is_green(verdict, {*GREEN_BY_DEFAULT, word})


def test_allowing_the_worst_verdict_does_not_hide_a_lesser_one():
    verdict = CaseVerdict(CASE, (Finding("a", "numerics changed"), Finding("b", "not comparable")))

    assert not is_green(verdict, {*GREEN_BY_DEFAULT, "not comparable"})
    assert is_green(verdict, {*GREEN_BY_DEFAULT, "not comparable", "numerics changed"})


def test_improved_can_be_made_red():
    assert not is_green(against(quality(0.9), quality()), {"identical", "within noise"})


def test_a_run_that_measured_nothing_is_not_green():
    nothing = a_result(metrics={}, seeds=[])

    assert against(nothing, nothing).verdict == "missing metric"


def test_comparing_imports_neither_torch_nor_pytest():
    code = "import sys, pytest_peftbench.compare, pytest_peftbench.report.terminal as t; print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "pytest_peftbench.report.terminal" in modules
    assert not [name for name in ("torch", "numpy", "scipy", "pytest") if f"'{name}'" in modules]


# Failed, NaN


def test_a_case_that_did_not_succeed_failed():
    verdict = against(a_result(status="failed", error_msg="CUDA out of memory\nTried to allocate 2 GiB", metrics={}))

    assert verdict.verdict == "failed"
    assert verdict.text() == "case failed: CUDA out of memory\n  Tried to allocate 2 GiB"
    assert verdict.moved() == "CUDA out of memory"


def test_a_case_that_was_cancelled_without_a_message_failed():
    assert against(a_result(status="cancelled")).text() == "case failed: cancelled: no error message"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["train_loss", "test_accuracy", "forgetting"])
def test_a_quality_that_is_no_number_is_never_green(metric, value):
    verdict = against(a_result(seeds=[a_run(0), a_run(1, **{metric: value})]))

    assert verdict.verdict == "failed"
    assert [f.metric for f in verdict.findings if f.verdict == "failed"] == [metric]
    assert "for seed 1" in found(verdict, metric).text()


@pytest.mark.parametrize("metric", ["step_time_ratio", "train_step__flops", "params__trainable"])
def test_a_counter_or_time_that_is_nan_is_never_green(metric):
    assert against(measuring(**{metric: math.nan})).verdict == "failed"


def test_nan_against_nan_is_never_green():
    nan = training(train_loss=math.nan)

    assert against(nan, nan).verdict == "failed"


@pytest.mark.parametrize("baseline", [None, from_result(a_result(case_version="v0"))])
def test_nan_fails_even_where_there_is_nothing_to_compare_with(baseline):
    assert held(training(train_loss=math.nan), baseline).verdict == "failed"


def test_nan_among_the_first_losses_or_samples_fails():
    assert against(training(first_losses=[5.5, math.nan, 5.3])).verdict == "failed"
    sampled = SeedRun(0, a_run(0).metrics, {"forgetting_per_document": [0.1, math.nan]})
    verdict = against(a_result(seeds=[sampled]))
    assert found(verdict, "samples.forgetting_per_document").text() == (
        "samples.forgetting_per_document failed: is NaN for seed 0"
    )


@pytest.mark.parametrize(("metric", "value"), [("params__trainable", "8192"), ("merge__same_output", 1)])
def test_a_value_of_a_wrong_type_fails(metric, value):
    assert against(measuring(**{metric: value})).verdict == "failed"


def test_nan_in_the_baseline_is_not_comparable():
    assert against(a_result(), training(train_loss=math.nan)).verdict == "not comparable"
    assert against(a_result(), measuring(train_step__peak_bytes=math.nan)).verdict == "not comparable"


def test_a_vanished_metric_whose_baseline_is_nan_still_reports():
    assert against(measuring(train_step__peak_bytes=None), measuring(train_step__peak_bytes=math.nan)).text()
    assert against(measuring(train_step__flops=None), measuring(train_step__flops=math.nan)).text()


# The union of names


def test_a_metric_that_vanished_fails():
    verdict = against(measuring(train_step__flops=None))

    assert verdict.verdict == "missing metric"
    assert found(verdict, "train_step.flops").text() == (
        "train_step.flops missing metric: 1.204e9 (vanished; the baseline holds it)"
    )


def test_a_case_that_no_longer_trains_misses_its_quality():
    verdict = against(a_result(seeds=[]))

    assert verdict.verdict == "missing metric"
    assert (
        "5 metrics missing metric: vanished; the baseline holds it\n  first_losses, adapter_sha256," in verdict.text()
    )


def test_a_metric_that_vanished_for_one_seed_fails():
    partial = replace(a_run(1), metrics={k: v for k, v in a_run(1).metrics.items() if k != "forgetting"})

    assert found(against(a_result(seeds=[a_run(0), partial])), "forgetting").reason == "vanished for seed 1"
    verdict = against(a_result(), a_result(seeds=[a_run(0), partial]))
    assert found(verdict, "forgetting").reason == "the baseline does not hold it for seed 1; update the baseline"


# Not recorded yet: a newer version added the metric


def without_quality(run):
    """A run as a baseline holds it that lost its quality."""
    kept = {name: value for name, value in run.metrics.items() if METRICS[name].lane != "quality"}
    return replace(run, metrics=kept, samples={})


def test_a_metric_that_the_baseline_does_not_hold_yet_is_told_and_green():
    verdict = against(measuring(train_step__saved_bytes=2048, decode_step__calls=7))

    assert verdict.verdict == "not recorded yet"
    assert is_green(verdict)
    assert not is_green(verdict, GREEN_BY_DEFAULT - {"not recorded yet"})
    assert verdict.text() == (
        "2 metrics not recorded yet: the baseline does not hold it\n  train_step.saved_bytes, decode_step.calls"
    )
    assert verdict.moved() == "2 metrics not recorded yet"


def test_one_metric_that_is_not_recorded_yet_is_told_with_its_value():
    assert against(measuring(train_step__saved_bytes=2048)).text() == (
        "train_step.saved_bytes not recorded yet: 2.00 KiB (the baseline does not hold it)"
    )
    assert against(measuring(train_step__saved_bytes=2048)).moved() == "1 metric not recorded yet"


def test_a_new_quality_with_samples_of_its_own_leaves_the_others_identical():
    old = quality()
    new = [
        replace(run, metrics={**run.metrics, "drift": 0.2}, samples={**run.samples, "drift_per_image": [0.1, 0.3]})
        for run in old.seeds[:1]
    ]
    verdict = against(a_result(seeds=new), old)

    assert moved_metrics(verdict) == ["drift"]
    assert verdict.verdict == "not recorded yet"
    assert second_stage(a_result(seeds=new), from_result(old), METRICS) == SecondStage()


def test_what_is_not_recorded_yet_does_not_hide_what_is_worse():
    verdict = against(measuring(decode_step__calls=7, train_step__flops=2_000_000_000))

    assert verdict.verdict == "regressed"
    assert not is_green(verdict)
    assert verdict.moved() == "train_step.flops +66.1 %, 1 metric not recorded yet"
    assert against(measuring(decode_step__calls=math.nan)).verdict == "failed"


def test_a_metric_that_vanished_is_not_taken_for_a_renamed_one():
    verdict = against(measuring(train_step__flops=None, decode_step__flops=5))

    assert verdict.verdict == "missing metric"
    assert not is_green(verdict)


def test_a_case_of_which_nothing_could_be_compared_is_red():
    """The exact and the quality lane have a rule of their own; a time alone has not."""
    timed = a_result(metrics={"step_time_ratio": 1.2, "step_time_interval": [1.2, 1.2]}, seeds=[])
    verdict = against(timed, a_result(metrics={}, seeds=[]))

    assert verdict.verdict == "missing metric"
    assert not is_green(verdict)
    assert verdict.text() == (
        "case missing metric: nothing was compared; update the baseline\n"
        "step_time_ratio not recorded yet: 1.2 (the baseline does not hold it)"
    )


def test_what_moved_with_its_environment_is_no_comparison_either():
    """Only a counter is recorded, and it drifts with the base model's own; the time is new."""
    recorded = replace(with_base(), metrics={"train_step.peak_bytes": 900}, seeds=[])
    timed = measuring(recorded, train_step__peak_bytes=990, step_time_ratio=1.2)
    base = replace(timed.base, metrics={"train_step.peak_bytes": 1090})
    verdict = against(replace(timed, base=base, environment={**ENVIRONMENT, "torch": "2.14.0"}), recorded)

    assert found(verdict, "train_step.peak_bytes").verdict == "environment drift"
    assert found(verdict, "step_time_ratio").verdict == "not recorded yet"
    assert found(verdict, "case").verdict == "missing metric"
    assert not is_green(verdict)


def test_a_baseline_without_any_quality_is_red_where_the_case_has_some():
    recorded = a_result(seeds=[without_quality(run) for run in a_result().seeds])
    verdict = against(a_result(), recorded)

    assert verdict.verdict == "missing metric"
    assert not is_green(verdict)
    assert (
        "3 metrics missing metric: the baseline holds nothing of the quality lane; update the baseline\n"
        "  test_accuracy, forgetting, train_loss"
    ) in verdict.text()


def test_a_baseline_of_a_case_that_did_not_train_is_red():
    verdict = against(a_result(), a_result(seeds=[]))

    assert found(verdict, "test_accuracy").verdict == "missing metric"
    assert not is_green(verdict)


def test_a_baseline_without_any_counter_is_red_where_the_case_has_some():
    verdict = against(a_result(), a_result(metrics={}))

    assert found(verdict, "train_step.flops").verdict == "missing metric"
    assert found(verdict, "step_time_ratio").verdict == "not recorded yet"
    assert not is_green(verdict)


def test_a_new_metric_that_not_every_seed_measured_is_red():
    whole = training(train_loss=1.0)
    old = [replace(run, metrics={k: v for k, v in run.metrics.items() if k != "train_loss"}) for run in whole.seeds]
    verdict = against(a_result(seeds=[whole.seeds[0], old[1]]), a_result(seeds=old))

    assert found(verdict, "train_loss").verdict == "missing metric"
    assert found(verdict, "train_loss").reason == "not measured for seed 1, nor does the baseline hold it"
    assert not is_green(verdict)


@pytest.mark.parametrize("device", ["cuda", None])
def test_what_the_baseline_s_device_could_not_measure_is_not_comparable(device):
    """A baseline of a processor holds no memory of an accelerator, and no newer version is the cause."""
    elsewhere = {**ENVIRONMENT, "accelerator": "H200", "device": device}
    elsewhere = {key: value for key, value in elsewhere.items() if value}
    verdict = against(measuring(a_result(environment=elsewhere), gpu__allocated_peak_bytes=10_000))

    assert found(verdict, "gpu.allocated_peak_bytes").verdict == "not comparable"
    assert not is_green(verdict)


def test_a_metric_that_moved_between_case_and_seeds_fails():
    inside = a_result(seeds=[a_run(0, step_time_ratio=1.2), a_run(1, step_time_ratio=1.2)])

    assert found(against(measuring(inside, step_time_ratio=None)), "step_time_ratio").verdict == "missing metric"


@pytest.mark.parametrize(
    ("obtained", "expected", "words"),
    [
        (measuring(novel=1), a_result(), "novel unknown metric: measured, but not declared"),
        (a_result(), measuring(novel=1), "novel unknown metric: the baseline holds it, but this version does not know"),
        (measuring(novel=1), measuring(novel=1), "novel unknown metric"),
        (training(novel=1), a_result(), "novel unknown metric"),
    ],
)
def test_a_metric_that_nobody_declared_fails(obtained, expected, words):
    verdict = against(obtained, expected)

    assert verdict.verdict == "unknown metric"
    assert words in verdict.text()


def test_information_is_never_compared():
    verdict = against(measuring(step_time_s=1.0), measuring(step_time_s=9.0, decode_time_s=1.0))

    assert verdict.verdict == "identical"
    assert verdict.values["step_time_s"] == 1.0
    older = from_result(a_result())
    older.metrics["decode_time_s"] = 1.0  # of a version that still compared it
    assert held(a_result(), older).verdict == "identical"


# Not comparable


def test_another_definition_of_the_case_is_not_comparable():
    verdict = against(measuring(a_result(case_version="v2"), train_step__flops=1))

    assert verdict.verdict == "not comparable"
    assert verdict.text() == (
        "case not comparable: the definition of the case changed (experiment files, data, base model or recipe): "
        "version v1 -> v2"
    )


def test_the_baseline_of_another_case_is_not_comparable():
    verdict = against(a_result(case=replace(CASE, method="loKr")))

    assert verdict.verdict == "not comparable"
    assert "the baseline is one of MetaMathQA-tiny-loha-rank8, not of MetaMathQA-tiny-loKr-rank8" in verdict.text()


def test_counters_of_another_torch_are_not_comparable_without_the_base_model_s_own():
    verdict = against(measuring(a_result(environment={**ENVIRONMENT, "torch": "2.14.0"}), params__trainable=9000))

    assert found(verdict, "train_step.flops").verdict == "not comparable"
    assert found(verdict, "params.trainable").verdict == "regressed"
    assert found(verdict, "test_accuracy").verdict == "identical"
    assert (
        "2 metrics not comparable: environment differs: torch 2.13.0 -> 2.14.0; the base model's own figures are not "
        "there to tell\n  train_step.flops, train_step.peak_bytes"
    ) in verdict.text()


def test_equal_bits_of_another_processor_are_identical_beside_a_note():
    verdict = against(a_result(environment=OTHER_PROCESSOR))

    assert moved_metrics(verdict) == ["environment"]
    assert verdict.environment_drift == ("arithmetic 0123456789ab -> ba9876543210",)
    assert verdict.verdict == "environment drift"
    assert is_green(verdict)


# The witness

OTHER_PROCESSOR = {**ENVIRONMENT, "arithmetic": "ba9876543210"}
TOLD = {
    "start: q_proj.lora_A": [3.25],
    "start: q_proj.lora_B": [0.0],
    "untrained output": [7.5, -2.5],
    "gradient: q_proj.lora_B": [0.5],
    "losses": [3.5, 3.25],
    "learned: q_proj.lora_B": [0.125],
    "merged output": [7.5, -2.25],
}


def witnessed(bound=1e-9, told=None, **changes):
    """A result with a witness; `changes` multiply its quantities: `losses=1.01`."""
    quantities = {name: list(numbers) for name, numbers in (told or TOLD).items()}
    for name, factor in changes.items():
        for key in quantities:
            if key.startswith(name.replace("_", " ")):
                quantities[key] = [factor * number for number in quantities[key]]
    return replace(a_result(), witness=Witness(quantities, bound))


def other_bits(result):
    """The same result, trained to other last bits on another processor."""
    runs = [replace(run, metrics={**run.metrics, "adapter_sha256": "1" * 64}) for run in result.seeds]
    return replace(result, seeds=runs, environment=OTHER_PROCESSOR)


def test_other_bits_with_a_witness_that_agrees_are_rounding_on_any_processor():
    verdict = against(other_bits(witnessed(losses=1 + 1e-12)), witnessed())

    assert verdict.verdict == "same to rounding"
    assert is_green(verdict)
    assert found(verdict, "adapter_sha256").reason == "the witness agrees"
    assert found(verdict, "witness").text() == (
        "witness same to rounding: bits differ, and its largest deviation is 1.0e-12, bound 1.0e-09"
    )


def test_a_witness_that_moved_is_red_and_names_what_moved_first():
    verdict = against(other_bits(witnessed(gradient=1 + 1e-6, losses=1.5)), witnessed())

    assert verdict.verdict == "numerics changed"
    assert not is_green(verdict)
    assert found(verdict, "adapter_sha256").verdict == "numerics changed"
    assert found(verdict, "witness").text() == (
        "witness numerics changed: 0.5 -> 0.5000005 (by 1.0e-06 of its size, gradient: q_proj.lora_B moved first, "
        "bound 1.0e-09; 2 of 7 quantities moved)"
    )


def test_a_witness_that_moved_is_red_though_all_bits_are_the_baseline_s():
    assert against(witnessed(losses=1.01), witnessed()).verdict == "numerics changed"
    assert against(witnessed(), witnessed()).verdict == "identical"


@pytest.mark.parametrize("lacking", ["merged output", "losses"])
def test_a_quantity_that_vanished_or_is_no_number_moved(lacking):
    gone = {name: numbers for name, numbers in TOLD.items() if name != lacking}
    verdict = against(other_bits(witnessed(told=gone)), witnessed())

    assert found(verdict, "witness").verdict == "numerics changed"
    assert f"(vanished, {lacking} moved first" in found(verdict, "witness").text()
    fewer = against(other_bits(witnessed(told={**TOLD, lacking: TOLD[lacking][:1]})), witnessed())
    assert "witness numerics changed: 2 numbers -> 1 numbers" in fewer.text()
    assert not is_green(against(other_bits(witnessed(told={**TOLD, lacking: [math.nan, 1.0]})), witnessed()))


def test_a_quantity_that_only_the_result_has_moved_unless_it_is_a_capability_gained():
    gained, more = {**TOLD, "unmerged output": [1.0]}, {**TOLD, "start: v_proj.lora_A": [1.0]}

    assert against(other_bits(witnessed(told=gained)), witnessed()).verdict == "same to rounding"
    assert "1.0 (not in the baseline" in against(other_bits(witnessed(told=more)), witnessed()).text()


def test_a_witness_excuses_what_rounding_can_do_and_no_more():
    """The first loss is of an untrained adapter; later ones may be anything that training makes of a last digit."""
    runs = {
        "a later loss": [5.5, 5.4, 9.0],
        "the first loss": [6.5, 5.4, 5.3],
        "fewer losses": [5.5, 5.4],
    }
    told = {what: other_bits(training(first_losses=losses)) for what, losses in runs.items()}
    verdicts = {
        what: found(against(replace(result, witness=witnessed().witness), witnessed()), "first_losses").verdict
        for what, result in told.items()
    }

    assert verdicts == {
        "a later loss": "same to rounding",
        "the first loss": "numerics changed",
        "fewer losses": "numerics changed",
    }
    start = [measuring(other_bits(witnessed()), init__max_output_difference=size) for size in (0.0, 1e-6, 5.0)]
    expected = measuring(witnessed(), init__max_output_difference=0.0)
    assert [found(against(item, expected), "init.max_output_difference").verdict for item in start] == [
        "identical",
        "same to rounding",
        "numerics changed",
    ]


def test_a_check_to_the_bit_may_come_out_otherwise_where_bits_do():
    """AdaLoRA, reloaded, multiplies matrices of another shape: whether its last digits agree, the processor decides."""
    told = {**TOLD, "reloaded output": [7.5, -2.25]}
    here, there = (measuring(witnessed(told=told), reload__same_output=word) for word in ("ok", "differs: 2e-08"))

    assert found(against(other_bits(there), here), "reload.same_output").verdict == "same to rounding"
    assert found(against(other_bits(here), there), "reload.same_output").verdict == "same to rounding"
    assert found(against(there, here), "reload.same_output").verdict == "regressed"
    moved = measuring(other_bits(witnessed(told=told, reloaded=1.5)), reload__same_output="differs: 0.2")
    assert found(against(moved, here), "reload.same_output").verdict == "regressed"
    raised = measuring(other_bits(here), reload__same_output="KeyError")
    assert found(against(raised, here), "reload.same_output").verdict == "regressed"
    merged = measuring(other_bits(here), merge__same_output="differs: 0.2")
    assert found(against(merged, here), "merge.same_output").verdict == "regressed"


def test_a_witness_of_another_rate_tells_nothing():
    slow = replace(witnessed(), witness=replace(witnessed().witness, rate=0.1))

    assert found(against(other_bits(witnessed()), slow), "adapter_sha256").verdict == "cannot tell"


def test_a_quantity_of_nothing_but_rounding_is_held_against_its_stage():
    """A group's gradient that is 0 but for the last digit says nothing; one that is 0 to the bit says all."""
    expected = {**TOLD, "gradient: bias": [1e-17], "gradient: frozen": [0.0]}
    rounding = {**expected, "gradient: bias": [-3e-17], "gradient: frozen": [1e-17]}

    assert against(other_bits(witnessed(told=rounding)), witnessed(told=expected)).verdict == "same to rounding"
    change = {**expected, "gradient: frozen": [1e-9]}
    assert against(other_bits(witnessed(told=change)), witnessed(told=expected)).verdict == "numerics changed"


@pytest.mark.parametrize("lacking", ["result", "baseline", "both"])
def test_other_bits_without_a_witness_are_never_green(lacking):
    obtained = other_bits(witnessed() if lacking == "baseline" else a_result())
    expected = witnessed() if lacking == "result" else a_result()
    verdict = against(obtained, expected)

    assert found(verdict, "adapter_sha256").verdict == "cannot tell"
    assert ("no witness ran" if lacking == "result" else "the baseline holds no witness") in verdict.text()
    assert not is_green(verdict)
    at_home = against(replace(obtained, environment=ENVIRONMENT), expected)
    assert found(at_home, "adapter_sha256").verdict == "numerics changed"


def test_a_witness_of_another_version_tells_nothing():
    old = replace(witnessed(), witness=replace(witnessed().witness, version=0))
    verdict = against(other_bits(witnessed()), old)

    assert found(verdict, "adapter_sha256").verdict == "cannot tell"
    assert (
        f"witness is of version 0 at 1 of the rate, not of version {WITNESS_VERSION} at 1 of the rate" in verdict.text()
    )


def test_the_witness_holds_on_another_device_too():
    """Counters of another device are another matter."""
    verdict = against(replace(other_bits(witnessed()), environment={**OTHER_PROCESSOR, "device": "cuda"}), witnessed())

    assert found(verdict, "adapter_sha256").verdict == "same to rounding"
    assert found(verdict, "train_step.flops").verdict == "not comparable"


def test_one_seed_that_rounding_moved_is_green_within_what_rounding_explains():
    """A fault of the evaluation alone leaves the witness as it was: all seeds must tell it."""
    expected = replace(quality(), witness=witnessed().witness)
    one = other_bits(replace(expected, seeds=[quality_run(0, 0.47, 0.07)]))
    lost = other_bits(replace(expected, seeds=[quality_run(0, 0.0)]))

    assert found(against(one, expected), "test_accuracy").verdict == "same to rounding"
    assert is_green(against(one, expected))
    assert found(against(lost, expected), "test_accuracy").verdict == "cannot tell"


def test_a_base_model_that_moved_with_an_agreeing_witness_was_rounded():
    told = witnessed().witness
    obtained = replace(with_base(losses=[5.0, 4.1]), witness=told)
    obtained = replace(obtained, seeds=other_bits(obtained).seeds)
    verdict = against(obtained, replace(with_base(), witness=told))

    assert found(verdict, "base model").verdict == "same to rounding"
    assert is_green(verdict)
    far = against(replace(obtained, base=replace(obtained.base, losses=[7.0, 4.1])), replace(with_base(), witness=told))
    assert found(far, "base model").verdict == "numerics changed"


def test_bytes_of_the_base_model_that_move_in_the_same_environment_are_red():
    moved = with_base()
    moved = replace(moved, base=replace(moved.base, metrics={"train_step.peak_bytes": 1008}))
    verdict = against(measuring(moved, train_step__peak_bytes=3 * 11_219_763), with_base())

    assert "base model train_step.peak_bytes 1,000 -> 1,008" in verdict.text()
    assert found(verdict, "base model").verdict == "numerics changed"


def test_what_runs_next_is_the_witness_and_seeds_only_where_it_moved_or_is_missing():
    expected = from_result(replace(quality(), witness=witnessed().witness))
    first = other_bits(a_result(seeds=[quality_run(0, 0.48, 0.08)]))
    others = tuple(run.seed for run in expected.seeds[1:])

    assert second_stage(first, expected, METRICS) == SecondStage(others, witness=1.0)
    told = replace(first, witness=witnessed(losses=1 + 1e-12).witness)
    assert second_stage(told, expected, METRICS) == SecondStage()
    assert second_stage(replace(first, witness=witnessed(losses=1.01).witness), expected, METRICS) == SecondStage(
        others
    )
    worse = replace(told, seeds=other_bits(a_result(seeds=[quality_run(0, 0.0)])).seeds)
    assert second_stage(worse, expected, METRICS) == SecondStage(others)
    assert second_stage(first, replace(expected, witness=None), METRICS) == SecondStage(others)


def test_the_bound_is_that_of_the_worst_disturbance_and_not_beyond_what_hides_a_change():
    def disturbed(factor):
        return {**TOLD, "losses": [factor * loss for loss in TOLD["losses"]]}

    recorded = Witness(TOLD)
    assert bounded(CASE, recorded, [TOLD, TOLD]).bound == 1e-10
    assert bounded(CASE, recorded, [disturbed(1 + 1e-10), TOLD]).bound == pytest.approx(3e-9)
    with pytest.raises(
        InputError, match=r"loha-rank8: not recorded: rounding alone moves its witness, losses by 1\.0e-05"
    ):
        bounded(CASE, recorded, [TOLD, disturbed(1 + 1e-5)])
    with pytest.raises(InputError, match="losses by inf"):
        bounded(CASE, recorded, [disturbed(math.nan)])
    with pytest.raises(InputError, match="recorded with disturbances"):
        bounded(CASE, recorded, [])


def test_a_witness_is_recorded_at_the_largest_rate_at_which_it_keeps_still():
    restless = [{**TOLD, "losses": [1.00001 * loss for loss in TOLD["losses"]]}]

    assert next_rate(None, []) == 1.0
    assert next_rate(Witness(TOLD), [TOLD]) == 0.0
    assert next_rate(Witness(TOLD), restless) == 0.1
    assert next_rate(Witness(TOLD, rate=1e-3), restless) == 1e-4
    assert next_rate(Witness(TOLD, rate=1e-4), restless) == 0.0


def test_a_baseline_that_can_tell_less_than_it_says_is_no_reference():
    baseline = with_noise(from_result(quality()), (), METRICS)
    told = replace(baseline.noise["test_accuracy"], detectable=0.001)
    verdict = held(quality(), replace(baseline, noise={**baseline.noise, "test_accuracy": told}))

    assert verdict.verdict == "not comparable"
    assert (
        "the baseline contradicts itself: noise.test_accuracy.detectable is 0.001; such noise tells no less than"
    ) in str(verdict)
    assert held(quality(), baseline).verdict == "identical"


# Environment drift

BASE_ROWS = {"aten.mm @ Linear.forward": [10, 1000], "aten.silu @ MLP.forward": [4, 0]}
LOHA_ROWS = {"aten.mm @ LoHaLayer.get_delta_weight": [48, 600]}


def with_base(base_rows=BASE_ROWS, own_rows=LOHA_ROWS, losses=(5.0, 4.0), **changes):
    """A result whose counters are the sum of the base model's operators and the adapter's own."""
    rows = {**base_rows, **own_rows}
    result = measuring(
        a_result(operators={"train_step": rows}, **changes),
        train_step__flops=sum(flops for _, flops in rows.values()),
        train_step__calls=sum(calls for calls, _ in rows.values()),
    )
    base = BaseReference(list(losses), {"train_step.peak_bytes": 1000}, {"train_step": dict(base_rows)})
    return replace(result, base=base)


@pytest.mark.parametrize("key", ["transformers", "diffusers"])
def test_an_operator_more_in_the_base_model_is_no_adapter_s_fault(key):
    moved, known = ({**ENVIRONMENT, key: version} for version in ("3.0", "3.1"))
    base = {**BASE_ROWS, "aten.silu @ MLP.forward": [8, 0]}
    verdict = against(with_base(base, environment=moved), with_base(environment=known))

    assert verdict.verdict == "environment drift"
    assert found(verdict, "train_step.calls").verdict == "identical"
    assert "base model train_step.calls 14 -> 18 (+28.6 %)" in verdict.environment_drift
    assert is_green(verdict)


@pytest.mark.parametrize(
    "moved", [ENVIRONMENT, {**ENVIRONMENT, "peft": "0.22.0"}, {**ENVIRONMENT, "python": "3.11.99"}]
)
def test_a_base_model_that_moves_in_the_same_environment_is_red(moved):
    """The benchmark's own loss or step may be at fault; PEFT, which the base model does not have, is not."""
    known = {**ENVIRONMENT, "peft": "0.21.2", "python": "3.11.2"}
    verdict = against(with_base(losses=[5.0, 4.1], environment={**known, **moved}), with_base(environment=known))

    assert verdict.verdict == "numerics changed"
    assert not is_green(verdict)
    assert found(verdict, "base model").reason == (
        "losses of the base model part at step 2; in the same environment, so it is the benchmark's own code, its "
        "base model or another library"
    )


def test_an_adapter_that_costs_more_is_red_though_the_base_model_moved_too():
    base, twice = {**BASE_ROWS, "aten.silu @ MLP.forward": [8, 0]}, {"aten.mm @ LoHaLayer.get_delta_weight": [96, 1200]}
    verdict = against(with_base(base, twice, environment={**ENVIRONMENT, "torch": "2.14.0"}), with_base())

    assert verdict.verdict == "regressed"
    assert found(verdict, "train_step.flops").text() == (
        "train_step.flops regressed: 1,600 -> 2,200 (+37.5 %, must be equal, beside what changed in the base model)\n"
        "  aten.mm  48 -> 96 calls (+600 FLOP) in LoHaLayer.get_delta_weight"
    )


def test_operators_of_the_base_model_that_change_their_owner_are_told_and_hide_nothing():
    """As many in all; a fault may not hide in the rows that are left out for it."""
    renamed = {"aten.mm @ Linear.forward": [10, 1000], "aten.silu @ Renamed.forward": [4, 0]}
    verdict = against(with_base(renamed), with_base())

    assert found(verdict, "base model").verdict == "numerics changed"
    assert "base model train_step: 2 rows of operators changed, aten.silu @ MLP.forward first" in str(verdict)
    assert not is_green(verdict)
    fewer = with_base(renamed, environment={**ENVIRONMENT, "torch": "2.14.0"})
    rows = {**fewer.operators["train_step"], "aten.silu @ Renamed.forward": [1, 0]}
    fewer = measuring(replace(fewer, operators={"train_step": rows}), train_step__calls=59)
    finding = found(against(fewer, with_base()), "train_step.calls")
    assert finding.verdict == "improved"
    assert finding.reason == "beyond what the base model moved"


@pytest.mark.parametrize(
    ("base", "obtained", "verdict"),
    [
        (1001, 2002, "environment drift"),
        (1001, 1000, "improved"),
        (999, 3000, "regressed"),
        (1500, 3000, "environment drift"),
    ],
)
def test_bytes_move_with_the_base_model_s_and_no_further(base, obtained, verdict):
    expected = measuring(with_base(), train_step__peak_bytes=2000)
    moved = measuring(with_base(environment={**ENVIRONMENT, "torch": "2.14.0"}), train_step__peak_bytes=obtained)
    moved = replace(moved, base=replace(moved.base, metrics={"train_step.peak_bytes": base}))
    finding = found(against(moved, expected), "train_step.peak_bytes")

    assert finding.verdict == verdict
    assert finding.reason.endswith("beyond what the base model moved") == (verdict != "environment drift")


@pytest.mark.parametrize("metric", ["train_step.peak_bytes", "train_step.saved_bytes"])
@pytest.mark.parametrize("count", [2000, 1000])
def test_a_byte_more_in_the_base_model_of_the_same_environment_is_red(metric, count):
    """However few bytes the case has then."""

    def with_bytes(count, of_base):
        result = replace(with_base(), base=replace(with_base().base, metrics={metric: of_base}))
        return measuring(result, **{metric.replace(".", "__"): count})

    verdict = against(with_bytes(count, 1001), with_bytes(2000, 1000))

    assert found(verdict, "base model").verdict == "numerics changed"
    assert f"base model {metric} 1,000 -> 1,001" in verdict.text()
    assert not is_green(verdict)


@pytest.mark.parametrize("count", [0, -1])
def test_a_counter_that_counts_nothing_any_more_is_no_improvement(count):
    verdict = against(measuring(train_step__flops=count), a_result())

    assert found(verdict, "train_step.flops").verdict == ("regressed" if count == 0 else "failed")
    assert not is_green(verdict)


def test_a_part_of_a_peak_may_vanish():
    obtained, expected = (measuring(train_step__peak_temporary_bytes=count) for count in (0, 10))

    assert found(against(obtained, expected), "train_step.peak_temporary_bytes").verdict == "improved"


def without(figures):
    """A result whose base model has none of these figures of its own."""
    result = with_base()
    return replace(result, base=replace(result.base, **{figures: type(getattr(result.base, figures))()}))


@pytest.mark.parametrize(
    ("figures", "metric"),
    [
        ("operators", "train_step.flops"),
        ("metrics", "train_step.peak_bytes"),
    ],
)
@pytest.mark.parametrize("side", ["the baseline", "the result"])
def test_figures_of_the_base_model_that_one_side_lacks_did_not_drift(figures, metric, side):
    there, gone = with_base(), without(figures)
    verdict = against(gone, there) if side == "the baseline" else against(there, gone)

    assert found(verdict, metric).verdict == "not comparable"
    assert found(verdict, metric).reason == f"only {side} holds the base model's own figures for it"
    assert verdict.environment_drift == ()
    assert not is_green(verdict)


@pytest.mark.parametrize("lacking", ["result", "baseline", "both"])
def test_a_counter_whose_operators_are_gone_is_not_comparable_under_drift(lacking):
    obtained, expected = with_base(environment={**ENVIRONMENT, "torch": "2.14.0"}), with_base()
    obtained = measuring(obtained, train_step__flops=2 * obtained.metrics["train_step.flops"])
    if lacking != "baseline":
        obtained = replace(obtained, operators={})
    if lacking != "result":
        expected = replace(expected, operators={"train_step": {}})

    finding = found(against(obtained, expected), "train_step.flops")

    assert finding.verdict == "not comparable"
    assert finding.reason.endswith("; the operators of train_step are not there to tell")


def test_a_phase_that_no_base_model_has_is_compared_as_it_is():
    verdict = against(measuring(with_base(), inject__calls=7), measuring(with_base(), inject__calls=5))

    assert found(verdict, "inject.calls").verdict == "regressed"


def test_memory_of_another_accelerator_is_not_comparable():
    gpu = measuring(gpu__allocated_peak_bytes=10_000_000)
    verdict = against(replace(gpu, environment={**ENVIRONMENT, "accelerator": "H200"}), gpu)

    assert moved_metrics(verdict) == ["gpu.allocated_peak_bytes"]
    assert verdict.verdict == "not comparable"


def test_an_environment_that_nobody_knows_is_not_comparable():
    unknown = a_result(environment={})
    verdict = against(unknown, unknown)

    assert verdict.verdict == "not comparable"
    assert found(verdict, "train_step.flops").reason == "environment unknown: torch, transformers, device"


def test_another_version_of_peft_is_what_is_being_compared():
    assert against(a_result(environment={**ENVIRONMENT, "peft": "0.21.0"})).verdict == "identical"


# Exact lane


def test_one_more_flop_is_a_regression_and_one_less_an_improvement():
    more, less = (
        against(measuring(train_step__flops=1_204_000_001)),
        against(measuring(train_step__flops=1_203_999_999)),
    )

    assert more.verdict == "regressed"
    assert more.text() == "train_step.flops regressed: 1,204,000,000 -> 1,204,000,001 (+1 FLOP, must be equal)"
    assert less.verdict == "improved"
    assert less.text() == "train_step.flops improved: 1,204,000,000 -> 1,203,999,999 (-1 FLOP)"


def test_a_counter_of_which_more_is_better_regresses_by_falling():
    metrics = {"hits": Metric("hits", "calls", "higher", "exact", "")}
    base = from_result(a_result(metrics={"hits": 5}, seeds=[]), metrics)

    assert held(a_result(metrics={"hits": 4}, seeds=[]), base, metrics).verdict == "regressed"
    assert held(a_result(metrics={"hits": 6}, seeds=[]), base, metrics).verdict == "improved"


@pytest.mark.parametrize("value", [4, 6])
def test_a_counter_that_must_be_equal_regresses_both_ways(value):
    metrics = {"n": Metric("n", "calls", "equal", "exact", "")}
    base = from_result(a_result(metrics={"n": 5}, seeds=[]), metrics)

    assert held(a_result(metrics={"n": value}, seeds=[]), base, metrics).verdict == "regressed"


def test_a_text_that_must_be_equal_regresses_when_it_differs():
    metrics = {"dtype": Metric("dtype", "word", "equal", "exact", "", kind="text")}
    base = from_result(a_result(metrics={"dtype": "float32"}, seeds=[]), metrics)

    assert held(a_result(metrics={"dtype": "float16"}, seeds=[]), base, metrics).text() == (
        "dtype regressed: float32 -> float16 (must be equal)"
    )


def test_bytes_are_readable_and_a_small_difference_is_exact():
    assert against(measuring(train_step__peak_bytes=22_439_526)).text() == (
        "train_step.peak_bytes regressed: 10.70 MiB -> 21.40 MiB (+100.0 %, must be equal)"
    )
    assert against(measuring(train_step__peak_bytes=11_219_779)).text() == (
        "train_step.peak_bytes regressed: 11,219,763 bytes -> 11,219,779 bytes (+16 bytes, must be equal)"
    )


def test_a_value_that_was_zero_has_no_percentage():
    assert against(measuring(params__trainable=5), measuring(params__trainable=0)).text() == (
        "params.trainable regressed: 0 -> 5 (+5, must be equal)"
    )


def test_changed_tensors_of_the_checkpoint_are_named():
    verdict = against(
        measuring(checkpoint__tensors={"*.hada_w1_a": "4 x [16, 128] F32", "*.hada_t1": "4 x [8, 8] F32"})
    )

    assert verdict.text() == (
        "checkpoint.tensors regressed: 1 removed, 1 changed, 1 added, must be equal\n"
        "  removed  *.hada_w1_b: 4 x [128, 8] F32\n"
        "  changed  *.hada_w1_a: 4 x [8, 128] F32 -> 4 x [16, 128] F32\n"
        "  added    *.hada_t1: 4 x [8, 8] F32"
    )
    assert verdict.moved() == "checkpoint.tensors 1 removed, 1 changed, 1 added"


def test_a_checkpoint_that_lost_a_tensor_did_not_improve():
    assert against(measuring(checkpoint__tensors={"*.hada_w1_a": "4 x [8, 128] F32"})).verdict == "regressed"


@pytest.mark.parametrize(
    ("expected", "obtained", "verdict", "words"),
    [
        ("ok", "ok", "identical", None),
        ("ok", "NotImplementedError", "regressed", "ok -> NotImplementedError (capability lost)"),
        ("NotImplementedError", "ok", "improved", "NotImplementedError -> ok (capability gained)"),
        ("differs: 0.2", "ValueError", "regressed", "differs: 0.2 -> ValueError (fails in another way)"),
        ("ValueError", "ValueError", "identical", None),
        ("ok", "differs: 0.2", "regressed", "ok -> differs: 0.2 (capability lost)"),
        ("differs: 0.2", "differs: 0.5", "regressed", "differs: 0.2 -> differs: 0.5 (by more than before)"),
        ("differs: 0.2", "differs: inf", "regressed", "differs: 0.2 -> differs: inf (by more than before)"),
        ("differs: 0.2", "differs: 0.05", "improved", "differs: 0.2 -> differs: 0.05 (by less than before)"),
        ("differs: 0.2", "differs: 0.3", "same to rounding", "differs: 0.2 -> differs: 0.3 (of one size)"),
        ("ok", "not reached", "cannot tell", "ok -> not reached (what comes before it failed)"),
        ("ValueError", "not reached", "cannot tell", "ValueError -> not reached (what comes before it failed)"),
        ("not reached", "ok", "improved", "not reached -> ok (capability gained)"),
        ("not reached", "differs: 0.2", "regressed", "not reached -> differs: 0.2 (reached, and fails)"),
        (
            "differs",
            "differs: 0.2",
            "not comparable",
            "differs -> differs: 0.2 (one side does not say by how much; record the case anew)",
        ),
    ],
)
def test_a_capability_is_lost_gained_or_fails_otherwise(expected, obtained, verdict, words):
    case = against(measuring(merge__same_output=obtained), measuring(merge__same_output=expected))

    assert case.verdict == verdict
    if words:
        assert case.text() == f"merge.same_output {verdict}: {words}"


def test_an_exact_metric_by_seed_names_the_seed():
    metrics = {"n": Metric("n", "calls", "lower", "exact", "")}

    def runs(*values):
        return a_result(metrics={}, seeds=[SeedRun(seed, {"n": value}) for seed, value in enumerate(values)])

    verdict = held(runs(4, 5, 7), from_result(runs(5, 5, 5), metrics), metrics)

    assert verdict.text() == "n regressed: 5 -> 7 (+40.0 %, seed 2, must be equal)"


def test_host_calls_are_red_from_two_per_cent_on_and_a_note_below():
    expected = measuring(inject__host_calls=1000)

    verdicts = [against(measuring(inject__host_calls=calls), expected).verdict for calls in (1020, 1021, 980, 979)]

    assert verdicts == ["within noise", "regressed", "within noise", "improved"]


@pytest.mark.parametrize(
    ("host_calls", "flops", "verdict", "first"),
    [
        (900, 1_203_999_999, "improved", "train_step.flops"),
        (900, 1_204_000_001, "regressed", "train_step.flops"),
        (1100, 1_203_999_999, "regressed", "inject.host_calls"),
        (1010, 1_203_999_999, "improved", "train_step.flops"),
    ],
)
def test_host_calls_decide_nothing_where_something_else_moved_as_much(host_calls, flops, verdict, first):
    expected = measuring(inject__host_calls=1000, train_step__flops=1_204_000_000)

    case = against(measuring(inject__host_calls=host_calls, train_step__flops=flops), expected)

    assert case.verdict == verdict
    assert case.moved().startswith(first)


def test_what_changed_is_told_before_what_nobody_can_tell():
    """A baseline of one seed cannot tell quality; that other bits came out says more."""
    first = a_result().seeds[0]
    expected = a_result(seeds=[first])
    obtained = a_result(
        seeds=[replace(first, metrics={**first.metrics, "adapter_sha256": "1" * 64, "test_accuracy": 0.1})]
    )

    verdict = against(obtained, expected)

    assert found(verdict, "test_accuracy").verdict == "cannot tell"
    assert verdict.verdict == "numerics changed"


# The operators behind a counter


def with_operators(rows, **metrics):
    return measuring(a_result(operators={"train_step": rows}), **metrics)


def test_a_regression_of_flops_names_the_operators_and_the_way_out():
    rows = {**OPERATORS["train_step"], "aten.mm @ LoHaLayer.get_delta_weight": [96, 1_204_000_000]}
    baseline = replace(from_result(a_result()), path=Path("baselines/MetaMathQA/tiny/loha--rank8.json"))
    verdict = held(with_operators(rows, train_step__flops=1_806_000_000), baseline)

    assert verdict.text() == (
        "train_step.flops regressed: 1.204e9 -> 1.806e9 (+50.0 %, must be equal)\n"
        "  aten.mm  48 -> 96 calls (+602 MFLOP) in LoHaLayer.get_delta_weight\n"
        "baseline: baselines/MetaMathQA/tiny/loha--rank8.json (torch 2.13.0, same environment)"
    )
    assert verdict.moved() == "train_step.flops +50.0 %"


def test_a_regression_of_calls_names_operators_by_calls():
    expected = with_operators({"aten.mm @ A": [1, 5], "aten.add": [3, 0], "gone @ B": [1, 0]}, train_step__calls=5)
    obtained = with_operators({"aten.mm @ A": [1, 9], "aten.add": [7, 0], "new": [2, 1000]}, train_step__calls=10)

    assert found(against(obtained, expected), "train_step.calls").details == (
        "aten.add  3 -> 7 calls",
        "new  0 -> 2 calls (+1 kFLOP)",
        "gone  1 -> 0 calls in B",
    )


def test_flops_that_changed_at_the_same_calls_are_named():
    rows = {"aten.mm @ A": [4, 999_900_000_000]}
    verdict = against(
        with_operators(rows, train_step__flops=2), with_operators({"aten.mm @ A": [4, 0]}, train_step__flops=1)
    )

    assert found(verdict, "train_step.flops").details == ("aten.mm  4 calls (+1,000 GFLOP) in A",)


def test_the_five_largest_changes_are_named_and_the_rest_counted():
    expected = with_operators({f"op{n}": [1, 0] for n in range(8)}, train_step__calls=8)
    obtained = with_operators({f"op{n}": [1 + n, 0] for n in range(8)}, train_step__calls=36)
    details = found(against(obtained, expected), "train_step.calls").details

    assert details[0] == "op7  1 -> 8 calls"
    assert details[-2:] == ("op3  1 -> 4 calls", "and 2 more")
    assert len(details) == 6


def test_operators_that_changed_equally_stand_in_the_order_of_their_names():
    expected = with_operators({"b": [1, 0], "a": [1, 0]}, train_step__calls=2)
    obtained = with_operators({"b": [2, 0], "a": [0, 0]}, train_step__calls=3)

    assert [line[0] for line in found(against(obtained, expected), "train_step.calls").details] == ["a", "b"]


@pytest.mark.parametrize("metric", ["inject.host_calls", "train_step.peak_bytes", "decode_step.calls"])
def test_a_counter_without_operators_has_no_details(metric):
    verdict = against(measuring(**{metric: 2}), measuring(**{metric: 1}))

    assert found(verdict, metric).verdict == "regressed"
    assert found(verdict, metric).details == ()


# Numerics lane


def test_losses_that_part_are_numerics_changed_and_name_the_step():
    verdict = against(a_result(seeds=[a_run(0), a_run(1, first_losses=[5.5, 5.4000001, 5.2])]))

    assert verdict.verdict == "numerics changed"
    assert not is_green(verdict)
    assert found(verdict, "first_losses").text() == (
        "first_losses numerics changed: 5.4 -> 5.4000001 (+1e-07, seed 1, they part at step 2)"
    )


def test_losses_that_part_in_the_last_bit_are_told_apart():
    text = found(against(training(first_losses=[math.nextafter(5.5, 6), 5.4, 5.3])), "first_losses").text()

    assert "5.5 -> 5.500000000000001 (+8.9e-16, seed 0, they part at step 1)" in text


def test_fewer_losses_are_numerics_changed():
    assert found(against(training(first_losses=[5.5, 5.4])), "first_losses").text() == (
        "first_losses numerics changed: 3 steps -> 2 steps (seed 0, equal as far as both go)"
    )


def test_another_hash_of_the_weights_is_numerics_changed():
    assert found(against(training(adapter_sha256="1" * 64)), "adapter_sha256").text() == (
        "adapter_sha256 numerics changed: 000000000000 -> 111111111111 (seed 0)"
    )
    close = found(against(training(adapter_sha256="0" * 63 + "1")), "adapter_sha256")
    assert close.obtained == "0" * 63 + "1"


def test_another_number_of_the_numerics_lane_is_numerics_changed():
    verdict = against(measuring(init__max_output_difference=1e-7), measuring(init__max_output_difference=0.0))

    assert verdict.text() == "init.max_output_difference numerics changed: 0 -> 1e-07 (+1e-07)"


# Quality lane


@pytest.mark.parametrize(
    ("changes", "metric", "verdict"),
    [
        ({}, "test_accuracy", "identical"),
        ({"accuracy": 0.48}, "test_accuracy", "within noise"),
        ({"accuracy": 0.42}, "test_accuracy", "regressed"),
        ({"accuracy": 0.58}, "test_accuracy", "improved"),
        ({"forgetting": 0.13}, "forgetting", "within noise"),
        ({"forgetting": 0.18}, "forgetting", "regressed"),
        ({"forgetting": 0.02}, "forgetting", "improved"),
        ({"train_loss": 1.019}, "train_loss", "within noise"),
        ({"train_loss": 1.03}, "train_loss", "regressed"),
        ({"train_loss": 0.97}, "train_loss", "improved"),
    ],
)
def test_quality_has_a_margin_and_beyond_it_a_direction(changes, metric, verdict):
    assert found(against(quality(**changes), quality()), metric).verdict == verdict


def test_a_regression_of_quality_gives_values_margin_seeds_and_probability():
    assert re.fullmatch(
        r"test_accuracy regressed: 50 % -> 37.5 % \(-12.5 points, margin 6.23 points, noise of 5 seeds, "
        r"mean of seeds 0, 1, 2, 3, 4, unpaired, p = \S+\)",
        found(against(quality(0.375), quality()), "test_accuracy").text(),
    )
    assert "margin 0.02 loss, mean" in found(against(quality(train_loss=1.5), quality()), "train_loss").text()


def test_noise_between_seeds_widens_the_margin():
    assert found(against(quality(0.42, spread=0.05), quality(spread=0.05)), "test_accuracy").verdict == "within noise"


def test_a_difference_that_one_seed_makes_is_not_told_from_noise():
    runs = [quality_run(seed, accuracy) for seed, accuracy in enumerate([0.5, 0.5, 0.5, 0.5, 0.1])]

    finding = found(against(a_result(seeds=runs), quality(spread=0.0)), "test_accuracy")

    assert finding.verdict == "cannot tell"
    assert not is_green(CaseVerdict(CASE, (finding,)))


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ("result", "its samples, test_correct, vanished for seed 1"),
        ("baseline", "the baseline does not hold its samples, test_correct, for seed 1; update the baseline"),
    ],
)
def test_samples_that_one_side_lacks_are_missed(lacking, reason):
    whole = quality()
    runs = [replace(run, samples={}) if run.seed == 1 else run for run in whole.seeds]
    part = replace(whole, seeds=runs)
    verdict = against(part, whole) if lacking == "result" else against(whole, part)

    assert found(verdict, "test_accuracy").verdict == "missing metric"
    assert found(verdict, "test_accuracy").reason == reason


def test_seeds_that_became_unstable_do_not_widen_their_own_margin():
    runs = [quality_run(seed, accuracy) for seed, accuracy in enumerate((0.5, 0.5, 0.49, 0.05, 0.05))]

    finding = found(against(a_result(seeds=runs), quality()), "test_accuracy")

    assert "margin 6.23 points" in finding.reason
    assert not is_green(CaseVerdict(CASE, (finding,)))


def test_one_seed_that_differs_cannot_tell():
    verdict = against(a_result(seeds=[quality_run(0, 0.5)]), quality())

    assert found(verdict, "test_accuracy").verdict == "cannot tell"
    assert not is_green(verdict)


def test_more_tests_in_a_session_ask_for_more_certainty():
    obtained, expected = quality(0.42), from_result(quality())

    (few, many) = (found(held(obtained, expected, tests=tests), "test_accuracy").verdict for tests in (1, 10**9))
    assert (few, many) == ("regressed", "cannot tell")


def test_what_the_strictest_level_could_not_tell_is_settled_when_the_session_is_over():
    verdict = held(quality(0.42), from_result(quality()), tests=10**9)

    (settled,) = corrected({"a": verdict}).values()

    assert found(settled, "test_accuracy").verdict == "regressed"
    assert settled.values == verdict.values


def test_a_baseline_says_what_it_can_detect_and_refuses_a_finer_margin():
    baseline = with_noise(from_result(quality()), (), METRICS)

    assert 0.06 < baseline.noise["test_accuracy"].detectable < 0.09
    assert baseline.noise["test_accuracy"].seeds == 5
    assert margin_problems(baseline, {"test_accuracy": 0.07}) == []
    (problem,) = margin_problems(baseline, {"test_accuracy": 0.02})
    assert re.fullmatch(
        r"test_accuracy: margin 0.02 is finer than 5 seeds can support: unchanged code moves by up to 0.0623; "
        r"it takes \d+ seeds \(--peft-seeds\)",
        problem,
    )


# Seeds in pairs


def starting(result, start=1.0, bound=1e-9):
    """The result with a witness: its untrained adapter gives `start`, its first gradient something else."""
    return replace(result, witness=Witness({"untrained output": [start, 2.0], "first gradient": [start / 3]}, bound))


def scattered(forgetting=0.1, **fields):
    """Seeds that differ by much more than a change that moves all of them."""
    return starting(quality(forgetting=forgetting, spread=0.2), **fields)


def calibrated(moved=0.0005):
    """The baseline of those seeds; each moves by so much when rounding differs, the other way every second time."""
    baseline = from_result(scattered())
    again = [
        replace(run, metrics={**run.metrics, "forgetting": run.metrics["forgetting"] + (-1) ** run.seed * moved})
        for run in baseline.seeds
    ]
    return with_noise(baseline, again, METRICS)


def test_seeds_that_start_alike_are_pairs_and_others_are_two_groups():
    pairs = found(held(scattered(0.2), calibrated()), "forgetting")
    groups = found(held(scattered(0.2, start=1.1), calibrated()), "forgetting")
    without = found(held(quality(forgetting=0.2, spread=0.2), calibrated()), "forgetting")

    assert pairs.verdict == "regressed"
    assert "mean of seeds 0, 1, 2, 3, 4, paired by seed, p = 1e-05" in pairs.reason
    assert "noise of" not in pairs.reason  # the margin is wider
    assert groups.verdict == without.verdict == "within noise"
    assert "noise of 5 seeds, mean of seeds 0, 1, 2, 3, 4, unpaired, p = 0.3" in groups.reason
    assert without == groups


def test_an_improvement_is_told_by_pairs_too():
    assert found(held(scattered(0.0), calibrated()), "forgetting").verdict == "improved"


def test_starts_that_rounding_explains_are_the_same():
    close = scattered(0.2, start=1.0 + 5e-10)

    assert "paired by seed" in found(held(close, calibrated()), "forgetting").reason


def test_pairs_that_rounding_moves_far_widen_the_margin():
    finding = found(held(scattered(0.2), calibrated(moved=0.1)), "forgetting")

    assert finding.verdict == "within noise"
    assert "noise of 5 pairs" in finding.reason


def test_pairs_without_their_own_noise_are_held_against_that_of_seeds():
    finding = found(held(scattered(0.2), from_result(scattered())), "forgetting")

    assert finding.verdict == "within noise"
    assert "noise of 5 seeds, mean of seeds 0, 1, 2, 3, 4, paired by seed, p = 1e-05" in finding.reason


def test_one_pair_that_differs_is_not_told_from_noise():
    runs = [replace(run, metrics={**run.metrics}) for run in scattered().seeds]
    runs[2].metrics["forgetting"] += 1.0

    assert found(held(replace(scattered(), seeds=runs), calibrated()), "forgetting").verdict == "cannot tell"


def test_a_margin_that_pairs_support_is_not_refused_for_the_spread_between_seeds():
    assert margin_problems(calibrated(), {"forgetting": 0.05}) == []
    (apart,) = margin_problems(with_noise(calibrated(), (), METRICS), {"forgetting": 0.05})
    (paired,) = margin_problems(calibrated(), {"forgetting": 0.0005})

    needed = [int(re.search(r"it takes (\d+) seeds", text)[1]) for text in (apart, paired)]
    assert needed[1] < 50 < needed[0]


# The second stage


def test_an_identical_first_seed_needs_no_other():
    first = a_result(seeds=quality().seeds[:1])

    assert second_stage(first, from_result(quality()), METRICS) == SecondStage()


@pytest.mark.parametrize("change", [{"forgetting": 0.2}, {"adapter_sha256": "1" * 64}, {"first_losses": [5.5, 5.4]}])
def test_a_first_seed_that_differs_asks_for_all_others_of_the_baseline(change):
    run = quality().seeds[0]
    first = a_result(seeds=[replace(run, metrics={**run.metrics, **change})])

    assert second_stage(first, from_result(quality()), METRICS).seeds == (1, 2, 3, 4)


def test_another_case_needs_no_second_stage():
    first = a_result(seeds=[a_run(0, forgetting=0.9)], case_version="v2")

    assert second_stage(first, from_result(quality()), METRICS) == SecondStage()


def test_a_time_that_would_be_red_is_taken_again():
    slow = measuring(a_result(seeds=quality().seeds[:1]), step_time_ratio=2.0)

    assert second_stage(slow, from_result(quality()), METRICS) == SecondStage(retime=True)


def test_a_quality_that_looks_the_same_is_shown_with_more_digits():
    assert "1 -> 1.00002 (+2e-05" in against(training(train_loss=1.00002)).text()


def test_only_the_seeds_that_ran_are_compared():
    assert against(a_result(seeds=quality().seeds[:1]), quality()).verdict == "identical"
    some = found(against(a_result(seeds=quality(0.2).seeds[1:4]), quality()), "test_accuracy")
    assert some.verdict == "regressed"
    assert "mean of seeds 1, 2, 3, unpaired, p = " in some.reason


def test_seeds_that_the_baseline_does_not_hold_are_not_comparable():
    verdict = against(a_result(seeds=[a_run(0), a_run(7)]))

    assert verdict.verdict == "not comparable"
    assert found(verdict, "test_accuracy").reason == "seed 7 not in the baseline (seeds 0, 1)"
    assert against(a_result(seeds=[a_run(7)])).verdict == "not comparable"


# Noisy lane


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.2, "identical"), (1.5, "within noise"), (0.9, "within noise"), (1.6, "regressed"), (0.8, "improved")],
)
def test_time_has_a_margin(ratio, verdict):
    assert found(against(measuring(step_time_ratio=ratio)), "step_time_ratio").verdict == verdict


def test_a_case_whose_times_alone_moved_within_their_margin_is_identical():
    assert against(measuring(step_time_ratio=1.5)).verdict == "identical"
    assert against(measuring(step_time_ratio=1.6)).verdict == "regressed"


def test_times_on_a_cpu_and_on_an_accelerator_are_not_comparable():
    """One row is timed on a CPU, the whole batch elsewhere."""
    slow = measuring(a_result(environment={**ENVIRONMENT, "device": "cuda"}), step_time_ratio=1.8)

    told = found(against(slow), "step_time_ratio")
    assert (told.verdict, told.reason) == ("not comparable", "environment differs: device cpu -> cuda")


def test_a_slow_step_gives_ratio_and_margin_on_any_machine():
    slow = measuring(a_result(environment={**ENVIRONMENT, "accelerator": "other"}), step_time_ratio=1.8)

    assert against(slow).text() == ("step_time_ratio regressed: 1.2 -> 1.8 (+50.0 %, interval 1.8 to 1.8, margin 30 %)")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.19, 1.22, "within noise"),
        (1.5, 1.6, "within noise"),  # reaches beyond the margin, but is narrower
        (1.56, 1.57, "within noise"),  # 1.2 + 30 % is where the margin ends
        (1.57, 1.58, "regressed"),
        (1.57, 5.0, "regressed"),
        (1.0, 1.6, "cannot tell"),
        (0.1, 1.57, "cannot tell"),
        (0.82, 0.83, "improved"),
        (0.1, 0.83, "improved"),
        (0.1, 1.5, "within noise"),  # may have improved, has not regressed
    ],
)
def test_a_time_regressed_when_its_whole_interval_lies_beyond_the_margin(low, high, verdict):
    obtained = measuring(step_time_ratio=(low + high) / 2, step_time_interval=[low, high])

    assert found(against(obtained), "step_time_ratio").verdict == verdict


@pytest.mark.parametrize(
    ("interval", "again"),
    [([1.15, 1.25], False), ([1.5, 1.6], False), ([1.57, 1.6], True), ([1.0, 1.6], True), ([0.7, 0.8], False)],
)
def test_a_time_that_regressed_or_cannot_tell_is_taken_once_more(interval, again):
    obtained = measuring(step_time_ratio=sum(interval) / 2, step_time_interval=interval)

    assert second_stage(obtained, from_result(a_result()), METRICS).retime == again


def test_a_time_of_blocks_that_were_all_throttled_is_not_taken_once_more():
    obtained = measuring(step_time_ratio=2.0, step_time_interval=[])

    assert found(against(obtained), "step_time_ratio").verdict == "cannot tell"
    assert not second_stage(obtained, from_result(a_result()), METRICS).retime


def test_a_time_is_told_with_its_interval():
    slow = measuring(step_time_ratio=1.8, step_time_interval=[1.75, 1.861234])

    words = "step_time_ratio regressed: 1.2 -> 1.8 (+50.0 %, interval 1.75 to 1.861, margin 30 %)"
    assert against(slow).text() == words


def test_an_interval_too_wide_to_rule_a_regression_out_is_not_green():
    verdict = against(measuring(step_time_ratio=1.25, step_time_interval=[0.9, 1.7]))

    assert verdict.verdict == "cannot tell"
    assert not is_green(verdict)
    assert verdict.text() == "step_time_ratio cannot tell: 1.2 -> 1.25 (+4.2 %, interval 0.9 to 1.7, margin 30 %)"


def test_a_time_without_an_interval_because_the_clock_was_throttled_cannot_be_told():
    verdict = against(measuring(step_time_ratio=1.2, step_time_interval=[]))

    assert verdict.verdict == "cannot tell"
    assert found(verdict, "step_time_ratio").reason == "too few blocks without throttling"


@pytest.mark.parametrize("interval", [[math.nan, 1.2], [1.2], [1.3, 1.2], [1.2, math.inf], "1.2", {}])
def test_an_interval_that_is_none_is_never_green(interval):
    assert against(measuring(step_time_ratio=1.2, step_time_interval=interval)).verdict == "failed"


def test_the_same_time_within_its_interval_is_identical():
    assert found(against(measuring(step_time_interval=[1.15, 1.25])), "step_time_ratio").verdict == "identical"


def test_of_a_figure_of_which_more_is_better_the_interval_counts_the_other_way():
    speed = Metric("speed", "ratio", "higher", "noisy", "", relative_margin=0.3, interval="speed_interval")
    metrics = {"speed": speed, "speed_interval": replace(METRICS["step_time_interval"], name="speed_interval")}
    baseline = from_result(measuring(a_result(metrics={}, seeds=[]), speed=1.0), metrics)

    for interval, verdict in (
        ([0.5, 0.6], "regressed"),
        ([1.4, 1.5], "improved"),
        ([0.5, 1.0], "cannot tell"),
        ([0.8, 1.5], "within noise"),
    ):
        result = measuring(a_result(metrics={}, seeds=[]), speed=sum(interval) / 2, speed_interval=interval)
        assert held(result, baseline, metrics).verdict == verdict


def test_a_time_without_its_interval_cannot_be_told():
    verdict = against(measuring(step_time_ratio=1.25, step_time_interval=None))

    assert verdict.text() == (
        "step_time_ratio cannot tell: 1.2 -> 1.25 (measured without its interval, step_time_interval)"
    )
    assert not is_green(verdict)


def test_memory_of_the_same_accelerator_is_compared():
    verdict = against(measuring(gpu__allocated_peak_bytes=2**31), measuring(gpu__allocated_peak_bytes=2**30))

    assert verdict.text() == "gpu.allocated_peak_bytes regressed: 1.00 GiB -> 2.00 GiB (+100.0 %, margin 2 %)"


# Words


def test_a_higher_peak_names_the_tensors_alive_at_it_largest_change_first():
    rows = {
        "[128, 128] float32 @ LoHaLayer.get_delta_weight": [8, 524_288],
        "[4, 128] bfloat16 @ Linear.forward": [1, 1024],
        "float32 @ weights": [9, 900],
    }
    obtained = measuring(a_result(peak_tensors={"train_step": rows}), train_step__peak_bytes=11_482_931)

    assert found(against(obtained), "train_step.peak_bytes").text() == (
        "train_step.peak_bytes regressed: 10.70 MiB -> 10.95 MiB (+2.3 %, must be equal)\n"
        "  [128, 128] float32  4 -> 8 tensors (+256.00 KiB) of LoHaLayer.get_delta_weight\n"
        "  [4, 128] bfloat16  0 -> 1 tensors (+1.00 KiB) of Linear.forward"
    )


def test_a_lower_peak_names_the_tensors_that_are_gone():
    obtained = measuring(
        a_result(peak_tensors={"train_step": {"float32 @ weights": [9, 800]}}), train_step__peak_bytes=10_957_519
    )

    assert found(against(obtained), "train_step.peak_bytes").details == (
        "[128, 128] float32  4 -> 0 tensors (-256.00 KiB) of LoHaLayer.get_delta_weight",
        "float32  9 tensors (-100 bytes) of weights",
    )


def test_five_of_many_changed_tensors_are_named_and_the_rest_counted():
    rows = {f"[{size}] float32 @ f": [1, 4 * size] for size in range(1, 8)}
    obtained = measuring(a_result(peak_tensors={"train_step": rows}), train_step__peak_bytes=12_000_000)

    details = found(against(obtained), "train_step.peak_bytes").details
    assert len(details) == 6
    assert details[-1] == "and 4 more"


def test_a_baseline_that_does_not_hold_the_tensors_at_the_peak_names_none():
    obtained = measuring(train_step__peak_bytes=12_000_000)

    verdict = against(obtained, a_result(peak_tensors={}))

    assert found(verdict, "train_step.peak_bytes").details == ()


def test_the_worst_is_told_first():
    obtained = measuring(training(test_accuracy=0.9), params__trainable=8193, train_step__flops=None, novel=1)
    lines = against(obtained).text().splitlines()

    assert [line.split()[0] for line in lines] == ["params.trainable", "novel", "train_step.flops", "test_accuracy"]


def test_a_message_starts_with_the_one_line_that_matters():
    obtained = measuring(training(test_accuracy=0.9), params__trainable=8193, train_step__flops=None)
    first, second, *_ = against(obtained).message().splitlines()

    assert first == f"{CASE} regressed: params.trainable +1 parameters, and 1 more"
    assert second.startswith("params.trainable regressed: 8,192 -> 8,193")


def test_a_message_about_the_whole_case_says_it_once():
    failed = against(a_result(status="failed", error_msg="CUDA out of memory\nTried to allocate 2 GiB", metrics={}))

    assert failed.message() == f"{CASE} failed: CUDA out of memory\n  Tried to allocate 2 GiB"
    assert held(a_result(), None).message() == f"{CASE} no baseline: nothing to compare with"


def test_a_baseline_that_is_not_there_is_told_without_empty_parentheses():
    verdict = replace(compare(a_result(), None, METRICS, tests=1), baseline="baselines/x.json")

    assert verdict.text().splitlines() == [
        "case no baseline: nothing to compare with",
        "baseline: none at baselines/x.json",
    ]


def test_a_check_that_fails_and_is_not_recorded_yet_is_named():
    verdict = against(measuring(reload__same_output="ValueError", decode_step__calls=7))

    assert verdict.moved() == "2 metrics not recorded yet, among them reload.same_output (ValueError)"
    assert "  decode_step.calls, reload.same_output (ValueError)" in verdict.text()


def test_a_finding_without_figures_and_reason_ends_with_its_verdict():
    finding = Finding("train_step.flops", "numerics changed")

    assert (finding.text(), finding.short()) == ("train_step.flops numerics changed", "train_step.flops")


def test_a_finding_about_the_whole_case_is_told_by_its_reason():
    assert CaseVerdict(CASE, (Finding.of("case", "recorded", "2 changes"),)).moved() == "2 changes"


def test_noise_needs_no_update():
    verdict = against(quality(0.49, 0.11), quality())

    assert verdict.verdict == "within noise"
    assert verdict.moved() == ""


def test_what_differs_from_the_environment_of_the_baseline_is_told():
    baseline = replace(from_result(a_result()), path=Path("b/x.json"))
    verdict = held(a_result(environment={**ENVIRONMENT, "torch": "2.14.0", "python": "3.12"}), baseline)

    assert "baseline: b/x.json (torch 2.13.0; differs now: python unknown -> 3.12, torch 2.13.0 -> 2.14.0)" in (
        verdict.text()
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.00 KiB"), (11_219_763, "10.70 MiB"), (-(2**40), "-1.00 TiB")],
)
def test_bytes_read_in_binary_units(number, words):
    assert bytes_text(number) == words


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0"), (999_999, "999,999"), (1_204_000_000, "1.204e9"), (10.99e12, "1.099e13")]
)
def test_flops_read_in_powers_of_ten(number, words):
    assert flops_text(number) == words


def test_a_verdict_survives_the_way_from_a_worker():
    rows = {"aten.mm @ A": [96, 5]}
    for verdict in (
        against(a_result()),
        held(with_operators(rows, train_step__flops=1), replace(from_result(a_result()), path=Path("b/x.json"))),
        held(training(train_loss=math.nan), None),
    ):
        assert CaseVerdict.from_json(json.loads(json.dumps(verdict.to_json(), allow_nan=False))) == verdict


def test_a_verdict_carries_the_numbers_that_a_table_shows():
    values = against(measuring(a_result(seeds=[a_run(0), a_run(1, test_accuracy=1.0)]), step_time_s=0.5)).values

    assert values["test_accuracy"] == 0.75
    assert values["train_step.flops"] == 1_204_000_000
    assert values["step_time_s"] == 0.5
    assert "merge.same_output" not in values
    assert "first_losses" not in values


# What an update changes


def diff(old, new):
    return diff_lines(old and from_result(old), from_result(new), METRICS)


def test_an_update_that_changes_nothing_says_nothing():
    assert diff(a_result(), a_result()) == []


def test_a_new_baseline_is_counted():
    assert diff(None, a_result()) == ["new: 11 metrics, 2 seeds"]
    assert diff(None, measuring(merge__same_output="ValueError")) == [
        "new: 11 metrics, 2 seeds",
        "  merge.same_output: ValueError",
    ]
    assert diff(a_result(), measuring(unmerge__restores_base="differs: 0.12")) == [
        "unmerge.restores_base: added, differs: 0.12"
    ]


def test_an_update_tells_old_and_new_of_each_changed_metric():
    new = measuring(
        training(test_accuracy=0.625, adapter_sha256="1" * 64),
        train_step__flops=1_806_000_000,
        merge__same_output="ValueError",
        checkpoint__tensors={"*.hada_w1_a": "4 x [8, 128] F32"},
        params__trainable=None,
        params__total=5,
    )

    assert diff(a_result(), new) == [
        "params.trainable: removed",
        "params.total: added",
        "checkpoint.tensors: 1 removed",
        "  removed  *.hada_w1_b: 4 x [128, 8] F32",
        "train_step.flops: 1.204e9 -> 1.806e9 (+50.0 %)",
        "merge.same_output: ok -> ValueError",
        "adapter_sha256: 000000000000 -> 111111111111",
        "test_accuracy: 50 % -> 62.5 % (+12.5 points)",
    ]


def test_an_update_tells_what_is_no_metric():
    new = replace(
        a_result(), case_version="v2", environment={**ENVIRONMENT, "torch": "2.14.0"}, operators={}, peak_tensors={}
    )
    new = replace(new, seeds=[replace(a_run(0), samples={"test_correct": "1010"})])

    assert diff(a_result(), new) == [
        "case version: v1 -> v2",
        "environment: torch 2.13.0 -> 2.14.0",
        "seeds: 0, 1 -> 0",
        *(f"{name}: changed" for name in ("first_losses", "adapter_sha256")),
        *(f"{name}: {value} (by seed it changed)" for name, value in QUALITY),
        "samples of seed 0: changed",
        "operators of train_step: changed",
        "tensors at the peak of train_step: changed",
    ]


def test_an_update_tells_the_noise_the_base_model_and_what_is_not_compared():
    old = with_noise(from_result(quality()), (), METRICS)
    noise = old.noise["test_accuracy"]
    more = replace(noise, sd=0.03, seeds=9)

    assert diff_lines(old, replace(old, noise={**old.noise, "test_accuracy": more}), METRICS) == [
        "noise of test_accuracy: sd 0.01581 of 5 seeds -> 0.03 of 9"
    ]
    assert diff_lines(old, replace(old, noise={"test_accuracy": replace(noise, detectable=0.1)}), METRICS) == [
        "noise of test_accuracy: detectable 0.07631 -> 0.1",
        "noise of forgetting: removed",
        "noise of train_loss: removed",
    ]
    paired = replace(noise, detectable=0.1, paired_sd=0.00123)
    assert diff_lines(old, replace(old, noise={**old.noise, "test_accuracy": paired}), METRICS) == [
        "noise of test_accuracy: sd of pairs not measured -> 0.00123"
    ]
    assert diff_lines(old, replace(old, base=with_base().base), METRICS) == ["base model's figures: added"]
    assert diff_lines(replace(old, imported={"file": "x.json"}), old, METRICS) == ["imported result: removed"]
    older = replace(old, metrics={**old.metrics, "step_time_s": 1.0})
    assert diff_lines(older, old, METRICS) == ["what is not compared: changed"]


def test_an_update_to_other_seeds_or_undeclared_metrics_tells_that_they_changed():
    new = diff(measuring(novel=1), measuring(a_result(seeds=[a_run(7)]), novel=2))

    assert new == [
        "seeds: 0, 1 -> 7",
        "first_losses: changed",
        "adapter_sha256: changed",
        "test_accuracy: changed",
        "forgetting: changed",
        "train_loss: changed",
        "novel: changed",
    ]


QUALITY = [("test_accuracy", "50 %"), ("forgetting", "0.1"), ("train_loss", "1")]


def test_a_picture_that_is_not_the_same_bits_is_numerics_changed_and_named():
    recorded = training(images_sha256={"a cat, seed 1": "aa", "a dog, seed 2": "bb"})
    drawn = training(images_sha256={"a cat, seed 1": "aa", "a dog, seed 2": "cc"})

    finding = found(against(drawn, recorded), "images_sha256")

    assert finding.verdict == "numerics changed"
    assert finding.details == ("changed  a dog, seed 2: bb -> cc",)
