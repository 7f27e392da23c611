"""What `git bisect run` reads from the exit code of a run: bad, good, or skip this commit."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from pytest_peftbench.compare import Verdict
from pytest_peftbench.plugin.options import SETTINGS
from pytest_peftbench.plugin.outcome import Collector
from pytest_peftbench.report.outcome import CaseOutcome

GOOD = 0
BAD = 1
SKIP = 125
# Above 127 git ends the bisection.
ABORT = 130

# Every other verdict that is not bad means that the case was not measured or could not be compared.
_COMPARED: frozenset[Verdict] = frozenset(
    {
        "identical",
        "environment drift",
        "within noise",
        "same to rounding",
        "improved",
        "not recorded yet",
        "numerics changed",
    }
)


def is_asked_for(config: pytest.Config) -> bool:
    """Whether the exit code is read by `git bisect`; nobody reads that of an xdist worker."""
    if hasattr(config, "workerinput"):
        return False
    return config.stash[SETTINGS].bisect if SETTINGS in config.stash else bool(config.getoption("peft_bisect"))


def exit_code(verdicts: Collection[Verdict], bad: Collection[Verdict]) -> int:
    """BAD for a verdict that is; else SKIP when some case, or every one, could not be compared; else GOOD.

    verdicts: of all findings, since the worst one of a case may hide a bad one.
    """
    if any(verdict in bad for verdict in verdicts):
        return BAD
    return GOOD if verdicts and _COMPARED.issuperset(verdicts) else SKIP


class Bisection:
    """Knows how the session ended, for the exit code of `--peft-bisect`."""

    def __init__(self, collector: Collector, bad: Collection[Verdict]) -> None:
        self._collector = collector
        self._bad = bad
        self._interrupted = False
        self._stopped = False

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
        outcomes, gaps = self._collector.outcomes, self._collector.gaps
        code = exit_code([verdict for outcome in outcomes for verdict in _verdicts(outcome)], self._bad)
        unmeasured = [outcome for outcome in outcomes if not _verdicts(outcome)]
        unknown = unmeasured or self._stopped or self._collector.broken or gaps.unrun or gaps.twice or gaps.asked
        return SKIP if code == GOOD and unknown else code


def _verdicts(outcome: CaseOutcome) -> list[Verdict]:
    """Of each finding of a case; none where it was not measured: nobody knows what it would have shown."""
    if outcome.verdict is None or outcome.unmeasured:
        return []
    return [finding.verdict for finding in outcome.verdict.findings]


BISECTION = pytest.StashKey[Bisection]()
