"""The closing table: a row per case, the count of every verdict, and what to do next.

Lines come with markup for pytest's terminal writer, which drops it where colours are off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_peftbench.compare import SEVERITY, CaseVerdict, Verdict
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.metrics import Column
from pytest_peftbench.results.words import aligned, bytes_text, first, flops_text, plural

WIDTH = 140
# Less than this says nothing, so the column is left out.
_MIN_MOVED = 12
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
    """

    case: str
    task: str
    verdict: Verdict
    values: Mapping[str, float] = field(default_factory=dict)
    wall_s: float | None = None
    moved: str = ""
    detectable: Mapping[str, float] = field(default_factory=dict)


_Cell = Callable[[Row], str]


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
    )


def closing(
    outcomes: Iterable[CaseOutcome], columns: Mapping[str, Sequence[Column]], update_command: str = ""
) -> list[Line]:
    """All that closes a session: what an update changed, what drifted, the tables, and what the correction turned red.

    columns: those of each table, by task or kind of case. update_command: the one that records improvements. Nothing
    where no case has a verdict.
    """
    judged = [(outcome.verdict, outcome) for outcome in outcomes if outcome.verdict]
    rows = [row(verdict, outcome.wall_s or None) for verdict, outcome in judged]
    return [
        *change_lines({str(verdict.case): outcome.changes for verdict, outcome in judged}),
        *environment_drift_lines(verdict for verdict, _ in judged),
        *summary(rows, columns, update_command),
        *_turned_lines(str(verdict.case) for verdict, outcome in judged if outcome.turned),
    ]


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


def summary(
    rows: Sequence[Row], columns: Mapping[str, Sequence[Column]], update_command: str = "", width: int = WIDTH
) -> list[Line]:
    """A table per task, then the count of every verdict and how to record improvements.

    columns: those of quality, by the name of the table's task or kind of case.
    """
    lines: list[Line] = []
    for task in sorted({row.task for row in rows}):
        lines += table([row for row in rows if row.task == task], columns.get(task, ()), width)
        lines.append(("", {}))
    if any(row.detectable for row in rows):
        lines.append((_LEGEND, {}))
    if rows:
        lines.append(_count_line(rows))
    if update_command and any(row.verdict == "improved" for row in rows):
        lines.append((f"to record improvements: {update_command}", {"green": True}))
    if update_command and any(row.verdict == "not recorded yet" for row in rows):
        lines.append((f"to record what the baselines do not hold yet: {update_command}", {"yellow": True}))
    return lines


def table(rows: Sequence[Row], quality: Sequence[Column], width: int = WIDTH) -> list[Line]:
    """Header and a row per case, by case; the last column is shortened so that lines fit `width`."""
    rows = sorted(rows, key=lambda row: row.case)
    cells = {header: cell for header, cell in _cells(quality).items() if any(map(cell, rows))}
    grid = [list(cells), *([cell(row) or "-" for cell in cells.values()] for row in rows)]
    left = [place for place, header in enumerate(cells) if header in ("case", "verdict")]
    room = width - max(map(len, aligned(grid, left))) - len(_GAP)
    moved = _fitting(["what moved", *(row.moved for row in rows)], room)
    lines = aligned([[*line, what] for line, what in zip(grid, moved, strict=True)], [*left, len(cells)], _GAP)
    return list(zip(lines, [{"bold": True}, *(_MARKUP.get(row.verdict, {}) for row in rows)], strict=True))


def _cells(quality: Sequence[Column]) -> dict[str, _Cell]:
    """How each column words its cell; empty where a row has no such figure."""
    cells: dict[str, _Cell] = {"case": lambda row: row.case, "verdict": lambda row: row.verdict}
    for column in quality:
        cells[column.header] = _quality(column)
    cells["step FLOP"] = _number("train_step.flops", flops_text)
    cells["peak"] = _number("train_step.peak_bytes", bytes_text)
    cells["time"] = _number("step_time_ratio", "{:.2f}x".format)
    cells["wall"] = lambda row: "" if row.wall_s is None else f"{row.wall_s:.1f} s"
    return cells


def _number(metric: str, words: Callable[[float], str]) -> _Cell:
    return lambda row: words(row.values[metric]) if metric in row.values else ""


def _quality(column: Column) -> _Cell:
    """The figure, and behind ± what `_LEGEND` says."""

    def words(row: Row) -> str:
        if column.metric not in row.values:
            return ""
        figure = format(row.values[column.metric], column.form)
        size = row.detectable.get(column.metric)
        return figure if size is None else f"{figure} ±{format(size, column.form.lstrip('+'))}"

    return words


def _fitting(column: Sequence[str], width: int) -> list[str]:
    if width < _MIN_MOVED or not any(column[1:]):
        return [""] * len(column)
    return [cell if len(cell) <= width else cell[: width - 1].rstrip() + "…" for cell in column]


def _count_line(rows: Sequence[Row]) -> Line:
    counts = Counter(row.verdict for row in rows)
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SEVERITY if counts[verdict])
    worst = max(counts, key=SEVERITY.index)
    return f"{plural(len(rows), 'case')}: {words}", {"bold": True, **_MARKUP.get(worst, {})}
