"""The closing table: a row per case, the count of every verdict, and what to do next.

Lines come with markup for pytest's terminal writer, which drops it where colours are off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_peftbench.compare import SEVERITY, CaseVerdict, Verdict
from pytest_peftbench.results.words import bytes_text, first, flops_text

WIDTH = 140
# Less than this says nothing, so the column is left out.
_MIN_MOVED = 12
_MAX_DRIFT = 8
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
class Column:
    """A column of a task's quality: `Column("accuracy", "test_accuracy", ".1%")`, the last a format specification."""

    header: str
    metric: str
    form: str


# The quality columns of each task.
QUALITY: dict[str, tuple[Column, ...]] = {
    "MetaMathQA": (Column("accuracy", "test_accuracy", ".1%"), Column("forgetting", "forgetting", "+.3f")),
    "image-gen": (Column("similarity", "test_dino_similarity", ".3f"), Column("drift", "drift", ".3f")),
    "footprint": (Column("trainable", "params.trainable", ",.0f"), Column("step calls", "train_step.calls", ",.0f")),
}


@dataclass(frozen=True)
class Row:
    """One case of the table.

    task: the table that it belongs to, a task or a kind of cases. values: numbers by metric name; a column whose metric
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


def drift_lines(verdicts: Iterable[CaseVerdict]) -> list[Line]:
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
    rows: Sequence[Row], quality: Mapping[str, Sequence[Column]], update_command: str = "", width: int = WIDTH
) -> list[Line]:
    """A table per task, then the count of every verdict and how to record improvements.

    quality: the columns of each task, by its name.
    """
    lines: list[Line] = []
    for task in sorted({row.task for row in rows}):
        lines += table([row for row in rows if row.task == task], quality.get(task, ()), width)
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
    columns = [
        [header, *(cell(row) for row in rows)] for header, cell in _cells(quality).items() if any(map(cell, rows))
    ]
    texts = ["  ".join(cells) for cells in zip(*map(_aligned, columns, _left(columns)), strict=True)]
    moved = _fitting(["what moved", *(row.moved for row in rows)], width - len(texts[0]) - 2)
    markups: list[Markup] = [{"bold": True}, *(_MARKUP.get(row.verdict, {}) for row in rows)]
    return [(f"{text}  {what}".rstrip(), markup) for text, what, markup in zip(texts, moved, markups, strict=True)]


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


def _left(columns: Sequence[Sequence[str]]) -> list[bool]:
    return [column[0] in ("case", "verdict") for column in columns]


def _aligned(column: Sequence[str], left: bool) -> list[str]:
    width = max(map(len, column))
    filled = [cell or "-" for cell in column]
    return [cell.ljust(width) if left else cell.rjust(width) for cell in filled]


def _fitting(column: Sequence[str], width: int) -> list[str]:
    if width < _MIN_MOVED or not any(column[1:]):
        return [""] * len(column)
    return [cell if len(cell) <= width else cell[: width - 1].rstrip() + "…" for cell in column]


def _count_line(rows: Sequence[Row]) -> Line:
    counts = Counter(row.verdict for row in rows)
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SEVERITY if counts[verdict])
    worst = max(counts, key=SEVERITY.index)
    return f"{len(rows)} case{'' if len(rows) == 1 else 's'}: {words}", {"bold": True, **_MARKUP.get(worst, {})}
