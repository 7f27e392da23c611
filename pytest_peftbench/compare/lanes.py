"""The rule of each lane: a function of a comparison and a metric that gives the finding. Both sides hold the metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pytest_peftbench.compare.causes import COLUMNS, Rows, causes, changed_operators
from pytest_peftbench.compare.comparable import incomparable
from pytest_peftbench.compare.comparison import BySeed, Comparison, average, averaged
from pytest_peftbench.compare.environment import DRIFTING, differences, why_drifted
from pytest_peftbench.compare.laws import law, outcome
from pytest_peftbench.compare.quality import quality
from pytest_peftbench.compare.verdicts import SEVERITY, Finding, Verdict
from pytest_peftbench.compare.witness import may_be_rounding, says, who_lacks
from pytest_peftbench.results import words
from pytest_peftbench.results.baseline import problem, rounded, within_margin
from pytest_peftbench.results.laws import DIFFERS, OK
from pytest_peftbench.results.metrics import COUNTED, PEAK_PARTS, Metric, Value
from pytest_peftbench.results.result import BaseReference

MAX_TENSORS = 10
# A counter may move with its base model by this many times as much, relative to each: an adapter calls more of what
# changed. Beyond, it is the adapter's doing.
_WITH_BASE = 2
# Checks to the bit within one run, by the quantity of the witness that tells whether they hold but for rounding.
_TO_THE_BIT = {
    "init.identity": "untrained output",
    "disable.restores_base": "disabled output",
    "reload.same_output": "reloaded output",
}


def compare_metric(comparison: Comparison, name: str) -> Finding:
    """What comparing a metric of either side gives: why it cannot be compared, or what the rule of its lane says."""
    if finding := incomparable(comparison, name):
        return finding
    metric = comparison.metrics[name]
    if metric.lane == "exact" and (reason := why_drifted(comparison, metric)):
        return exact_under_drift(comparison, metric, reason)
    lanes = {"exact": exact, "numerics": numerics, "quality": quality, "noisy": noisy}
    return lanes[metric.lane](comparison, metric)


# The exact lane -------------------------------------------------------------------------------------------------------


def exact(comparison: Comparison, metric: Metric) -> Finding:
    """Equal; where a counter is not, the operators or tensors behind it. One that counts nothing any more is red."""
    ours, theirs = comparison.values(metric.name)
    finding = worst_of_seeds(metric, ours, theirs)
    if finding.verdict == "improved" and _vanished(metric, ours):
        return replace(finding, verdict="regressed", reason="nothing was counted")
    if finding.verdict == "identical" or finding.details:
        return finding
    if _rounded_otherwise(comparison, metric, finding):
        return replace(finding, verdict="same to rounding", reason="in another environment, and the witness agrees")
    return replace(finding, details=causes(comparison, metric.name))


def _vanished(metric: Metric, ours: BySeed) -> bool:
    """Whether a count or time is zero that cannot be; a part of a peak may."""
    return metric.unit in COUNTED and not metric.name.endswith(PEAK_PARTS) and not all(ours.values())


def _rounded_otherwise(comparison: Comparison, metric: Metric, finding: Finding) -> bool:
    """Whether a check to the bit came out otherwise where bits do, though the outputs are the same but for rounding."""
    theirs = comparison.expected.witness
    return (
        {word.partition(":")[0] for word in (finding.obtained, finding.expected)} == {OK, DIFFERS}
        and theirs is not None
        and _TO_THE_BIT.get(metric.name) in theirs.quantities
        and says(comparison) == "agrees"
        and bool(differences(comparison.obtained.environment, comparison.expected.environment, DRIFTING))
    )


def exact_under_drift(comparison: Comparison, metric: Metric, reason: str) -> Finding:
    """A counter by what it counts beside the operators that changed in the base model too.

    Bytes count as they are where the base model's own did not move, or moved much less. What is left cannot be told
    apart from the environment's own change; without the base model's figures nothing can, and that is no comparison.
    reason: what moved that is not the adapter's doing.
    """
    before, after = comparison.expected.base, comparison.obtained.base
    phase, _, counter = metric.name.partition(".")
    if before is None or after is None:
        reason = f"{reason}; the base model's own figures are not there to tell"
        return Finding(metric.name, "not comparable", reason=reason)
    if counter in COLUMNS and phase in before.operators and phase in after.operators:
        return _beside_the_base_model(comparison, metric, reason, before, after)
    finding = exact(comparison, metric)
    if finding.verdict == "identical":
        return finding
    if metric.name in before.metrics and metric.name in after.metrics:
        ours, theirs = map(average, comparison.values(metric.name))
        old, new = (average({None: side.metrics[metric.name]}) for side in (before, after))
        if not _goes_with(theirs, ours, old, new):
            return replace(finding, reason=_joined(finding.reason, "beyond what the base model moved"))
    return Finding(metric.name, "environment drift", reason=reason)


def _goes_with(expected: float, obtained: float, base_before: float, base_after: float) -> bool:
    """Whether a counter moved by no more, relative to itself, than its base model explains."""
    scale = max(1.0, expected / base_before) if base_before else 1.0
    return abs(obtained - expected) <= _WITH_BASE * scale * abs(base_after - base_before)


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _beside_the_base_model(
    comparison: Comparison, metric: Metric, reason: str, before: BaseReference, after: BaseReference
) -> Finding:
    phase, _, counter = metric.name.partition(".")
    ours: Rows = comparison.obtained.operators.get(phase, {})
    theirs: Rows = comparison.expected.operators.get(phase, {})
    if not ours or not theirs:
        reason = f"{reason}; the operators of {phase} are not there to tell"
        return Finding(metric.name, "not comparable", reason=reason)
    old, new = before.operators[phase], after.operators[phase]
    moved = {row for row in old.keys() | new.keys() if old.get(row) != new.get(row)}

    def total(rows: Rows) -> int:
        return sum(counts[COLUMNS.index(counter)] for counts in rows.values())

    def only(rows: Rows, of_base: bool) -> Rows:
        return {row: counts for row, counts in rows.items() if (row in moved) == of_base}

    if _goes_with(total(only(theirs, True)), total(only(ours, True)), total(only(old, True)), total(only(new, True))):
        ours, theirs = only(ours, False), only(theirs, False)
        rule = "beside what changed in the base model"
    else:
        rule = "beyond what the base model moved"
    finding = equal(metric, total(ours), total(theirs))
    if finding.verdict == "identical":
        return finding
    return replace(finding, reason=_joined(finding.reason, rule), details=changed_operators(ours, theirs, counter))


def equal(metric: Metric, obtained: Value, expected: Value) -> Finding:
    """The exact rule for two values: one operator more is a regression, one less an improvement."""
    if obtained == expected:
        return Finding.between(metric, "identical", obtained, expected)
    if metric.unit == "law":
        return law(metric, str(obtained), str(expected))
    if metric.unit == "outcome":
        return outcome(metric, str(obtained), str(expected))
    if isinstance(obtained, dict) and isinstance(expected, dict):
        return _changed_entries(metric, "regressed", obtained, expected)
    if not isinstance(obtained, (int, float)) or not isinstance(expected, (int, float)):
        return Finding.between(metric, "regressed", obtained, expected, "must be equal")
    if metric.margin(expected) and within_margin(metric, obtained, expected):
        return Finding.between(metric, "within noise", obtained, expected, f"margin {words.margin(metric, expected)}")
    side = _side(metric, obtained, expected)
    return Finding.between(metric, side, obtained, expected, "must be equal" if side == "regressed" else "")


def _side(metric: Metric, obtained: float, expected: float) -> Literal["improved", "regressed"]:
    """The direction of a difference. A metric that knows no better can only get worse, and so can NaN."""
    better = obtained < expected if metric.direction == "lower" else obtained > expected
    return "improved" if better and metric.direction != "equal" else "regressed"


# The numerics lane ----------------------------------------------------------------------------------------------------


def numerics(comparison: Comparison, metric: Metric) -> Finding:
    """The same bits; where they differ, what the witness says about them.

    It excuses what rounding can do, and no more. Without a witness they are a change where nothing else moved, and
    nobody can tell in another environment.
    """
    ours, theirs = comparison.values(metric.name)
    finding = worst_of_seeds(metric, ours, theirs)
    if finding.verdict == "identical":
        return finding
    told = says(comparison)
    if told == "agrees" and all(may_be_rounding(ours[seed], theirs[seed]) for seed in ours):
        return replace(finding, verdict="same to rounding", reason="the witness agrees", details=())
    if told == "missing" and (reason := why_drifted(comparison, metric)):
        return replace(finding, verdict="cannot tell", reason=f"{reason}, and {who_lacks(comparison)}", details=())
    return finding


def same_bits(metric: Metric, obtained: Value, expected: Value) -> Finding:
    """The numerics rule for two values; of two courses it names the step at which they part."""
    if obtained == expected:
        return Finding.between(metric, "identical", obtained, expected)
    if isinstance(obtained, dict) and isinstance(expected, dict):
        return _changed_entries(metric, "numerics changed", obtained, expected)
    if not isinstance(obtained, list) or not isinstance(expected, list):
        return Finding.between(metric, "numerics changed", obtained, expected)
    for step, (ours, theirs) in enumerate(zip(obtained, expected, strict=False), start=1):
        if ours != theirs:
            return Finding.between(metric, "numerics changed", ours, theirs, f"they part at step {step}")
    lengths = (f"{len(obtained)} steps", f"{len(expected)} steps")
    return Finding(metric.name, "numerics changed", *lengths, reason="equal as far as both go")


def _changed_entries(
    metric: Metric, verdict: Verdict, obtained: Mapping[str, str], expected: Mapping[str, str]
) -> Finding:
    """The entries of two tables that were removed, changed or added."""
    removed = [f"removed  {key}: {expected[key]}" for key in sorted(expected.keys() - obtained.keys())]
    changed = [
        f"changed  {key}: {expected[key]} -> {obtained[key]}"
        for key in sorted(expected.keys() & obtained.keys())
        if expected[key] != obtained[key]
    ]
    added = [f"added    {key}: {obtained[key]}" for key in sorted(obtained.keys() - expected.keys())]
    counts = ((len(removed), "removed"), (len(changed), "changed"), (len(added), "added"))
    summary = ", ".join(f"{count} {what}" for count, what in counts if count)
    details = words.first([*removed, *changed, *added], MAX_TENSORS)
    reason = "must be equal" if verdict == "regressed" else ""
    return Finding(metric.name, verdict, change=summary, reason=reason, details=details)


def worst_of_seeds(metric: Metric, ours: BySeed, theirs: BySeed) -> Finding:
    """The worst finding of any seed, by the exact or the numerics rule. Both sides are of the same seeds."""
    rule = equal if metric.lane == "exact" else same_bits
    worst: Finding | None = None
    for seed in ours:
        finding = rule(metric, ours[seed], theirs[seed])
        if seed is not None and finding.verdict != "identical":
            reason = ", ".join(part for part in (f"seed {seed}", finding.reason) if part)
            finding = replace(finding, reason=reason)
        if worst is None or SEVERITY.index(finding.verdict) > SEVERITY.index(worst.verdict):
            worst = finding
    assert worst is not None
    return worst


# The noisy lane -------------------------------------------------------------------------------------------------------


def noisy(comparison: Comparison, metric: Metric) -> Finding:
    """The mean over the seeds has a margin, and a direction beyond it; a time's whole interval must lie beyond it."""
    ours, theirs = comparison.values(metric.name)
    obtained, expected = average(ours), average(theirs)
    if _vanished(metric, ours):
        return Finding.between(metric, "regressed", obtained, expected, "nothing was measured")
    if metric.interval and metric.name not in comparison.obtained.intervals:
        reason = f"measured without its interval, {metric.interval}"
        return Finding(metric.name, "cannot tell", *words.figures(metric, obtained, expected), reason=reason)
    if metric.interval:
        return _by_interval(metric, obtained, expected, comparison.obtained.intervals[metric.name])
    if ours == theirs:
        return Finding.between(metric, "identical", obtained, expected)
    side = _side(metric, obtained, expected)
    verdict: Verdict = "within noise" if within_margin(metric, obtained, expected) else side
    reason = f"margin {words.margin(metric, expected)}{averaged(ours)}"
    return Finding.between(metric, verdict, obtained, expected, reason)


