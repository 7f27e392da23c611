"""Each comparator is turned around once, and an expectation dies: no rule of `compare` is there for nothing."""

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_peftbench import compare as original
from pytest_peftbench.compare.noise import with_noise
from pytest_peftbench.results.baseline import from_result
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import BaseReference, CaseId, Result, SeedRun, Witness

SOURCES = {path.name: path.read_text(encoding="utf-8") for path in Path(original.__file__).parent.glob("*.py")}
SEEDS = range(5)
ENVIRONMENT = {
    "torch": "2.13.0",
    "transformers": "5.0.0",
    "device": "cpu",
    "arithmetic": "0" * 12,
    "accelerator": "none",
}


def a_run(seed, solved=50, rise=0.1, **metrics):
    """A seed's run. solved: of 100 problems; rise: of each document's loss; both a little apart from seed to seed."""
    bits = "1" * (solved + seed % 2) + "0" * (100 - solved - seed % 2)
    rises = [rise + seed / 1000] * 10
    values = {
        "first_losses": [5.5, 5.4, 5.3],
        "adapter_sha256": "0" * 64,
        "test_accuracy": bits.count("1") / 100,
        "forgetting": sum(rises) / 10,
    }
    return SeedRun(seed, {**values, **metrics}, {"test_correct": bits, "forgetting_per_document": rises})


def a_result(seeds=(), metrics=None, without=(), **fields):
    """A result; `seeds` changes every seed's run, `metrics` replaces some of the others."""
    values = {
        "params.trainable": 8192,
        "checkpoint.tensors": {"*.lora_A": "4 x [8, 128] F32"},
        "train_step.flops": 1_204_000_000,
        "merge.same_output": "ok",
        "step_time_ratio": 1.2,
        "gpu.allocated_peak_bytes": 1_000_000,
        **(metrics or {}),
    }
    values.setdefault("step_time_interval", [values["step_time_ratio"]] * 2)
    return Result(
        **{
            "case": CaseId("MetaMathQA", "tiny", "loha", "rank8"),
            "case_version": "1",
            "environment": ENVIRONMENT,
            "metrics": {name: value for name, value in values.items() if name not in without},
            "seeds": [a_run(seed, **dict(seeds)) for seed in SEEDS],
            **fields,
        }
    )


def timed(ratio, interval):
    return a_result(metrics={"step_time_ratio": ratio, "step_time_interval": interval})


PLAIN = a_result()
UNLIKE = {"adapter_sha256": "1" * 64}  # with other bits, so that seeds are compared at all
ONE_LOST = [*PLAIN.seeds[:-1], a_run(4)]
del ONE_LOST[-1].metrics["forgetting"]
WITH_LOSS = [a_run(seed, train_loss=1.0) for seed in SEEDS]
NO_QUALITY = [replace(run, metrics={"first_losses": [5.5, 5.4, 5.3]}, samples={}) for run in PLAIN.seeds]
TIME = {"step_time_ratio": 1.2, "step_time_interval": [1.2, 1.2]}

TOLD = {"start: a": [1.0], "untrained output": [2.0, 1.0], "gradient: a": [0.5], "learned: a": [0.25]}


def elsewhere(told=None, seeds=UNLIKE, **changes):
    """A result of other bits on another processor, with the witness's quantities where they are given."""
    found = a_result(seeds=seeds, environment={**ENVIRONMENT, "arithmetic": "1" * 12}, **changes)
    return replace(found, witness=None if told is None else Witness(told))


RELOADED = {**TOLD, "reloaded output": [2.0, 1.0]}
WITNESSED = replace(PLAIN, witness=Witness(TOLD, 1e-9))
ROUNDED = {**TOLD, "learned: a": [0.25 * (1 + 1e-11)]}
FIRST_OF = replace(elsewhere(ROUNDED), seeds=[a_run(0, solved=49, **UNLIKE)])
WORSE_FIRST = replace(elsewhere(ROUNDED), seeds=[a_run(0, solved=0, **UNLIKE)])
SAME_BITS_WORSE = replace(WITNESSED, seeds=[a_run(0, solved=49)])


