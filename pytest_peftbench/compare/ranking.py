"""Where a case stands among others by one metric, and how sure that is. Pure; imports no torch.

Two cases are told apart where their figures differ by more than the noise of seeds and that of samples explain, both of
which must say so (see `compare.stats`), each pair at 5 %. So a case's place is an interval: behind all that are told to
be better, before all that are told to be worse. It describes and decides nothing, so it is not corrected for how many
pairs there are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_peftbench.compare import stats
from pytest_peftbench.results.baseline import problem
from pytest_peftbench.results.metrics import Metric
from pytest_peftbench.results.result import Measured, mean


@dataclass(frozen=True)
class Contender:
    """One case's figure. seeds: its values by seed, if it has any; samples: its samples, each a mean over the seeds."""

    value: float
    seeds: Sequence[float] = ()
    samples: Sequence[float] = ()


@dataclass(frozen=True)
class Place:
    """Where a case stands; 1 is the best.

    half: of the 95 % interval around the figure, in its unit; None where nothing tells. place: by the figures alone,
    equals having the best of theirs. best, worst: the places that cannot be ruled out; both are `place` where nothing
    is known of the figure's noise. ties: cases of the same figure.
    """

    name: str
    value: float
    half: float | None
    place: int
    best: int
    worst: int
    ties: tuple[str, ...] = ()


def contender(measured: Measured, metric: Metric) -> Contender | None:
    """The figure of a case, and what is known of its noise; None where it has none that is a number."""
    held = [measured.metrics[metric.name]] if metric.name in measured.metrics else []
    found = held or [run.metrics[metric.name] for run in measured.seeds if metric.name in run.metrics]
    values = [float(value) for value in found if isinstance(value, (int, float)) and not problem(value, "number")]
    if not values or len(values) != len(found):
        return None
    return Contender(mean(values), () if held else values, _samples(measured, metric))


def _samples(measured: Measured, metric: Metric) -> list[float]:
    """The mean over the seeds of each sample; none where the seeds do not hold as many."""
    found = [run.samples[metric.samples] for run in measured.seeds if metric.samples in run.samples]
    if len({len(samples) for samples in found}) != 1:
        return []
    return [mean([float(item) for item in row]) for row in zip(*found, strict=True)]


def ranking(contenders: Mapping[str, Contender], metric: Metric, wanted: Sequence[str]) -> list[Place]:
    """The places of the `wanted` ones among all contenders, the best first, then by name.

    metric: tells which way is better; raises ValueError for one that does not.
    """
    if metric.direction == "equal":
        raise ValueError(f"{metric.name} knows no better and no worse")
    sign = 1 if metric.direction == "lower" else -1
    places = [_place(name, contenders, metric, sign) for name in wanted]
    return sorted(places, key=lambda place: (place.place, place.name))


def _place(name: str, contenders: Mapping[str, Contender], metric: Metric, sign: int) -> Place:
    """sign: 1 where a larger figure is worse, -1 where a smaller is."""
    own = contenders[name]
    others = {other: found for other, found in contenders.items() if other != name}
    better = {other for other, found in others.items() if sign * found.value < sign * own.value}
    ties = tuple(sorted(other for other, found in others.items() if found.value == own.value))
    place, half = 1 + len(better), _half(own)
    if half is None:
        return Place(name, own.value, None, place, place, place, ties)
    apart = {other for other, found in others.items() if probability(own, found) <= stats.ALPHA}
    best, worst = 1 + len(apart & better), len(contenders) - len(apart - better)
    return Place(name, own.value, half, place, best, worst, ties)


def _half(own: Contender) -> float | None:
    """The larger of what seeds and samples tell: both kinds of noise are in the figure."""
    found = [
        -stats.quantile(stats.ALPHA / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        for values in (own.seeds, own.samples)
        if len(values) > 1
    ]
    return max(found, default=None)


def probability(one: Contender, other: Contender) -> float:
    """Of a difference like this between equals, two-sided: the larger one of Welch's test of seeds and that of samples.

    Samples of two cases of one task are pairs: the same questions, documents or prompts. 1 where there is neither.
    """
    found = []
    if min(len(one.seeds), len(other.seeds)) > 1:
        found.append(_unpaired(one.seeds, other.seeds))
    if len(one.samples) == len(other.samples) > 1:
        found.append(_paired(one.samples, other.samples))
    return max(found, default=1.0)


def _unpaired(one: Sequence[float], other: Sequence[float]) -> float:
    """Welch's test."""
    spreads = [(statistics.variance(values) / len(values), len(values) - 1) for values in (one, other)]
    error = sum(variance for variance, _ in spreads)
    freedom = error**2 / sum(variance**2 / free for variance, free in spreads) if error else 1.0
    return _two_sided(mean([*one]) - mean([*other]), math.sqrt(error), freedom)


def _paired(one: Sequence[float], other: Sequence[float]) -> float:
    """Student's test of the differences."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return _two_sided(mean(differences), error, len(differences) - 1)


def _two_sided(difference: float, error: float, freedom: float) -> float:
    if not error:  # no spread at all: any difference is one
        return float(not difference)
    return 2 * stats.tail(abs(difference) / error, freedom)
