"""What moved between two sides, the worst first: lines for a terminal, GitHub's Markdown, and plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pytest_peftbench.compare import GREEN_BY_DEFAULT, SEVERITY, Finding
from pytest_peftbench.compare.between import UNCOMPARED, Change
from pytest_peftbench.report.markdown import (
    COMMENT_LIMIT,
    clipped,
    code,
    code_cell,
    fitting,
    left_out,
    size,
    table_line,
)
from pytest_peftbench.report.terminal import WIDTH
from pytest_peftbench.results.words import aligned, first, folded, one_line, plural

# Causes below a figure, and cases of one side, that are named.
_MOST_DETAILS, _MOST_NAMES = 3, 10
# What did not move, or by no more than it may; and what is no change of a figure.
_UNTOLD = ("identical", "within noise", "same to rounding", "environment drift", "not recorded yet")
_HEADER = ("verdict", "case", "figure", "old", "new", "change", "by which rule")
# In Markdown: characters of a rule and of a note, how many notes, bytes for the head of the table and what is left out.
_RULE, _NOTE, _MOST_NOTES, _RESERVE = 120, 300, 20, 400


@dataclass(frozen=True)
class Changes:
    """Two sides, by the names they were given as.

    cases: those of both sides, the worst first. only_old, only_new: cases of one side. unread: what could not be read
    and why, a line each. notes: what else a reader must know. partial: whether the new side is a part on purpose, so
    that nothing vanished.
    """

    old: str
    new: str
    cases: Sequence[Change]
    only_old: Sequence[str] = ()
    only_new: Sequence[str] = ()
    unread: Sequence[str] = ()
    notes: Sequence[str] = ()
    partial: bool = False

    def exit_code(self) -> int:
        """2 where nothing could be compared; 1 where something regressed, vanished or could not be; else 0."""
        if any(map(is_red, self.cases)):
            return 1
        if not any(change.compared for change in self.cases):
            return 2
        return 0 if not any(self.problems()) and all(change.compared for change in self.cases) else 1

    def count_line(self) -> str:
        """`65 cases on both sides: 63 identical, 2 regressed`."""
        counts = Counter(change.verdict.verdict for change in self.cases)
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SEVERITY if counts[verdict])
        return f"{plural(len(self.cases), 'case')} on both sides{f': {told}' if told else ''}"

    def beside(self) -> Iterator[str]:
        """What is told beside the figures: how they were compared, which were not, cases of one side."""
        for why, names in _grouped((change.why, str(change.verdict.case)) for change in self.cases if change.why):
            yield f"by size alone, {plural(len(names), 'case')}: {why}: {_named(names)}"
        untold = ((reason, name) for change in self.cases for name, reason in change.untold.items())
        for reason, figures in _grouped(untold):
            yield f"not compared, {reason}: {_named(list(dict.fromkeys(figures)))}"
        if self.only_old and self.partial:
            yield f"only on the old side, {self.old}, {plural(len(self.only_old), 'case')}: {_named(self.only_old)}"
        if self.only_new:
            yield f"only on the new side, {self.new}, {plural(len(self.only_new), 'case')}: {_named(self.only_new)}"
        yield from self.notes

    def problems(self) -> Iterator[str]:
        """What is not green though no figure got worse: cases that vanished, and what could not be read."""
        if self.only_old and not self.partial:
            count = plural(len(self.only_old), "case")
            yield f"vanished, {count} of {self.old} that {self.new} does not hold: {_named(self.only_old)}"
        yield from (f"not read: {problem}" for problem in self.unread)

    def told(self) -> list[str]:
        """All that, and what is not green."""
        return [*self.beside(), *self.problems()]


def is_red(change: Change) -> bool:
    """Whether something got worse: what could not be compared did not."""
    told = {finding.verdict for finding in change.verdict.findings}
    return bool(told - GREEN_BY_DEFAULT - UNCOMPARED)


def lines(changes: Changes, width: int = WIDTH) -> list[str]:
    """A block for each case of which something moved, then what is told beside, and the count of every verdict."""
    found: list[str] = []
    for change in changes.cases:
        found += _block(change, width)
    for text in changes.told():
        found += folded(one_line(text), width)
    return [*found, *folded(changes.count_line(), width)]


def _block(change: Change, width: int) -> list[str]:
    told = moved(change)
    if not told:
        return []
    rows = [[one_line(cell) for cell in _cells(change, finding)] for finding in told]
    found = [f"{one_line(str(change.verdict.case))}  {change.verdict.verdict}"]
    for finding, row, text in zip(told, rows, aligned(rows, left=range(4)), strict=True):
        if len(text) + 2 <= width:
            found.append(f"  {text}")
        else:
            found += folded(f"  {'  '.join(filter(None, row))}", width)
        found += [f"    {clipped(one_line(line), width - 4)}" for line in first([*finding.details], _MOST_DETAILS)]
    return [*found, ""]


def moved(change: Change) -> list[Finding]:
    """The findings about what moved, the worst first, and of one verdict the largest share first."""
    told = [finding for finding in change.verdict.findings if finding.verdict not in _UNTOLD]
    return sorted(told, key=lambda item: (-SEVERITY.index(item.verdict), -change.sizes.get(item.metric, 0.0)))


def _cells(change: Change, finding: Finding) -> list[str]:
    """What it is about, old -> new, how far, and what a reader cannot take for granted."""
    aside: list[str] = [] if finding.verdict == change.verdict.verdict else [finding.verdict]
    aside += ["by size"] if finding.metric in change.by_size and not change.why else []
    return [finding.subject, finding.arrow() or finding.reason, finding.change, ", ".join(aside)]


def markdown(changes: Changes, limit: int = COMMENT_LIMIT) -> str:
    """The same in GitHub's Markdown. limit: bytes of UTF-8; rows that find no room are counted."""
    head = f"## {code(changes.old)} -> {code(changes.new)}\n\n{changes.count_line()}\n"
    beside = "".join(f"\n- {code(clipped(line, _NOTE))}" for line in first(changes.told(), _MOST_NOTES))
    rows = [row for change in changes.cases for row in _rows(change)]
    kept = fitting(rows, limit - size(head + beside) - _RESERVE)
    table = "".join(["\n", table_line(_HEADER), table_line(":--" for _ in _HEADER), *kept]) if kept else ""
    return head + table + left_out(len(rows) - len(kept)) + (f"{beside}\n" if beside else "")


