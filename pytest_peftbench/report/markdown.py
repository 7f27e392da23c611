"""What a run came to, in GitHub's Markdown: the summary of a step, and the comment on a pull request."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby

from pytest_peftbench.compare import SEVERITY
from pytest_peftbench.report.advice import Advice
from pytest_peftbench.report.outcome import CaseOutcome, red_cases
from pytest_peftbench.report.terminal import Row, cells, row
from pytest_peftbench.results.metrics import Column
from pytest_peftbench.results.words import first, one_line, plural

# GitHub's limits: bytes of a step's summary, characters of a comment. Each is held to in bytes, of which no character
# has less than one.
SUMMARY_LIMIT = 2**20
COMMENT_LIMIT = 65_536
# Lines of a case's findings, and characters of each: those of one case must not crowd out the others.
_MOST_LINES, _LINE, _MOST_NOTES = 60, 500, 20
# For what is said of cases that were left out.
_RESERVE = 400
# Beyond so many rows a table is folded.
_OPEN_ROWS = 30
_LEFT = ("case", "verdict", "what moved")


def summary(
    outcomes: Collection[CaseOutcome],
    columns: Mapping[str, Sequence[Column]],
    advice: Sequence[Advice] = (),
    notes: Sequence[str] = (),
    limit: int = SUMMARY_LIMIT,
) -> str:
    """Counts, what to do next, the red cases with their findings folded, and the tables.

    columns: those of each table, by task or kind of case. advice: what to do next, in the words of the terminal. notes:
    what else a reader must know, a line each. limit: bytes of UTF-8. Whole cases are left out where there is no room
    for them, the greenest first, and how many is said.
    """
    red = red_cases(outcomes)
    text = "".join(_head(outcomes, red, notes)) + "".join(_told(item, limit) for item in advice)
    # the tables may have what the findings leave, and at least a quarter
    text += _findings(red, (limit - _RESERVE - size(text)) * 3 // 4)
    return text + _tables(outcomes, columns, limit - _RESERVE - size(text))


def comment(
    outcomes: Collection[CaseOutcome],
    columns: Mapping[str, Sequence[Column]],
    advice: Sequence[Advice] = (),
    notes: Sequence[str] = (),
) -> str:
    """The same as a comment on a pull request, behind a mark by which the next run finds and replaces it."""
    mark = "<!-- peftbench -->\n"
    return mark + summary(outcomes, columns, advice, notes, COMMENT_LIMIT - len(mark))


def _head(outcomes: Collection[CaseOutcome], red: Collection[CaseOutcome], notes: Sequence[str]) -> Iterator[str]:
    cases = plural(len(outcomes), "case")
    yield f"## PEFT benchmark: {f'{len(red)} of {cases} red' if red else f'{cases}, none red'}\n"
    counts = Counter(found.word for found in outcomes)
    told = [f"{counts[word]} {word}" for word in (*SEVERITY, CaseOutcome().word) if counts[word]]
    if told:
        yield f"\n{', '.join(told)}\n"
    yield from (f"\n- {code(clipped(note, _LINE))}" for note in first([*notes], _MOST_NOTES))
    yield "\n" if notes else ""


def _folded(outcome: CaseOutcome) -> str:
    """A red case: one line, and its findings below it on a click."""
    moved = clipped(outcome.verdict.moved() if outcome.verdict else outcome.unmeasured, 120)
    lines = first([clipped(line, _LINE) for line in outcome.text.splitlines()], _MOST_LINES)
    head = f"<b>{outcome.word}</b> <code>{_escaped(outcome.name)}</code>"
    head += f" <code>{_escaped(moved)}</code>" if moved else ""
    body = "\n".join(map(_escaped, lines))
    return f"\n<details><summary>{head}</summary>\n\n<pre>\n{body}\n</pre>\n\n</details>\n"


def _findings(red: Iterable[CaseOutcome], room: int) -> str:
    """Those of as many cases as there is room for, and how many are left out."""
    told, left = "", 0
    for text in map(_folded, red):
        fits = size(text) <= room
        room -= size(text) if fits else 0
        told, left = (told + text, left) if fits else (told, left + 1)
    more = f"\nThe findings of {plural(left, 'more red case')} are left out: there is no room for them here.\n"
    return told + (more if left else "")


def _told(advice: Advice, limit: int) -> str:
    """One thing to do next; the command for many cases without a method in common is long."""
    words = f"\n{_escaped(advice.words)}\n"
    if not advice.command:
        return words
    block = _block(advice.command)
    if size(block) > limit // 4:
        block = "The command is too long for here: see the log.\n"
    return f"{words}\n{block}"


def _tables(outcomes: Iterable[CaseOutcome], columns: Mapping[str, Sequence[Column]], room: int) -> str:
    """A table for each task and kind of case, red cases first; rows that find no room are counted."""
    judged = sorted((found for found in outcomes if found.verdict), key=lambda found: (not found.red, found.name))
    rows = sorted((row(found.verdict, found.wall_s) for found in judged if found.verdict), key=lambda row: row.task)
    tables, left = "", 0
    for task, of_task in groupby(rows, key=lambda row: row.task):
        text, lacking = _table(task, [*of_task], columns.get(task, ()), room)
        tables, left, room = tables + text, left + lacking, room - size(text)
    return tables + left_out(left)


def _table(task: str, rows: Sequence[Row], quality: Sequence[Column], room: int) -> tuple[str, int]:
    """One table within its room, and how many of its rows are not in it."""
    shown = {header: cell for header, cell in cells(quality).items() if any(map(cell, rows))}
    if any(row.moved for row in rows):
        shown["what moved"] = lambda row: clipped(row.moved, 80)
    before, after = f"\n### {code(task)}\n\n", ""
    if len(rows) > _OPEN_ROWS:
        before += f"<details><summary>{plural(len(rows), 'case')}</summary>\n\n"
        after = "\n</details>\n"
    before += table_line(shown) + table_line(":--" if header in _LEFT else "--:" for header in shown)
    lines = [table_line(_cell(header, cell(found)) for header, cell in shown.items()) for found in rows]
    kept = fitting(lines, room - size(before + after))
    return ("".join([before, *kept, after]) if kept else ""), len(rows) - len(kept)


def fitting(lines: Sequence[str], room: int) -> list[str]:
    """The first lines, as many as there is room for in bytes."""
    ends = [*accumulate(map(size, lines))]
    return [line for line, end in zip(lines, ends, strict=True) if end <= room]


def left_out(count: int) -> str:
    """What stands below a table of which rows found no room."""
    return f"\n{plural(count, 'more row')} left out: there is no room for them here.\n" if count else ""


def size(text: str) -> int:
    """In bytes of UTF-8."""
    return len(text.encode())


def table_line(texts: Iterable[str]) -> str:
    """A row of a table, of cells that are Markdown."""
    return f"| {' | '.join(texts)} |\n"


def _cell(header: str, text: str) -> str:
    """A cell: names and what moved are code, so that nothing in them is markup; figures and verdicts are ours."""
    return code_cell(text) if header in ("case", "what moved") else text or "-"


def code_cell(text: str) -> str:
    """A text from a file as a cell: nothing in it is markup, nor the end of the cell."""
    return code(text).replace("|", "\\|") if text else "-"


def clipped(text: str, length: int) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _escaped(text: str) -> str:
    """A line for where HTML stands, in `pre` or `code`: GitHub makes no mention of a user or an issue there."""
    return html.escape(one_line(text), quote=False)


def code(text: str) -> str:
    """A code span, in which nothing is markup."""
    text = one_line(text)
    fence = "`" * (1 + text.count("`"))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _block(command: str) -> str:
    """A command to copy."""
    fence = "`" * max(3, 1 + command.count("`"))
    return f"{fence}sh\n{one_line(command)}\n{fence}\n"
