"""What decides a verdict from outside of the tests: torch imported too early, a root directory that an option moved."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from _pytest.config.findpaths import determine_setup

from pytest_peftbench.measure import environment
from pytest_peftbench.plugin.options import OPTIONS
from pytest_peftbench.suites import DEFAULTS_FILE

# Folders that hold no suite and many files.
_PASSED_OVER = {"node_modules", "site-packages", "__pycache__"}


def may_measure(config: pytest.Config) -> bool:
    """Whether a session may come to measure cases, asked before any test is collected.

    It may where one of our options is given, or where a suite lies below the folders that pytest is asked to collect:
    the sessions of other projects, on a machine that has this plugin, keep their threads and instruction sets.
    """
    given = config.known_args_namespace
    try:
        if any(getattr(given, option.ini) is not None or config.getini(option.ini) for option in OPTIONS):
            return True
    except (TypeError, ValueError):  # a value that `Settings` will refuse
        return True
    return any(_holds_a_suite(folder) for folder in _asked_folders(config))


def _asked_folders(config: pytest.Config) -> Iterator[Path]:
    """The folders of the paths that pytest is asked to collect, before it has resolved them."""
    given = config.known_args_namespace.file_or_dir
    start = config.invocation_params.dir if given else config.rootpath
    for text in given or config.getini("testpaths") or [str(config.invocation_params.dir)]:
        path = start / text.partition("::")[0]
        yield path.parent if path.is_file() else path


def _holds_a_suite(folder: Path) -> bool:
    for _, folders, files in os.walk(folder):
        if DEFAULTS_FILE in files:
            return True
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _PASSED_OVER]
    return False


def problem_of_torch() -> str:
    """That torch computes as the process found it, not as baselines were recorded; empty where it is pinned."""
    if not environment.WATCH.culprit or "torch" not in sys.modules:  # it may have been looked for, and no more
        return ""
    variables = " ".join(f"{name}={value}" for name, value in environment.instruction_sets().items())
    return (
        f"{environment.WATCH.culprit}: torch was imported before its instruction sets could be fixed, so no figure of "
        "this run could be relied on; import it in a fixture or a test, pass the folder of the cases to pytest, or "
        f"set {variables} in the environment"
    )


def problem_of_root(config: pytest.Config) -> str:
    """That the value of an option of ours, in a word of its own, moved pytest's root directory; empty where none did.

    pytest looks for root directory and ini file before it knows our options, and takes such a word for a path to test.
    """
    tests: list[str] = config.known_args_namespace.file_or_dir
    words = config.invocation_params.args
    flags = {option.flag for option in OPTIONS if option.parse}
    given = [(flag, value) for flag, value in pairwise(words) if flag in flags]
    root, ini = _root(config, tests)
    if not given or (root, ini) == _root(config, [*tests, *(value for _, value in given)]):
        return ""
    # without an ini file nothing but the folder of the baselines starts there
    if ini == config.inipath and (config.getoption("peft_baselines") or not (root / "baselines").is_dir()):
        return ""
    flag, value = next((pair for pair in given if (root, ini) != _root(config, [*tests, pair[1]])), given[0])
    read = f"{ini} is not read" if ini and ini != config.inipath else f"it would be {root}"
    return (
        f"{flag} {value}: in two words, it moves pytest's root directory to {config.rootpath}, so that {read}; "
        f"write {flag}={value}, or pass --rootdir"
    )


def _root(config: pytest.Config, paths: Sequence[str]) -> tuple[Path, Path | None]:
    """The root directory and the ini file that pytest finds for paths to test."""
    options = config.known_args_namespace
    known: dict[str, Any] = {
        "inifile": options.inifilename,
        "override_ini": options.override_ini,
        "args": paths,
        "rootdir_cmd_arg": options.rootdir or None,
        "invocation_dir": config.invocation_params.dir,
    }
    accepted = inspect.signature(determine_setup).parameters  # pytest 8 has no `override_ini`
    root, ini, *_ = determine_setup(**{name: value for name, value in known.items() if name in accepted})
    return root, ini
