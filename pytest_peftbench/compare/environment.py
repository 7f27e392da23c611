"""What is not the adapter's doing: the environment that differs, and what the base model shows of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pytest_peftbench.compare.comparison import Comparison, ordered
from pytest_peftbench.compare.verdicts import Finding
from pytest_peftbench.compare.witness import may_be_rounding, says
from pytest_peftbench.results import words
from pytest_peftbench.results.metrics import METRICS, Metric
from pytest_peftbench.results.result import BaseReference

# What software and processor decide; a metric that needs another key is not comparable where that differs.
DRIFTING = ("torch", "transformers", "arithmetic")
# What cannot move a base model: it has no adapter, and Python computes none of its numbers.
_NO_CAUSE = frozenset({"peft", "python"})


def differences(obtained: Mapping[str, str], expected: Mapping[str, str], keys: Iterable[str]) -> list[str]:
    """Those of the keys that differ, as `torch 2.13.0 -> 2.14.0`."""
    return [
        f"{key} {expected.get(key, 'unknown')} -> {obtained.get(key, 'unknown')}"
        for key in keys
        if obtained.get(key, "unknown") != expected.get(key, "unknown")
    ]


def environment_note(obtained: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """The baseline's torch, and all that differs from its environment."""
    differing = differences(obtained, expected, sorted({*obtained, *expected}))
    note = "; differs now: " + ", ".join(differing) if differing else ", same environment"
    return f"torch {expected.get('torch', 'unknown')}{note}"


def environment_drift(comparison: Comparison) -> list[str]:
    """How the environment differs, and what the base model without adapter shows of it, a line each."""
    ours, theirs = comparison.obtained.environment, comparison.expected.environment
    lines = differences(ours, theirs, [key for key in DRIFTING if key in ours and key in theirs])
    before, after = comparison.expected.base, comparison.obtained.base
    if before is None or after is None:
        return lines
    return [*lines, *_moved_counters(before, after), *_moved_losses(before, after)]


def _moved_counters(before: BaseReference, after: BaseReference) -> Iterable[str]:
    for phase in sorted(before.operators.keys() & after.operators.keys()):
        theirs, ours = before.operators[phase], after.operators[phase]
        told = False
        for column, unit in enumerate(("calls", "flops")):
            old, new = (sum(row[column] for row in rows.values()) for rows in (theirs, ours))
            if new != old:
                change = words.change(METRICS["train_step.calls"], new, old)
                yield f"base model {phase}.{unit} {old:,} -> {new:,} ({change})"
                told = True
        moved = sorted(row for row in ours.keys() | theirs.keys() if ours.get(row) != theirs.get(row))
        if moved and not told:
            yield f"base model {phase}: {words.plural(len(moved), 'row')} of operators changed, {moved[0]} first"
    for name in ordered(before.metrics.keys() & after.metrics.keys(), METRICS):
        if before.metrics[name] != after.metrics[name]:
            yield f"base model {name} {before.metrics[name]:,} -> {after.metrics[name]:,}"


def _moved_losses(before: BaseReference, after: BaseReference) -> Iterable[str]:
    if before.losses and after.losses and before.losses != after.losses:
        pairs = enumerate(zip(before.losses, after.losses, strict=False), start=1)
        step = next((step for step, (old, new) in pairs if old != new), 1)
        yield f"losses of the base model part at step {step}"


def drifted(comparison: Comparison, drift: Iterable[str]) -> Finding:
    """The environment's doing where something of it differs; else something moved the base model that nobody knows.

    drift: what `environment_drift` found.
    """
    ours, theirs = comparison.obtained.environment, comparison.expected.environment
    told = "; ".join(drift)
    if any(ours[key] != theirs[key] for key in ours.keys() & theirs.keys() - _NO_CAUSE):
        return Finding.of("environment", "environment drift", told)
    if says(comparison) == "agrees" and _only_rounded(comparison):
        return Finding.of("base model", "same to rounding", f"{told}; the witness agrees")
    cause = "in the same environment, so it is the benchmark's own code, its base model or another library"
    return Finding.of("base model", "numerics changed", f"{told}; {cause}")


def _only_rounded(comparison: Comparison) -> bool:
    """Whether nothing of the base model moved but its losses, and those by no more than rounding."""
    before, after = comparison.expected.base, comparison.obtained.base
    if before is None or after is None:
        return False
    return not any(_moved_counters(before, after)) and may_be_rounding(after.losses, before.losses)


def why_drifted(comparison: Comparison, metric: Metric) -> str:
    """What changed for the metric that is not the adapter's doing; empty when nothing did."""
    keys = [key for key in metric.needs if key in DRIFTING]
    if differing := differences(comparison.obtained.environment, comparison.expected.environment, keys):
        return f"environment differs: {', '.join(differing)}"
    before, after = comparison.base_figures(metric)
    moved = before is not None and after is not None and before != after
    return "the base model's own figures moved" if moved else ""
