"""A session as one side of `peftbench ab`: the PEFT that it is given, the cases that it is told to run, a file for what
came of them. Loaded by `-p pytest_peftbench.plugin.side`; its orders lie where the environment says."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_peftbench.measure import environment
from pytest_peftbench.plugin.options import SETTINGS, Settings
from pytest_peftbench.plugin.outcome import COLLECTOR
from pytest_peftbench.plugin.selection import experiment_of, is_case
from pytest_peftbench.report.gaps import Gaps
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.files import converted, read_json, resolved, write_json
from pytest_peftbench.results.orders import ORDERS, CaseTold, Orders, Told
from pytest_peftbench.results.raised import raised_in
from pytest_peftbench.results.words import error_line, first_line
from pytest_peftbench.suites import Experiment

_ORDERS = pytest.StashKey[Orders]()
_CASES = pytest.StashKey[dict[str, CaseTold]]()
_NEVER_RUN = "did not run: the session ended before it"
# What a case needs to be timed on demand.
_FIXTURES = ("experiment", "base_model", "task_data")


def pytest_configure(config: pytest.Config) -> None:
    """Read the orders, and refuse a PEFT that is another than theirs, or that cannot be imported."""
    file = Path(os.environ[ORDERS])
    orders = config.stash[_ORDERS] = converted(file, read_json(file), Orders)
    config.stash[_CASES] = {}
    if problem := _problem_of_peft(orders):
        raise pytest.UsageError(problem)


def _problem_of_peft(orders: Orders) -> str:
    """Why the session's PEFT is not the one that was ordered; empty where it is."""
    spec = importlib.util.find_spec("peft")
    found = Path(spec.origin).parents[1] if spec and spec.origin else None
    if found is None or resolved(found) != resolved(Path(orders.peft)):
        return (
            f"PEFT would be imported from {found}, which comes before the side's own; see `pythonpath` and conftest.py"
        )
    if not orders.imports:
        return ""
    environment.pin()
    try:
        importlib.import_module("peft")
    except Exception as error:  # whatever its code raises
        return f"its PEFT cannot be imported: {error_line(error)}{raised_in(error)}"
    return ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the cases that were ordered. Before all others, so that the plugin counts these alone."""
    wanted = config.stash[_ORDERS].cases
    if wanted is not None:
        dropped = [item for item in items if item.nodeid not in set(wanted)]
        items[:] = [item for item in items if item.nodeid in set(wanted)]
        config.hook.pytest_deselected(items=dropped)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take down the cases, and tell them where nothing else is asked."""
    config = session.config
    cases = {item.nodeid: _told(item, config) for item in session.items if is_case(item)}
    config.stash[_CASES].update(cases)
    if config.option.collectonly:
        _tell(config, cases)


def _told(item: pytest.Item, config: pytest.Config) -> CaseTold:
    experiment = experiment_of(item)
    if experiment is None:
        return CaseTold(None)
    can_be_timed = not experiment.case.kind and set(_FIXTURES) <= {*getattr(item, "fixturenames", ())}
    definition = _definition(item, experiment, config)
    return CaseTold(experiment.case, can_be_timed, definition, experiment.margins)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Time the steps of a case as they are asked for, in place of its test, where the orders say so."""
    clock = pyfuncitem.config.stash[_ORDERS].clock
    if clock is None:
        return None
    from pytest_peftbench.cases.on_demand import serve

    given: dict[str, Any] = pyfuncitem.funcargs
    experiment, base_model, task_data = (given[name] for name in _FIXTURES)
    serve(clock, pyfuncitem.nodeid, experiment, base_model, task_data)
    return True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell what came of each case: on the process that reports, once its outcomes are gathered."""
    config = session.config
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    collector = config.stash[COLLECTOR]
    outcomes = {outcome.nodeid: outcome for outcome in collector.outcomes}
    selected = {nodeid: CaseTold(case) for nodeid, case in collector.inventory.cases.items()}
    _tell(config, {nodeid: _ended(told, outcomes.get(nodeid)) for nodeid, told in selected.items()})
    collector.outcomes, collector.gaps = [], Gaps()  # one side's table would say little, and the two are told together


def _ended(told: CaseTold, outcome: CaseOutcome | None) -> CaseTold:
    if outcome is None:
        return CaseTold(told.case, problem=_NEVER_RUN)
    case = outcome.verdict.case if outcome.verdict else told.case
    problem = (
        first_line(outcome.text).removeprefix("case failed: ")
        if outcome.red or outcome.unmeasured or not outcome.checked
        else ""
    )
    return CaseTold(case, ran=outcome.checked, problem=problem, skipped=outcome.skipped)


def _tell(config: pytest.Config, cases: Mapping[str, CaseTold]) -> None:
    orders = config.stash[_ORDERS]
    around = sorted(_around()) if config.option.collectonly else []
    write_json(Path(orders.report), msgspec.to_builtins(Told(dict(cases), around)))


def _around() -> Iterator[str]:
    """What surrounds PEFT here, as far as it is known without importing torch: packages, Python, processor."""
    yield from (f"{found.name} {found.version}" for found in distributions() if found.name != "peft")
    yield from (platform.python_version(), platform.platform(), environment.processor())
    yield from (f"{name}={value}" for name, value in environment.instruction_sets().items())


# What a case depends on -----------------------------------------------------------------------------------------------


def _definition(item: pytest.Item, experiment: Experiment, config: pytest.Config) -> str:
    """Hash of the case's experiment and settings, and of the files that say how it is run."""
    settings = config.stash[SETTINGS]
    what: list[Any] = [experiment.definition(), experiment.margins, experiment.seeds, settings.device]
    sha = hashlib.sha256(json.dumps([*what, *_places(settings)], sort_keys=True, default=str).encode())
    for file in (*_code_of(item, config), *_files_below(experiment.kept)):
        sha.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()


def _places(settings: Settings) -> Iterator[tuple[str, int, int]]:
    """The files of models and data, which may be large: by size and time."""
    for folder in (settings.data, settings.models):
        for file in _files_below(folder):
            state = file.stat()
            yield str(file), state.st_size, state.st_mtime_ns


def _files_below(folder: Path | None) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []


def _code_of(item: pytest.Item, config: pytest.Config) -> Iterator[Path]:
    """The ini file, and all that Python finds from the test's folder up to the root directory."""
    if config.inipath is not None:
        yield config.inipath
    for folder in (item.path.parent, *item.path.parent.parents):
        yield from sorted(folder.glob("*.py"))
        if folder == config.rootpath or not folder.is_relative_to(config.rootpath):
            return
