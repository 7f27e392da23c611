"""`peftbench affected`: the cases that a change can reach, without running any."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_peftbench.affected import Affected, Places, affected_since, told
from pytest_peftbench.cases.kinds import KINDS
from pytest_peftbench.commands.command import Command, say
from pytest_peftbench.results.files import InputError, format_json
from pytest_peftbench.results.words import first, folded, plural
from pytest_peftbench.suites import Experiment, find_suites, read_suite
from pytest_peftbench.suites.shipped import shipped

BENCHMARKS, BASELINES = Path("benchmarks"), Path("baselines")
# Of a method, the most cases and files that are named; columns of a line.
_MOST_CASES, _MOST_FILES, _WIDTH = 3, 3, 80


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revision", metavar="REV", help="a revision of git, such as origin/main")
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        metavar="DIR",
        help=f"the suites below this folder; {BENCHMARKS}, or those that come with the package, unless given",
    )
    parser.add_argument(
        "--baselines", type=Path, default=BASELINES, metavar="DIR", help=f"their baselines (default: {BASELINES})"
    )
    parser.add_argument("--json", action="store_true", help="every case with the files that reach it, as JSON")


def _run(options: argparse.Namespace) -> int:
    folder: Path = options.folder or (BENCHMARKS if BENCHMARKS.is_dir() else shipped().benchmarks)
    suites = find_suites(folder)
    cases = list(_cases(suites))
    if not cases:
        raise InputError(f"{folder}: holds no case of a suite, so that none can be affected")
    places = Places(suites, options.baselines, tests=[folder])
    affected = affected_since(f"affected {options.revision}", options.revision, places)
    for line in _json(affected, cases) if options.json else _text(affected, cases):
        say(line)
    return 0


def _cases(suites: Sequence[Path]) -> Iterator[Experiment]:
    """The cases of a session on a CPU, of every kind."""
    for suite in suites:
        for experiment in read_suite(suite):
            for kind in KINDS.values():
                if kind.takes(experiment, False):
                    yield replace(experiment, case=replace(experiment.case, kind=kind.name))


def _json(affected: Affected, cases: Sequence[Experiment]) -> Iterator[str]:
    yield format_json(
        {
            "revision": affected.revision,
            "known": len(cases),
            "files": {change.file: change.why for change in affected.changes},
            "cases": {
                str(case.case): [change.file for change in reasons]
                for case in cases
                if (reasons := affected.reasons(case))
            },
        }
    )


def _text(affected: Affected, cases: Sequence[Experiment]) -> Iterator[str]:
    """What changed, and a few lines for each method, those of the most cases first."""
    width = min(_WIDTH, shutil.get_terminal_size().columns)
    lines = told(affected, cases)
    methods: dict[str, list[Experiment]] = {}
    for case in cases:
        if affected.reasons(case):
            methods.setdefault(case.case.method, []).append(case)
    for method, found in sorted(methods.items(), key=lambda item: (-len(item[1]), item[0])):
        files = {change.file: None for case in found for change in affected.reasons(case)}
        names = ", ".join(first([str(case.case) for case in found], _MOST_CASES))
        lines += ["", f"{method}: {plural(len(found), 'case')}, by {', '.join(first([*files], _MOST_FILES))}"]
        lines += [f"  {names}"]
    for line in lines:
        yield from folded(line, width)


COMMAND = Command(
    name="affected",
    help="list the cases that a change can reach",
    description="The cases that the difference between a revision of git and the working tree of the installed, "
    "editable PEFT can reach, and that of suites and baselines: those that `pytest --peft-affected REV` runs.",
    add_arguments=_add_arguments,
    run=_run,
)
