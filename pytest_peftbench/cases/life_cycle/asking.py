"""How a law is asked: a story tells differences, one after the other, and each becomes a word."""

from __future__ import annotations

import linecache
import math
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.laws import HOLDS, NOT_REACHED, broken, refused

Told = Generator[float, None, None]
# Less than this, relative to the largest value, is no difference that an adapter makes.
APART = 1e-6


class NotOffered(Exception):
    """A method does not have the operation."""


@dataclass(frozen=True)
class Story:
    """Laws that one model is asked, in the order in which they come about.

    tell: a generator that yields how far off each law is, 0 where it holds, a share up to the law's bound or a whole
    number of things; what comes after an error is not reached.
    applies: whether the cell can be asked at all.
    """

    laws: tuple[str, ...]
    tell: Callable[[Any], Told]
    applies: Callable[[Any], bool]

    def words(self, cell: Any) -> dict[str, str]:
        """The word of each law."""
        words = dict.fromkeys(self.laws, NOT_REACHED)
        with closing(self.tell(cell)) as told:
            for law in self.laws:
                try:
                    difference = next(told)
                    words[law] = HOLDS if difference <= cell.bound_of(law) else broken(difference)
                except torch.OutOfMemoryError:
                    raise  # the device's, and no property of the adapter
                except Exception as error:
                    cause = _cause(error)
                    words[law] = refused(cause) if says_no(cause) else broken(cause)
                    break
            else:
                if next(told, None) is not None:
                    raise AssertionError(f"a story tells more than its laws, {', '.join(self.laws)}")
        return words


def always(cell: Any) -> bool:
    """Of a story that any cell can be asked."""
    return True


def story(*laws: str, applies: Callable[[Any], bool] = always) -> Callable[[Callable[[Any], Told]], Story]:
    """Makes a story of a function that yields a difference for each of the laws."""
    return lambda tell: Story(laws, tell, applies)


def _cause(error: Exception) -> Exception:
    """What PEFT raised; a config that it does not know is an error of the experiment, and passes through."""
    if isinstance(error, InputError):
        if not isinstance(error.__cause__, Exception):
            raise error
        return error.__cause__
    return error


def says_no(error: Exception) -> bool:
    """Whether PEFT refuses in words: a `raise` in its own code, and no accident below it."""
    if isinstance(error, NotOffered):
        return True
    import peft

    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not Path(frames[-1].filename).is_relative_to(Path(peft.__file__).parent):
        return False
    return linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip().startswith("raise")


def offered(place: Any, name: str) -> Callable[..., Any]:
    """An operation of a model. Raises NotOffered where there is none."""
    if not hasattr(place, name):
        raise NotOffered(name)
    operation: Callable[..., Any] = getattr(place, name)
    return operation


# Differences --------------------------------------------------------------------------------------------------------


def gap(obtained: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value; infinite for other shapes, and for no number."""
    if obtained.shape != expected.shape or not torch.isfinite(obtained).all():
        return math.inf
    if torch.equal(obtained, expected):
        return 0.0
    size = float(expected.abs().max())
    difference = float((obtained.double() - expected.double()).abs().max())
    if not math.isfinite(difference):
        return math.inf
    return difference / size if size else difference


def not_told_from(obtained: Tensor, *others: Tensor) -> int:
    """From how many of the others a tensor cannot be told: what must be something else and is not."""
    return sum(gap(obtained, other) <= APART for other in others)


def gaps(obtained: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest of the gaps; infinite where one of the tensors is not on both sides, or there is none."""
    if obtained.keys() != expected.keys() or not expected:
        return math.inf
    return max(gap(obtained[name], expected[name]) for name in expected)


def same(obtained: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal to the bit, those that are made of others by all of their parts."""
    if not hasattr(expected, "__tensor_flatten__"):
        return torch.equal(obtained, expected)
    parts, _ = expected.__tensor_flatten__()
    return all(same(getattr(obtained, part), getattr(expected, part)) for part in parts)


def past(difference: float, bound: float) -> float:
    """Nothing where a difference is within a bound of its own, wider than the cell's; else all of it."""
    return 0.0 if difference <= bound else difference


def unlike(obtained: object, expected: object) -> int:
    """How many entries of two sets differ; 1 for other things that do."""
    if isinstance(obtained, (set, frozenset)) and isinstance(expected, (set, frozenset)):
        return len(obtained ^ expected)
    return int(obtained != expected)
