"""Times of two programs that were taken in turn, against each other: an interval, and what this machine can tell.

A third process, of the first program again, ran among them. What its times differ by is no change, so it says how far
processes of one program lie apart.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_peftbench.compare.stats import POWER, quantile
from pytest_peftbench.compare.verdicts import Finding, Verdict
from pytest_peftbench.results.metrics import Metric

# A difference below this one nobody cares about.
LEAST_MARGIN = 0.01
CONFIDENCE = 0.95
# Variance of the logarithm of a ratio, in that of one process: of a program to the mean of two processes, and of those
# two to each other.
_OF_CHANGE, _OF_COPY = 1.5, 2.0


@dataclass(frozen=True)
class Round:
    """Ratios of each block of one set of processes: new program to old one, and old one to itself."""

    change: Sequence[float]
    copy: Sequence[float]


@dataclass(frozen=True)
class Ratio:
    """ratio: new to old, lower is better. low, high: its interval. copy: old to old. tells: what is told 9 times of 10,
    as a share."""

    ratio: float
    low: float
    high: float
    copy: float
    tells: float

    def words(self) -> str:
        """`interval 0.980 to 1.020, margin 1 %; old to old 0.999; tells 2.9 % and more`."""
        told = f"interval {self.low:.3f} to {self.high:.3f}, margin {LEAST_MARGIN:.0%}"
        return f"{told}; old to old {self.copy:.3f}; tells {self.tells:.1%} and more".replace("%", " %")


def ratio_of(rounds: Sequence[Round]) -> Ratio:
    """The ratio over rounds of at least one block each, two of them at least.

    A round counts by the median of its blocks: what lies between rounds is what processes differ by, and that alone
    tells how sure the mean is. Both kinds of ratio tell it; that of one program to itself is 1, so it is taken about 1.
    """
    change = [math.log(statistics.median(item.change)) for item in rounds]
    copy = [math.log(statistics.median(item.copy)) for item in rounds]
    mean = statistics.fmean(change)
    squares = sum((value - mean) ** 2 for value in change) / _OF_CHANGE + sum(value**2 for value in copy) / _OF_COPY
    freedom = 2 * len(rounds) - 1
    error = math.sqrt(squares / freedom * _OF_CHANGE / len(rounds))
    half = quantile((1 + CONFIDENCE) / 2, freedom) * error
    tells = LEAST_MARGIN + half + quantile(POWER, freedom) * error
    return Ratio(
        math.exp(mean),
        math.exp(mean - half),
        math.exp(mean + half),
        math.exp(statistics.fmean(copy)),
        math.expm1(tells),
    )


def judged(metric: Metric, found: Ratio) -> Finding | None:
    """The finding about a time; None where its interval is too wide to be better than the metric's own margin."""
    if found.high - found.low > metric.relative_margin:
        return None
    verdict: Verdict = "within noise"
    if found.low > 1 + LEAST_MARGIN:
        verdict = "regressed"
    elif found.high < 1 - LEAST_MARGIN:
        verdict = "improved"
    change = f"{found.ratio - 1:+.1%}".replace("%", " %")
    return Finding(metric.name, verdict, f"{found.ratio:.3f} of the old", "", change, f"in turn, {found.words()}")
