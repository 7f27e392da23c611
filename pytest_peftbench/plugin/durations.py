"""Recorded durations: what hands cases to xdist's workers by, and `--peft-update-durations`, which records them."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_peftbench.plugin.inventory import runs_nothing
from pytest_peftbench.plugin.options import SETTINGS
from pytest_peftbench.plugin.outcome import COLLECTOR
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.durations import read_durations, write_durations
from pytest_peftbench.results.files import InputError


def scheduler(config: pytest.Config, log: Any) -> Any:
    """A scheduler of the longest first, for xdist's `load`; None, for xdist's own, where no duration is recorded."""
    if config.getoption("dist") != "load":
        return None
    try:
        found = read_durations(config.stash[SETTINGS].baselines)
    except InputError as error:
        raise pytest.UsageError(f"peftbench: {error}") from error
    if not found.seconds:
        return None
    from pytest_peftbench.plugin.scheduling import LongestFirst

    return LongestFirst(config, log, found)


def record(config: pytest.Config) -> str:
    """Record how long the session's cases took, where that is asked for; why it cannot be done, else empty."""
    settings, collector = config.stash[SETTINGS], config.stash[COLLECTOR]
    if not settings.update_durations or runs_nothing(config):
        return ""
    found = {outcome.name: outcome.wall_s for outcome in collector.outcomes if _ran(outcome)}
    try:
        old = read_durations(settings.baselines)
        new = old.updated(found, whole=collector.inventory.whole and not collector.gaps.unrun)
        if new != old:
            write_durations(settings.baselines, new)
    except InputError as error:
        return str(error)
    return ""


def _ran(outcome: CaseOutcome) -> bool:
    """Whether a case ran to its end: one that fails is over too soon."""
    return outcome.verdict is not None and not outcome.skipped and outcome.word != "failed"
