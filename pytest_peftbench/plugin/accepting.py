"""The command that records cases: one for all of them, and short, however many they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest
from _pytest.compat import running_on_ci

from pytest_peftbench.plugin.options import OPTIONS, SETTINGS, relative_path
from pytest_peftbench.plugin.outcome import COLLECTOR
from pytest_peftbench.results.words import command_line
from pytest_peftbench.suites import marker_of
from pytest_peftbench.suites.shipped import is_installed

# More cases than these are named by what they have in common.
_MOST_NAMED = 3


def recording_command(config: pytest.Config, nodeids: Sequence[str]) -> str:
    """The command that records these cases and no others, with the options that they were found and measured with."""
    if is_installed(config.stash[SETTINGS].baselines):  # those are the package's; a copy may be recorded
        return command_line(["peftbench", "init"])
    options: list[str] = []
    for option in OPTIONS:
        given = config.getoption(option.ini) if option.recording else None
        for value in given if isinstance(given, list) else [] if given is None else [given]:
            options += [option.flag, value]
    return command_line(["pytest", *_selecting(config, nodeids), *options, "--peft-update-baselines"])


def _selecting(config: pytest.Config, nodeids: Sequence[str]) -> list[str]:
    """What selects these tests: their ids, the methods that all of them are of, or that they failed last."""
    typed = {nodeid: _as_typed(config, nodeid) for nodeid in nodeids}
    if len(nodeids) <= _MOST_NAMED:
        return list(typed.values())
    files = list(dict.fromkeys(name.partition("::")[0] for name in typed.values()))
    if markers := _markers(config, nodeids):
        keyword = config.option.keyword
        return [*files, *(["-k", keyword] if keyword else []), "-m", " or ".join(markers)]
    # a cache is known where it was written: whoever reads the log of a CI job has another one
    cached = config.pluginmanager.hasplugin("lfplugin") and not running_on_ci()
    failed = {found.nodeid for found in config.stash[COLLECTOR].outcomes if found.red}
    return [*files, "--lf", "--lfnf=none"] if cached and failed.issuperset(nodeids) else list(typed.values())


def _as_typed(config: pytest.Config, nodeid: str) -> str:
    """A node id as it is typed in the folder that pytest was started in."""
    file, _, test = nodeid.partition("::")
    return f"{relative_path(config.rootpath / file, config.invocation_params.dir)}::{test}"


def _markers(config: pytest.Config, nodeids: Collection[str]) -> list[str]:
    """The markers of the methods whose cases these are; none where they are not all that the session could select."""
    selected = config.stash[COLLECTOR].inventory.cases
    methods = {case.method for nodeid in nodeids if (case := selected.get(nodeid))}
    of_methods = {nodeid for nodeid, case in selected.items() if case and case.method in methods}
    narrowed = config.option.markexpr or config.option.deselect or any("::" in word for word in config.args)
    narrowed = narrowed or config.stash[SETTINGS].affected is not None
    if narrowed or config.getoption("lf", False) or of_methods != set(nodeids) or len(methods) > _MOST_NAMED:
        return []
    return sorted(map(marker_of, methods))