def scattered(rise=0.0, start=1.0, bound=1e-9):
    """Seeds that differ by much more than a rise of all of them, and a witness of their untrained adapter."""
    seeds = [a_run(seed, rise=0.1 + rise + seed / 5) for seed in SEEDS]
    return replace(a_result(), seeds=seeds, witness=Witness({"untrained output": [start]}, bound))


def calibrated(moved):
    """Their baseline, and how far rounding moves each seed."""
    baseline = from_result(scattered())
    again = [a_run(run.seed, rise=0.1 + run.seed / 5 + (-1) ** run.seed * moved) for run in baseline.seeds]
    return with_noise(baseline, again, METRICS)


# name -> obtained, expected, and what the case's verdict is, or that of one of its metrics: ("regressed", "forgetting")
EXPECTATIONS = {
    "the same again": (PLAIN, PLAIN, "identical"),
    "one FLOP more": (a_result(metrics={"train_step.flops": 1_204_000_001}), PLAIN, "regressed"),
    "one FLOP less": (a_result(metrics={"train_step.flops": 1_203_999_999}), PLAIN, "improved"),
    "a check that was not reached": (
        a_result(metrics={"merge.same_output": "not reached"}),
        a_result(metrics={"merge.same_output": "differs: 0.2"}),
        "cannot tell",
    ),
    "a difference that grew": (
        a_result(metrics={"merge.same_output": "differs: 0.5"}),
        a_result(metrics={"merge.same_output": "differs: 0.2"}),
        "regressed",
    ),
    "three per cent more host calls": (
        a_result(metrics={"inject.host_calls": 1030}),
        a_result(metrics={"inject.host_calls": 1000}),
        "regressed",
    ),
    "one FLOP more, and other bits": (
        a_result(metrics={"train_step.flops": 1_204_000_001}, seeds={"adapter_sha256": "1" * 64}),
        PLAIN,
        "regressed",
    ),
    "more host calls, and one FLOP less": (
        a_result(metrics={"inject.host_calls": 1030, "train_step.flops": 1_203_999_999}),
        a_result(metrics={"inject.host_calls": 1000}),
        "regressed",
    ),
    "fewer host calls, and a first loss of rounding": (
        elsewhere(ROUNDED, metrics={"inject.host_calls": 900}),
        replace(a_result(metrics={"inject.host_calls": 1000}), witness=Witness(TOLD, 1e-9)),
        "same to rounding",
    ),
    "a capability lost": (a_result(metrics={"merge.same_output": "differs: 0.2"}), PLAIN, "regressed"),
    "another type in the checkpoint": (
        a_result(metrics={"checkpoint.tensors": {"*.lora_A": "4 x [8, 128] F64"}}),
        PLAIN,
        "regressed",
    ),
    "another loss at the third step": (
        a_result(seeds={"first_losses": [5.5, 5.4, 5.2]}),
        PLAIN,
        ("numerics changed", "first_losses"),
    ),
    "another hash of the weights": (a_result(seeds=UNLIKE), PLAIN, ("numerics changed", "adapter_sha256")),
    "fewer problems solved": (a_result(seeds={"solved": 20, **UNLIKE}), PLAIN, ("regressed", "test_accuracy")),
    "more problems solved": (a_result(seeds={"solved": 80, **UNLIKE}), PLAIN, ("improved", "test_accuracy")),
    "more forgotten": (a_result(seeds={"rise": 0.5, **UNLIKE}), PLAIN, ("regressed", "forgetting")),
    "more forgotten by each pair of seeds": (scattered(0.1), calibrated(0.001), ("regressed", "forgetting")),
    "more forgotten by each seed, from another start": (
        scattered(0.1, start=2.0),
        calibrated(0.001),
        ("within noise", "forgetting"),
    ),
    "more forgotten, no more than rounding explains": (
        scattered(0.1),
        calibrated(0.1),
        ("within noise", "forgetting"),
    ),
    "less forgotten by each pair of seeds": (scattered(-0.1), calibrated(0.001), ("improved", "forgetting")),
    "more forgotten by each pair of seeds, from a start that rounding moved": (
        scattered(0.1, start=1 + 1e-12),
        calibrated(0.001),
        ("regressed", "forgetting"),
    ),
    "more forgotten by each seed, without a witness": (
        replace(scattered(0.1), witness=None),
        calibrated(0.001),
        ("within noise", "forgetting"),
    ),
    "twice the memory": (a_result(metrics={"gpu.allocated_peak_bytes": 2_000_000}), PLAIN, "regressed"),
    "a time without its interval": (
        a_result(without=["step_time_interval"]),
        PLAIN,
        ("cannot tell", "step_time_ratio"),
    ),
    "twice as slow, surely": (timed(2.4, [2.3, 2.5]), PLAIN, "regressed"),
    "slower, perhaps": (timed(2.4, [1.1, 3.7]), PLAIN, "cannot tell"),
    "a clock held back": (timed(1.2, []), PLAIN, "cannot tell"),
    "a single seed": (replace(PLAIN, seeds=[a_run(0, solved=20, **UNLIKE)]), PLAIN, ("cannot tell", "test_accuracy")),
    "other bits, the witness agrees": (elsewhere(ROUNDED), WITNESSED, "same to rounding"),
    "other bits, the witness moved": (
        elsewhere({**TOLD, "learned: a": [0.25 * (1 + 1e-6)]}),
        WITNESSED,
        ("numerics changed", "adapter_sha256"),
    ),
    "other bits, a quantity vanished": (
        elsewhere({name: told for name, told in TOLD.items() if name != "learned: a"}),
        WITNESSED,
        ("numerics changed", "witness"),
    ),
    "other bits, a quantity is NaN": (
        elsewhere({**TOLD, "learned: a": [math.nan]}),
        WITNESSED,
        ("numerics changed", "witness"),
    ),
    "other bits, no witness ran": (elsewhere(), WITNESSED, ("cannot tell", "adapter_sha256")),
    "other bits, a witness of another version": (
        elsewhere(ROUNDED),
        replace(PLAIN, witness=Witness(TOLD, 1e-9, version=0)),
        ("cannot tell", "adapter_sha256"),
    ),
    "reloaded with other bits elsewhere": (
        elsewhere(RELOADED, metrics={"reload.same_output": "differs: 2e-08"}),
        replace(a_result(metrics={"reload.same_output": "ok"}), witness=Witness(RELOADED, 1e-9)),
        ("same to rounding", "reload.same_output"),
    ),
    "reloaded with other bits at home": (
        replace(a_result(metrics={"reload.same_output": "differs: 2e-08"}), witness=Witness(RELOADED)),
        replace(a_result(metrics={"reload.same_output": "ok"}), witness=Witness(RELOADED, 1e-9)),
        ("regressed", "reload.same_output"),
    ),
    "reloading raises elsewhere": (
        elsewhere(RELOADED, metrics={"reload.same_output": "KeyError"}),
        replace(a_result(metrics={"reload.same_output": "ok"}), witness=Witness(RELOADED, 1e-9)),
        ("regressed", "reload.same_output"),
    ),
    "other bits, another first loss": (
        elsewhere(TOLD, seeds={**UNLIKE, "first_losses": [6.5, 5.4, 5.3]}),
        WITNESSED,
        ("numerics changed", "first_losses"),
    ),
    "other bits, a quantity more": (
        elsewhere({**TOLD, "start: b": [1.0]}),
        WITNESSED,
        ("numerics changed", "witness"),
    ),
    "other bits, none recorded": (elsewhere(TOLD), PLAIN, ("cannot tell", "adapter_sha256")),
    "the same bits, the witness moved": (
        replace(PLAIN, witness=Witness({**TOLD, "start: a": [1.1]})),
        WITNESSED,
        "numerics changed",
    ),
    "a gradient from nothing": (
        elsewhere({**TOLD, "gradient: b": [1e-3]}),
        replace(PLAIN, witness=Witness({**TOLD, "gradient: b": [0.0]}, 1e-9)),
        ("numerics changed", "witness"),
    ),
    "nothing that became something": (
        elsewhere({**TOLD, "zero: b": [1e-12]}),
        replace(PLAIN, witness=Witness({**TOLD, "zero: b": [0.0]}, 1e-9)),
        ("numerics changed", "witness"),
    ),
    "a gradient of rounding alone": (
        elsewhere({**TOLD, "gradient: b": [1e-17]}),
        replace(PLAIN, witness=Witness({**TOLD, "gradient: b": [-1e-17]}, 1e-9)),
        "same to rounding",
    ),
    "one seed, a little moved by rounding": (FIRST_OF, WITNESSED, ("same to rounding", "test_accuracy")),
    "one seed, more than rounding moves": (WORSE_FIRST, WITNESSED, ("cannot tell", "test_accuracy")),
    "one seed, the same training, worse": (SAME_BITS_WORSE, WITNESSED, ("cannot tell", "test_accuracy")),
    "a base model that moved, the witness agrees": (
        replace(
            PLAIN,
            seeds=[a_run(seed, **UNLIKE) for seed in SEEDS],
            witness=Witness(TOLD),
            base=BaseReference([5.0, 4.1], {}, {}),
        ),
        replace(WITNESSED, base=BaseReference([5.0, 4.0], {}, {})),
        ("same to rounding", "base model"),
    ),
    "another torch": (
        a_result(environment={**ENVIRONMENT, "torch": "2.14.0"}),
        PLAIN,
        ("environment drift", "environment"),
    ),
    "another base model in the same environment": (
        replace(PLAIN, base=BaseReference([5.0, 4.1], {}, {})),
        replace(PLAIN, base=BaseReference([5.0, 4.0], {}, {})),
        ("numerics changed", "base model"),
    ),
    "a little slower": (a_result(metrics={"step_time_ratio": 1.21}), PLAIN, ("within noise", "step_time_ratio")),
    "a metric vanished": (a_result(without=["params.trainable"]), PLAIN, "missing metric"),
    "a metric that the baseline does not hold yet": (PLAIN, a_result(without=["params.trainable"]), "not recorded yet"),
    "a quality that the baseline does not hold yet": (replace(PLAIN, seeds=WITH_LOSS), PLAIN, "not recorded yet"),
    "a metric of one seed that the baseline does not hold": (
        replace(PLAIN, seeds=[*PLAIN.seeds[:-1], WITH_LOSS[-1]]),
        PLAIN,
        ("missing metric", "train_loss"),
    ),
    "a baseline without any quality": (
        PLAIN,
        replace(PLAIN, seeds=NO_QUALITY),
        ("missing metric", "forgetting"),
    ),
    "a baseline without any counter": (
        PLAIN,
        a_result(without=["params.trainable", "checkpoint.tensors", "train_step.flops", "merge.same_output"]),
        ("missing metric", "train_step.flops"),
    ),
    "a baseline of another accelerator that lacks a metric": (
        PLAIN,
        a_result(without=["gpu.allocated_peak_bytes"], environment={**ENVIRONMENT, "accelerator": "H200"}),
        ("not comparable", "gpu.allocated_peak_bytes"),
    ),
    "nothing in common": (
        replace(PLAIN, metrics=TIME, seeds=[]),
        replace(PLAIN, metrics={}, seeds=[]),
        ("missing metric", "case"),
    ),
    "a metric vanished for a seed": (replace(PLAIN, seeds=ONE_LOST), PLAIN, "missing metric"),
    "a metric that nobody declared": (a_result(metrics={"novel": 1}), PLAIN, "unknown metric"),
    "another accelerator": (a_result(environment={**ENVIRONMENT, "accelerator": "H200"}), PLAIN, "not comparable"),
    "another version of the case": (a_result(case_version="2"), PLAIN, "not comparable"),
    "a seed that the baseline lacks": (
        a_result(),
        replace(PLAIN, seeds=PLAIN.seeds[:-1]),
        "not comparable",
    ),
    "NaN in the baseline": (PLAIN, a_result(metrics={"params.trainable": math.nan}), "not comparable"),
    "NaN": (a_result(metrics={"train_step.flops": math.nan}), PLAIN, "failed"),
    "a case that failed": (replace(PLAIN, status="failed", error_msg="out of memory"), PLAIN, "failed"),
    "no baseline": (PLAIN, None, "no baseline"),
    "nothing measured": (replace(PLAIN, metrics={}, seeds=[]), replace(PLAIN, metrics={}, seeds=[]), "missing metric"),
}

