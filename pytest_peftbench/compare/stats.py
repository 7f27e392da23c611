"""The tests of the quality lane: is a difference more than noise? Numbers in, probabilities and sizes out.

Both sides hold one value of a metric per training seed, and the samples behind it (an answer, a document, a picture).
Two kinds of noise must be ruled out: that of the samples, which are paired, and that of the seeds, whose spread the
baseline records. A difference is significant when the tests of both say so, so its probability is the larger one.

A seed's two runs are a pair where they begin with the same adapter: start, order of the data and noise of the
evaluation are the same, and what is left is the change, and what rounding makes of it. Where a change draws other
numbers at the start, seeds are two groups.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pytest_peftbench.results.baseline import DIGITS
from pytest_peftbench.results.files import MOST_SEEDS

Key = TypeVar("Key")
Sample = str | list[float]

# Probability that a session of unchanged cases reports any regression of quality.
ALPHA = 0.05
# Probability that a regression of the detectable size is caught.
POWER = 0.9
# Margins allow for the noise in a session of this many quality tests: a margin must not depend on what else runs.
TESTS = 400
# How often unchanged code exceeds the noise floor.
RARE = ALPHA / TESTS
# The same for one seed alone, where exceeding it costs the other seeds' time and nothing else.
ALARM = 0.01
RESAMPLES = 99_999


def quantile(probability: float, freedom: float) -> float:
    """Value below which a variable of Student's t distribution lies with this probability.

    As `scipy.stats` gives it, to the bit, without the second that importing all distributions takes.
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def tail(value: float, freedom: float) -> float:
    """Probability that a variable of Student's t distribution lies above `value`."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -value))


def spread(values: Sequence[float]) -> float:
    """Standard deviation between seeds, of at least two values, in the metric's unit."""
    return statistics.stdev(values)


def paired_spread(differences: Sequence[float]) -> float:
    """Standard deviation of a seed's two runs of unchanged code, in the metric's unit.

    About zero, which is the mean that unchanged code has: what all seeds do alike is noise, too.
    """
    return math.sqrt(statistics.fmean(difference**2 for difference in differences))


def noise_floor(sd: float, known_seeds: int, seeds: int, *, paired: bool = False, level: float = RARE) -> float:
    """Largest difference between two means of `seeds` seeds that unchanged code gives, in the metric's unit.

    sd: the spread between seeds, estimated from `known_seeds` of them. With that of the other group in it the floor
    would be exceeded with a probability of `level`, by Student's one-sided test of two means; but what regresses
    often scatters more, too, and would widen its own margin. From the baseline's five seeds alone it is 0.0017, and
    such a difference is `cannot tell` unless it is significant as well.
    paired: sd is the `paired_spread` of so many pairs. The floor of the mean of `seeds` pairs is then exceeded with a
    probability of `level`.
    """
    return -quantile(level, _freedom(known_seeds, seeds, paired)) * _standard_error(sd, seeds, paired)


def detectable(margin: float, sd: float, known_seeds: int, seeds: int, *, paired: bool = False) -> float:
    """Smallest regression of the mean that is caught with a probability of POWER, in the metric's unit.

    margin: differences up to this one pass, the noise floor included. paired: as in `noise_floor`; of a regression
    that moves all seeds alike, for pairs that scatter more with it than unchanged code does are less certain.
    """
    return margin + quantile(POWER, _freedom(known_seeds, seeds, paired)) * _standard_error(sd, seeds, paired)


def seeds_needed(margin: float, sd: float, *, paired: bool = False) -> int:
    """Seeds with which the noise floor comes down to `margin`; at most MOST_SEEDS. paired: as in `noise_floor`."""
    low, high = 2, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        enough = noise_floor(sd, middle, middle, paired=paired) <= margin
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _freedom(known_seeds: int, seeds: int, paired: bool) -> int:
    if min(known_seeds, seeds) < 1 or (not paired and known_seeds + seeds < 3):
        raise ValueError(f"no spread can be estimated from {known_seeds} and {seeds} seeds")
    # about zero no mean is estimated
    return known_seeds if paired else known_seeds + seeds - 2


