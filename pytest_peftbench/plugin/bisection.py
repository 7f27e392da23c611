"""What `git bisect run` reads from the exit code of a run: bad, good, or skip this commit. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from pytest_peftbench.compare import CaseVerdict, Verdict, corrected

GOOD = 0
BAD = 1
SKIP = 125
# Above 127 git ends the bisection.
ABORT = 130

# Every other verdict, `regressed` apart, means that the case was not measured or could not be compared.
_NOT_REGRESSED: frozenset[Verdict] = frozenset(
    {"identical", "within noise", "improved", "environment drift", "not recorded yet", "numerics changed"}
)


def exit_code(verdicts: Collection[Verdict]) -> int:
    """BAD for a case that regressed; else SKIP when some case, or every one, could not be compared; else GOOD."""
    if "regressed" in verdicts:
        return BAD
    return GOOD if verdicts and _NOT_REGRESSED.issuperset(verdicts) else SKIP


class Bisection:
    """Gathers the cases' verdicts, from this process or from all workers, for the exit code of `--peft-bisect`."""

    def __init__(self) -> None:
        # by node id: of a test that reports twice the last counts
        self._verdicts: dict[str, CaseVerdict] = {}
        self._unmeasured: set[str] = set()
        self._interrupted = False
        self._stopped = False

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected may hold cases."""
        if report.failed:
            self._unmeasured.add(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a case's verdict. A test that fails, or a case that is skipped, without one has measured nothing."""
        data: dict[str, Any] | None = getattr(report, "peftbench", None)
        if data is not None:
            self._verdicts[report.nodeid] = CaseVerdict.from_json(data["verdict"])
        elif report.failed or (report.skipped and hasattr(report, "peftbench_case")):
            self._unmeasured.add(report.nodeid)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Somebody who ends the run wants the bisection to end too; pytest ends it when files cannot be collected."""
        by_pytest = isinstance(excinfo.value, pytest.Session.Interrupted)
        self._interrupted = isinstance(excinfo.value, KeyboardInterrupt) and not by_pytest

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Of a session that `-x`, `--maxfail` or `--stepwise` stopped, nobody knows what the rest would have shown."""
        self._stopped = bool(session.shouldfail or session.shouldstop)

    def exit_code(self, status: int) -> int:
        """The exit code for a run that pytest would end with `status`."""
        if self._interrupted:
            return ABORT
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return SKIP
        unmeasured: list[Verdict] = ["failed"] * len(self._unmeasured)
        code = exit_code([*(verdict.verdict for verdict in corrected(self._verdicts).values()), *unmeasured])
        return SKIP if code == GOOD and self._stopped else code
