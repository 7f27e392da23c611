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


def standings(searches: Mapping[str, Search], budget: int, *, higher: bool) -> list[Standing]:
    """All methods by their expected best at a budget, equals by name. higher: whether a larger score is better."""
    import numpy as np

    sign = -1 if higher else 1
    expected = {name: _curve(name, search, (budget,)).score[0] for name, search in searches.items()}
    names = sorted(searches, key=lambda name: (sign * expected[name].value, name))
    lots = sign * np.stack([_resampled(searches[name], searches[name].scores, (budget,))[:, 0] for name in names])
    places = np.stack([1 + (lots < own).sum(axis=0) for own in lots])
    found = []
    for row, name in enumerate(names):
        low, high = np.quantile(places[row], (OUTSIDE / 2, 1 - OUTSIDE / 2), method="nearest")
        swaps = float((lots[row + 1] < lots[row]).mean()) if row + 1 < len(names) else None
        place = 1 + sum(sign * other.value < sign * expected[name].value for other in expected.values())
        first = float((places[row] == 1).mean())
        found.append(Standing(name, expected[name], place, int(low), int(high), first, swaps))
    return found


def swapped(searches: Mapping[str, Search], budget: int, *, higher: bool) -> dict[str, dict[str, float]]:
    """For each method, in what share of the resamples each that stands behind it is better than it."""
    import numpy as np

    sign = -1 if higher else 1
    order = [standing.name for standing in standings(searches, budget, higher=higher)]
    lots = sign * np.stack([_resampled(searches[name], searches[name].scores, (budget,))[:, 0] for name in order])
    return {
        name: {order[below]: float((lots[below] < lots[row]).mean()) for below in range(row + 1, len(order))}
        for row, name in enumerate(order)
    }


def turned(searches: Mapping[str, Search], budget: int, other: int, *, higher: bool) -> float:
    """The share of the pairs of methods that stand in another order at one budget than at the other."""
    orders = []
    for each in (budget, other):
        found = standings(searches, each, higher=higher)
        orders.append({standing.name: standing.place for standing in found})
    pairs = [(a, b) for a in searches for b in searches if a < b]
    turns = [(orders[0][a] - orders[0][b]) * (orders[1][a] - orders[1][b]) < 0 for a, b in pairs]
    return sum(turns) / len(turns) if turns else 0.0


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