IDENTICAL = '\n        return Finding.between(metric, "identical", obtained, expected)\n'
# what is turned around, the text that must stand in `compare` once, what takes its place, and who must notice
MUTATIONS = [
    (
        "exact: equality",
        f"if obtained == expected:{IDENTICAL}    if metric.unit",
        f"if True:{IDENTICAL}    if metric.unit",
        "one FLOP more",
    ),
    (
        "exact: direction",
        'obtained < expected if metric.direction == "lower"',
        'obtained > expected if metric.direction == "lower"',
        "one FLOP more",
    ),
    (
        "exact: outcome",
        "if obtained == OK:",
        "if obtained != OK:",
        "a capability lost",
    ),
    (
        "exact: outcome that was not reached",
        "if obtained == NOT_REACHED:",
        "if False:",
        "a check that was not reached",
    ),
    (
        "exact: size of an outcome",
        "if ours > theirs else",
        "if ours < theirs else",
        "a difference that grew",
    ),
    (
        "exact: margin",
        "if metric.margin(expected) and within_margin(metric, obtained, expected):",
        "if metric.margin(expected):",
        "three per cent more host calls",
    ),
    (
        "exact: table",
        '_changed_entries(metric, "regressed", ',
        '_changed_entries(metric, "identical", ',
        "another type in the checkpoint",
    ),
    (
        "numerics: list",
        'Finding.between(metric, "numerics changed", ours, theirs, ',
        'Finding.between(metric, "identical", ours, theirs, ',
        "another loss at the third step",
    ),
    (
        "numerics: text",
        'Finding.between(metric, "numerics changed", obtained, expected)',
        'Finding.between(metric, "identical", obtained, expected)',
        "another hash of the weights",
    ),
    (
        "quality: direction",
        'sign = -1 if metric.direction == "higher" else 1',
        'sign = 1 if metric.direction == "higher" else -1',
        "fewer problems solved",
    ),
    (
        "quality: margin",
        "if worse > margin * (1 + 1e-9):",
        "if worse < margin * (1 + 1e-9):",
        "more forgotten",
    ),
    (
        "quality: significance",
        '"regressed" if p <= stats.ALPHA / comparison.tests else "cannot tell"',
        '"regressed" if p > stats.ALPHA / comparison.tests else "cannot tell"',
        "more forgotten",
    ),
    (
        "quality: significance of an improvement",
        '"improved" if significant else "within noise"',
        '"within noise" if significant else "improved"',
        "more problems solved",
    ),
    (
        "quality: one seed",
        'Finding.between(metric, "cannot tell", obtained, expected, reason)',
        'Finding.between(metric, "within noise", obtained, expected, reason)',
        "a single seed",
    ),
    (
        "pairs: of seeds that start alike",
        "paired = same_start(comparison)",
        "paired = False",
        "more forgotten by each pair of seeds",
    ),
    (
        "pairs: of no others",
        "paired = same_start(comparison)",
        "paired = True",
        "more forgotten by each seed, from another start",
    ),
    (
        "pairs: both sides need a witness",
        "paired = same_start(comparison)",
        "paired = True",
        "more forgotten by each seed, without a witness",
    ),
    (
        "pairs: their test",
        "stats.worse_by_pair if paired",
        "stats.worse_by_seed if paired",
        "more forgotten by each pair of seeds",
    ),
    (
        "pairs: its direction",
        "size = statistics.fmean(differences)",
        "size = -statistics.fmean(differences)",
        "less forgotten by each pair of seeds",
    ),
    (
        "pairs: their noise",
        "noise_floor(noise.paired_sd, noise.seeds, seeds, paired=True, level=level)",
        "0.0",
        "more forgotten, no more than rounding explains",
    ),
    (
        "pairs: no noise of theirs for others",
        "if paired and noise.paired_sd is not None:",
        "if noise.paired_sd is not None:",
        "more forgotten by each seed, from another start",
    ),
    (
        "noisy: direction",
        "= average(ours), average(theirs)",
        "= average(theirs), average(ours)",
        "twice the memory",
    ),
    (
        "noisy: an interval beyond the margin",
        'verdict = "regressed" if beyond[best] == "regressed" else "improved"',
        'verdict = "improved" if beyond[best] == "regressed" else "regressed"',
        "twice as slow, surely",
    ),
    (
        "noisy: an interval that is too wide",
        "ends[1] - ends[0] > metric.margin(expected)",
        "ends[1] - ends[0] < metric.margin(expected)",
        "slower, perhaps",
    ),
    (
        "noisy: no interval",
        'Finding.between(metric, "cannot tell", obtained, expected, "too few blocks without throttling")',
        'Finding.between(metric, "within noise", obtained, expected, "too few blocks without throttling")',
        "a clock held back",
    ),
    (
        "noisy: an interval that is not there",
        'Finding(metric.name, "cannot tell", *words.figures',
        'Finding(metric.name, "within noise", *words.figures',
        "a time without its interval",
    ),
    (
        "noisy: margin",
        "if within_margin(metric, obtained, expected) else",
        "if not within_margin(metric, obtained, expected) else",
        "twice the memory",
    ),
    (
        "witness: agrees",
        'return replace(finding, verdict="same to rounding", reason="the witness agrees", details=())',
        "return finding",
        "other bits, the witness agrees",
    ),
    ("witness: moved", 'return "moved" if beyond', 'return "agrees" if beyond', "other bits, the witness moved"),
    (
        "witness: bound",
        "if not found.size <= theirs.bound]",
        "if found.size <= theirs.bound]",
        "other bits, the witness agrees",
    ),
    (
        "witness: a bound of another size",
        "if not found.size <= theirs.bound]",
        "if not found.size <= 1e6 * theirs.bound]",
        "other bits, the witness moved",
    ),
    (
        "witness: lengths",
        "if len(ours) != len(theirs) or not all(",
        "if len(ours) == len(theirs) and not all(",
        "other bits, a quantity vanished",
    ),
    (
        "witness: all of it is expected",
        "for name, theirs in expected.items():",
        "for name, theirs in obtained.items():",
        "other bits, a quantity vanished",
    ),
    (
        "witness: missing",
        'if not _both(comparison):\n        return "missing"',
        'if not _both(comparison):\n        return "agrees"',
        "other bits, no witness ran",
    ),
    (
        "witness: version",
        "return (ours, theirs) if (ours.version, ours.rate) == (theirs.version, theirs.rate) else None",
        "return (ours, theirs)",
        "other bits, a witness of another version",
    ),
    (
        "checks to the bit: elsewhere",
        "if _rounded_otherwise(comparison, metric, finding):",
        "if False:",
        "reloaded with other bits elsewhere",
    ),
    (
        "checks to the bit: at home",
        "and bool(differences(comparison.obtained.environment, comparison.expected.environment, DRIFTING))",
        "",
        "reloaded with other bits at home",
    ),
    (
        "checks to the bit: an error",
        '{word.partition(":")[0] for word in (finding.obtained, finding.expected)} == {OK, DIFFERS}',
        "True",
        "reloading raises elsewhere",
    ),
    (
        "witness: what rounding can do",
        "return len(obtained) == len(expected) and all(map(_alike, obtained[:1], expected[:1]))",
        "return True",
        "other bits, another first loss",
    ),
    (
        "witness: what is new",
        "if name not in expected and name not in _CAPABILITIES:",
        "if name in _CAPABILITIES:",
        "other bits, a quantity more",
    ),
    (
        "witness: missing in the baseline",
        'if told == "missing" and (reason :=',
        'if told != "missing" and (reason :=',
        "other bits, none recorded",
    ),
    (
        "witness: though bits are equal",
        "if moved := beyond(comparison):",
        "if (moved := beyond(comparison)) and not comparison.same_bits():",
        "the same bits, the witness moved",
    ),
    (
        "witness: its finding",
        'Finding("", "numerics changed", *first.words()',
        'Finding("", "identical", *first.words()',
        "the same bits, the witness moved",
    ),
    (
        "witness: zero",
        "return difference / scale if scale else math.inf",
        "return difference / (scale or 1)",
        "nothing that became something",
    ),
    ("witness: negligible", "_NEGLIGIBLE = 1e-6", "_NEGLIGIBLE = 0.0", "a gradient of rounding alone"),
    ("witness: negligible is little", "_NEGLIGIBLE = 1e-6", "_NEGLIGIBLE = 1e9", "a gradient from nothing"),
    (
        "rounding: how far",
        "if abs(obtained - expected) <= margin * (1 + 1e-9):",
        "if abs(obtained - expected) >= 0:",
        "one seed, more than rounding moves",
    ),
    (
        "rounding: within it",
        "if abs(obtained - expected) <= margin * (1 + 1e-9):",
        "if abs(obtained - expected) < 0:",
        "one seed, a little moved by rounding",
    ),
    (
        "rounding: not where the training is the same to the bit",
        'if len(new) == 1 and not comparison.same("numerics") and',
        "if len(new) == 1 and",
        "one seed, the same training, worse",
    ),
    (
        "rounding: of a base model",
        'Finding.of("base model", "same to rounding"',
        'Finding.of("base model", "numerics changed"',
        "a base model that moved, the witness agrees",
    ),
    (
        "environment drift",
        'Finding.of("environment", "environment drift"',
        'Finding.of("environment", "identical"',
        "another torch",
    ),
    (
        "a base model that moved in the same environment",
        'Finding.of("base model", "numerics changed"',
        'Finding.of("base model", "environment drift"',
        "another base model in the same environment",
    ),
    (
        "missing: on one side",
        'Finding(name, "missing metric", *shown, reason="vanished',
        'Finding(name, "not recorded yet", *shown, reason="vanished',
        "a metric vanished",
    ),
    (
        "missing: the union of names",
        "*names_of(self.obtained, self.metrics), *names_of(self.expected, self.metrics)",
        "*names_of(self.obtained, self.metrics)",
        "a metric vanished",
    ),
    (
        "missing: for a seed",
        'Finding(metric.name, "missing metric", reason=f"vanished',
        'Finding(metric.name, "identical", reason=f"vanished',
        "a metric vanished for a seed",
    ),
    (
        "missing: everything",
        'Finding.of("case", "missing metric", "nothing was measured")',
        'Finding.of("case", "identical", "nothing was measured")',
        "nothing measured",
    ),
    (
        "not recorded yet",
        'return "not recorded yet", "the baseline does not hold it"',
        'return "missing metric", "the baseline does not hold it"',
        "a quality that the baseline does not hold yet",
    ),
    (
        "not recorded yet: is told",
        'return "not recorded yet", "the baseline does not hold it"',
        'return "identical", "the baseline does not hold it"',
        "a metric that the baseline does not hold yet",
    ),
    (
        "not recorded yet: quality always was",
        '_NEVER_NEW: tuple[Lane, ...] = ("exact", "numerics", "quality")',
        '_NEVER_NEW: tuple[Lane, ...] = ("exact", "numerics")',
        "a baseline without any quality",
    ),
    (
        "not recorded yet: counters always were",
        '_NEVER_NEW: tuple[Lane, ...] = ("exact", "numerics", "quality")',
        '_NEVER_NEW: tuple[Lane, ...] = ("numerics", "quality")',
        "a baseline without any counter",
    ),
    (
        "not recorded yet: every seed holds it",
        "if None not in ours and (lacking := ",
        "if None in ours and (lacking := ",
        "a metric of one seed that the baseline does not hold",
    ),
    (
        "not recorded yet: something else was compared",
        'if "not recorded yet" in told and told <=',
        'if "not recorded yet" not in told and told <=',
        "nothing in common",
    ),
    (
        "not recorded yet: where it could have been recorded",
        "if not anywhere and (reason := _why_environment(comparison, metric)):",
        "if theirs and not anywhere and (reason := _why_environment(comparison, metric)):",
        "a baseline of another accelerator that lacks a metric",
    ),
    (
        "unknown metric",
        'Finding(name, "unknown metric", reason=new if',
        'Finding(name, "identical", reason=new if',
        "a metric that nobody declared",
    ),
    (
        "not comparable: environment",
        "if not anywhere and (reason := _why_environment(comparison, metric)):",
        "if reason := '':",
        "another accelerator",
    ),
    (
        "not comparable: case",
        'Finding.of("case", "not comparable", reason)',
        'Finding.of("case", "identical", reason)',
        "another version of the case",
    ),
    (
        "not comparable: seeds",
        "if extra := [seed for seed in ours if seed is not None and seed not in known]:",
        "if extra := []:",
        "a seed that the baseline lacks",
    ),
    (
        "not comparable: the baseline's value",
        'Finding(metric.name, "not comparable", reason=f"the baseline\'s value',
        'Finding(metric.name, "identical", reason=f"the baseline\'s value',
        "NaN in the baseline",
    ),
    ("NaN", "bad.get(name) or compare_metric(", "compare_metric(", "NaN"),
    ("failed", 'Finding.of("case", "failed"', 'Finding.of("case", "identical"', "a case that failed"),
    ("no baseline", 'Finding.of("case", "no baseline"', 'Finding.of("case", "identical"', "no baseline"),
    (
        "the worst finding is the verdict",
        "return finding.verdict in GREEN_BY_DEFAULT, incidental, -SEVERITY",
        "return finding.verdict in GREEN_BY_DEFAULT, incidental, SEVERITY",
        "one FLOP more, and other bits",
    ),
    (
        "red comes before green",
        "return finding.verdict in GREEN_BY_DEFAULT, incidental,",
        "return False, incidental,",
        "more host calls, and one FLOP less",
    ),
    (
        "what is incidental comes last",
        "return finding.verdict in GREEN_BY_DEFAULT, incidental,",
        "return finding.verdict in GREEN_BY_DEFAULT, False,",
        "fewer host calls, and a first loss of rounding",
    ),
    (
        "green is what every finding is",
        "return all(finding.verdict in allowed",
        "return any(finding.verdict in allowed",
        "one FLOP more",
    ),
]


