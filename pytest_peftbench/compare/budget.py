"""What a budget of tuning buys: the expected best of n trials, and how sure a ranking is at each budget. Pure.

Dodge, Gururangan, Card, Schwartz and Smith, "Show Your Work: Improved Reporting of Experimental Results", EMNLP 2019:
the trials of a random search are independent draws from a distribution of scores, whose empirical distribution F tells
what the best of n further draws is expected to be, the sum over the scores v of v (F(v)^n - F(v-)^n). It is a little
low where n comes near the number of trials: nothing above the best one that was seen counts. A figure of the choice,
such as the test score, has the same weights: what whoever chooses by the score alone then gets.

Intervals are those of a bootstrap over the trials. All methods draw the same numbers of trials in a resample, since the
n-th trials of two methods share what they can, as their learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

RESAMPLES = 2_000
# Of an interval, in total.
OUTSIDE = 0.05
BUDGETS = (1, 2, 4, 8, 16, 32)

# numpy's, which is imported where it is used.
Array = Any


@dataclass(frozen=True)
class Search:
    """One method's trials, in the order in which they were drawn.

    scores: what is chosen by, in the metric's unit. merits: of the same trials; of two the larger is chosen, so that
    they order the scores and break their ties. figures: what else each trial gave, by metric.
    """

    scores: Sequence[float]
    merits: Sequence[tuple[float, ...]]
    figures: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """An expectation, and the interval that holds it in 95 % of the resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One method's best of n trials, a value for each budget. choice: the other figures of the trial that is chosen."""

    name: str
    score: tuple[Expected, ...]
    choice: Mapping[str, tuple[Expected, ...]]


@dataclass(frozen=True)
class Standing:
    """Where a method stands at one budget; 1 is the best.

    best, worst: the places that hold 95 % of the resamples. first: in what share of them none is better. swaps: in what
    share of them the next one in the order is better; None of the last.
    """

    name: str
    score: Expected
    place: int
    best: int
    worst: int
    first: float
    swaps: float | None


def budgets_up_to(trials: int) -> tuple[int, ...]:
    """Those that so many trials tell something about."""
    return tuple(budget for budget in BUDGETS if budget <= trials)


def curves(searches: Mapping[str, Search], budgets: Sequence[int]) -> list[Curve]:
    """The curve of each method, in their order. All have the same number of trials."""
    return [_curve(name, search, budgets) for name, search in searches.items()]


class Order:
    """The order of methods at some budgets, by their expected best. higher: whether a larger score is better."""

    def __init__(self, searches: Mapping[str, Search], budgets: Sequence[int], *, higher: bool) -> None:
        self._budgets = tuple(budgets)
        self._sign = -1 if higher else 1
        self._scores = {curve.name: curve.score for curve in curves(searches, budgets)}
        # less is better
        self._lots = {
            name: self._sign * _resampled(search, search.scores, budgets) for name, search in searches.items()
        }

    def standings(self, budget: int) -> list[Standing]:
        """All methods, the best first, equals by name."""
        import numpy as np

        names, lots = self._sorted(budget)
        expected = {name: self._sign * self._at(name, budget).value for name in names}
        places = np.stack([1 + (lots < own).sum(axis=0) for own in lots])
        swaps = [float((after < before).mean()) for before, after in pairwise(lots)]
        found = []
        for name, taken, swap in zip(names, places, [*swaps, None], strict=True):
            low, high = np.quantile(taken, (OUTSIDE / 2, 1 - OUTSIDE / 2), method="nearest")
            place = 1 + sum(other < expected[name] for other in expected.values())
            first = float((taken == 1).mean())
            found.append(Standing(name, self._at(name, budget), place, int(low), int(high), first, swap))
        return found

    def swaps(self, budget: int) -> dict[str, dict[str, float]]:
        """For each method, in what share of the resamples each that stands behind it is better than it."""
        names, lots = self._sorted(budget)
        return {
            name: {names[row]: float((lots[row] < lots[above]).mean()) for row in range(above + 1, len(names))}
            for above, name in enumerate(names)
        }

    def turned(self, budget: int, other: int) -> float:
        """The share of the pairs of methods that stand the other way round at the other budget."""
        apart = [
            [self._at(a, each).value - self._at(b, each).value for a in self._lots for b in self._lots if a < b]
            for each in (budget, other)
        ]
        turns = [one * two < 0 for one, two in zip(*apart, strict=True)]
        return sum(turns) / len(turns) if turns else 0.0

    def _at(self, name: str, budget: int) -> Expected:
        return self._scores[name][self._budgets.index(budget)]

    def _sorted(self, budget: int) -> tuple[list[str], Array]:
        """The methods, the best first, and what each one's resamples give, (methods, resamples)."""
        import numpy as np

        names = sorted(self._lots, key=lambda name: (self._sign * self._at(name, budget).value, name))
        return names, np.stack([self._lots[name][:, self._budgets.index(budget)] for name in names])


def _curve(name: str, search: Search, budgets: Sequence[int]) -> Curve:
    choice = {metric: _expected(search, values, budgets) for metric, values in search.figures.items()}
    return Curve(name, _expected(search, search.scores, budgets), choice)


def _expected(search: Search, values: Sequence[float], budgets: Sequence[int]) -> tuple[Expected, ...]:
    import numpy as np

    points = _chances(len(values), budgets) @ np.asarray(values)[_order(search)]
    lows, highs = np.quantile(_resampled(search, values, budgets), (OUTSIDE / 2, 1 - OUTSIDE / 2), axis=0)
    return tuple(Expected(*map(float, row)) for row in zip(points, lows, highs, strict=True))


def _order(search: Search) -> list[int]:
    """The trials from the worst to the best; of equals the earlier one first."""
    return sorted(range(len(search.merits)), key=lambda trial: search.merits[trial])


def _chances(trials: int, budgets: Sequence[int]) -> Array:
    """How likely the k-th worst of so many trials is the best of n draws of them, (budgets, trials)."""
    import numpy as np

    shares = np.arange(trials + 1) / trials
    return np.diff(shares[None, :] ** np.asarray(budgets)[:, None], axis=1)


def _resampled(search: Search, values: Sequence[float], budgets: Sequence[int]) -> Array:
    """The expectations in each resample, (resamples, budgets)."""
    import numpy as np

    order, trials = _order(search), len(values)
    rank = np.empty(trials, dtype=int)
    rank[order] = np.arange(trials)
    drawn = np.random.default_rng(0).integers(trials, size=(RESAMPLES, trials))
    return np.asarray(values)[order][np.sort(rank[drawn], axis=1)] @ _chances(trials, budgets).T
