"""What the witness says: whether two trainings in double precision differ by more than rounding, and where it began."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_peftbench.compare.comparison import Comparison
from pytest_peftbench.compare.verdicts import Finding
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.result import CaseId, Witness

# A bound beyond this could hide a change; a case that needs one is not recorded.
MOST = 1e-7
# No bound is narrower: quantities have 12 digits.
LEAST = 1e-10
# Shares of the learning rate to record with: the largest one at which no disturbance moves a quantity beyond STILL.
RATES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
STILL = 1e-9
# What disturbing a witness gives, times this, is the most that another processor may do.
SAFETY = 30
# A quantity smaller than this share of the largest one of its stage counts as that share: it may be rounding alone.
_NEGLIGIBLE = 1e-6
# Stages of an adapter that has not learned yet.
_BEFORE_TRAINING = ("start", "untrained output")

Quantities = Mapping[str, Sequence[float]]
# agrees: no quantity is beyond the bound. moved: one is. missing: a side holds no witness.
Says = Literal["agrees", "moved", "missing"]


@dataclass(frozen=True)
class Deviation:
    """How far a quantity is from what was expected, relative to its size; infinite where it is absent or no number."""

    name: str
    size: float
    obtained: Sequence[float]
    expected: Sequence[float]

    def entry(self) -> tuple[float, float]:
        """The two numbers, obtained and expected, that are farthest apart; NaN where there is none."""
        pairs = list(zip(self.obtained, self.expected, strict=False))
        return max(pairs, key=lambda pair: abs(pair[0] - pair[1]), default=(math.nan, math.nan))


def deviations(obtained: Quantities, expected: Quantities) -> Iterator[Deviation]:
    """How far each expected quantity is, in their order; what was not expected is not looked at."""
    sizes: dict[str, float] = {}
    for name, numbers in expected.items():
        sizes[_stage(name)] = max(sizes.get(_stage(name), 0.0), _size(numbers))
    for name, theirs in expected.items():
        ours = obtained.get(name, ())
        scale = max(_size(theirs), _NEGLIGIBLE * sizes[_stage(name)])
        yield Deviation(name, _relative(ours, theirs, scale), ours, theirs)


def largest(obtained: Quantities, expected: Quantities) -> Deviation:
    """The largest deviation, the first of equals. There must be an expected quantity."""
    return max(deviations(obtained, expected), key=lambda deviation: deviation.size)


def says(comparison: Comparison) -> Says:
    """What the witnesses of the two sides say together."""
    if not _both(comparison):
        return "missing"
    return "moved" if beyond(comparison) else "agrees"


def beyond(comparison: Comparison) -> list[Deviation]:
    """The deviations beyond the baseline's bound, in the order of coming; none without two witnesses."""
    sides = _both(comparison)
    if not sides:
        return []
    ours, theirs = sides
    return [found for found in deviations(ours.quantities, theirs.quantities) if not found.size <= theirs.bound]


def who_lacks(comparison: Comparison) -> str:
    """Which side holds no witness, and what to do about it."""
    ours, theirs = comparison.obtained.witness, comparison.expected.witness
    if theirs is None:
        return "the baseline holds no witness to tell rounding from change; update it"
    if ours is not None:
        return f"the baseline's witness is of version {theirs.version}, not {ours.version}; update it"
    return "no witness ran to tell rounding from change; pass second_stage=peft_baseline.second_stage to run_experiment"


def same_start(comparison: Comparison) -> bool:
    """Whether the untrained adapters are the same on both sides, so that a seed is the same training on both."""
    return bool(_both(comparison)) and not any(found.name.startswith(_BEFORE_TRAINING) for found in beyond(comparison))


def witnessed(comparison: Comparison) -> list[Finding]:
    """The finding about the witness: where it moved, and where bits differ; none where it was not asked.

    That bits differ and there is no witness, the numerics lane tells, and it is red.
    """
    sides = _both(comparison)
    if sides is None:
        return []
    ours, theirs = sides
    if moved := beyond(comparison):
        return [_moved(moved, len(theirs.quantities), theirs.bound)]
    if comparison.same_bits():
        return []
    worst = largest(ours.quantities, theirs.quantities)
    far = f"its largest deviation is {worst.size:.1e}" if worst.size else "it agrees to 12 digits"
    return [Finding.of("witness", "same to rounding", f"bits differ, and {far}, bound {theirs.bound:.1e}")]


def _moved(moved: Sequence[Deviation], count: int, bound: float) -> Finding:
    """Named by the first quantity that moved: there the change began."""
    first = moved[0]
    ours, theirs = (f"{number:.12g}" for number in first.entry())
    size = f"by {first.size:.1e} of its size" if math.isfinite(first.size) else "vanished, or is no number"
    reason = f"{first.name} moved first, bound {bound:.1e}; {len(moved)} of {count} quantities moved"
    found = Finding("", "numerics changed", ours, theirs, size, reason, about="witness")
    return found if first.obtained else replace(found, obtained="")


def next_rate(recorded: Witness | None, disturbed: Sequence[Quantities]) -> float:
    """The share of the learning rate to record a witness with next; 0 when it keeps still, or none is smaller."""
    if recorded is None:
        return RATES[0]
    if _worst(recorded, disturbed).size <= STILL:
        return 0.0
    return next((rate for rate in RATES if rate < recorded.rate), 0.0)


def bounded(case: CaseId, recorded: Witness, disturbed: Sequence[Quantities]) -> Witness:
    """The witness as a baseline holds it, with the bound that its disturbances give.

    Raises InputError, naming the quantity, where that is beyond MOST: rounding alone moves such a case so far that a
    change could hide in it.
    """
    worst = _worst(recorded, disturbed)
    bound = max(LEAST, SAFETY * worst.size)
    if not bound <= MOST:
        raise InputError(
            f"{case}: not recorded: rounding alone moves its witness, {worst.name} by {worst.size:.1e}; the "
            f"bound would be {bound:.1e}, beyond {MOST:.0e} it could hide a change; see to what hangs on the last digit"
        )
    return replace(recorded, bound=float(f"{bound:.1e}"))


def _worst(recorded: Witness, disturbed: Sequence[Quantities]) -> Deviation:
    found = [largest(other, recorded.quantities) for other in disturbed]
    return max(found, key=lambda deviation: deviation.size)


def _both(comparison: Comparison) -> tuple[Witness, Witness] | None:
    ours, theirs = comparison.obtained.witness, comparison.expected.witness
    if ours is None or theirs is None or not theirs.quantities:
        return None
    return (ours, theirs) if ours.version == theirs.version else None


def _stage(name: str) -> str:
    return name.partition(":")[0]


def _size(numbers: Sequence[float]) -> float:
    return max((abs(number) for number in numbers), default=0.0)


def _relative(ours: Sequence[float], theirs: Sequence[float], scale: float) -> float:
    """The largest difference over `scale`; infinite where the two cannot be held against each other."""
    if len(ours) != len(theirs) or not all(map(math.isfinite, (*ours, *theirs))):
        return math.inf
    difference = max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    if difference == 0:
        return 0.0
    return difference / scale if scale else math.inf