def _rows(change: Change) -> Iterator[str]:
    for finding in moved(change):
        cells = (str(change.verdict.case), finding.subject, finding.expected, finding.obtained, finding.change)
        yield table_line([finding.verdict, *map(code_cell, cells), code_cell(clipped(finding.reason, _RULE))])


def to_json(changes: Changes) -> dict[str, Any]:
    """The same for other programs; of figures that are identical only the count."""
    return {
        "old": changes.old,
        "new": changes.new,
        "exit_code": changes.exit_code(),
        "counts": dict(Counter(change.verdict.verdict for change in changes.cases)),
        "cases": [_case_to_json(change) for change in changes.cases],
        "only_old": list(changes.only_old),
        "only_new": list(changes.only_new),
        "unread": list(changes.unread),
        "notes": list(changes.notes),
    }


def _case_to_json(change: Change) -> dict[str, Any]:
    told = [finding for finding in change.verdict.findings if finding.verdict != "identical"]
    return {
        "case": str(change.verdict.case),
        "verdict": change.verdict.verdict,
        "by_size_alone": change.why,
        "identical": len(change.verdict.findings) - len(told),
        "findings": [{**msgspec.to_builtins(finding), "by_size": finding.metric in change.by_size} for finding in told],
        "not_compared": dict(change.untold),
    }


def _grouped(pairs: Iterator[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for key, name in pairs:
        groups.setdefault(key, []).append(name)
    return sorted(groups.items())


def _named(names: Sequence[str]) -> str:
    return ", ".join(first([*names], _MOST_NAMES))
