"""What the witness says: whether two trainings in double precision differ by more than rounding, and where it began."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_peftbench.compare.comparison import Comparison
from pytest_peftbench.compare.verdicts import Finding
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import Value
from pytest_peftbench.results.result import LEAST_BOUND, MOST_BOUND, CaseId, Witness

# Shares of the learning rate to record with: the largest one at which no disturbance moves a quantity beyond STILL.
RATES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
STILL = 1e-9
# What disturbing a witness gives, times this, is the most that another processor may do.
SAFETY = 30
# A quantity smaller than this share of the largest one of its stage counts as that share: it may be rounding alone.
_NEGLIGIBLE = 1e-6
# Stages of an adapter that has not learned yet.
_BEFORE_TRAINING = ("start", "untrained output")
# What a method may be unable to give, and may learn to: that it can now is no change of what it does.
_CAPABILITIES = ("disabled output", "reloaded output", "merged output", "unmerged output")
# Before any training a figure differs by rounding no more than this share of it; the last digit of bfloat16 is 0.8 %.
_ALIKE = 1e-2
# Below this a figure, a difference of two outputs say, may be rounding alone.
_NOTHING = 1e-3

Quantities = Mapping[str, Sequence[float]]
# agrees: no quantity is beyond the bound. moved: one is. missing: a side holds no witness, or one of another version.
Says = Literal["agrees", "moved", "missing"]


@dataclass(frozen=True)
class Deviation:
    """How far a quantity is from what was expected, relative to its size; infinite where it is absent or no number."""

    name: str
    size: float
    obtained: Sequence[float]
    expected: Sequence[float]

    def words(self) -> tuple[str, str, str]:
        """Obtained, expected, and how far apart they are."""
        if not self.obtained or not self.expected:
            sides = (str(self.obtained[0]) if self.obtained else "", str(self.expected[0]) if self.expected else "")
            return *sides, "vanished" if self.expected else "not in the baseline"
        if len(self.obtained) != len(self.expected):
            return f"{len(self.obtained)} numbers", f"{len(self.expected)} numbers", ""
        pairs = zip(self.obtained, self.expected, strict=True)
        ours, theirs = max(pairs, key=lambda pair: abs(pair[0] - pair[1]) if math.isfinite(pair[0]) else math.inf)
        size = f"by {self.size:.1e} of its size" if math.isfinite(self.size) else ""
        return f"{ours:.12g}", f"{theirs:.12g}", size


def deviations(obtained: Quantities, expected: Quantities) -> Iterator[Deviation]:
    """How far each expected quantity is, in their order, then those that were not expected, infinitely far."""
    sizes: dict[str, float] = {}
    for name, numbers in expected.items():
        sizes[_stage(name)] = max(sizes.get(_stage(name), 0.0), _size(numbers))
    for name, theirs in expected.items():
        ours = obtained.get(name, ())
        scale = max(_size(theirs), _NEGLIGIBLE * sizes[_stage(name)])
        yield Deviation(name, _relative(ours, theirs, scale), ours, theirs)
    for name in obtained:
        if name not in expected and name not in _CAPABILITIES:
            yield Deviation(name, math.inf, obtained[name], ())


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
    """Why there is no witness on both sides, and what to do about it."""
    ours, theirs = comparison.obtained.witness, comparison.expected.witness
    if theirs is None:
        return "the baseline holds no witness to tell rounding from change; update it, if the case can have one"
    if ours is not None:
        mine, its = (f"version {side.version} at {side.rate:g} of the rate" for side in (ours, theirs))
        return f"the baseline's witness is of {its}, not of {mine}; update it"
    return (
        "no witness ran to tell rounding from change; pass second_stage=peft_baseline.second_stage to run_experiment, "
        "and see the run's warnings"
    )


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
    reason = f"{first.name} moved first, bound {bound:.1e}; {len(moved)} of {count} quantities moved"
    return Finding("", "numerics changed", *first.words(), reason, about="witness")


def may_be_rounding(obtained: Value, expected: Value) -> bool:
    """Whether two figures can be one that is rounded otherwise: of one shape, and alike before any training.

    A list is of losses, whose first is of an untrained adapter; what training made of the others nobody can tell.
    """
    if isinstance(obtained, list) and isinstance(expected, list):
        return len(obtained) == len(expected) and all(map(_alike, obtained[:1], expected[:1]))
    if isinstance(obtained, dict) and isinstance(expected, dict):
        return obtained.keys() == expected.keys()
    if isinstance(obtained, (int, float)) and isinstance(expected, (int, float)):
        return _alike(obtained, expected)
    return isinstance(obtained, str) and isinstance(expected, str)


def _alike(obtained: float, expected: float) -> bool:
    size = max(abs(obtained), abs(expected))
    return size <= _NOTHING or abs(obtained - expected) <= _ALIKE * size


def next_rate(recorded: Witness | None, disturbed: Sequence[Quantities]) -> float:
    """The share of the learning rate to record a witness with next; 0 when it keeps still, or none is smaller."""
    if recorded is None:
        return RATES[0]
    if _worst(recorded, disturbed).size <= STILL:
        return 0.0
    return next((rate for rate in RATES if rate < recorded.rate), 0.0)


def bounded(case: CaseId, recorded: Witness, disturbed: Sequence[Quantities]) -> Witness:
    """The witness as a baseline holds it, with the bound that its disturbances give.

    Raises InputError, naming the quantity, where that is beyond MOST_BOUND: rounding alone moves such a case so far
    that a change could hide in it.
    """
    worst = _worst(recorded, disturbed)
    bound = max(LEAST_BOUND, SAFETY * worst.size)
    if not bound <= MOST_BOUND:
        raise InputError(
            f"{case}: not recorded: rounding alone moves its witness, {worst.name} by {worst.size:.1e}; a bound of "
            f"{bound:.1e} could hide a change, {MOST_BOUND:.0e} is the most; see to what hangs on a last digit"
        )
    return replace(recorded, bound=float(f"{bound:.1e}"))


def _worst(recorded: Witness, disturbed: Sequence[Quantities]) -> Deviation:
    if not disturbed or not recorded.quantities:
        raise InputError("a witness is recorded with disturbances of it: SecondStage(witness=1.0, disturb=True)")
    found = [largest(other, recorded.quantities) for other in disturbed]
    return max(found, key=lambda deviation: deviation.size)


def _both(comparison: Comparison) -> tuple[Witness, Witness] | None:
    ours, theirs = comparison.obtained.witness, comparison.expected.witness
    if ours is None or theirs is None or not theirs.quantities:
        return None
    return (ours, theirs) if (ours.version, ours.rate) == (theirs.version, theirs.rate) else None


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
