"""What a fault is."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_peftbench.commands.selftest.patching import Edit
from pytest_peftbench.compare import Verdict
from pytest_peftbench.results.metrics import Lane


@dataclass(frozen=True)
class Fault:
    """One fault, and what must come of it.

    name: what is wrong. experiment: `<method>/<name>` in the suite, the case that it is tried on. size: how large it
    is, in words. lane, metrics: the fault is caught when one of these metrics, all of that lane, has the verdict that
    the lane's faults must have, see `verdict`.
    """

    name: str
    experiment: str
    size: str
    lane: Lane
    metrics: tuple[str, ...]
    edits: tuple[Edit, ...]

    @property
    def verdict(self) -> Verdict:
        """What a metric that tells the fault must say. Other bits are no regression by themselves, and yet no pass."""
        return "numerics changed" if self.lane == "numerics" else "regressed"
