"""Times two functions against each other, interleaved in one process.

Between processes the time of unchanged code moves by tens of per cent, the ratio to an interleaved reference by two.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy
import torch

from pytest_peftbench.measure.clocks import Clock, ClockReader
from pytest_peftbench.measure.collector import collector_paused
from pytest_peftbench.results.metrics import Value

BLOCKS = 7
# What confirms a time that regressed: many, to outlast a neighbour's burst of seconds.
CONFIRMING_BLOCKS = 63
# Seconds in which a confirmation that is still wide is given more blocks than these.
BUDGET_S = 20.0
# How wide an interval of more than BLOCKS may be, as a share of the margin: where it is wider than the margin of the
# recorded ratio, which may be below the measured one, nobody can tell.
_NARROW = 0.75
CONFIDENCE = 0.95
RESAMPLES = 4_999
# Blocks in which the clock was throttled are run again, until there were this many times the blocks asked for.
_MAX_ATTEMPTS = 3
# Share of the clock by which it may differ between a block's ends. Near its power limit a card says all along that it
# is held back: an H200 training a 3B model did in 58 of 60 blocks, whose ends differed by 2.3 % at most; in 15 blocks
# of LoRA the bootstrap interval of the ratio to full fine-tuning was 0.692 to 0.694.
_STEADY = 0.05

_Timer = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Timing:
    """One function's time over another's; lower is better.

    ratio: median over the blocks. low, high: its bootstrap interval; from 0 to infinity where too few blocks ran
    without throttling. time_s: median of one call. ratios: of each block that counts. throttled_blocks: how many do
    not, since the accelerator's clock was held back, and not evenly. sm_mhz: median of its clock, None where nobody can
    tell.
    """

    ratio: float
    low: float
    high: float
    time_s: float
    ratios: tuple[float, ...]
    throttled_blocks: int = 0
    sm_mhz: float | None = None

    @property
    def interval(self) -> list[float]:
        """`[low, high]`; empty where there is none."""
        return [self.low, self.high] if math.isfinite(self.high) else []

    def metrics(self, what: str) -> dict[str, Value]:
        """The figures by the name of their metric. what: `step` or `decode`."""
        return {
            f"{what}_time_ratio": self.ratio,
            f"{what}_time_interval": self.interval,
            f"{what}_time_s": self.time_s,
        }


@dataclass(frozen=True)
class _Block:
    """Times of A B B A. ratio: of A over B. time_s: of one A."""

    ratio: float
    time_s: float
    throttled: bool
    sm_mhz: int | None


def rows(batch_size: int, device: str) -> int:
    """How many rows a timed step has: on a CPU one, on an accelerator all of the training batch.

    A CPU is timed for the host's work, which the counters do not see and which does not grow with the rows; that of
    the operators is counted exactly. An accelerator's time with few rows is the host's again.
    """
    return 1 if torch.device(device).type == "cpu" else batch_size


def compare(
    function: Callable[[], object],
    reference: Callable[[], object],
    device: str,
    blocks: int = BLOCKS,
    relative_margin: float = math.inf,
) -> Timing:
    """Run both in blocks of A B B A, after one warm-up each, garbage collector off.

    An interval wider than `relative_margin` times the ratio tells nothing: then as many blocks again are run, until it
    is within three quarters of that, or there are CONFIRMING_BLOCKS; where these were asked for, until BUDGET_S are
    over. All blocks count, and the width alone decides how many there are, never the ratio: nobody looks at that until
    they please.
    """
    function(), reference()
    timer, clocks = _timer(device), ClockReader(device)
    run: list[_Block] = []
    ends = time.perf_counter() + (BUDGET_S if blocks >= CONFIRMING_BLOCKS else 0.0)
    with collector_paused():
        while True:
            while len(run) < _MAX_ATTEMPTS * blocks and len(_steady(run)) < blocks:
                run.append(_block(function, reference, timer, clocks))
            timing = _timing(run, blocks)
            allowed = relative_margin * timing.ratio * (_NARROW if blocks > BLOCKS else 1.0)
            over = time.perf_counter() >= ends or not timing.interval
            if timing.high - timing.low <= allowed or (over and blocks >= CONFIRMING_BLOCKS):
                return timing
            blocks = CONFIRMING_BLOCKS if blocks < CONFIRMING_BLOCKS < 2 * blocks else 2 * blocks


def _steady(run: list[_Block]) -> list[_Block]:
    return [block for block in run if not block.throttled]


def _timing(run: list[_Block], blocks: int) -> Timing:
    """What the blocks tell: the steady ones, where there are as many as were asked for."""
    steady = _steady(run)
    enough = len(steady) >= blocks
    counted = steady if enough else run
    ratios = tuple(block.ratio for block in counted)
    low, high = _interval(ratios) if enough else (0.0, math.inf)
    clock = [block.sm_mhz for block in run if block.sm_mhz is not None]
    return Timing(
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        time_s=statistics.median(block.time_s for block in counted),
        ratios=ratios,
        throttled_blocks=len(run) - len(steady),
        sm_mhz=statistics.median(clock) if clock else None,
    )


def _block(
    function: Callable[[], object], reference: Callable[[], object], timer: _Timer, clocks: ClockReader
) -> _Block:
    before = clocks.read()
    first = timer(function)
    between = timer(reference) + timer(reference)
    last = timer(function)
    after = clocks.read()
    throttled = (before.throttled or after.throttled) and not _is_steady(before, after)
    return _Block((first + last) / between, (first + last) / 2, throttled, after.sm_mhz)


def _is_steady(before: Clock, after: Clock) -> bool:
    """Whether the clock was about the same at both ends of a block; not where nobody can tell."""
    if before.sm_mhz is None or after.sm_mhz is None:
        return False
    return abs(before.sm_mhz - after.sm_mhz) <= _STEADY * max(before.sm_mhz, after.sm_mhz)


def _interval(ratios: tuple[float, ...]) -> tuple[float, float]:
    """Percentile bootstrap of the median, the same for the same ratios."""
    if len(ratios) < 2:
        return 0.0, math.inf
    drawn = numpy.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    tail = (1 - CONFIDENCE) / 2
    low, high = numpy.quantile(numpy.median(numpy.array(ratios)[drawn], axis=-1), (tail, 1 - tail))
    return float(low), float(high)


def seconds(function: Callable[[], object], device: str, calls: int) -> list[float]:
    """The time of each of so many calls, after one that nobody times, garbage collector off."""
    timer = _timer(device)
    with collector_paused():
        function()
        return [timer(function) for _ in range(calls)]


def waiting(function: Callable[[], object], device: str) -> Callable[[], object]:
    """`function` for a clock of the host's: an accelerator is done with its work when it returns."""
    if torch.device(device).type == "cpu":
        return function

    def wait() -> None:
        function()
        torch.accelerator.synchronize(device)

    return wait


def _timer(device: str) -> _Timer:
    """What times one call, in seconds."""
    return _wall_time if torch.device(device).type == "cpu" else partial(_event_time, device)


def _wall_time(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _event_time(device: str, function: Callable[[], object]) -> float:
    """The accelerator's own time, from an event before the work in its queue to one after."""
    start, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    stream = torch.accelerator.current_stream(device)
    torch.accelerator.synchronize(device)
    start.record(stream)
    function()
    end.record(stream)
    end.synchronize()
    return start.elapsed_time(end) / 1000
