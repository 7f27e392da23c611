"""Order of cases under xdist: the longest first, by recorded durations. Imported where xdist is installed alone."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pytest
from xdist.scheduler import LoadScheduling
from xdist.workermanage import WorkerController

from pytest_peftbench.results.balancing import case_in, next_case
from pytest_peftbench.results.durations import Durations


class LongestFirst(LoadScheduling):  # type: ignore[misc]  # xdist has no types
    """xdist's `load`, but that a worker gets one test at a time, and which one is told by how long each takes.

    Neighbours are not kept together. Life cycles of one structure share imports alone: of seven structures the first
    case in a process took 0.0 to 0.2 CPU seconds more than later ones, and that of sd3, which brings diffusers, 1.
    """

    def __init__(self, config: pytest.Config, log: Any, durations: Durations) -> None:
        super().__init__(config, log)
        self.maxschedchunk = 1
        self._durations = durations

    def _send_tests(self, node: WorkerController, num: int) -> None:
        """Send the next `num` tests, two at the start and one later: xdist's own sends the first ones that pend."""
        chosen: dict[WorkerController, list[int]] = {}
        for _ in range(min(num, len(self.pending))):
            # pending tests of a worker that crashed come back at the end
            self.pending.sort(key=lambda case: (-self._seconds[case], case))
            taker, case = self._next(node)
            self.pending.remove(case)
            self.node2pending[taker].append(case)
            chosen.setdefault(taker, []).append(case)
        for taker, cases in chosen.items():
            taker.send_runtest_some(cases)

    def _next(self, node: WorkerController) -> tuple[WorkerController, int]:
        """A worker and its next test; of so few that all are sent at once, the longest for who has least to do."""
        assert self.collection is not None
        if len(self.collection) < 2 * len(self.nodes):
            idle = [other for other in self.nodes if not other.shutting_down]
            return min(idle, key=self._queued_s), self.pending[0]
        return node, next_case(self.pending, self._seconds, self._queued_s(node))

    def _queued_s(self, node: WorkerController) -> float:
        queue: list[int] = self.node2pending[node]
        return sum(self._seconds[case] for case in queue)

    @cached_property
    def _seconds(self) -> list[float]:
        """Of each test, by its place."""
        assert self.collection is not None
        return [self._durations.of(case_in(name)) for name in self.collection]
