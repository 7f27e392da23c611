"""`peftbench merge`: the shards of one run joined again, as if it had been one: results, table, report, exit code."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from pytest_peftbench.cases.kinds import columns
from pytest_peftbench.commands.command import Command, say
from pytest_peftbench.compare import Verdict
from pytest_peftbench.report.gaps import Gaps, gap_lines
from pytest_peftbench.report.html import Page, html_page, pictures_shown
from pytest_peftbench.report.markdown import comment
from pytest_peftbench.report.outcome import CaseOutcome, settled
from pytest_peftbench.report.shards import Shard, read_shards
from pytest_peftbench.report.terminal import closing
from pytest_peftbench.results.balancing import case_in
from pytest_peftbench.results.digests import file_sha256
from pytest_peftbench.results.files import (
    InputError,
    require_writable,
    require_writable_file,
    stands,
    write_files,
    write_text,
)
from pytest_peftbench.results.result import CaseId, Result
from pytest_peftbench.results.stored import read_result
from pytest_peftbench.results.words import first, plural
from pytest_peftbench.tasks.structures.causes import explained

# Names that an error lists.
_MOST = 10


@dataclass(frozen=True)
class Part:
    """A shard, its file, and what its tests came to, by node id."""

    file: Path
    shard: Shard
    outcomes: Mapping[str, CaseOutcome]

    def results(self) -> Iterator[tuple[str, CaseId, Path]]:
        """The tests that left a result: node id, case, and where it lies."""
        for nodeid, ended in self.shard.ended.items():
            verdict = self.outcomes[nodeid].verdict
            if ended.sha256 and verdict:
                yield nodeid, verdict.case, verdict.case.file(self.file.parent)


def parts_of(folders: Sequence[Path]) -> list[Part]:
    """All shards of one run, by number. Raises InputError, by name, where they are not that, or not all of it."""
    found = [
        Part(file, shard, {nodeid: ended.case_outcome() for nodeid, ended in shard.ended.items()})
        for folder in dict.fromkeys(folders)
        for file, shard in read_shards(folder).items()
    ]
    parts = sorted(found, key=lambda part: part.shard.number)
    for part in parts[1:]:
        _require_same_run(parts[0], part)
    by_number: dict[int, Part] = {}
    for part in parts:
        if (twice := by_number.setdefault(part.shard.number, part)) is not part:
            raise InputError(f"{part.file}: {twice.file} is {part.shard} too; give one of them")
    for number in range(1, parts[0].shard.count + 1):
        if number not in by_number:
            raise InputError(
                f"shard {number}/{parts[0].shard.count} is in none of {', '.join(map(str, folders))}: it never ran, or "
                "did not come to its end; run it, or give its folder"
            )
    for part in parts:
        _require_all_ran(part)
    return parts


def _require_same_run(one: Part, other: Part) -> None:
    """Raise InputError unless two shards divide the same tests, of one PEFT, in one environment, in the same way."""
    if one.shard.count != other.shard.count:
        raise InputError(f"{other.file}: is one of {other.shard.count} shards, {one.file} one of {one.shard.count}")
    for what in ("made_from", "options"):
        ours, theirs = getattr(one.shard, what), getattr(other.shard, what)
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                raise InputError(
                    f"{other.file}: {what}.{key}: is {theirs.get(key)}, but {ours.get(key)} in {one.file}; shards of "
                    "one run have the same PEFT, environment and options"
                )
    if one.shard.passing != other.shard.passing:
        raise InputError(f"{other.file}: passing: is another list than in {one.file}; use one --peft-green")
    if one.shard.tests != other.shard.tests:
        names = one.shard.tests.items() ^ other.shard.tests.items()
        raise InputError(
            f"{other.file}: divides other tests than {one.file}, or otherwise: "
            f"{', '.join(first(sorted({name for name, _ in names}), _MOST))}"
        )


def _require_all_ran(part: Part) -> None:
    known = {*part.shard.ended, *part.shard.broken, *part.shard.others}
    own = [nodeid for nodeid, number in part.shard.tests.items() if number == part.shard.number]
    if missing := sorted(set(own) - known):
        raise InputError(f"{part.file}: {plural(len(missing), 'test')} never ran: {', '.join(first(missing, _MOST))}")
    if foreign := sorted(set(part.shard.ended) - set(own)):
        raise InputError(f"{part.file}: holds tests of other shards: {', '.join(first(foreign, _MOST))}")


def results_of(parts: Sequence[Part]) -> dict[str, tuple[Path, Result]]:
    """The results of all shards by node id, with their files and pictures.

    Raises InputError for one that is not what its shard wrote, that lies in two folders, or that was measured in
    another environment than the others of its kind.
    """
    found: dict[str, tuple[Path, Result]] = {}
    environments: dict[str, tuple[Path, Mapping[str, str]]] = {}
    folders = dict.fromkeys(part.file.parent for part in parts)
    for part in parts:
        for nodeid, case, file in part.results():
            if not stands(file) or file_sha256(file) != part.shard.ended[nodeid].sha256:
                raise InputError(f"{file}: is missing, or not what {part.shard} wrote; run the shard again")
            for folder in folders:
                if folder != part.file.parent and stands(case.file(folder)):
                    raise InputError(f"{case.file(folder)}: {file} is case {case} too, of {part.shard}; remove one")
            result = read_result(file, case)
            _require_environment(file, result, environments)
            found[nodeid] = file, result
    return found


def _require_environment(file: Path, result: Result, known: dict[str, tuple[Path, Mapping[str, str]]]) -> None:
    """Raise InputError unless a result was measured where the first one of its kind was."""
    where, expected = known.setdefault(result.case.kind, (file, result.environment))
    for key in sorted(result.environment.keys() | expected.keys()):
        if result.environment.get(key) != expected.get(key):
            raise InputError(
                f"{file}: environment.{key}: is {result.environment.get(key)}, but {expected.get(key)} in {where}; "
                "shards of one run have the same environment"
            )


def merged(parts: Sequence[Part], results: Mapping[str, tuple[Path, Result]]) -> list[CaseOutcome]:
    """What all cases came to, in the order of their tests: Holm's correction is made anew, over all of them."""
    reported = {nodeid: found for part in parts for nodeid, found in part.outcomes.items()}
    passing = cast("list[Verdict]", parts[0].shard.passing)
    ordered = {nodeid: reported[nodeid] for nodeid in parts[0].shard.tests if nodeid in reported}
    return [_with_pictures(found, results) for found in settled(ordered, passing)]


