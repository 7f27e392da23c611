"""`--peft-html`: the session as one page to look at, written when it ends, however it ends."""

from __future__ import annotations

import shlex
from functools import partial

import pytest

from pytest_peftbench.cases.kinds import columns
from pytest_peftbench.plugin.accepting import recording_command
from pytest_peftbench.plugin.options import SETTINGS, short_path
from pytest_peftbench.plugin.outcome import COLLECTOR
from pytest_peftbench.report.advice import advice
from pytest_peftbench.report.html import Page, html_page
from pytest_peftbench.results.files import InputError, write_text
from pytest_peftbench.tasks.structures.causes import explained

# What became of the page, in words.
PAGE = pytest.StashKey[str]()


def write_page(config: pytest.Config, interrupted: bool) -> bool:
    """Write the page that was asked for, and keep in words what became of it; whether that succeeded."""
    file = config.stash[SETTINGS].html
    if file is None:
        return True
    gaps, outcomes = config.stash[COLLECTOR].gaps, config.stash[COLLECTOR].outcomes
    words = ["pytest", *config.invocation_params.args]
    page = Page(
        title=shlex.join(map(str, words)),
        outcomes=outcomes,
        columns=columns(),
        explain=explained,
        problems=[*(["the run was interrupted"] if interrupted else []), *gaps.problems()],
        notes=list(gaps.notes()),
        advice=advice(outcomes, partial(recording_command, config)),
    )
    try:
        write_text(file, html_page(page))
    except InputError as error:
        config.stash[PAGE] = f"the run fails: --peft-html {error}"
        return False
    config.stash[PAGE] = f"to look at: {short_path(file, config)}"
    return True
