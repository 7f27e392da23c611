"""How long many cases take on many devices: a simulation, with the durations that were recorded beside the baselines.

    python perf/makespan.py --cases 1000 --most 256

Cases are drawn from the recorded ones with a fixed seed. Schedulers know the recorded durations; a case takes another
time than that, by `--spread`. Columns, in seconds:

- `bound`: no schedule ends before; the longest case, or the sum over the devices.
- `longest`: as `pytest -n` hands cases out where durations are recorded, each but the first told while another runs.
- `xdist`: as it does without them, in runs of cases as they are collected.
- `shards`: divided beforehand, as by `--peft-shard`.
- `failing`: as `longest`, where a device dies `--deaths` times an hour, is back after `--back` seconds, and the case
  that it ran begins anew.

`efficiency` is bound over longest.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_peftbench.results.balancing import next_case, shares
from pytest_peftbench.results.durations import read_durations
from pytest_peftbench.results.files import InputError, positive

ROOT = Path(__file__).resolve().parents[1]
HOUR_S = 3600.0


@dataclass(frozen=True)
class Cases:
    """recorded: seconds that schedulers know, by place; actual: those that the cases take."""

    recorded: list[float]
    actual: list[float]

    def bound_s(self, devices: int) -> float:
        """No schedule ends before."""
        return max(max(self.actual), sum(self.actual) / devices)


def drawn(recorded: Sequence[float], count: int, spread: float, seed: int = 0) -> Cases:
    """`count` cases with durations of recorded ones. spread: the standard deviation of log(actual / recorded)."""
    rng = random.Random(seed)
    known = [rng.choice(recorded) for _ in range(count)]
    return Cases(known, [seconds * rng.lognormvariate(0.0, spread) for seconds in known])


@dataclass
class Fleet:
    """Devices at work. longest: whether cases are handed out longest first, a second one while one runs.

    deaths_per_hour: of each device; back_s: how long until it is back.
    """

    cases: Cases
    devices: int
    longest: bool = True
    deaths_per_hour: float = 0.0
    back_s: float = 60.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def makespan_s(self) -> float:
        """When the last case has ended."""
        self._pending = list(range(len(self.cases.recorded)))
        if self.longest:
            self._sort()
        self._queues: list[list[int]] = [[] for _ in range(self.devices)]
        self._events: list[tuple[float, int]] = []
        self._deaths = [self._lifetime_s() for _ in range(self.devices)]
        self._idle: set[int] = set()
        self._down: set[int] = set()
        ended_s = 0.0
        for device in range(self.devices):
            self._feed(device, len(self.cases.recorded) // self.devices // 4)
        for device in range(self.devices):
            self._start(device, 0.0)
        while self._events:
            now_s, device = heapq.heappop(self._events)
            if device in self._down:
                self._down.discard(device)
                self._deaths[device] = now_s + self._lifetime_s()
            elif now_s < self._deaths[device]:
                ended_s = max(ended_s, now_s)
                self._queues[device].pop(0)
            else:
                self._die(device, now_s)
            for other in sorted({device, *self._idle} - self._down):
                self._feed(other, len(self._pending) // self.devices // 4)
                self._start(other, now_s)
        return ended_s

    def _die(self, device: int, now_s: float) -> None:
        """What a device ran, and what it was told to, others take over."""
        self._pending += self._queues[device]
        self._queues[device] = []
        self._sort()
        self._down.add(device)
        heapq.heappush(self._events, (now_s + self.back_s, device))

    def _lifetime_s(self) -> float:
        rate = self.deaths_per_hour / HOUR_S
        return self.rng.expovariate(rate) if rate else float("inf")

    def _sort(self) -> None:
        self._pending.sort(key=lambda case: (-self.cases.recorded[case], case) if self.longest else (0, case))

    def _feed(self, device: int, run: int) -> None:
        """Tell a device its next cases. run: how many xdist's own scheduler has a worker wait for, two at least."""
        queue = self._queues[device]
        wanted = 2 if self.longest or len(queue) >= 2 else max(2, run)
        while self._pending and len(queue) < wanted:
            queue.append(self._next(device))

    def _next(self, device: int) -> int:
        if not self.longest:
            return self._pending.pop(0)
        known = self.cases.recorded
        case = next_case(self._pending, known, sum(known[case] for case in self._queues[device]))
        self._pending.remove(case)
        return case

    def _start(self, device: int, now_s: float) -> None:
        """Run the first case of a device's queue, to its end or to that of the device."""
        self._idle.discard(device)
        if not self._queues[device]:
            self._idle.add(device)
            return
        ends_s = now_s + self.cases.actual[self._queues[device][0]]
        heapq.heappush(self._events, (min(ends_s, max(now_s, self._deaths[device])), device))


def of_shards_s(cases: Cases, devices: int) -> float:
    """When the last of as many shards as devices has ended."""
    number = shares({f"{place:06}": seconds for place, seconds in enumerate(cases.recorded)}, devices)
    filled = [0.0] * (devices + 1)
    for place, seconds in enumerate(cases.actual):
        filled[number[f"{place:06}"]] += seconds
    return max(filled)


def rows(cases: Cases, most: int, deaths: float, back_s: float) -> list[list[str]]:
    """A row for each number of devices, powers of two up to `most`."""
    found = []
    devices = 1
    while devices <= most:
        bound_s, longest_s = cases.bound_s(devices), Fleet(cases, devices).makespan_s()
        others = [
            Fleet(cases, devices, longest=False).makespan_s(),
            of_shards_s(cases, devices),
            Fleet(cases, devices, deaths_per_hour=deaths, back_s=back_s).makespan_s(),
        ]
        figures = [f"{seconds:.1f}" for seconds in (bound_s, longest_s, *others)]
        found.append([str(devices), *figures, f"{bound_s / longest_s:.3f}"])
        devices *= 2
    return found


def main() -> None:
    """Draw, simulate, and print the table."""
    options = _parser().parse_args()
    try:
        recorded = sorted(read_durations(options.baselines).seconds.values())
    except InputError as error:
        sys.exit(str(error))
    if not recorded:
        sys.exit(f"{options.baselines}: holds no durations; record some with --peft-update-durations")
    cases = drawn(recorded, options.cases, options.spread)
    mean_s, longest_s = sum(cases.actual) / len(cases.actual), max(cases.actual)
    sys.stdout.write(f"{len(cases.actual)} cases, {mean_s:.2f} s each, the longest {longest_s:.1f} s\n")
    header = ["devices", "bound", "longest", "xdist", "shards", "failing", "efficiency"]
    for row in [header, *rows(cases, options.most, options.deaths, options.back)]:
        sys.stdout.write("".join(f"{cell:>11}" for cell in row) + "\n")


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """All arguments are its own; none go to pytest."""
    return arguments, []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    baselines = "folder whose durations.json it reads (default: baselines of this repository)"
    parser.add_argument("--baselines", type=Path, default=ROOT / "baselines", metavar="DIR", help=baselines)
    parser.add_argument("--cases", type=positive, default=1000, metavar="N", help="cases to draw (default: 1000)")
    parser.add_argument("--most", type=positive, default=256, metavar="N", help="most devices (default: 256)")
    parser.add_argument("--spread", type=float, default=0.1, metavar="X", help="of durations (default: 0.1)")
    parser.add_argument("--deaths", type=float, default=0.1, metavar="X", help="of a device an hour (default: 0.1)")
    parser.add_argument("--back", type=float, default=60.0, metavar="S", help="until it is back (default: 60)")
    return parser


if __name__ == "__main__":
    main()
