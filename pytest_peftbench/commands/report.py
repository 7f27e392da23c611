"""`peftbench report`: results as a page to look at, held against baselines where these are given."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_peftbench.cases.kinds import columns, quality_metrics
from pytest_peftbench.commands.command import Command, say
from pytest_peftbench.commands.history import history_of
from pytest_peftbench.commands.reading import Entry, Reading, catalogue, read_results
from pytest_peftbench.compare import CaseVerdict, Finding, compare, corrected, is_green, with_margins
from pytest_peftbench.report.html import Page, details, html_page
from pytest_peftbench.report.markdown import comment
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.report.terminal import closing
from pytest_peftbench.results.baseline import Baseline, baseline_path, read
from pytest_peftbench.results.files import InputError, positive, require_writable_file, stands, write_text
from pytest_peftbench.results.result import CaseId, Picture
from pytest_peftbench.results.words import plural
from pytest_peftbench.suites import MARGINS_FILE, find_suites, read_suite
from pytest_peftbench.tasks.structures.causes import explained

_SUITES = Path("benchmarks")
# Commits that a history goes back.
_COMMITS = 30


def outcomes_of(reading: Reading, baselines: Path | None, suites: Path | None) -> list[CaseOutcome]:
    """What each case came to against its baseline, as a session would say it; `not compared` without baselines.

    suites: where experiments may have margins of their own. What cannot be read of a baseline, or of pictures, is added
    to the problems of the reading.
    """
    margins = _margins(suites) if baselines is not None else {}
    tests = max(1, sum(quality_metrics(entry.case.task) for entry in reading.entries if not entry.case.kind))
    judged: dict[str, CaseVerdict] = {}
    found: dict[str, dict[str, Any]] = {}
    for entry in reading.entries:
        expected = _baseline_of(entry, baselines, reading)
        verdict = compare(entry.result, expected, with_margins(margins.get(entry.case, {})), tests)
        if baselines is None and not entry.error:
            verdict = replace(verdict, findings=(Finding.of("case", "not compared", "no --baselines"),))
        key = str(entry.file)
        judged[key], found[key] = verdict, _details(entry, expected, reading)
    return [
        CaseOutcome(verdict, checked=True, red=_is_red(verdict), details=found[key])
        for key, verdict in corrected(judged).items()
    ]


def _is_red(verdict: CaseVerdict) -> bool:
    return not is_green(verdict) and verdict.verdict != "not compared"


def _baseline_of(entry: Entry, baselines: Path | None, reading: Reading) -> Baseline | None:
    """The entry's baseline, if there is one that can be read."""
    if baselines is None:
        return None
    try:
        path = baseline_path(baselines, entry.case)
        return read(path) if stands(path) else None
    except InputError as error:
        reading.problems.append(str(error))
        return None


def _margins(suites: Path | None) -> Mapping[CaseId, Mapping[str, float]]:
    """The margins of experiments that have some of their own."""
    folder = suites or (_SUITES if _SUITES.is_dir() else None)
    if folder is None:
        return {}
    having = [suite for suite in find_suites(folder) if any(suite.rglob(MARGINS_FILE))]
    return {experiment.case: experiment.margins for suite in having for experiment in read_suite(suite)}


def _details(entry: Entry, expected: Baseline | None, reading: Reading) -> dict[str, Any]:
    pictures = list(_pictures(entry, reading))
    return {"origin": entry.origin, "others": entry.others, **details(entry.measured, expected, pictures)}


def _pictures(entry: Entry, reading: Reading) -> Iterator[Picture]:
    """The entry's pictures, with what their files hold."""
    for file, picture in entry.pictures:
        try:
            yield replace(picture, png=file.read_bytes())
        except OSError as error:
            reading.problems.append(f"{file}: picture of {entry.case} cannot be read: {error.strerror}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="RESULTS", help="files or folders: results, PEFT's or ours, baselines"
    )
    parser.add_argument("--baselines", type=Path, metavar="DIR", help="compare with the baselines in this folder")
    parser.add_argument(
        "--suites",
        type=Path,
        metavar="DIR",
        help="where experiments may have margins of their own; default: benchmarks",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that opens offline")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the comment of a pull request on GitHub")
    parser.add_argument(
        "--history", action="store_true", help="show how figures went over the commits of --baselines, read from git"
    )
    parser.add_argument(
        "--commits",
        type=positive,
        default=_COMMITS,
        metavar="N",
        help=f"how far back --history goes; default: {_COMMITS}",
    )


def _run(options: argparse.Namespace) -> int:
    if options.history and (options.baselines is None or options.html is None):
        raise InputError("--history: shows in a page how baselines went; give --baselines and --html")
    if options.baselines is not None and not options.baselines.is_dir():
        raise InputError(f"--baselines {options.baselines}: no such folder")
    for flag, file in (("--html", options.html), ("--markdown", options.markdown)):
        if file is not None:
            require_writable_file(f"{flag} {file}", file)
    reading = read_results(options.results)
    outcomes = outcomes_of(reading, options.baselines, options.suites)
    if options.html is not None:
        _write_page(options, reading, outcomes)
    if options.markdown is not None:
        write_text(options.markdown, comment(outcomes, columns(), notes=[*reading.notes()]))
    if options.html is None and options.markdown is None:
        for line, _ in closing(outcomes, columns()):
            say(line)
    for note in reading.notes():
        say(note)
    red = sum(outcome.red for outcome in outcomes)
    if written := [str(file) for file in (options.html, options.markdown) if file is not None]:
        say(f"{plural(len(outcomes), 'case')}, {red} red: {', '.join(written)}")
    return 1 if red or reading.problems else 0


def _write_page(options: argparse.Namespace, reading: Reading, outcomes: Sequence[CaseOutcome]) -> None:
    cases = {entry.case for entry in reading.entries}
    history = history_of(options.baselines, cases, options.commits) if options.history else None
    page = Page(
        title=", ".join(map(str, options.results)) + (f" against {options.baselines}" if options.baselines else ""),
        outcomes=outcomes,
        columns=columns(),
        metrics=catalogue(),
        explain=explained,
        problems=reading.problems,
        notes=[*reading.passed_over, *reading.others_note()],
        history=history,
    )
    write_text(options.html, html_page(page))


COMMAND = Command(
    name="report",
    help="show results, PEFT's or ours, as a page or a table",
    description="Read results of --peft-json, PEFT's published ones or baselines, compare them with baselines where "
    "these are given, and write one page that opens offline, or a comment; without either, a table. 1 when a case is "
    "red or a file could not be read, 2 when nothing could.",
    add_arguments=_add_arguments,
    run=_run,
)
