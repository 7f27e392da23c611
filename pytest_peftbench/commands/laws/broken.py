"""The list of broken laws: by cause where methods share one, else by method; what is by design stands apart."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from pytest_peftbench.commands.laws.cells import Cell, Group, groups
from pytest_peftbench.results.laws import standing
from pytest_peftbench.results.words import aligned, plural

_COLUMNS = 80
_HEAD = ["law", "broken by", "cells", "simplest"]


def broken_lines(found: Iterable[Cell]) -> list[str]:
    """A line for each method, law and cause: the worst size or the error, how many cells, and the simplest of them.

    Causes that are not a method's own come first, with a line for each law and how many methods break it.
    """
    broken = groups(found)
    meant = [group for group in broken if group.is_by_design]
    shared = [group for group in broken if group.worst.cause and not group.is_by_design]
    own = [group for group in broken if not group.worst.cause]
    return [*_by_cause(shared), *_by_method(own), *_by_design(meant)]


def _by_cause(shared: Sequence[Group]) -> list[str]:
    """Cause by cause, that with the most cells first, a line for each law."""
    lines = []
    for why, told in sorted(_by_why(shared).items(), key=lambda item: -_count(item[1])):
        laws: dict[tuple[str, str], list[Cell]] = {}
        for group in told:
            laws.setdefault((group.worst.law, group.worst.error), []).extend(group.cells)
        rows = [["law", "broken by", "cells", "methods", "simplest"]]
        rows += [_row(Group(tuple(cells)), of_several=True) for cells in laws.values()]
        lines += [*textwrap.wrap(why, _COLUMNS), *_table(rows, left=(0, 1, 4))]
    return lines


def _by_method(own: Sequence[Group]) -> list[str]:
    """Method by method."""
    rows = [_row(group) for group in own]
    return in_columns(_HEAD, [(group.worst.method, row) for group, row in zip(own, rows, strict=True)], left=(0, 1, 3))


def _by_design(meant: Sequence[Group]) -> list[str]:
    """Reason by reason, in how many cells of which methods and laws."""
    lines = ["by design"] if meant else []
    for why, told in _by_why(meant).items():
        methods, laws = (sorted({getattr(group.worst, name) for group in told}) for name in ("method", "law"))
        who = ", ".join(methods) if len(methods) < 4 else plural(len(methods), "method")
        lines += textwrap.wrap(f"{why}:", _COLUMNS, initial_indent="  ", subsequent_indent="  ")
        what = f"{plural(_count(told), 'cell')} of {who}: {', '.join(laws)}"
        lines += textwrap.wrap(what, _COLUMNS, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return lines


def _by_why(found: Sequence[Group]) -> dict[str, list[Group]]:
    told: dict[str, list[Group]] = {}
    for group in found:
        cause = group.worst.cause
        told.setdefault(cause.why if cause else "", []).append(group)
    return told


def _count(found: Sequence[Group]) -> int:
    return sum(len(group.cells) for group in found)


def _row(group: Group, of_several: bool = False) -> list[str]:
    """What a line says of a group; with the methods where they are several."""
    methods = len({cell.method for cell in group.cells})
    simplest = group.simplest
    place = f"{simplest.method} {simplest.place}" if of_several else simplest.place
    return [group.worst.law, group.worst.by, str(len(group.cells)), *([str(methods)] if of_several else []), place]


def _table(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    return [f"  {line}" for line in aligned(rows, left)]


def cell_lines(found: Iterable[Cell]) -> list[str]:
    """Method by method a line for each cell that breaks a law; a star after those that do by design."""
    broken = [cell for cell in sorted(found, key=lambda cell: cell.method) if standing(cell.word) == "broken"]
    rows = [(cell.method, [cell.law, cell.by, cell.place + _star(cell)]) for cell in broken]
    return [*in_columns(["law", "broken by", "on"], rows, left=(0, 1, 2)), "* by design"]


def _star(cell: Cell) -> str:
    return " *" if cell.is_by_design else ""


def in_columns(head: list[str], rows: Sequence[tuple[str, list[str]]], left: Sequence[int]) -> list[str]:
    """The rows in columns below their head, each below the name of its method."""
    heading, *lines = aligned([head, *(cells for _, cells in rows)], left)
    shown, above = [f"  {heading}"], ""
    for (method, _), line in zip(rows, lines, strict=True):
        shown += [method] if method != above else []
        shown.append(f"  {line}")
        above = method
    return shown
