"""What CI shows of a case: an annotation at its experiment's file, and properties of its test in JUnit's XML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_peftbench.report.markdown import clipped
from pytest_peftbench.report.outcome import CaseOutcome, red_cases
from pytest_peftbench.results.words import first

PREFIX = "peftbench."
_MOST_LINES, _LINE = 20, 500


def workflow_commands(outcomes: Iterable[CaseOutcome], workspace: Path) -> list[str]:
    """The annotation of each red case, as a workflow command of GitHub's, the worst first: of one step it shows ten.

    workspace: the repository, which files are named from; those elsewhere keep their absolute name.
    """
    return [_annotation(found, workspace) for found in red_cases(outcomes)]


def _annotation(outcome: CaseOutcome, workspace: Path) -> str:
    properties = {"title": f"{outcome.word}: {outcome.name}"}
    if outcome.file:
        file = Path(outcome.file)
        inside = file.relative_to(workspace) if file.is_relative_to(workspace) else file
        properties = {"file": inside.as_posix(), "line": "1", **properties}
    told = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    lines = first([clipped(line, _LINE) for line in outcome.text.splitlines()], _MOST_LINES)
    return f"::error {told}::" + _data("\n".join(lines))


def _data(text: str) -> str:
    """A message as the command holds it: an end of a line would end the command, and begin another."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def properties(outcome: CaseOutcome) -> Iterator[tuple[str, str]]:
    """Name and value: the case, its verdict, what moved in the terminal's words, and its figures by metric."""
    if outcome.verdict is None:
        yield f"{PREFIX}not_measured", outcome.unmeasured
        return
    yield f"{PREFIX}case", str(outcome.verdict.case)
    yield f"{PREFIX}verdict", outcome.verdict.verdict
    if outcome.verdict.moved():
        yield f"{PREFIX}findings", outcome.verdict.text()
    yield from ((f"{PREFIX}{name}", repr(value)) for name, value in outcome.verdict.values.items())
