"""What to do next: said once for all cases of a session, and never to accept what failed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from pytest_peftbench.compare import Verdict
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.report.terminal import Line, fold
from pytest_peftbench.results.words import plural

# From the node ids of cases to the command that records them.
Command = Callable[[Sequence[str]], str]

_BETTER: frozenset[Verdict] = frozenset({"improved", "not recorded yet"})
_ROUNDING: frozenset[Verdict] = frozenset({"same to rounding"})


def acceptable(outcomes: Iterable[CaseOutcome]) -> list[CaseOutcome]:
    """The red cases that a new baseline would make green: neither those that failed, nor what is rounding alone."""
    return [found for found in outcomes if found.red and not _failed(found) and not _is(found, _ROUNDING)]


def advice_lines(outcomes: Collection[CaseOutcome], command: Command, width: int) -> list[Line]:
    """What the cases of a session ask for. Commands stand on lines of their own, which are not folded."""
    known = [found for found in outcomes if found.verdict and not found.expected]
    failed, accept = [found for found in known if _failed(found)], acceptable(known)
    better = [found for found in known if not found.red and not _failed(found) and _is(found, _BETTER)]
    told: list[Line] = []
    if rounding := [found for found in known if not _failed(found) and _is(found, _ROUNDING)]:
        told.append((f"nothing to accept: {_cases(rounding)} the same to rounding, as on another machine", {}))
    if failed:
        told.append((f"nothing to accept before it is mended: {plural(len(failed), 'case')} failed", {"red": True}))
    if untold := [found for found in accept if _is(found, frozenset({"cannot tell"}))]:
        what = f"{plural(len(untold), 'case')} cannot tell"
        told.append((f"before accepting: {what}; more seeds (--peft-seeds) or a quiet machine may", {"yellow": True}))
    lines = fold(told, width)
    for found, markup in ((accept, "yellow"), (better, "green")):
        if found:
            lines += [*fold([(_purpose(found), {markup: True})], width), (_typed(command, found), {})]
    return lines


def _purpose(cases: Sequence[CaseOutcome]) -> str:
    count = plural(len(cases), "case")
    if all(_is(found, _BETTER) for found in cases):
        return f"to record what is better, or not recorded yet, in {count}:"
    if all(_is(found, frozenset({"no baseline"})) for found in cases):
        return f"to record {count} without a baseline:"
    return f"to accept what changed in {count}, where it is meant:"


def _typed(command: Command, cases: Sequence[CaseOutcome]) -> str:
    return f"  {command([found.nodeid for found in cases])}"


def _cases(cases: Sequence[CaseOutcome]) -> str:
    return f"{plural(len(cases), 'case')} {'is' if len(cases) == 1 else 'are'}"


def _failed(outcome: CaseOutcome) -> bool:
    return outcome.verdict is not None and any(found.verdict == "failed" for found in outcome.verdict.findings)


def _is(outcome: CaseOutcome, verdicts: frozenset[Verdict]) -> bool:
    return outcome.verdict is not None and outcome.verdict.verdict in verdicts