def _with_pictures(outcome: CaseOutcome, results: Mapping[str, tuple[Path, Result]]) -> CaseOutcome:
    if outcome.nodeid not in results or not (pictures := results[outcome.nodeid][1].pictures):
        return outcome
    return replace(outcome, details={**outcome.details, "pictures": pictures_shown(pictures)})


def gaps_of(parts: Sequence[Part], outcomes: Sequence[CaseOutcome]) -> Gaps:
    """What was left out, as one run would have said it."""
    names = {found.nodeid: found.name if found.verdict else case_in(found.nodeid) or found.name for found in outcomes}
    return Gaps(
        taken=tuple(name for part in parts for name in part.shard.taken),
        again=tuple(name for part in parts for name in part.shard.again),
        stored="earlier results",
        skipped=tuple(names[found.nodeid] for found in outcomes if found.skipped),
        expected=tuple(names[found.nodeid] for found in outcomes if found.expected),
        selected=len(outcomes),
        measured=any(not found.skipped and (found.verdict or not found.expected) for found in outcomes)
        or any(part.shard.broken for part in parts),
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", nargs="+", type=Path, metavar="DIR", help="folders of --peft-json, of all shards")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="an empty folder for the results")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that opens offline, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the comment of a pull request, too")


def _run(options: argparse.Namespace) -> int:
    if stands(options.into) and (not options.into.is_dir() or any(options.into.iterdir())):
        raise InputError(f"--into {options.into}: is not an empty folder; give one")
    require_writable(f"--into {options.into}", options.into)
    for flag, file in (("--html", options.html), ("--markdown", options.markdown)):
        if file is not None:
            require_writable_file(f"{flag} {file}", file)
    return show(parts_of(options.shards), options.into, options.html, options.markdown)


def show(parts: Sequence[Part], into: Path | None, html: Path | None, markdown: Path | None = None) -> int:
    """Tell what the shards came to together; 1 where that is red. into: where their results are copied, if anywhere."""
    results = results_of(parts)
    outcomes, broken = merged(parts, results), sorted({name for part in parts for name in part.shard.broken})
    gaps = replace(gaps_of(parts, outcomes), unwritten=tuple(f"{name} failed, and is no case" for name in broken))
    if into is not None:
        _copy(results, into)
    for line, _ in [*closing(outcomes, columns()), *gap_lines(gaps, removing=False)]:
        say(line)
    if html is not None:
        title = f"shards of {', '.join(sorted({str(part.file.parent) for part in parts}))}"
        problems, notes = list(gaps.problems()), list(gaps.notes())
        page = Page(
            title=title, outcomes=outcomes, columns=columns(), explain=explained, problems=problems, notes=notes
        )
        write_text(html, html_page(page))
    if markdown is not None:
        fails = [f"the run fails: {problem}" for problem in gaps.problems()]
        write_text(markdown, comment(outcomes, columns(), notes=[*fails, *gaps.notes()]))
    red = sum(outcome.red for outcome in outcomes)
    say(f"{plural(len(parts), 'shard')}, {plural(len(outcomes), 'case')}, {red} red")
    return 1 if red or any(gaps.problems()) else 0


def _copy(results: Mapping[str, tuple[Path, Result]], into: Path) -> None:
    """Write the results and their pictures as they are."""
    for file, result in results.values():
        target = result.case.file(into)
        contents: dict[Path, bytes] = {target.parent / picture.name: picture.png for picture in result.pictures}
        write_files({target: file.read_bytes(), **contents})


COMMAND = Command(
    name="merge",
    help="join the shards of one run: results, table, report",
    description="Join the results of all shards of a run with --peft-shard and --peft-json: copy them into one folder, "
    "settle the verdicts over all cases, and show what one run would have shown. 1 when a case is red, 2 when shards "
    "are missing, given twice, or of another PEFT, environment or selection.",
    add_arguments=_add_arguments,
    run=_run,
)
