"""What a session tells the CI that it runs in: GitHub's step summary and annotations, and JUnit's properties."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_peftbench.cases.kinds import columns
from pytest_peftbench.plugin.accepting import recording_command
from pytest_peftbench.plugin.outcome import Collector
from pytest_peftbench.report.advice import advice
from pytest_peftbench.report.ci import PREFIX, properties, workflow_commands
from pytest_peftbench.report.markdown import SUMMARY_LIMIT, summary
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.words import bytes_text

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

_SUMMARY, _WORKSPACE = "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"
# Bytes in which a summary says something.
_LEAST = 8_000


def put_properties(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put what the case came to on its test, where `--junitxml` and xdist find it; in place of an earlier run's."""
    data = getattr(report, "peftbench", None)
    if data is None:
        return
    others = [pair for pair in item.user_properties if not pair[0].startswith(PREFIX)]
    item.user_properties[:] = [*others, *properties(CaseOutcome.from_json(data))]
    report.user_properties = list(item.user_properties)


def tell_github(terminal: TerminalReporter, collector: Collector) -> None:
    """Annotate the red cases and append to the step's summary, where GitHub runs the session."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        workspace = Path(os.environ.get(_WORKSPACE) or terminal.config.rootpath)
        for line in workflow_commands(collector.outcomes, workspace.resolve()):
            terminal.ensure_newline()
            terminal.write_line(line)
    file = os.environ.get(_SUMMARY)
    if file and (collector.outcomes or collector.inventory.affected or any(collector.gaps.problems())):
        try:
            _append(Path(file), collector, terminal.config)
        except OSError as error:
            terminal.write_line(f"{_SUMMARY}: {file}: not written: {error.strerror}", red=True)


def _append(file: Path, collector: Collector, config: pytest.Config) -> None:
    """In one write, behind what another command of the step has written there, whose size counts, too."""
    held = file.stat().st_size if file.exists() else 0
    if SUMMARY_LIMIT - held < _LEAST:
        raise OSError(errno.EFBIG, f"it holds {bytes_text(held)}, and GitHub takes {bytes_text(SUMMARY_LIMIT)}")
    notes = [*(f"the run fails: {problem}" for problem in collector.gaps.problems()), *collector.gaps.notes()]
    notes += collector.inventory.affected[:1]
    told = advice(collector.outcomes, partial(recording_command, config))
    text = summary(collector.outcomes, columns(), told, notes, SUMMARY_LIMIT - held - 1)
    with file.open("a", encoding="utf-8", newline="\n") as opened:
        opened.write(("\n" if held else "") + text)
