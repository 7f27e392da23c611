"""`peftbench laws`: what PEFT breaks today, and who can do what, from the baselines of the life cycle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pytest_peftbench.commands.command import Command, say
from pytest_peftbench.commands.laws.broken import broken_lines, cell_lines
from pytest_peftbench.commands.laws.cells import DEFAULT, Cell, cells, groups
from pytest_peftbench.commands.laws.scripts import script
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.laws import group_of, standing
from pytest_peftbench.results.words import aligned, plural

# The marks of the matrix: a method's is the first that some cell of it has.
_MARKS = {"broken": "!", "refused": "-", "holds": "+", "not reached": "?"}
_BOTH = "o"
# Words that a count says otherwise.
_TOLD = {"by design": "broken by design"}
_SUITES = Path("benchmarks")


def matrix_lines(found: Sequence[Cell]) -> list[str]:
    """Methods at their defaults against groups of laws, a mark each, and what the marks mean."""
    at_defaults = {cell.method for cell in found if cell.setting == DEFAULT}
    found = [cell for cell in found if cell.setting == DEFAULT or cell.method not in at_defaults]
    groups = list(dict.fromkeys(group_of(cell.law) for cell in found))
    methods = sorted({cell.method for cell in found})
    words: dict[tuple[str, str], set[str]] = {}
    for cell in found:
        words.setdefault((cell.method, group_of(cell.law)), set()).add(standing(cell.word) or "broken")
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
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--cells", action="store_true", help="a line for each method, structure and setting")
    shown.add_argument(
        "--matrix", action="store_true", help="methods at their defaults against laws: works, refused, broken"
    )
    shown.add_argument(
        "--script",
        action="store_true",
        help="for each broken law a script that shows it by PEFT alone; give --method and --law",
    )
    parser.add_argument("--suites", type=Path, default=_SUITES, help="what configs are read from; default: benchmarks")


def _run(options: argparse.Namespace) -> int:
    everything = cells(options.baselines)
    found = [cell for cell in everything if _is_asked_for(cell, options)]
    if not found:
        methods, laws = ({getattr(cell, name) for cell in everything} for name in ("method", "law"))
        raise InputError(
            f"no law of that name and method; methods: {', '.join(sorted(methods))}; laws: {', '.join(sorted(laws))}"
        )
    if options.script:
        return _say_scripts(found, options)
    shown = matrix_lines if options.matrix else cell_lines if options.cells else broken_lines
    for line in [*shown(found), *_summary(found)]:
        say(line)
    return 0


def _say_scripts(found: Sequence[Cell], options: argparse.Namespace) -> int:
    """A script for each cause that a method has for breaking a law, on the simplest of its cells."""
    if not options.method or not options.law:
        raise InputError("--script: is of one method and law; give --method and --law")
    broken = groups(cell for cell in found if cell.law == options.law)
    if not broken:
        raise InputError(f"--script: {options.method} does not break {options.law}; there is nothing to show")
    for group in [group for group in broken if not group.is_by_design] or broken:
        say(script(group.simplest, options.suites))
    return 0


def _is_asked_for(cell: Cell, options: argparse.Namespace) -> bool:
    laws = (options.law, f"{options.law}.")
    return (not options.method or cell.method == options.method) and (
        not options.law or cell.law == laws[0] or cell.law.startswith(laws[1])
    )


def _summary(found: Sequence[Cell]) -> list[str]:
    counts = {word: sum(standing(cell.word) == word for cell in found) for word in _MARKS}
    counts["by design"] = sum(cell.is_by_design for cell in found)
    counts["broken"] -= counts["by design"]
    cases = len({(cell.method, cell.setting, cell.structure) for cell in found})
    told = [f"{count:,} {_TOLD.get(word, word)}" for word, count in counts.items() if count]
    return [f"{plural(cases, 'case')}, {len(found):,} laws asked:", *_wrapped(told)]


COMMAND = Command(
    name="laws",
    help="list the laws that PEFT breaks, from the baselines",
    description="What must hold of an adapter beside its training and does not, by method, with its size or the class "
    "of an error; read from the baselines of the life cycle, so that nothing is run.",
    add_arguments=_add_arguments,
    run=_run,
)
