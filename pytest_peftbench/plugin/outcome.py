"""What each case came to, gathered from this process or from xdist's workers; all reports read it here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from pytest_peftbench.compare import CaseVerdict, Finding, Verdict, corrected, is_green
from pytest_peftbench.plugin.selection import experiment_of
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.words import error_line
from pytest_peftbench.suites import Experiment

NEVER_COMPARED = "never compared: the test passed without calling peft_baseline.check(result)"


# Of a test that has `peft_baseline`, once that is set up.
OUTCOME = pytest.StashKey[CaseOutcome]()


def put_on_report(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Put on a case's report what the case came to, and fail a case that was never compared."""
    experiment, outcome = experiment_of(item), item.stash.get(OUTCOME, None)
    error = call.excinfo.value if call.excinfo else None
    reason = error_line(error) if error else report.outcome
    if report.failed and isinstance(error, InputError):
        report.longrepr = str(error)
    elif report.passed and report.when == "call" and outcome is not None and not outcome.checked:
        reason = NEVER_COMPARED
        report.outcome, report.longrepr = "failed", f"{experiment.case if experiment else item.name}: {reason}"
    outcome = _with_end(outcome or CaseOutcome(), experiment, report, reason)
    if (report.when == "call" and outcome.verdict) or report.failed or report.skipped:
        report.peftbench = outcome.to_json()  # type: ignore[attr-defined]


def _with_end(
    outcome: CaseOutcome, experiment: Experiment | None, report: pytest.TestReport, reason: str
) -> CaseOutcome:
    """The outcome of a test that was skipped, or failed for another reason than its verdict."""
    if report.skipped:
        return replace(outcome, unmeasured=reason)
    if not report.failed or (report.when == "call" and outcome.red):
        return outcome
    verdict = outcome.verdict or (CaseVerdict(experiment.case, ()) if experiment else None)
    if verdict is None:  # of a user's own experiment nobody knows the case before its result is checked
        return replace(outcome, unmeasured=reason)
    return replace(outcome, verdict=replace(verdict, findings=(Finding.of("case", "failed", reason),)))


class Collector:
    """Gathers what the cases of a session came to, for its table, its exit status, its bisection and its reports.

    outcomes: of all cases, in the order in which they were reported, once the session has ended: only then Holm's
    correction can be made. broken: files that could not be collected, and tests of no case that failed, by node id:
    what they would have shown nobody knows.
    """

    def __init__(self, passing: Collection[Verdict]) -> None:
        self.outcomes: list[CaseOutcome] = []
        self.broken: set[str] = set()
        self._passing = passing
        # by node id: of a test that reports twice, because its teardown fails or it is run again, the last counts
        self._reported: dict[str, CaseOutcome] = {}
        self._wall_s: dict[str, float] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected may hold cases."""
        if report.failed:
            self.broken.add(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a case came to, and how long it took."""
        self._wall_s[report.nodeid] = self._wall_s.get(report.nodeid, 0.0) + report.duration
        data: dict[str, Any] | None = getattr(report, "peftbench", None)
        if data is not None:
            self._reported[report.nodeid] = CaseOutcome.from_json(data)
        elif report.failed:
            self.broken.add(report.nodeid)

    def close(self) -> None:
        """Correct the verdicts of all cases together, now that their number is known."""
        before = {nodeid: found.verdict for nodeid, found in self._reported.items() if found.verdict}
        after = corrected(before)
        turned = {nodeid for nodeid in after if self._passes(before[nodeid]) and not self._passes(after[nodeid])}
        self.outcomes = [
            replace(
                found,
                verdict=after.get(nodeid),
                red=found.red or nodeid in turned,
                turned=nodeid in turned,
                nodeid=nodeid,
                wall_s=self._wall_s[nodeid],
            )
            for nodeid, found in self._reported.items()
        ]

    def _passes(self, verdict: CaseVerdict) -> bool:
        return is_green(verdict, self._passing)


COLLECTOR = pytest.StashKey[Collector]()
