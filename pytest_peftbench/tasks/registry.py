"""All tasks by name: ours, those of installed packages, those of a user's conftest.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import entry_points

from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS, Column, declare
from pytest_peftbench.results.words import error_line
from pytest_peftbench.tasks.image_generation.spec import SPEC as IMAGE_GENERATION
from pytest_peftbench.tasks.math_reasoning.spec import SPEC as MATH_REASONING
from pytest_peftbench.tasks.spec import TaskSpec
from pytest_peftbench.tasks.structures.spec import SPEC as STRUCTURES

ENTRY_POINTS = "pytest_peftbench.tasks"
_specs: dict[str, TaskSpec] = {}


def register(spec: TaskSpec) -> None:
    """Make a task known, and its metrics. The same one may register again, as each process reads conftest.py.

    Raises InputError where another task has the name, or where one of its metrics has a name that is taken.
    """
    if not spec.name or set(spec.name) & set("/\\") or spec.name in (".", ".."):
        raise InputError(f"task {spec.name!r}: its name must be that of a folder")
    known = _specs.get(spec.name)
    if known is not None and _identity(known) != _identity(spec):
        raise InputError(f"task {spec.name!r} is registered already, as another one; choose another name")
    declare(spec.metrics, f"task {spec.name!r}")
    for column in spec.columns:
        _check_column(spec, column)
    _specs[spec.name] = spec


def _identity(spec: TaskSpec) -> list[object]:
    """What tells a task from another; a class by its name, as a conftest.py makes it anew in each session."""
    return [getattr(getattr(spec, item.name), "__qualname__", getattr(spec, item.name)) for item in fields(spec)]


def _check_column(spec: TaskSpec, column: Column) -> None:
    """Raise InputError for a column that no table could show."""
    if column.metric not in METRICS:
        raise InputError(f"task {spec.name!r}: column {column.header!r} shows {column.metric!r}, which is no metric")
    try:
        format(1.0, column.form)
    except ValueError as error:
        raise InputError(f"task {spec.name!r}: column {column.header!r}: form {column.form!r}: {error}") from error


for _spec in (MATH_REASONING, IMAGE_GENERATION, STRUCTURES):
    register(_spec)


def specs() -> Mapping[str, TaskSpec]:
    """The tasks by name."""
    _load_installed()
    return _specs


def spec_of(name: str) -> TaskSpec:
    """The task of that name. Raises InputError, naming those that there are."""
    if name not in specs():
        raise InputError(f"{name!r} is no task; there are {', '.join(_specs)}")
    return _specs[name]


@cache
def _load_installed() -> None:
    """Register the tasks of installed packages, once in a process."""
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            spec = entry.load()
        except Exception as error:  # of another package's, whatever it is
            raise InputError(f"entry point {entry.name} = {entry.value}: {error_line(error)}") from error
        if not isinstance(spec, TaskSpec):
            raise InputError(
                f"entry point {entry.name} = {entry.value}: expected a TaskSpec, found {type(spec).__name__}"
            )
        register(spec)
