"""What of the shipped suites, tests and baselines a repository gets: the cases of the methods that it asks for."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pytest_peftbench.cases.kinds import KINDS
from pytest_peftbench.measure.environment import installed
from pytest_peftbench.results.baseline import baseline_path
from pytest_peftbench.results.files import InputError
from pytest_peftbench.suites import DEFAULTS_FILE, MARGINS_FILE, Experiment, find_suites, read_suite
from pytest_peftbench.suites.shipped import Shipped

# What baselines must have been recorded with, as the installed versions are.
STACK = ("peft", "torch", "transformers", "diffusers")
# Test -> the folders of the suites that it takes cases of.
TESTS = {
    "test_math_reasoning.py": ("MetaMathQA/tiny",),
    "test_image_generation.py": ("image-gen/tiny",),
    "test_footprint.py": ("MetaMathQA/llama-3.2-3B", "image-gen/flux2-klein-4B"),
    "test_life_cycle.py": ("structures",),
}


@dataclass(frozen=True)
class _Environment:
    environment: dict[str, str]


@dataclass(frozen=True)
class Chosen:
    """files: the files to copy, by their path in the repository. suites, baselines: how many of them those are.

    markers: of the methods, as `pytest -m` has them; none where all are taken.
    others: how many shipped baselines of these cases are left out, recorded with other versions of STACK than the
    installed ones. recorded: those versions.
    """

    files: dict[str, Path]
    suites: int
    baselines: int
    markers: tuple[str, ...]
    others: int
    recorded: frozenset[str]


def choose(shipped: Shipped, methods: Sequence[str]) -> Chosen:
    """The suites, tests and baselines of these methods; of all where none is named.

    Raises InputError for a method that no suite holds, with those that may be meant.
    """
    suites = {suite: read_suite(suite) for suite in find_suites(shipped.benchmarks)}
    _require_known(methods, {experiment.case.method for found in suites.values() for experiment in found})
    chosen = {
        suite: kept
        for suite, found in suites.items()
        if (kept := [experiment for experiment in found if not methods or experiment.case.method in methods])
    }
    files = dict(_of_suites(shipped, chosen))
    baselines, others = _of_stack(_baselines(shipped, [item for kept in chosen.values() for item in kept]))
    for file in baselines:
        files |= {f"baselines/{path.relative_to(shipped.baselines).as_posix()}": path for path in _with_adapter(file)}
    return Chosen(
        files=dict(sorted(files.items())),
        suites=len(chosen),
        baselines=len(baselines),
        markers=tuple(sorted({item.marker for kept in chosen.values() for item in kept})) if methods else (),
        others=len(others),
        recorded=frozenset(others.values()),
    )


def installed_stack() -> str:
    """`peft 0.21.2, torch 2.13.0, …`: the installed versions."""
    return _stack_text({name: installed(name) for name in STACK})


def _stack_text(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {versions.get(name, 'unknown')}" for name in STACK)


def _require_known(methods: Sequence[str], known: set[str]) -> None:
    for method in methods:
        if method not in known:
            meant = difflib.get_close_matches(method.lower(), sorted(known), cutoff=0.5)
            hint = f"meant may be {' or '.join(meant)}; " if meant else ""
            raise InputError(f"--methods {method}: no such method; {hint}there are {', '.join(sorted(known))}")


def _of_suites(shipped: Shipped, chosen: dict[Path, list[Experiment]]) -> Iterator[tuple[str, Path]]:
    """The tests, and what the suites' cases are read from; not what tells how learning rates were chosen."""
    names = [suite.relative_to(shipped.benchmarks).as_posix() for suite in chosen]
    tests = [test for test, of in TESTS.items() if any(name.startswith(of) for name in names)]
    found = [shipped.benchmarks / name for name in ("conftest.py", *tests)]
    for suite, experiments in chosen.items():
        found += [suite / DEFAULTS_FILE, suite / MARGINS_FILE]
        found += [file for experiment in experiments for file in experiment.path.rglob("*")]
    for file in found:
        if file.is_file():
            yield f"benchmarks/{file.relative_to(shipped.benchmarks).as_posix()}", file


def _baselines(shipped: Shipped, experiments: list[Experiment]) -> Iterator[Path]:
    """The shipped baselines of these experiments, of each kind of case."""
    for experiment in experiments:
        for kind in KINDS:
            file = baseline_path(shipped.baselines, replace(experiment.case, kind=kind))
            if file.is_file():
                yield file


def _of_stack(files: Iterator[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The baselines that were recorded with the installed versions, and the versions of each of the others."""
    here, others, ours = [], dict[Path, str](), installed_stack()
    for file in files:
        theirs = _stack_text(msgspec.json.decode(file.read_bytes(), type=_Environment).environment)
        if theirs == ours:
            here.append(file)
        else:
            others[file] = theirs
    return here, others


def _with_adapter(baseline: Path) -> Iterator[Path]:
    """A baseline, and the files of the adapter that is kept beside it."""
    yield baseline
    yield from (file for file in sorted(baseline.with_suffix("").rglob("*")) if file.is_file())
