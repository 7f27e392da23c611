"""What a session set out to compare and did not, and what it left out without being told to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_peftbench.report.terminal import WIDTH, Line, fold
from pytest_peftbench.results.words import command_line, first, plural

_MOST = 10


@dataclass(frozen=True)
class Gaps:
    """Each case or file by name.

    taken: cases that were not run again, since their results were taken from the folder `stored`. again: cases that
    were, though they have a result there, and why. skipped: cases that pytest's `skip` left out. unrun: selected cases
    that nothing is known of. expected: red cases that are marked xfail. twice: cases that two tests checked. orphans:
    baselines whose experiment is not there. asked: those of them that `-k` names. untaken: suites that no test takes.
    selected: how many cases were. measured: whether any of them was. removable: whether orphans may be removed: nothing
    was left out of the run. part: which part of the selected tests this was, in words; empty where it was all of them.
    unwritten: why files that were asked for beside the results are not there.
    """

    taken: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    stored: str = ""
    skipped: tuple[str, ...] = ()
    unrun: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    untaken: tuple[str, ...] = ()
    selected: int = 0
    measured: bool = True
    removable: bool = False
    part: str = ""
    unwritten: tuple[str, ...] = ()

    def problems(self) -> Iterator[str]:
        """What the run fails for, though each of its tests passed."""
        if self.selected and not self.measured and not self.unrun:
            yield f"none of {plural(self.selected, 'selected case')} was measured, so nothing was compared"
        if self.unrun:
            yield f"{plural(len(self.unrun), 'selected case')} never ran: {_names(self.unrun)}"
        if self.twice:
            yield f"two tests checked one case, one of them is lost: {_names(self.twice)}"
        if self.asked:
            yield f"-k names the case of a baseline whose experiment is not there: {_names(self.asked)}"
        yield from self.unwritten

    def notes(self) -> Iterator[str]:
        """What is told beside that, and fails nothing."""
        if self.part:
            yield self.part
        if self.taken:
            yield f"{plural(len(self.taken), 'case')} taken from {self.stored}, not run again: {_names(self.taken)}"
        if self.again:
            count = plural(len(self.again), "case")
            yield f"{count} run again, whose result in {self.stored} was not taken: {_names(self.again)}"
        if self.skipped:
            yield f"{plural(len(self.skipped), 'case')} skipped: {_names(self.skipped)}"
        if self.expected:
            yield f"{plural(len(self.expected), 'red case')} passed as expected (xfail): {_names(self.expected)}"
        if self.untaken:
            yield f"{plural(len(self.untaken), 'suite')} that no test takes: {_names(self.untaken)}"
        if self.orphans:
            yield f"{plural(len(self.orphans), 'baseline')} without an experiment: {_names(self.orphans)}"


def gap_lines(gaps: Gaps, removing: bool, width: int = WIDTH) -> list[Line]:
    """What closes a session beside its table. removing: whether the run may offer to remove what is left over."""
    lines = fold(((note, {"yellow": True}) for note in gaps.notes()), width)
    if removing and gaps.orphans and gaps.removable:
        lines.append((f"to remove them: {command_line(['git', 'rm', '-r', *gaps.orphans])}", {"yellow": True}))
    return [*lines, *fold(((f"the run fails: {problem}", {"red": True}) for problem in gaps.problems()), width)]


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(first(list(names), _MOST))