def _by_interval(metric: Metric, obtained: float, expected: float, interval: Value) -> Finding:
    """A difference counts when the whole interval lies beyond the margin.

    An interval that reaches beyond it, and is wider than the margin itself, leaves open whether the metric regressed.
    """
    if interval == []:
        return Finding.between(metric, "cannot tell", obtained, expected, "too few blocks without throttling")
    ends = interval if isinstance(interval, list) and not problem(interval, "list") else []
    if len(ends) != 2 or not rounded(ends[0]) <= obtained <= rounded(ends[1]):
        reason = f"its interval is {interval}, expected [low, high] around it"
        return Finding.between(metric, "failed", obtained, expected, reason)
    best, worst = ends if metric.direction == "lower" else reversed(ends)
    beyond = {end: "" if within_margin(metric, end, expected) else _side(metric, end, expected) for end in ends}
    verdict: Verdict = "identical" if obtained == expected else "within noise"
    if beyond[best] == beyond[worst] != "":
        verdict = "regressed" if beyond[best] == "regressed" else "improved"
    elif beyond[worst] == "regressed" and ends[1] - ends[0] > metric.margin(expected):
        verdict = "cannot tell"
    reason = f"interval {ends[0]:.4g} to {ends[1]:.4g}, margin {words.margin(metric, expected)}"
    return Finding.between(metric, verdict, obtained, expected, reason)
