"""pytest-benchmark where it times steps of cases: its table and its warnings are for those who ask for them."""

from __future__ import annotations

import os
import shlex
from typing import Any

import pytest

from pytest_peftbench.plugin.outcome import COLLECTOR


def is_asked_for(config: pytest.Config) -> bool:
    """Whether some option of pytest-benchmark is given."""
    words = [*config.invocation_params.args, *config.getini("addopts"), *_of_environment()]
    return any(word.startswith("--benchmark-") for word in words)


def _of_environment() -> list[str]:
    return shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))


def disable_under_xdist(config: pytest.Config) -> None:
    """Do what pytest-benchmark does by itself beside other workers, where it warns of it once more each run."""
    worker = hasattr(config, "workerinput")
    if (worker or config.getoption("dist", "no") != "no") and not is_asked_for(config):
        config.option.benchmark_disable = True


def without_cases(config: pytest.Config, groups: list[tuple[str, list[Any]]]) -> list[tuple[str, list[Any]]]:
    """pytest-benchmark's groups but for the steps of cases, whose times stand in the table of cases."""
    if is_asked_for(config):
        return groups
    cases = config.stash[COLLECTOR].inventory.cases
    kept = [(name, [timed for timed in group if timed["fullname"] not in cases]) for name, group in groups]
    return [(name, group) for name, group in kept if group]
