"""`peftbench compare`: what moved between two folders of results or baselines, or two commits of one."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_peftbench.cases.kinds import columns
from pytest_peftbench.commands.command import Command, say, tell_progress
from pytest_peftbench.commands.reading import Entry, Reading, catalogue, read_results
from pytest_peftbench.compare import CaseVerdict, Finding, with_margins
from pytest_peftbench.compare.between import Change, between, quality_tests, settled
from pytest_peftbench.report.changes import Changes, is_red, lines, markdown, to_json
from pytest_peftbench.report.html import Page, details, html_page
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.baseline import Baseline
from pytest_peftbench.results.files import InputError, require_writable_file, write_json, write_text
from pytest_peftbench.results.metrics import Metric
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.results.revisions import is_revision, write_folder
from pytest_peftbench.tasks.structures.causes import explained

_EPILOG = (
    "1 when something regressed, a case vanished, or a file or a case could not be compared; 2 when nothing could be."
)


@dataclass(frozen=True)
class Side:
    """A folder, a file or `REV:DIR`, by the name it was given as, and what it holds."""

    name: str
    reading: Reading
    entries: Mapping[CaseId, Entry]


def compared(old: str, new: str) -> Changes:
    """What moved between two sides. Raises InputError where one of them holds nothing."""
    return moved_between(read_side(old), read_side(new))


def moved_between(
    old: Side, new: Side, margins: Mapping[CaseId, Mapping[str, float]] | None = None, *, partial: bool = False
) -> Changes:
    """Every case of both sides held against itself, and what is told of the others.

    margins: of cases that have some of their own. partial: whether the new side is a part on purpose, so that no case
    vanished.
    """
    before, after, metrics = old.entries, new.entries, catalogue()
    both = [case for case in before if case in after]
    tests = quality_tests([_expected(before[case]) for case in both if not before[case].error], metrics)
    own = {case: {**metrics, **with_margins(found)} for case, found in (margins or {}).items() if found}
    found = {str(case): _change(before[case], after[case], own.get(case, metrics), tests) for case in both}
    return Changes(
        old=old.name,
        new=new.name,
        cases=settled(found),
        only_old=sorted(str(case) for case in before if case not in after),
        only_new=sorted(str(case) for case in after if case not in before),
        unread=[problem for side in (old, new) for problem in side.reading.problems],
        notes=[
            f"{side.name}: {note}"
            for side in (old, new)
            for note in side.reading.notes()
            if note not in side.reading.problems
        ],
        partial=partial,
    )


def read_side(name: str) -> Side:
    """The results and baselines of a side. Raises InputError where it holds nothing that can be read."""
    reading = _read_commit(name) if is_revision(name) else read_results([Path(name)])
    return Side(name, reading, by_case(reading))


def _read_commit(name: str) -> Reading:
    """What a commit holds, by way of a folder that no message names."""
    with tempfile.TemporaryDirectory(prefix="peftbench-") as folder:
        write_folder(name, Path(folder))
        try:
            reading = read_results([Path(folder)])
        except InputError as error:
            raise InputError(str(error).replace(folder, name)) from error
    problems, passed_over = (
        [line.replace(folder, name) for line in found] for found in (reading.problems, reading.passed_over)
    )
    return replace(reading, problems=problems, passed_over=passed_over)


def by_case(reading: Reading) -> dict[CaseId, Entry]:
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


def page(old: Side, new: Side, changes: Changes) -> Page:
    """The new side as a report shows it, with what moved as its verdicts."""
    return Page(
        title=f"{old.name} -> {new.name}",
        outcomes=[_outcome(change, old, new) for change in changes.cases],
        columns=columns(),
        metrics=catalogue(),
        explain=explained,
        problems=[*changes.problems()],
        notes=[*changes.beside()],
    )


def _outcome(change: Change, old: Side, new: Side) -> CaseOutcome:
    entry, before = new.entries[change.verdict.case], old.entries[change.verdict.case]
    shown = details(entry.measured, None if before.error else _expected(before))
    return CaseOutcome(
        change.verdict, red=is_red(change), details={"origin": entry.origin, "others": entry.others, **shown}
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("old", "new"):
        parser.add_argument(name, metavar=name.upper(), help="a folder or file of results or baselines, or REV:DIR")
    parser.add_argument(
        "--partial", action="store_true", help="NEW is a part on purpose: cases of OLD alone have not vanished"
    )
    add_reports(parser)


def add_reports(parser: argparse.ArgumentParser) -> None:
    """The options that say where changes are written, for `report`."""
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as a page that opens offline, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write it in GitHub's Markdown, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it for other programs, too")


def require_writable_reports(options: argparse.Namespace) -> None:
    """Raise InputError for a file that could not be written."""
    for flag, file in (("--html", options.html), ("--markdown", options.markdown), ("--json", options.json)):
        if file is not None:
            require_writable_file(f"{flag} {file}", file)


def report(options: argparse.Namespace, old: Side, new: Side, changes: Changes) -> int:
    """Tell what moved, on the terminal and where the options say; the exit code."""
    for line in lines(changes):
        say(line)
    if options.html is not None:
        write_text(options.html, html_page(page(old, new, changes)))
    if options.markdown is not None:
        write_text(options.markdown, markdown(changes))
    if options.json is not None:
        write_json(options.json, to_json(changes))
    if not changes.cases:
        tell_progress(f"{changes.old} and {changes.new} have no case in common, so nothing was compared")
    return changes.exit_code()


def _run(options: argparse.Namespace) -> int:
    require_writable_reports(options)
    old, new = read_side(options.old), read_side(options.new)
    return report(options, old, new, moved_between(old, new, partial=options.partial))


COMMAND = Command(
    name="compare",
    help="what moved between two sides: results, baselines, or commits",
    description="Hold the results or baselines of NEW against those of OLD, PEFT's or ours: what moved, the worst "
    f"first. REV:DIR is a folder as a commit of git holds it. {_EPILOG}",
    add_arguments=_add_arguments,
    run=_run,
)
