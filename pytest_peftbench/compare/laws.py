"""The rule of a law: two words of one, see `results.laws`."""

from __future__ import annotations

from pytest_peftbench.compare.verdicts import Finding, Verdict
from pytest_peftbench.results.laws import Standing, same_size, size_of, standing
from pytest_peftbench.results.metrics import Metric

# From worst to best: a method that says in words that it cannot is better than one that does it wrongly.
_ORDER: tuple[Standing, ...] = ("broken", "refused", "holds")


def law(metric: Metric, obtained: str, expected: str) -> Finding:
    """What another word means; what was not reached is never green where something is expected."""
    if obtained == expected:
        return Finding.between(metric, "identical", obtained, expected)
    verdict, reason = _told(obtained, expected)
    return Finding.between(metric, verdict, obtained, expected, reason)


def _told(obtained: str, expected: str) -> tuple[Verdict, str]:
    ours, theirs = standing(obtained), standing(expected)
    if ours is None or theirs is None:
        return "cannot tell", "is no word of a law"
    if ours == "not reached":
        return "cannot tell", "what comes before it failed"
    if theirs == "not reached":
        return ("numerics changed", "reached, and broken") if ours == "broken" else ("improved", "reached now")
    if ours == theirs:
        sizes = size_of(obtained), size_of(expected)
        if None not in sizes and same_size(*sizes):  # type: ignore[arg-type]
            return "same to rounding", "of one size"
        return "numerics changed", f"{ours} in another way"
    if _ORDER.index(ours) > _ORDER.index(theirs):
        return "improved", "mended" if ours == "holds" else "refused in words now"
    return "regressed", "broken now" if ours == "broken" else "capability lost"
