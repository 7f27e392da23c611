"""What to do next: said once for all cases of a session, and never to accept what failed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from pytest_peftbench.compare import Verdict
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.report.terminal import Line, fold
from pytest_peftbench.results.words import plural

# From the node ids of cases to the command that records them.
Command = Callable[[Sequence[str]], str]

_BETTER: frozenset[Verdict] = frozenset({"improved", "not recorded yet"})
_ROUNDING: frozenset[Verdict] = frozenset({"same to rounding"})
_UNTOLD: frozenset[Verdict] = frozenset({"cannot tell"})
_UNRECORDED: frozenset[Verdict] = frozenset({"no baseline"})


@dataclass(frozen=True)
class Advice:
    """One thing to do next.

    words: what it is about. command: what does it; empty where there is nothing to type. colour: of the words in a
    terminal.
    """

    words: str
    command: str = ""
    colour: str = ""


def acceptable(outcomes: Iterable[CaseOutcome]) -> list[CaseOutcome]:
    """The red cases that a new baseline would make green: neither those that failed, nor what is rounding alone."""
    return [found for found in outcomes if found.red and not _failed(found) and not _is(found, _ROUNDING)]


def advice_lines(outcomes: Collection[CaseOutcome], command: Command, width: int) -> list[Line]:
    """The advice for a terminal. Commands stand on lines of their own, which are not folded."""
    lines: list[Line] = []
    for item in advice(outcomes, command):
        lines += fold([(item.words, {item.colour: True} if item.colour else {})], width)
        lines += [(f"  {item.command}", {})] if item.command else []
    return lines


def advice(outcomes: Collection[CaseOutcome], command: Command) -> list[Advice]:
    """What the cases of a session ask for."""
    known = [found for found in outcomes if found.verdict and not found.expected]
    failed, accept = [found for found in known if _failed(found)], acceptable(known)
    better = [found for found in known if not found.red and not _failed(found) and _is(found, _BETTER)]
    told: list[Advice] = []
    if rounding := [found for found in known if not _failed(found) and _is(found, _ROUNDING)]:
        told.append(Advice(f"nothing to accept: {_cases(rounding)} the same to rounding, as on another machine"))
    if failed:
        words = f"nothing to accept before it is mended: {plural(len(failed), 'case')} failed"
        told.append(Advice(words, colour="red"))
    if untold := [found for found in accept if _is(found, _UNTOLD)]:
        words = f"{plural(len(untold), 'case')} cannot tell; more seeds (--peft-seeds) or a quiet machine may"
        told.append(Advice(f"before accepting: {words}", colour="yellow"))
    for found, colour in ((accept, "yellow"), (better, "green")):
        if found:
            told.append(Advice(_purpose(found), command([case.nodeid for case in found]), colour))
    return told


def _purpose(cases: Sequence[CaseOutcome]) -> str:
    count = plural(len(cases), "case")
    if all(_is(found, _BETTER) for found in cases):
        return f"to record what is better, or not recorded yet, in {count}:"
    if all(_is(found, _UNRECORDED) for found in cases):
        return f"to record {count} without a baseline:"
    if all(_is(found, _UNTOLD) for found in cases):
        return f"to accept {count} all the same:"
    return f"to accept what changed in {count}, where it is meant:"


def _cases(cases: Sequence[CaseOutcome]) -> str:
    return f"{plural(len(cases), 'case')} {'is' if len(cases) == 1 else 'are'}"


def _failed(outcome: CaseOutcome) -> bool:
    return outcome.verdict is not None and any(found.verdict == "failed" for found in outcome.verdict.findings)


def _is(outcome: CaseOutcome, verdicts: frozenset[Verdict]) -> bool:
    return outcome.verdict is not None and outcome.verdict.verdict in verdicts
