"""The words of a law: it holds, PEFT refuses it in words, it is broken by a size or an error, or it was not reached.

And those of a check of a trained case: `ok`, `differs: 0.012`, the class of an error, or `not reached`.
"""

from __future__ import annotations

import math
import re
from typing import Literal

HOLDS, NOT_REACHED = "holds", "not reached"
OK, DIFFERS = "ok", "differs"
# What the name of a metric that is the word of a law begins with.
LAW = "law."
# Two sizes are one where neither is more than this many times the other: what rounds differs between machines.
SIZE_FACTOR = 2.0
# Below this a size is that of rounding in single precision, and what it is depends on the machine.
ROUNDING = 1e-5

# What is undone, and what it undoes: one group of laws.
_UNDOES = {"enable": "disable", "thaw": "freeze"}

Standing = Literal["holds", "refused", "broken", "not reached"]
_WORD = re.compile(r"(holds|not reached|refused|broken)(?:: (\S+))?")


def refused(error: BaseException) -> str:
    """The word of a law that PEFT says it cannot keep."""
    return f"refused: {type(error).__name__}"


def broken(by: float | BaseException) -> str:
    """The word of a law that does not hold: the class of an error, a whole number of things, or a size.

    A size is how far off it is, relative, to two digits, and always has a point: 8 tensors are `8`, eight times as much
    is `8.0`.
    """
    if isinstance(by, BaseException):
        return f"broken: {type(by).__name__}"
    return f"broken: {by}" if isinstance(by, int) else f"broken: {by:#.2g}"


def differs(by: float) -> str:
    """The word of a check that does not hold: how far off, relative to the largest expected value, to two digits."""
    return f"{DIFFERS}: {by:.2g}"


def difference_of(word: str) -> float | None:
    """How far a check is off; None where it holds or raised. NaN: it differs, and nobody kept by how much."""
    name, _, size = word.partition(": ")
    if name != DIFFERS:
        return None
    try:
        return float(size)
    except ValueError:
        return math.nan


def standing(word: str) -> Standing | None:
    """What a word says; None for one that is no law's."""
    found = _WORD.fullmatch(word)
    if found is None or (found[2] is not None) != (found[1] in ("refused", "broken")):
        return None
    return found[1]  # type: ignore[return-value]


def is_count(word: str) -> bool:
    """Whether a law is broken by a whole number of things, which rounding does not move."""
    return standing(word) == "broken" and word.partition(": ")[2].isdecimal()


def size_of(word: str) -> float | None:
    """How far a broken law is off, or by how many things; None where it is not broken, or by an error."""
    name = word.partition(": ")[2]
    try:
        return float(name) if standing(word) == "broken" else None
    except ValueError:
        return None


def ends_in_error(word: str) -> bool:
    """Whether what the law is about was refused, ended in an error or was not reached, so that it gave nothing."""
    return word != HOLDS and size_of(word) is None


def says_fault(word: str) -> bool:
    """Whether a word tells that something is wrong: a law is broken, a check fails. One that is refused is not."""
    found = standing(word)
    return found == "broken" if found else word not in ("", OK)


def same_size(obtained: float, expected: float) -> bool:
    """Whether two sizes are one but for rounding: within SIZE_FACTOR, or both below ROUNDING. NaN is like NaN."""
    if math.isnan(obtained) or math.isnan(expected):
        return math.isnan(obtained) and math.isnan(expected)
    low, high = sorted((abs(obtained), abs(expected)))
    return high <= ROUNDING or (low > 0 and high <= SIZE_FACTOR * low)


def group_of(law: str) -> str:
    """What a law belongs to, `merge` of `merge.safe`; what undoes something, to what it undoes."""
    group = law.partition(".")[0]
    return _UNDOES.get(group, group)
