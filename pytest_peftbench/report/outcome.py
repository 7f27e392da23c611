"""What a case came to: what each report reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_peftbench.compare import CaseVerdict


@dataclass(frozen=True)
class CaseOutcome:
    """What one case came to.

    verdict: None where nobody knows of which case it would be, or where there is none yet. changes: what an update of
    the baseline changed, in words. checked: whether the test gave its result to `peft_baseline.check`. red: whether
    the verdict fails the case. unmeasured: why nothing was measured; empty where something was. skipped: whether that
    is by pytest's `skip`. expected: whether the test is red and marked xfail, so that pytest passes it. The rest is
    known once the session has ended. turned: whether the case is red by Holm's correction over all tests of the
    session alone. nodeid: of the test. wall_s: how long the whole case took, its fixtures included. details: what a
    page shows beside the verdict, see `report.html.details`; empty where no page was asked for.
    """

    verdict: CaseVerdict | None = None
    changes: tuple[str, ...] = ()
    checked: bool = False
    red: bool = False
    unmeasured: str = ""
    skipped: bool = False
    expected: bool = False
    turned: bool = False
    nodeid: str = ""
    wall_s: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data, which xdist's workers send to the controller with the test's report."""
        return {
            "verdict": self.verdict.to_json() if self.verdict else None,
            "changes": list(self.changes),
            "checked": self.checked,
            "red": self.red,
            "unmeasured": self.unmeasured,
            "skipped": self.skipped,
            "expected": self.expected,
            "details": self.details,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CaseOutcome:
        """The outcome that `to_json` wrote."""
        verdict = data["verdict"]
        return cls(**{**data, "verdict": verdict and CaseVerdict.from_json(verdict), "changes": tuple(data["changes"])})
