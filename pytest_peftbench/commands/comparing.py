"""`peftbench compare`: what moved between two folders of results or baselines, or two commits of one."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pytest_peftbench.commands.command import Command, say, tell_progress
from pytest_peftbench.commands.reading import Entry, Reading, catalogue, read_results
from pytest_peftbench.compare import CaseVerdict, Finding
from pytest_peftbench.compare.between import Change, between, quality_tests, settled
from pytest_peftbench.report.changes import Changes, lines, markdown, to_json
from pytest_peftbench.results.baseline import Baseline
from pytest_peftbench.results.files import InputError, require_writable_file, write_json, write_text
from pytest_peftbench.results.metrics import Metric
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.results.revisions import is_revision, write_folder

_EPILOG = "1 when something regressed, 2 when a file or a case could not be compared, or none could."


def compared(old: str, new: str) -> Changes:
    """What moved between two sides, each a folder, a file, or `REV:DIR`. Raises InputError where one holds nothing."""
    sides = [read_side(text) for text in (old, new)]
    before, after = (_by_case(side) for side in sides)
    metrics = catalogue()
    both = [case for case in before if case in after]
    tests = quality_tests([_expected(before[case]) for case in both if not before[case].error], metrics)
    found = {str(case): _change(before[case], after[case], metrics, tests) for case in both}
    return Changes(
        old=old,
        new=new,
        cases=settled(found),
        only_old=sorted(str(case) for case in before if case not in after),
        only_new=sorted(str(case) for case in after if case not in before),
        unread=[problem for side in sides for problem in side.problems],
        notes=[
            f"{name}: {note}"
            for name, side in zip((old, new), sides, strict=True)
            for note in side.notes()
            if note not in side.problems
        ],
    )


def read_side(text: str) -> Reading:
    """The results and baselines of a side; of a commit's, problems name it."""
    if not is_revision(text):
        return read_results([Path(text)])
    with tempfile.TemporaryDirectory(prefix="peftbench-") as folder:
        write_folder(text, Path(folder))
        try:
            reading = read_results([Path(folder)])
        except InputError as error:
            raise InputError(str(error).replace(folder, text)) from error
    problems, passed_over = (
        [line.replace(folder, text) for line in found] for found in (reading.problems, reading.passed_over)
    )
    return replace(reading, problems=problems, passed_over=passed_over)


def _by_case(reading: Reading) -> dict[CaseId, Entry]:
    """Each case once: of several origins the first counts, a result before a baseline, and that is a problem."""
    found: dict[CaseId, Entry] = {}
    for entry in reading.entries:
        first = found.setdefault(entry.case, entry)
        if first is not entry:
            reading.problems.append(f"{entry.file}: {first.file} is case {entry.case} too; the first one counts")
    return found


def _expected(entry: Entry) -> Baseline:
    """What is held against: the witness of a result has no bound, so it can tell nothing."""
    return replace(entry.baseline, witness=None) if entry.origin == "result" else entry.baseline


def _change(old: Entry, new: Entry, metrics: Mapping[str, Metric], tests: int) -> Change:
    if old.error or new.error:
        return Change(CaseVerdict(new.case, (_about_failures(old.error, new.error),)))
    return between(_expected(old), new.result, metrics, tests, (old.others, new.others))


def _about_failures(old: str, new: str) -> Finding:
    if old and new:
        return Finding.of("case", "not comparable", f"failed on both sides, on the new one: {new}")
    return Finding.of("case", "failed", new) if new else Finding.of("case", "improved", f"failed before: {old}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("old", "new"):
        parser.add_argument(name, metavar=name.upper(), help="a folder or file of results or baselines, or REV:DIR")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write it in GitHub's Markdown, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it for other programs, too")


def _run(options: argparse.Namespace) -> int:
    for flag, file in (("--markdown", options.markdown), ("--json", options.json)):
        if file is not None:
            require_writable_file(f"{flag} {file}", file)
    changes = compared(options.old, options.new)
    for line in lines(changes):
        say(line)
    if options.markdown is not None:
        write_text(options.markdown, markdown(changes))
    if options.json is not None:
        write_json(options.json, to_json(changes))
    if not changes.cases:
        tell_progress(f"{changes.old} and {changes.new} have no case in common, so nothing was compared")
    return changes.exit_code()


COMMAND = Command(
    name="compare",
    help="what moved between two sides: results, baselines, or commits",
    description="Hold the results or baselines of NEW against those of OLD, PEFT's or ours: what moved, the worst "
    f"first. REV:DIR is a folder as a commit of git holds it. {_EPILOG}",
    add_arguments=_add_arguments,
    run=_run,
)
