"""What each case came to, gathered from this process or from xdist's workers; all reports read it here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from pytest_peftbench.compare import CaseVerdict, Finding, Verdict
from pytest_peftbench.plugin.inventory import Inventory
from pytest_peftbench.plugin.selection import experiment_of
from pytest_peftbench.report.gaps import Gaps
from pytest_peftbench.report.outcome import CaseOutcome, settled
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.raised import raised_in
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.results.words import error_line, first_line
from pytest_peftbench.suites import Experiment

NEVER_COMPARED = "never compared: the test passed without calling peft_baseline.check(result)"


# Of a test that has `peft_baseline`, once that is set up.
OUTCOME = pytest.StashKey[CaseOutcome]()
# Of a test whose result was red: what it came to then. It stands, whoever catches the failure or runs the test again.
RED = pytest.StashKey[CaseOutcome]()


def put_on_report(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Put on a case's report what the case came to, and fail a case that was never compared or was red before."""
    experiment, outcome = experiment_of(item), item.stash.get(OUTCOME, None)
    error = call.excinfo.value if call.excinfo else None
    reason = error_line(error) + raised_in(error) if error else report.outcome
    expected = report.skipped and hasattr(report, "wasxfail")
    red = item.stash.get(RED, None)
    name = experiment.case if experiment else item.name
    if red is not None and not expected and (report.skipped or (report.passed and report.when == "call")):
        text = red.verdict.message() if red.verdict else red.unmeasured
        report.outcome, report.longrepr = "failed", f"{name}: was red, which stands whatever came after\n{text}"
        outcome = red
    else:
        if report.failed and _says_it_all(error, outcome):
            report.longrepr = str(error)
        elif report.passed and report.when == "call" and (outcome is None or not outcome.checked):
            reason = NEVER_COMPARED
            report.outcome, report.longrepr = "failed", f"{name}: {reason}"
        outcome = _with_end(outcome or CaseOutcome(), experiment, report, reason)
    if expected:
        outcome = replace(outcome, expected=outcome.red or outcome.verdict is None, red=False, skipped=False)
    if (report.when == "call" and outcome.verdict) or report.failed or report.skipped:
        outcome = replace(outcome, file=experiment.file.as_posix() if experiment else "")
        report.peftbench = outcome.to_json()  # type: ignore[attr-defined]
    elif report.when == "setup" and experiment:
        # were its process killed, nobody else would know which case it was
        report.peftbench_case = experiment.case.to_json()  # type: ignore[attr-defined]


def _says_it_all(error: BaseException | None, outcome: CaseOutcome | None) -> bool:
    """Whether a failure needs no traceback: bad input, or the verdict of a check."""
    verdict = isinstance(error, pytest.fail.Exception) and not error.pytrace
    return isinstance(error, InputError) or (verdict and outcome is not None and outcome.red)


def forget(stash: pytest.Stash, key: pytest.StashKey[Any]) -> None:
    """Drop what is kept under a key, if anything is."""
    if key in stash:
        del stash[key]


def _with_end(
    outcome: CaseOutcome, experiment: Experiment | None, report: pytest.TestReport, reason: str
) -> CaseOutcome:
    """The outcome of a test that was skipped, or failed for another reason than its verdict."""
    if report.skipped:
        return replace(outcome, unmeasured=reason, skipped=True, changes=())
    if not report.failed or (report.when == "call" and outcome.red):
        return outcome
    outcome = replace(outcome, changes=())
    verdict = outcome.verdict or (CaseVerdict(experiment.case, ()) if experiment else None)
    if verdict is None:  # of a user's own experiment nobody knows the case before its result is checked
        return replace(outcome, unmeasured=reason, red=True)
    return replace(outcome, red=True, verdict=replace(verdict, findings=(Finding.of("case", "failed", reason),)))


