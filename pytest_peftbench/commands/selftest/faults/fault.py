"""What a fault is."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_peftbench.commands.selftest.patching import Edit
from pytest_peftbench.compare import Verdict
from pytest_peftbench.results.metrics import Lane


def case_name(structure: str, experiment: str) -> str:
    """`lora/rank8` of a trained case, `life-cycle llama/lora/rslora` of one on a structure."""
    return f"life-cycle {structure}/{experiment}" if structure else experiment


@dataclass(frozen=True)
class Fault:
    """One fault, and what must come of it.

    name: what is wrong. experiment: `<method>/<name>` in the suite, the case that it is tried on. size: how large it
    is, in words. lane, metrics: the fault is caught when one of these metrics, all of that lane, has the verdict that
    the lane's faults must have, see `verdict`. structure: the one that a case of the life cycle is on; empty where a
    model is trained.
    """

    name: str
    experiment: str
    size: str
    lane: Lane
    metrics: tuple[str, ...]
    edits: tuple[Edit, ...]
    structure: str = ""

    @property
    def case(self) -> str:
        """Its name, as it is shown, and looked in by `--only`."""
        return case_name(self.structure, self.experiment)

    @property
    def any_arithmetic(self) -> bool:
        """Whether it must be caught under any instruction set: laws must, counters and times are not compared."""
        return bool(self.structure) or self.lane in ("numerics", "quality")

    @property
    def verdict(self) -> Verdict:
        """What a metric that tells the fault must say. Other bits are no regression by themselves, and yet no pass."""
        return "numerics changed" if self.lane == "numerics" else "regressed"
