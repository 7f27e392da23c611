"""Each comparator is turned around once, and an expectation dies: no rule of `compare` is there for nothing."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from pytest_peftbench import compare as original
from pytest_peftbench.results.baseline import from_result
from pytest_peftbench.results.result import BaseReference, CaseId, Result, SeedRun

SOURCE = Path(original.__file__).read_text(encoding="utf-8")
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

# name -> obtained, expected, and what the case's verdict is, or that of one of its metrics: ("regressed", "forgetting")
EXPECTATIONS = {
    "the same again": (PLAIN, PLAIN, "identical"),
    "one FLOP more": (a_result(metrics={"train_step.flops": 1_204_000_001}), PLAIN, "regressed"),
    "one FLOP less": (a_result(metrics={"train_step.flops": 1_203_999_999}), PLAIN, "improved"),
    "a capability lost": (a_result(metrics={"merge.same_output": "differs"}), PLAIN, "regressed"),
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
    "a metric that the baseline lacks": (PLAIN, a_result(without=["params.trainable"]), "missing metric"),
    "a metric vanished for a seed": (replace(PLAIN, seeds=ONE_LOST), PLAIN, "missing metric"),
    "a metric that nobody declared": (a_result(metrics={"novel": 1}), PLAIN, "unknown metric"),
    "another accelerator": (a_result(environment={**ENVIRONMENT, "accelerator": "H200"}), PLAIN, "not comparable"),
    "another version of the case": (a_result(case_version="2"), PLAIN, "not comparable"),
    "a seed that the baseline lacks": (
        a_result(),
        replace(PLAIN, seeds=[replace(run, seed=run.seed + 10) for run in PLAIN.seeds]),
        "not comparable",
    ),
    "NaN in the baseline": (PLAIN, a_result(metrics={"params.trainable": math.nan}), "not comparable"),
    "NaN": (a_result(metrics={"train_step.flops": math.nan}), PLAIN, "failed"),
    "a case that failed": (replace(PLAIN, status="failed", error_msg="out of memory"), PLAIN, "failed"),
    "no baseline": (PLAIN, None, "no baseline"),
    "nothing measured": (replace(PLAIN, metrics={}, seeds=[]), replace(PLAIN, metrics={}, seeds=[]), "missing metric"),
}

# what is turned around, the text of `compare` that must stand there once, what takes its place, and who must notice
MUTATIONS = [
    (
        "exact: equality",
        "figures = words.figures(metric, obtained, expected)\n    if obtained == expected:",
        "figures = words.figures(metric, obtained, expected)\n    if True:",
        "one FLOP more",
    ),
    (
        "exact: direction",
        'obtained < expected if metric.direction == "lower"',
        'obtained > expected if metric.direction == "lower"',
        "one FLOP more",
    ),
    ("exact: outcome", 'if obtained == "ok":', 'if obtained != "ok":', "a capability lost"),
    (
        "exact: table",
        '_judge_table(metric.name, "regressed", ',
        '_judge_table(metric.name, "identical", ',
        "another type in the checkpoint",
    ),
    (
        "numerics: list",
        "return _judge_steps(metric, obtained, expected)",
        'return Finding(metric.name, "identical")',
        "another loss at the third step",
    ),
    (
        "numerics: text",
        '"numerics changed", *words.figures(metric, obtained, expected), change)',
        '"identical", *words.figures(metric, obtained, expected), change)',
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
        "if abs(worse) <= margin * (1 + 1e-9):",
        "if abs(worse) > margin * (1 + 1e-9):",
        "more forgotten",
    ),
    (
        "quality: significance",
        '"regressed" if p <= stats.ALPHA / tests else "cannot tell"',
        '"regressed" if p > stats.ALPHA / tests else "cannot tell"',
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
        'Finding(metric.name, "cannot tell", *figures, words.change(metric, mean(new), mean(old)), reason)',
        'Finding(metric.name, "within noise", *figures, words.change(metric, mean(new), mean(old)), reason)',
        "a single seed",
    ),
    (
        "noisy: direction",
        "= _mean(ours.values()), _mean(theirs.values())",
        "= _mean(theirs.values()), _mean(ours.values())",
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
        'Finding(metric.name, "cannot tell", *figures, change, "too few blocks without throttling")',
        'Finding(metric.name, "within noise", *figures, change, "too few blocks without throttling")',
        "a clock held back",
    ),
    (
        "environment drift",
        'Finding("environment", "environment drift"',
        'Finding("environment", "identical"',
        "another torch",
    ),
    (
        "noisy: margin",
        "if within_margin(metric, obtained, expected) else",
        "if not within_margin(metric, obtained, expected) else",
        "twice the memory",
    ),
    (
        "missing: on one side",
        "return _missing(metric, ours, theirs)",
        'return Finding(name, "identical")',
        "a metric vanished",
    ),
    (
        "missing: the union of names",
        "_ordered({*_names(obtained, metrics), *_names(expected, metrics), *unusable}, metrics)",
        "_ordered({*_names(obtained, metrics), *unusable}, metrics)",
        "a metric vanished",
    ),
    (
        "missing: for a seed",
        "return _missing_for_a_seed(name, ours, theirs)",
        'return Finding(name, "identical")',
        "a metric vanished for a seed",
    ),
    ("missing: everything", 'Finding("case", "missing metric"', 'Finding("case", "identical"', "nothing measured"),
    ("unknown metric", 'Finding(name, "unknown metric"', 'Finding(name, "identical"', "a metric that nobody declared"),
    (
        "a base model that moved in the same environment",
        'Finding(BASE_MODEL, "numerics changed"',
        'Finding(BASE_MODEL, "environment drift"',
        "another base model in the same environment",
    ),
    (
        "noisy: an interval that is not there",
        'return Finding(name, "cannot tell", *_figures_of(metric, ours, theirs), reason=reason)',
        'return Finding(name, "within noise", *_figures_of(metric, ours, theirs), reason=reason)',
        "a time without its interval",
    ),
    (
        "not comparable: environment",
        'if reason := _why_not_comparable(metric, obtained, expected):\n        return Finding(name, "not comparable"',
        'if reason := _why_not_comparable(metric, obtained, expected):\n        return Finding(name, "identical"',
        "another accelerator",
    ),
    (
        "not comparable: case",
        '*unusable.values(), Finding("case", "not comparable"',
        '*unusable.values(), Finding("case", "identical"',
        "another version of the case",
    ),
    (
        "not comparable: seeds",
        "if reason := _why_seeds_differ(ours, theirs, expected):",
        "if False:",
        "a seed that the baseline lacks",
    ),
    (
        "not comparable: the baseline's value",
        'Finding(name, "not comparable", reason=f"the baseline\'s value',
        'Finding(name, "identical", reason=f"the baseline\'s value',
        "NaN in the baseline",
    ),
    ("NaN", "unusable.get(name) or _compare_metric(", "_compare_metric(", "NaN"),
    ("failed", 'Finding("status", "failed"', 'Finding("status", "identical"', "a case that failed"),
    ("no baseline", 'Finding("case", "no baseline"', 'Finding("case", "identical"', "no baseline"),
    (
        "the worst finding is the verdict",
        "return max(told, key=SEVERITY.index",
        "return min(told, key=SEVERITY.index",
        "one FLOP more",
    ),
    (
        "green is what every finding is",
        "return all(finding.verdict in allowed",
        "return any(finding.verdict in allowed",
        "one FLOP more",
    ),
]


def broken(compare):
    """The expectations that this `compare` does not meet, in the module's order."""
    return [
        name
        for name, (obtained, expected, word) in EXPECTATIONS.items()
        if not meets(compare, obtained, expected, word)
    ]


