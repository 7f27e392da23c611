"""`peftbench ab`: two PEFTs side by side, in one job on one machine, without a baseline."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import platformdirs

from pytest_peftbench.commands.ab.cache import Cache
from pytest_peftbench.commands.ab.measuring import Measured, Measuring
from pytest_peftbench.commands.ab.peft_sources import peft_source
from pytest_peftbench.commands.ab.sessions import Sessions
from pytest_peftbench.commands.ab.timed import to_time, with_times
from pytest_peftbench.commands.command import Command, tell_progress
from pytest_peftbench.commands.comparing import Side, add_reports, moved_between, report, require_writable_reports
from pytest_peftbench.commands.reading import read_results
from pytest_peftbench.compare import Finding
from pytest_peftbench.compare.between import Change
from pytest_peftbench.report.changes import Changes, moved
from pytest_peftbench.results.files import InputError, require_writable
from pytest_peftbench.results.orders import Told
from pytest_peftbench.results.words import first, plural

# As pytest ends where it is stopped, and where it is asked for what it cannot do.
INTERRUPTED, USAGE_ERROR = 2, 4
_TIMED = 4
_MOST_NAMES = 10


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "peftbench ab --base REV|VERSION|PATH [--head REV|VERSION|PATH] [options] [PYTEST ARGUMENTS]"
    parser.add_argument("--base", metavar="PEFT", help="what is held against: a git revision, a version or a folder")
    parser.add_argument("--head", metavar="PEFT", help="what is tried; the installed PEFT as it is, unless given")
    parser.add_argument(
        "--baselines", type=Path, metavar="DIR", help="baselines to hold the head against beside; default: baselines"
    )
    parser.add_argument(
        "--times",
        default=str(_TIMED),
        metavar="N",
        help=f"cases at most whose steps are timed in turn, those in question first; default: {_TIMED}",
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep the base's figures here; default: the user's")
    parser.add_argument("--no-cache", action="store_true", help="keep and take no figures")
    add_reports(parser)


def _run(options: argparse.Namespace) -> int:
    try:
        return _compared(options)
    except InputError as error:
        tell_progress(f"peftbench ab: error: {error}")
        return USAGE_ERROR
    except KeyboardInterrupt:  # pytest's sessions have it, too
        tell_progress("peftbench ab: stopped by hand, so nothing was compared")
        return INTERRUPTED


def _compared(options: argparse.Namespace) -> int:
    if options.base is None:
        raise InputError("--base: what is the installed PEFT to be held against? A git revision, a version or a folder")
    if not options.times.isdecimal():
        raise InputError(f"--times {options.times}: expected a number of cases, 0 for none")
    require_writable_reports(options)
    baselines = _baselines(options.baselines)
    with tempfile.TemporaryDirectory(prefix="peftbench-ab-") as name:
        folder = Path(name)
        sessions = Sessions(options.passed_on, folder)
        old = peft_source("--base", options.base, folder / "old")
        new = peft_source("--head", options.head, folder / "new")
        before, after, found = Measuring(sessions, _cache(options), folder, tell_progress).both(old, new)
        sides = before.side(found.cases), after.side(found.cases)
        changes = _changes(before, after, found, *sides)
        chosen = to_time(changes, (before, after), found, int(options.times))
        changes = with_times(changes, sessions, (old, new), chosen)
        if baselines is not None:
            changes = replace(changes, notes=[*changes.notes, *_beside_baselines(changes, baselines, sides[1], found)])
        return report(options, *sides, changes)


def _baselines(given: Path | None) -> Path | None:
    if given is not None and not given.is_dir():
        raise InputError(f"--baselines {given}: no such folder")
    return given or (Path("baselines") if Path("baselines").is_dir() else None)


def _cache(options: argparse.Namespace) -> Cache:
    if options.no_cache:
        return Cache(None)
    folder = options.cache or platformdirs.user_cache_path("peftbench") / "ab"
    require_writable(f"--cache {folder}", folder)
    return Cache(folder)


# What moved -----------------------------------------------------------------------------------------------------------


def _changes(before: Measured, after: Measured, found: Told, old: Side, new: Side) -> Changes:
    margins = {told.case: told.margins for told in found.cases.values() if told.case}
    changes = moved_between(old, new, margins)
    cases = [_never_green(change, old) for change in changes.cases]
    notes = [*changes.notes, *_notes(before, after, found)]
    return replace(changes, cases=sorted(cases, key=Change.rank), notes=notes)


def _never_green(change: Change, old: Side) -> Change:
    """What the old side could not run was compared with nothing, and did not get better."""
    entry = old.entries[change.verdict.case]
    if not entry.error or any(finding.verdict == "failed" for finding in change.verdict.findings):
        return change
    reason = change.verdict.findings[0].reason.removeprefix("failed before: ")
    why = reason if reason.startswith("failed on both") else f"{old.name} could not run it: {reason}"
    return replace(change, verdict=replace(change.verdict, findings=(Finding.of("case", "not comparable", why),)))


def _notes(before: Measured, after: Measured, found: Told) -> Iterator[str]:
    if before.cached:
        yield f"{plural(len(before.cached), 'case')} of {before.source.label} from the cache"
    for side in (before, after):
        skipped = [_name(nodeid, found) for nodeid, told in side.told.items() if told.skipped]
        if skipped:
            reasons = sorted({told.problem for told in side.told.values() if told.skipped})
            yield f"skipped on {side.source.label}: {_named(skipped)}: {'; '.join(reasons)}"


def _beside_baselines(changes: Changes, baselines: Path, new: Side, found: Told) -> Iterator[str]:
    """What differs from the baselines, and whether it differs from the base, too. It decides nothing."""
    wanted = {told.case for told in found.cases.values()}
    try:
        reading = read_results([baselines])
    except InputError as error:
        yield f"baselines not compared: {error}"
        return
    held = {entry.case: entry for entry in reading.entries if entry.case in wanted}
    if not held:
        yield f"{baselines}: holds no baseline of these cases"
        return
    recorded = moved_between(Side(str(baselines), replace(reading, problems=[], entries=[*held.values()]), held), new)
    differs, from_base = (
        {str(item.verdict.case) for item in side.cases if moved(item)} for side in (recorded, changes)
    )
    yield f"beside that, against {baselines}, which decides nothing here: {recorded.count_line()}"
    for words, names in (
        (f"differs from {changes.old} and from the baseline", differs & from_base),
        (f"differs from the baseline, as {changes.old} does", differs - from_base),
        (f"differs from {changes.old}, and is as the baseline", (from_base - differs) & {*map(str, held)}),
    ):
        if names:
            yield f"{words}: {_named(sorted(names))}"


def _name(nodeid: str, found: Told) -> str:
    case = found.cases[nodeid].case if nodeid in found.cases else None
    return str(case or nodeid)


def _named(names: Sequence[str]) -> str:
    return ", ".join(first([*names], _MOST_NAMES))


COMMAND = Command(
    name="ab",
    help="two PEFTs side by side: revisions, versions or folders",
    description="Run the same cases with two PEFTs, each in processes of its own, and tell what moved; without a "
    "baseline. What is no option here is pytest's, as `-k loha`. 1 when something regressed, vanished or could not "
    "be compared, 2 when nothing could be, 4 for a usage error.",
    add_arguments=_add_arguments,
    run=_run,
    passes_on=True,
)