def _standard_error(sd: float, seeds: int, paired: bool) -> float:
    return sd * math.sqrt((1 if paired else 2) / seeds)


def worse_by_seed(old: Sequence[float], new: Sequence[float]) -> float:
    """Probability that values this much larger come from the same distribution: Welch's one-sided test over seeds.

    Larger is worse; the caller turns the sign of a metric where it is not. At least two seeds on each side.
    """
    from scipy.stats import ttest_ind

    if len(set(old)) == len(set(new)) == 1:  # no spread at all: any difference is one
        return 0.0 if new[0] > old[0] else 1.0
    found: Any = ttest_ind(new, old, equal_var=False, alternative="greater")
    return float(found.pvalue)


def worse_by_pair(old: Sequence[float], new: Sequence[float]) -> float:
    """Probability that pairs differ this much when neither side is larger: Student's one-sided test of differences.

    old, new: at least two values each, in the same order of seeds. Larger is worse, as in `worse_by_seed`.
    Differences that agree better than the last digit of a baseline are rounded, not equal, so their spread counts as
    that digit at least. Two pairs that agree to it are then less certain than five; pairs that do not differ at all
    give a half. A metric of few steps, of which many differences are equal by chance, needs its samples' test beside.
    """
    differences = [after - before for before, after in zip(old, new, strict=True)]
    last_digit = max(map(abs, (*old, *new))) * 10.0 ** (1 - DIGITS)
    size = statistics.fmean(differences)
    if not size:
        return 0.5
    error = max(spread(differences), last_digit) / math.sqrt(len(differences))
    return tail(size / error, len(differences) - 1)


def worse_by_sample(old: Sequence[Sample], new: Sequence[Sample], sign: int) -> float:
    """Probability of the paired difference of the samples of all seeds, under the hypothesis that neither is worse.

    old, new: a seed's samples each, in the same order. sign: 1 where a larger sample is worse, -1 where a smaller is.
    Bits (strings of 0 and 1) are tested with McNemar's exact test, pooled over the seeds; numbers by permuting the
    sides of each pair. Raises ValueError when the samples do not pair up.
    """
    sides = ([_numbers(sample) for sample in side] for side in (old, new))
    pairs = [pair for before, after in zip(*sides, strict=True) for pair in zip(before, after, strict=True)]
    differences = [sign * (after - before) for before, after in pairs]
    if not any(differences):
        return 1.0
    if all(isinstance(sample, str) for sample in (*old, *new)):
        return _mcnemar(differences)
    return _permutation(differences)


def _numbers(sample: Sample) -> list[float]:
    return [float(item) for item in sample]


def _mcnemar(differences: Iterable[float]) -> float:
    from scipy.stats import binomtest

    worse = sum(difference > 0 for difference in differences)
    changed = sum(difference != 0 for difference in differences)
    return float(binomtest(worse, changed, alternative="greater").pvalue)


def _permutation(differences: list[float]) -> float:
    import numpy as np
    from scipy.stats import permutation_test

    found: Any = permutation_test(
        (np.array(differences),),
        np.mean,
        permutation_type="samples",
        alternative="greater",
        n_resamples=RESAMPLES,
        batch=10_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(probabilities: Mapping[Key, float]) -> dict[Key, float]:
    """The probabilities adjusted for their number (Holm 1979): those at most ALPHA are significant together."""
    adjusted: dict[Key, float] = {}
    least = 0.0
    ordered = sorted(probabilities, key=lambda key: probabilities[key])
    for rank, key in enumerate(ordered):
        least = max(least, min(1.0, (len(ordered) - rank) * probabilities[key]))
        adjusted[key] = least
    return adjusted