def meets(compare, obtained, expected, word):
    """Whether this `compare` meets an expectation."""
    try:
        baseline = from_result(expected) if isinstance(expected, Result) else expected
        verdict = compare.compare(obtained, baseline, METRICS, tests=1)
    except Exception:
        return False
    green = word in compare.GREEN_BY_DEFAULT
    if isinstance(word, tuple):
        return [finding.verdict for finding in verdict.findings if finding.subject == word[1]] == [word[0]]
    return verdict.verdict == word and compare.is_green(verdict) == green


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Function that imports a copy of the package `compare` in which a text is replaced."""

    def make(old="", new=""):
        folder = tmp_path / "mutated_compare"
        folder.mkdir()
        for name, source in SOURCES.items():
            source = source.replace(old, new) if old else source
            (folder / name).write_text(source.replace("pytest_peftbench.compare", folder.name), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module(folder.name)

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "mutated_compare"]:
        del sys.modules[name]


def test_compare_as_it_is_meets_every_expectation(load):
    compare = load()

    assert compare.__file__ != original.__file__
    assert [name for name, expectation in EXPECTATIONS.items() if not meets(compare, *expectation)] == []


@pytest.mark.parametrize(("old", "new", "noticed"), [row[1:] for row in MUTATIONS], ids=[row[0] for row in MUTATIONS])
def test_a_comparator_that_is_turned_around_is_noticed(load, old, new, noticed):
    count = sum(source.count(old) for source in SOURCES.values())
    assert count == 1, f"compare holds this {count} times; adapt MUTATIONS:\n{old}"

    assert not meets(load(old, new), *EXPECTATIONS[noticed])


def test_every_expectation_is_one_that_some_mutation_breaks_or_a_control():
    noticed = {row[3] for row in MUTATIONS}

    assert noticed <= set(EXPECTATIONS)
    assert len(MUTATIONS) == len({row[0] for row in MUTATIONS}) >= 20
