"""Times two functions against each other, interleaved in one process.

Between processes the time of unchanged code moves by tens of per cent, the ratio to an interleaved reference by two.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

BLOCKS = 5


@dataclass(frozen=True)
class Timing:
    """ratio: median over the blocks of time over reference time; lower is better. time_s: median of one call."""

    ratio: float
    time_s: float


def compare(
    function: Callable[[], object], reference: Callable[[], object], device: str, blocks: int = BLOCKS
) -> Timing:
    """Run both in blocks of A B B A, after one warm-up each, garbage collector off."""
    _time(function, device), _time(reference, device)
    ratios: list[float] = []
    times: list[float] = []
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(blocks):
            first = _time(function, device)
            between = _time(reference, device) + _time(reference, device)
            last = _time(function, device)
            ratios.append((first + last) / between)
            times += [first, last]
    finally:
        if enabled:
            gc.enable()
    return Timing(statistics.median(ratios), statistics.median(times))


def _time(function: Callable[[], object], device: str) -> float:
    _synchronize(device)
    started = time.perf_counter()
    function()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: str) -> None:
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