class Collector:
    """Gathers what the cases of a session came to, for its table, its exit status, its bisection and its reports.

    outcomes: of all cases, in the order in which they were reported, once the session has ended: only then Holm's
    correction can be made. gaps: what was not compared, likewise. broken: files that could not be collected, and tests
    of no case that failed, by node id: what they would have shown nobody knows. inventory: what was collected, here or
    by xdist's workers.
    """

    def __init__(self, passing: Collection[Verdict], compares: bool = True) -> None:
        self.outcomes: list[CaseOutcome] = []
        self.gaps = Gaps()
        self.broken: set[str] = set()
        self.inventory = Inventory()
        self._passing = passing
        self._compares = compares
        # by node id: of a test that reports twice, because its teardown fails or it is run again, the last counts
        self._reported: dict[str, CaseOutcome] = {}
        self._wall_s: dict[str, float] = {}
        # cases that were set up, and what xdist said of workers that were killed, by node id
        self._started: dict[str, CaseId] = {}
        self._killed: dict[str, str] = {}
        # where the case had a stored result: its folder, and why that was not taken
        self._stored: dict[str, tuple[str, str]] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected may hold cases."""
        if report.failed:
            self.broken.add(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a case came to, and how long it took."""
        self._wall_s[report.nodeid] = self._wall_s.get(report.nodeid, 0.0) + report.duration
        if case := getattr(report, "peftbench_case", None):
            self._started[report.nodeid] = CaseId(**case)
        if stored := getattr(report, "peftbench_stored", None):
            self._stored[report.nodeid] = tuple(stored)
        data: dict[str, Any] | None = getattr(report, "peftbench", None)
        if data is not None:
            self._reported[report.nodeid] = CaseOutcome.from_json(data)
        elif report.failed and report.when not in ("setup", "call", "teardown"):  # xdist's word for a killed worker
            self._killed[report.nodeid] = first_line(report.longrepr)
        elif report.failed:
            self.broken.add(report.nodeid)

    def test_of(self, case: CaseId) -> str:
        """The node id of the test that checked a case in this process; empty where none did."""
        return next((nodeid for nodeid, found in self._reported.items() if _case(found) == case), "")

    def close(self) -> None:
        """Correct the verdicts of all cases together, now that their number is known, and find what is missing."""
        self._settle_killed()
        self.outcomes = settled(self.reported(), self._passing)
        self.gaps = self._gaps()

    def reported(self) -> dict[str, CaseOutcome]:
        """What each test reported last, by node id, before the correction, and how long it took."""
        return {nodeid: replace(found, wall_s=self._wall_s[nodeid]) for nodeid, found in self._reported.items()}

    def others(self) -> set[str]:
        """The tests that ran and are those of no case, by node id."""
        return set(self._wall_s) - set(self._reported) - self.broken

    def _settle_killed(self) -> None:
        """A case whose process was killed failed; of another test nobody knows what it would have shown."""
        for nodeid, reason in self._killed.items():
            if case := self._started.get(nodeid) or self.inventory.cases.get(nodeid):
                verdict = CaseVerdict(case, (Finding.of("case", "failed", reason),))
                self._reported[nodeid] = CaseOutcome(verdict, red=True)
            else:
                self.broken.add(nodeid)

    def _gaps(self) -> Gaps:
        selected, tests = self.inventory.cases, Counter(case for found in self.outcomes if (case := _case(found)))
        orphans = [orphan for orphan in self.inventory.orphans if orphan.case not in tests]
        names = {
            found.nodeid: str(_case(found) or selected.get(found.nodeid) or found.nodeid) for found in self.outcomes
        }
        known = {*names, *self.broken}
        stored = {names.get(nodeid, nodeid): told for nodeid, told in self._stored.items()}
        return Gaps(
            taken=tuple(name for name, (_, why_not) in stored.items() if not why_not),
            again=tuple(f"{name} ({why_not})" for name, (_, why_not) in stored.items() if why_not),
            stored=next((folder for folder, _ in stored.values()), ""),
            skipped=tuple(names[found.nodeid] for found in self.outcomes if found.skipped),
            unrun=tuple(str(case or nodeid) for nodeid, case in selected.items() if nodeid not in known),
            expected=tuple(names[found.nodeid] for found in self.outcomes if found.expected),
            twice=tuple(str(case) for case, count in tests.items() if count > 1),
            orphans=tuple(orphan.file for orphan in orphans),
            asked=tuple(orphan.file for orphan in orphans if orphan.asked and self._compares),
            untaken=self.inventory.untaken if self.inventory.whole else (),
            selected=len(selected),
            measured=any(not found.skipped and (found.verdict or not found.expected) for found in self.outcomes)
            or bool(self.broken & selected.keys()),
            removable=self.inventory.whole,
        )


def _case(outcome: CaseOutcome) -> CaseId | None:
    return outcome.verdict.case if outcome.verdict else None


COLLECTOR = pytest.StashKey[Collector]()
