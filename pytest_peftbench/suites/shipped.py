"""The suites, their tests and the baselines that come with the package: in a wheel, or beside it in a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_peftbench.results.files import InputError, resolved

_PACKAGE = Path(__file__).parent.parent
# Where a wheel holds them; see pyproject.toml. They are the package's: an update would overwrite what is changed there.
INSTALLED = _PACKAGE / "shipped"


@dataclass(frozen=True)
class Shipped:
    """benchmarks: the folder of suites and their tests. baselines: what these cases are compared with."""

    benchmarks: Path
    baselines: Path


def shipped() -> Shipped:
    """What comes with the package. Raises InputError where it is neither a whole wheel nor a checkout."""
    for root in (INSTALLED, _PACKAGE.parent):
        found = Shipped(root / "benchmarks", root / "baselines")
        if found.benchmarks.is_dir() and found.baselines.is_dir():
            return found
    raise InputError(f"{INSTALLED}: holds no suites and baselines; install pytest-peftbench anew")


def is_installed(folder: Path) -> bool:
    """Whether a folder belongs to the installed package, so that nothing may be written there."""
    return resolved(folder).is_relative_to(resolved(INSTALLED))