def meets(compare, obtained, expected, word):
    try:
        verdict = compare.compare(obtained, None if expected is None else from_result(expected))
    except Exception:
        return False
    green = word in compare.GREEN_BY_DEFAULT
    if isinstance(word, tuple):
        (found,) = (finding.verdict for finding in verdict.findings if finding.metric == word[1])
        return found == word[0]
    return verdict.verdict == word and compare.is_green(verdict) == green


@pytest.fixture
def load(monkeypatch):
    """Function that makes a module of a source, as `pytest_peftbench.compare` is one."""

    def make(source):
        module = ModuleType("mutated_compare")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(source, "mutated_compare.py", "exec"), vars(module))
        return module

    return make


def test_compare_as_it_is_meets_every_expectation(load):
    assert broken(load(SOURCE)) == []


@pytest.mark.parametrize(("old", "new", "noticed"), [row[1:] for row in MUTATIONS], ids=[row[0] for row in MUTATIONS])
def test_a_comparator_that_is_turned_around_is_noticed(load, old, new, noticed):
    assert SOURCE.count(old) == 1, f"compare.py holds this {SOURCE.count(old)} times; adapt MUTATIONS:\n{old}"

    assert noticed in broken(load(SOURCE.replace(old, new)))


def test_every_expectation_is_one_that_some_mutation_breaks_or_a_control():
    noticed = {row[3] for row in MUTATIONS}

    assert noticed <= set(EXPECTATIONS)
    assert len(MUTATIONS) == len({row[0] for row in MUTATIONS}) >= 20
