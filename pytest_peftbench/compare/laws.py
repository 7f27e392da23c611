"""The rules of a law and of a check of a trained case: two words of one, see `results.laws`."""

from __future__ import annotations

import math
from collections.abc import Callable

from pytest_peftbench.compare.verdicts import Finding, Verdict
from pytest_peftbench.results.laws import (
    NOT_REACHED,
    OK,
    Standing,
    difference_of,
    is_count,
    same_size,
    size_of,
    standing,
)
from pytest_peftbench.results.metrics import Metric

# From worst to best: a method that says in words that it cannot is better than one that does it wrongly.
_ORDER: tuple[Standing, ...] = ("broken", "refused", "holds")


def law(metric: Metric, obtained: str, expected: str) -> Finding:
    """What another word means; what is not reached any more is never green."""
    return _found(metric, obtained, expected, _told)


def _found(metric: Metric, obtained: str, expected: str, means: Callable[[str, str], tuple[Verdict, str]]) -> Finding:
    """means: verdict and reason where the words differ."""
    if obtained == expected:
        return Finding.between(metric, "identical", obtained, expected)
    verdict, reason = means(obtained, expected)
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
        counted = is_count(obtained) or is_count(expected)
        if None not in sizes and not counted and same_size(*sizes):  # type: ignore[arg-type]
            return "same to rounding", "of one size"
        return "numerics changed", f"{ours} in another way"
    if _ORDER.index(ours) > _ORDER.index(theirs):
        return "improved", "mended" if ours == "holds" else "refused in words now"
    return "regressed", "broken now" if ours == "broken" else "capability lost"


def outcome(metric: Metric, obtained: str, expected: str) -> Finding:
    """What another outcome of a check means. One that differs already can get worse; not reached is never green."""
    return _found(metric, obtained, expected, _came_to)


def _came_to(obtained: str, expected: str) -> tuple[Verdict, str]:
    if obtained == NOT_REACHED:
        return "cannot tell", "what comes before it failed"
    if obtained == OK:
        return "improved", "capability gained"
    if expected in (OK, NOT_REACHED):
        return "regressed", "capability lost" if expected == OK else "reached, and fails"
    ours, theirs = difference_of(obtained), difference_of(expected)
    if ours is None or theirs is None:
        return "regressed", "fails in another way"
    if math.isnan(ours) or math.isnan(theirs):
        return "not comparable", "one side does not say by how much; record the case anew"
    if same_size(ours, theirs):
        return "same to rounding", "of one size"
    return ("regressed", "by more than before") if ours > theirs else ("improved", "by less than before")
