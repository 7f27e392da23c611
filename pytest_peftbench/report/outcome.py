"""What a case came to: what each report reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_peftbench.compare import SEVERITY, CaseVerdict, Verdict, corrected, is_green


@dataclass(frozen=True)
class CaseOutcome:
    """What one case came to.

    verdict: None where nobody knows of which case it would be, or where there is none yet. changes: what an update of
    the baseline changed, in words. checked: whether the test gave its result to `peft_baseline.check`. red: whether
    the verdict fails the case. unmeasured: why nothing was measured; empty where something was. skipped: whether that
    is by pytest's `skip`. expected: whether the test is red and marked xfail, so that pytest passes it. file: of the
    experiment, absolute; empty where there is none. details: what a page shows beside the verdict, see
    `report.html.details`; empty where no page was asked for. The rest is known once the session has ended. turned:
    whether the case is red by Holm's correction over all tests of the session alone. nodeid: of the test. wall_s: how
    long the whole case took, its fixtures included.
    """

    verdict: CaseVerdict | None = None
    changes: tuple[str, ...] = ()
    checked: bool = False
    red: bool = False
    unmeasured: str = ""
    skipped: bool = False
    expected: bool = False
    file: str = ""
    turned: bool = False
    nodeid: str = ""
    wall_s: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The case's id; that of the test where nobody knows which case it would be."""
        return str(self.verdict.case) if self.verdict else self.nodeid

    @property
    def word(self) -> str:
        """Its verdict, or that it has none."""
        return self.verdict.verdict if self.verdict else "not measured"

    @property
    def text(self) -> str:
        """What the case came to, in the words of the terminal."""
        return self.verdict.text() if self.verdict else self.unmeasured

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
            "file": self.file,
            "details": self.details,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CaseOutcome:
        """The outcome that `to_json` wrote."""
        verdict = data["verdict"]
        return cls(**{**data, "verdict": verdict and CaseVerdict.from_json(verdict), "changes": tuple(data["changes"])})


def settled(reported: Mapping[str, CaseOutcome], passing: Collection[Verdict]) -> list[CaseOutcome]:
    """What cases came to, by node id, once all of them are known: after Holm's correction over all their tests.

    passing: verdicts that pass.
    """
    before = {nodeid: found.verdict for nodeid, found in reported.items() if found.verdict}
    after = corrected(before)
    turned = {nodeid for nodeid in after if is_green(before[nodeid], passing) and not is_green(after[nodeid], passing)}
    return [
        replace(
            found,
            verdict=after.get(nodeid),
            red=found.red or nodeid in turned,
            turned=nodeid in turned,
            nodeid=nodeid,
        )
        for nodeid, found in reported.items()
    ]


def red_cases(outcomes: Iterable[CaseOutcome]) -> list[CaseOutcome]:
    """The red ones, the worst first: what was not measured, then by verdict, then by name."""

    def rank(outcome: CaseOutcome) -> tuple[int, str]:
        return (-SEVERITY.index(outcome.verdict.verdict) if outcome.verdict else -len(SEVERITY), outcome.name)

    return sorted((found for found in outcomes if found.red), key=rank)
