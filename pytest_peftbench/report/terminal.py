"""The closing table: a row per case, the count of every verdict, and what to do next.

Lines come with markup for pytest's terminal writer, which drops it where colours are off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from pytest_peftbench.compare import SEVERITY, CaseVerdict, Verdict
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.metrics import Column
from pytest_peftbench.results.words import aligned, bytes_text, first, flops_text, folded, plural, printable

WIDTH = 80
# What moved stands beside the figures where that much of it has room there, and below them otherwise.
_MIN_MOVED = 24
# Of a kind's suites that have a table each where one table is too wide.
_MOST_TABLES = 4
# Columns that a narrow terminal does without, the first of them first; then those of quality, from the right.
_EXPENDABLE = ("wall", "step calls", "time", "peak", "step FLOP", "trainable")
_MAX_DRIFT = 8
_GAP = "  "
_LEGEND = "±: the smallest regression that is caught nine times out of ten"

Markup = dict[str, bool]
Line = tuple[str, Markup]

_MARKUP: dict[Verdict, Markup] = {
    "improved": {"green": True},
    "environment drift": {"yellow": True},
    "not recorded yet": {"yellow": True},
    "cannot tell": {"yellow": True},
    "numerics changed": {"yellow": True},
    "not comparable": {"yellow": True},
    "no baseline": {"yellow": True},
    "missing metric": {"red": True},
    "unknown metric": {"red": True},
    "regressed": {"red": True},
    "failed": {"red": True},
}


@dataclass(frozen=True)
class Row:
    """One case of the table.

    task: the table that it belongs to, a task or a kind of case. values: numbers by metric name; a column whose metric
    is not there shows a dash. detectable: the smallest regression that the gate can tell, by metric, in its unit.
    suite: what the ids of all cases of its suite begin with.
    """

    case: str
    task: str
    verdict: Verdict
    values: Mapping[str, float] = field(default_factory=dict)
    wall_s: float | None = None
    moved: str = ""
    detectable: Mapping[str, float] = field(default_factory=dict)
    suite: str = ""


Cell = Callable[[Row], str]


def row(verdict: CaseVerdict, wall_s: float | None = None) -> Row:
    """The row of a case. wall_s: how long the whole case took."""
    return Row(
        case=str(verdict.case),
        task=verdict.case.kind or verdict.case.task,
        verdict=verdict.verdict,
        values=verdict.values,
        detectable=verdict.detectable,
        wall_s=wall_s,
        moved=verdict.moved(),
        suite=str(verdict.case).removesuffix(f"{verdict.case.method}-{verdict.case.name}"),
    )


def closing(outcomes: Iterable[CaseOutcome], columns: Mapping[str, Sequence[Column]], width: int = WIDTH) -> list[Line]:
    """All that closes a session: what an update changed, what drifted, the tables, and what the correction turned red.

    columns: those of each table, by task or kind of case. width: of the terminal. Nothing where no case has a verdict.
    """
    judged = [(outcome.verdict, outcome) for outcome in outcomes if outcome.verdict]
    rows = [row(verdict, outcome.wall_s or None) for verdict, outcome in judged]
    return [
        *fold(change_lines({str(verdict.case): outcome.changes for verdict, outcome in judged}), width),
        *fold(environment_drift_lines(verdict for verdict, _ in judged), width),
        *summary(rows, columns, width),
        *fold(_turned_lines(str(verdict.case) for verdict, outcome in judged if outcome.turned), width),
    ]


def fold(lines: Iterable[Line], width: int) -> list[Line]:
    """The lines, each folded to the width where its words allow."""
    return [(part, markup) for text, markup in lines for part in folded(text, width) or [""]]


def change_lines(changes: Mapping[str, Sequence[str]]) -> list[Line]:
    """What an update of the baselines changed, by case."""
    lines: list[Line] = []
    for case in sorted(case for case in changes if changes[case]):
        lines += [(f"{case}: baseline written", {"bold": True}), *((f"  {change}", {}) for change in changes[case])]
    return lines


def _turned_lines(cases: Iterable[str]) -> list[Line]:
    words = "the run fails: over all its tests (Holm's correction) regressed what passed as cannot tell: "
    names = ", ".join(cases)
    return [(words + names, {"red": True})] if names else []


def environment_drift_lines(verdicts: Iterable[CaseVerdict]) -> list[Line]:
    """What changed in the base models since the baselines, once for each."""
    found: dict[str, dict[str, None]] = {}
    for verdict in verdicts:
        if verdict.environment_drift:
            found.setdefault(_drift_line(verdict), {}).update(dict.fromkeys(verdict.environment_drift))
    lines: list[Line] = []
    for what, drift in sorted(found.items()):
        lines.append((f"{what}: adapters are compared by what they add", {"yellow": True}))
        lines += [(f"  {line}", {}) for line in first(list(drift), _MAX_DRIFT)]
    return [*lines, ("", {})] if lines else []


def _drift_line(verdict: CaseVerdict) -> str:
    base_model = f"{verdict.case.task}-{verdict.case.base_model}"
    if any(finding.about == "base model" for finding in verdict.findings):
        return f"base model of {base_model} moved, its environment did not"
    return f"environment drift of {base_model}"


def summary(rows: Sequence[Row], columns: Mapping[str, Sequence[Column]], width: int = WIDTH) -> list[Line]:
    """A table per task, then the count of every verdict.

    columns: those of quality, by the name of the table's task or kind of case.
    """
    lines: list[Line] = []
    without: dict[str, None] = {}
    for task in sorted({row.task for row in rows}):
        for part in _tables([row for row in rows if row.task == task], columns.get(task, ()), width):
            lines += [*part.lines(width), ("", {})]
            without |= dict.fromkeys(part.without)
    notes = [_LEGEND] if any(row.detectable for row in rows) else []
    if without:
        notes.append(f"left out at {width} columns: {', '.join(without)}")
    if rows:
        lines += fold([*((note, {}) for note in notes), _count_line(rows)], width)
    return lines


def table(rows: Sequence[Row], quality: Sequence[Column], width: int = WIDTH) -> list[Line]:
    """Header and a row per case, by case, within the width: of one suite or of several."""
    return [line for part in _tables(rows, quality, width) for line in part.lines(width)]


def _tables(rows: Sequence[Row], quality: Sequence[Column], width: int) -> list[_Table]:
    """One table that fits, its ids in full or without what they share; else one for each of few suites."""
    rows = sorted(rows, key=lambda row: row.case)
    shown = {header: cell for header, cell in cells(quality).items() if any(map(cell, rows))}
    short = _Table(rows, shown, _shared(rows))
    for table in (_Table(rows, shown), short):
        if table.width + table.least_moved() <= width:
            return [table]
    suites = sorted({row.suite for row in rows})
    if short.width <= width or not 1 < len(suites) <= _MOST_TABLES:
        return [short.narrowed(width)]
    return [part for suite in suites for part in _tables([row for row in rows if row.suite == suite], quality, width)]


def _shared(rows: Sequence[Row]) -> str:
    """What all ids begin with, up to the end of a word, as far as it tells the suite."""
    words = zip(*(row.suite.split("-")[:-1] for row in rows), strict=False)
    return "".join(f"{same[0]}-" for same in takewhile(lambda same: len(set(same)) == 1, words))


@dataclass(frozen=True)
class _Table:
    """One table: its rows, its columns, what is cut from the ids, and the columns that it does without."""

    rows: Sequence[Row]
    cells: Mapping[str, Cell]
    prefix: str = ""
    without: tuple[str, ...] = ()

    def _grid(self) -> list[str]:
        texts = [[cell(row) or "-" for cell in self.cells.values()] for row in self.rows]
        named = [[row.case.removeprefix(self.prefix), *rest] for row, (_, *rest) in zip(self.rows, texts, strict=True)]
        left = [place for place, header in enumerate(self.cells) if header in ("case", "verdict")]
        return aligned([list(self.cells), *named], left, _GAP)

    @property
    def width(self) -> int:
        """Of the widest line, what moved apart."""
        return max(map(len, self._grid()))

    def least_moved(self) -> int:
        """How much room what moved needs beside the figures."""
        longest = max((len(row.moved) for row in self.rows), default=0)
        return len(_GAP) + min(_MIN_MOVED, max(longest, len("what moved"))) if longest else 0

    def narrowed(self, width: int) -> _Table:
        """The table without as many columns as it takes to fit."""
        droppable = [header for header in _EXPENDABLE if header in self.cells] or [*self.cells][:1:-1]
        if self.width <= width or not droppable:
            return self
        kept = {header: cell for header, cell in self.cells.items() if header != droppable[0]}
        return replace(self, cells=kept, without=(*self.without, droppable[0])).narrowed(width)

    def lines(self, width: int) -> list[Line]:
        """Title where ids are cut, header, and the rows, each with what moved beside it or below."""
        grid, least, room = self._grid(), self.least_moved(), width - self.width - len(_GAP)
        moved = ["what moved", *(row.moved for row in self.rows)] if least else [""] * len(grid)
        markups = [{"bold": True}, *(_MARKUP.get(row.verdict, {}) for row in self.rows)]
        lines: list[Line] = [(f"{self.prefix}…", {"bold": True})] if self.prefix else []
        for line, what, markup in zip(grid, moved, markups, strict=True):
            if self.width + least <= width:
                lines.append((f"{line:{self.width}}{_GAP}{_cut(what, room)}".rstrip(), markup))
            else:
                below = [(f"  {_cut(what, width - 2)}", markup)] if what and line is not grid[0] else []
                lines += [(line, markup), *below]
        return lines


def _cut(text: str, width: int) -> str:
    text = printable(text)
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def cells(quality: Sequence[Column]) -> dict[str, Cell]:
    """How each column of a table words its cell; empty where a row has no such figure."""
    found: dict[str, Cell] = {"case": lambda row: row.case, "verdict": lambda row: row.verdict}
    for column in quality:
        found[column.header] = _quality(column)
    found["step FLOP"] = _number("train_step.flops", flops_text)
    found["peak"] = _number("train_step.peak_bytes", bytes_text)
    found["time"] = _number("step_time_ratio", "{:.2f}x".format)
    found["wall"] = lambda row: "" if row.wall_s is None else f"{row.wall_s:.1f} s"
    return found


def _number(metric: str, words: Callable[[float], str]) -> Cell:
    return lambda row: words(row.values[metric]) if metric in row.values else ""


def _quality(column: Column) -> Cell:
    """The figure, and behind ± what `_LEGEND` says."""

    def words(row: Row) -> str:
        if column.metric not in row.values:
            return ""
        figure = format(row.values[column.metric], column.form)
        size = row.detectable.get(column.metric)
        return figure if size is None else f"{figure} ±{format(size, column.form.lstrip('+'))}"

    return words


def _count_line(rows: Sequence[Row]) -> Line:
    counts = Counter(row.verdict for row in rows)
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SEVERITY if counts[verdict])
    worst = max(counts, key=SEVERITY.index)
    return f"{plural(len(rows), 'case')}: {words}", {"bold": True, **_MARKUP.get(worst, {})}
