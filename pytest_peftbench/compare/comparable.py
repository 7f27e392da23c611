"""Whether there is anything to compare. What cannot be compared is a finding of its own, and never green by silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pytest_peftbench.compare.comparison import (
    BySeed,
    Comparison,
    average,
    by_seed,
    for_seeds,
    names_of,
    ordered,
    seeds_of,
)
from pytest_peftbench.compare.environment import DRIFTING, differences
from pytest_peftbench.compare.verdicts import Finding, Verdict
from pytest_peftbench.compare.witness import says
from pytest_peftbench.results import words
from pytest_peftbench.results.baseline import Baseline, problem, problem_of, problem_of_sample
from pytest_peftbench.results.metrics import Lane, Metric, Value

# Lanes in which every case that has them has always had some metric. A new version adds one more to them; a baseline
# that holds none at all was not recorded from a whole run.
_NEVER_NEW: tuple[Lane, ...] = ("exact", "numerics", "quality")


def another_case(obtained: Baseline, expected: Baseline) -> str:
    """Why the two are not the same case; empty when they are."""
    if obtained.case != expected.case:
        return f"the baseline is one of {expected.case}, not of {obtained.case}"
    if obtained.case_version != expected.case_version:
        return (
            "the definition of the case changed (experiment files, data, base model or recipe): "
            f"version {expected.case_version} -> {obtained.case_version}"
        )
    return ""


def unusable(obtained: Baseline, metrics: Mapping[str, Metric]) -> dict[str, Finding]:
    """A failed finding for each obtained value, or list of samples, that is NaN, infinite or of a wrong type."""
    reasons: dict[str, str] = {}
    for name in ordered(names_of(obtained, metrics), metrics):
        for seed, value in by_seed(obtained, name).items():
            if reason := problem_of(metrics.get(name), value):
                reasons.setdefault(name, reason + for_seeds([seed]))
    for run in obtained.seeds:
        for name, sample in run.samples.items():
            if reason := problem_of_sample(sample):
                reasons.setdefault(f"samples.{name}", reason + for_seeds([run.seed]))
    return {name: Finding(name, "failed", reason=reason) for name, reason in reasons.items()}


def nothing_compared(findings: Collection[Finding]) -> list[Finding]:
    """The finding that makes a case red of which every metric is new, or moved with the environment."""
    told = {finding.verdict for finding in findings}
    if not told:
        return [Finding.of("case", "missing metric", "nothing was measured")]
    if "not recorded yet" in told and told <= {"not recorded yet", "environment drift"}:
        return [Finding.of("case", "missing metric", "nothing was compared; update the baseline")]
    return []


def no_reference(comparison: Comparison) -> list[Finding]:
    """The finding about a base model whose own figures vanished: nobody can tell whether it is the one it was."""
    if comparison.expected.base is None or comparison.obtained.base is not None:
        return []
    return [Finding.of("base model", "missing metric", "its own figures vanished; the baseline holds them")]


def incomparable(comparison: Comparison, name: str) -> Finding | None:
    """Why a metric of either side cannot be compared; None when it can."""
    metric = comparison.metrics.get(name)
    ours, theirs = by_seed(comparison.obtained, name), by_seed(comparison.expected, name)
    if metric is None:
        new = "measured, but not declared; declare its unit, direction and lane"
        old = "the baseline holds it, but this version does not know it; update the baseline"
        return Finding(name, "unknown metric", reason=new if ours else old)
    shown = _shown(metric, ours, theirs)
    if not ours:
        return Finding(name, "missing metric", *shown, reason="vanished; the baseline holds it")
    anywhere = metric.lane == "numerics" and says(comparison) != "missing"
    if not anywhere and (reason := _why_environment(comparison, metric)):
        return Finding(name, "not comparable", *shown, reason=reason)
    if not theirs:
        verdict, reason = _unrecorded(comparison, metric, ours)
        return Finding(name, verdict, *shown, reason=reason)
    before, after = comparison.base_figures(metric)
    if (before is None) != (after is None):
        side = "the result" if before is None else "the baseline"
        return Finding(name, "not comparable", *shown, reason=f"only {side} holds the base model's own figures for it")
    return _seeds_that_differ(comparison, metric)


def _shown(metric: Metric, ours: BySeed, theirs: BySeed) -> tuple[str, str]:
    """Both sides in words, where it is not known yet that they can be compared; an absent one is empty."""

    def summary(values: BySeed) -> Value:
        return average(values) if metric.kind == "number" else next(iter(values.values()))

    obtained, expected = words.figures(metric, summary(ours or theirs), summary(theirs or ours))
    return obtained if ours else "", expected if theirs else ""


def _why_environment(comparison: Comparison, metric: Metric) -> str:
    """The environment keys that the metric needs equal and that differ or are unknown, but for those that drift."""
    ours, theirs = comparison.obtained.environment, comparison.expected.environment
    known = {key for key in metric.needs if "unknown" not in (ours.get(key, "unknown"), theirs.get(key, "unknown"))}
    fixed = [key for key in metric.needs if key not in DRIFTING or key not in known]
    if differing := differences(ours, theirs, fixed):
        return f"environment differs: {', '.join(differing)}"
    unknown = [key for key in fixed if key not in known]
    return f"environment unknown: {', '.join(unknown)}" if unknown else ""


def _unrecorded(comparison: Comparison, metric: Metric, ours: BySeed) -> tuple[Verdict, str]:
    """What a metric is that the baseline holds for no seed: a newer version's, unless more than it is missing."""
    recorded = names_of(comparison.expected, comparison.metrics) & comparison.metrics.keys()
    if metric.lane in _NEVER_NEW and metric.lane not in {comparison.metrics[name].lane for name in recorded}:
        return "missing metric", f"the baseline holds nothing of the {metric.lane} lane; update the baseline"
    if None not in ours and (lacking := set(seeds_of(comparison.obtained)) - ours.keys()):
        return "missing metric", f"not measured{for_seeds(lacking)}, nor does the baseline hold it"
    return "not recorded yet", "the baseline does not hold it"


def _seeds_that_differ(comparison: Comparison, metric: Metric) -> Finding | None:
    """What keeps the seeds that ran from being held against the baseline's, one by one."""
    (ours, theirs), known = comparison.values(metric.name), seeds_of(comparison.expected)
    if extra := [seed for seed in ours if seed is not None and seed not in known]:
        reason = f"seed {words.listed(extra)} not in the baseline (seeds {words.listed(known) or 'none'})"
        return Finding(metric.name, "not comparable", reason=reason)
    if not theirs:
        reason = f"no seed in common (the baseline has {words.listed(known)})"
        return Finding(metric.name, "not comparable", reason=reason)
    if vanished := theirs.keys() - ours.keys():
        return Finding(metric.name, "missing metric", reason=f"vanished{for_seeds(vanished)}")
    if new := ours.keys() - theirs.keys():
        reason = f"the baseline does not hold it{for_seeds(new)}; update the baseline"
        return Finding(metric.name, "missing metric", reason=reason)
    if reason := next((reason for value in theirs.values() if (reason := problem(value, metric.kind))), ""):
        return Finding(metric.name, "not comparable", reason=f"the baseline's value {reason}")
    return None
