"""`peftbench laws`: what PEFT breaks today, and who can do what, from the baselines of the life cycle."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_peftbench.cases.kinds import LIFE_CYCLE
from pytest_peftbench.commands.command import Command, say
from pytest_peftbench.results.baseline import read
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.laws import size_of, standing
from pytest_peftbench.results.words import aligned, plural

_PREFIX = "law."
# The marks of the matrix: a method's is the first that some cell of it has.
_MARKS = {"broken": "!", "refused": "-", "holds": "+", "not reached": "?"}
_BOTH = "o"
# The setting of a method's defaults; a method that cannot be without any has none of that name.
_DEFAULT = "default"


@dataclass(frozen=True)
class Cell:
    """What is recorded of one law: of which method and setting, on which structure, and its word."""

    method: str
    setting: str
    structure: str
    law: str
    word: str

    @property
    def place(self) -> str:
        """`llama`, or `llama rslora` of another setting than the defaults."""
        return self.structure if self.setting == _DEFAULT else f"{self.structure} {self.setting}"


def cells(baselines: Path) -> list[Cell]:
    """Every law of every baseline of the life cycle below a folder. Raises InputError for one that is damaged."""
    folder = baselines / LIFE_CYCLE.name
    files = sorted(folder.rglob("*--*.json"))
    if not files:
        raise InputError(f"{folder}: holds no baseline; pass the folder that pytest writes baselines to")
    return [cell for file in files for cell in _cells_of(file)]


def _cells_of(file: Path) -> Iterator[Cell]:
    baseline = read(file)
    case = baseline.case
    for name, word in baseline.metrics.items():
        if name.startswith(_PREFIX):
            yield Cell(case.method, case.name, case.base_model, name.removeprefix(_PREFIX), str(word))


def broken_lines(found: Iterable[Cell]) -> list[str]:
    """Method by method a line for each law that it breaks, by how much in the worst of its cells, and where."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in found:
        if standing(cell.word) == "broken":
            error = "" if size_of(cell.word) is not None else cell.word.partition(": ")[2]
            groups.setdefault((cell.method, cell.law, error), []).append(cell)
    rows = [("", ["law", "broken by", "cells", "worst"])]
    for (method, law, _), group in sorted(groups.items()):
        worst = max(group, key=lambda cell: size_of(cell.word) or 0.0)
        rows.append((method, [law, worst.word.partition(": ")[2], str(len(group)), worst.place]))
    return _by_method(rows, left=(0, 1, 3))


def cell_lines(found: Iterable[Cell]) -> list[str]:
    """Method by method a line for each cell that breaks a law."""
    rows = [
        (cell.method, [cell.law, cell.word.partition(": ")[2], cell.place])
        for cell in sorted(found, key=lambda cell: cell.method)
        if standing(cell.word) == "broken"
    ]
    return _by_method([("", ["law", "broken by", "on"]), *rows], left=(0, 1, 2))


def _by_method(rows: Sequence[tuple[str, list[str]]], left: Sequence[int]) -> list[str]:
    """The rows in columns, below the name of their method; the first row is the head."""
    shown, above = [], ""
    for (method, _), line in zip(rows, aligned([cells for _, cells in rows], left), strict=True):
        shown += [method] if method != above else []
        shown.append(f"  {line}")
        above = method
    return shown


def matrix_lines(found: Sequence[Cell]) -> list[str]:
    """Methods at their defaults against groups of laws, a mark each, and what the marks mean."""
    at_defaults = {cell.method for cell in found if cell.setting == _DEFAULT}
    found = [cell for cell in found if cell.setting == _DEFAULT or cell.method not in at_defaults]
    groups = list(dict.fromkeys(cell.law.partition(".")[0] for cell in found))
    methods = sorted({cell.method for cell in found})
    words: dict[tuple[str, str], set[str]] = {}
    for cell in found:
        words.setdefault((cell.method, cell.law.partition(".")[0]), set()).add(standing(cell.word) or "broken")
    rows = [["", *letters] for letters in zip(*_heads(groups), strict=True)]
    rows += [[method, *(_mark(words.get((method, group), set())) for group in groups)] for method in methods]
    legend = [f"{head} {group}" for head, group in zip(_heads(groups), groups, strict=True)]
    return [
        *aligned(rows, gap=" "),
        "",
        "+ works, - refused, o works or refused, ! broken in some cell, ? not reached",
        *_wrapped(legend),
    ]


def _heads(groups: Sequence[str]) -> list[str]:
    """Two letters for each group, no two alike."""
    heads: list[str] = []
    for group in groups:
        heads.append(next(pair for letter in group[1:] if (pair := group[0] + letter) not in heads))
    return heads


def _mark(words: set[str]) -> str:
    if not words:
        return ""
    if "broken" not in words and {"holds", "refused"} <= words:
        return _BOTH
    return next(mark for word, mark in _MARKS.items() if word in words)


def _wrapped(parts: Sequence[str], width: int = 80) -> list[str]:
    lines = [""]
    for part in parts:
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        lines = [*lines[:-1], joined] if len(joined) < width else [*lines, part]
    return lines


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("baselines", type=Path, nargs="?", default=Path("baselines"), help="default: baselines")
    parser.add_argument("--method", metavar="NAME", help="this method alone")
    parser.add_argument("--law", metavar="NAME", help="this law alone, or these: merge, merge.safe")
    parser.add_argument("--cells", action="store_true", help="a line for each method, structure and setting")
    parser.add_argument(
        "--matrix", action="store_true", help="methods at their defaults against laws: works, refused, broken"
    )


def _run(options: argparse.Namespace) -> int:
    everything = cells(options.baselines)
    found = [cell for cell in everything if _is_asked_for(cell, options)]
    if not found:
        methods, laws = ({getattr(cell, name) for cell in everything} for name in ("method", "law"))
        raise InputError(
            f"no law of that name and method; methods: {', '.join(sorted(methods))}; laws: {', '.join(sorted(laws))}"
        )
    shown = matrix_lines if options.matrix else cell_lines if options.cells else broken_lines
    for line in shown(found):
        say(line)
    for line in _summary(found):
        say(line)
    return 0


def _is_asked_for(cell: Cell, options: argparse.Namespace) -> bool:
    laws = (options.law, f"{options.law}.")
    return (not options.method or cell.method == options.method) and (
        not options.law or cell.law == laws[0] or cell.law.startswith(laws[1])
    )


def _summary(found: Sequence[Cell]) -> list[str]:
    counts = {word: sum(standing(cell.word) == word for cell in found) for word in _MARKS}
    cases = len({(cell.method, cell.setting, cell.structure) for cell in found})
    told = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    return [f"{plural(cases, 'case')}, {len(found):,} laws asked:", told]


COMMAND = Command(
    name="laws",
    help="list the laws that PEFT breaks, from the baselines",
    description="What must hold of an adapter beside its training and does not, by method, with its size or the class "
    "of an error; read from the baselines of the life cycle, so that nothing is run.",
    add_arguments=_add_arguments,
    run=_run,
)
