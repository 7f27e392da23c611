"""Who runs which case, by how long each takes. Knows neither pytest nor xdist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def shares(seconds: Mapping[str, float], count: int) -> dict[str, int]:
    """Cases divided into `count` shares, numbered from 1: the longest first, each to the share that has least so far.

    The same on any machine: of equals the first by name counts, and the share of the lower number. Ends at most a third
    later than the best division (Graham 1969).
    """
    filled = [0.0] * count
    found: dict[str, int] = {}
    for name in sorted(seconds, key=lambda name: (-seconds[name], name)):
        place = filled.index(min(filled))
        filled[place] += seconds[name]
        found[name] = place + 1
    return found


def next_case(pending: Sequence[int], seconds: Sequence[float], queued_s: float) -> int:
    """Which of the pending cases, longest first, goes behind what a worker has to do already, `queued_s` seconds.

    A worker is told its next case before the running one ends, and nobody else can take it then. So behind a long case
    goes the shortest, and behind a short one the longest: what waits is short, and what is left for the end is, too.
    """
    return pending[0] if queued_s < seconds[pending[0]] else pending[-1]


def case_in(nodeid: str) -> str:
    """The id of the case that a test runs, as its parameter has it: `test_math.py::test_math[MetaMathQA-tiny-…]`."""
    return nodeid.partition("[")[2].removesuffix("]")
