"""`--peft-affected`: leaves out the cases that no change can reach. `--peft-check-reach`: whether that is true."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import pytest

from pytest_peftbench.affected import Package, Places, Reach, affected_since, told
from pytest_peftbench.plugin.options import SETTINGS
from pytest_peftbench.plugin.selection import experiment_of
from pytest_peftbench.results.sources import folder_of
from pytest_peftbench.results.words import first

_MOST = 10


@dataclass(frozen=True)
class Kept:
    """lines: how many cases can be reached and by what. idle: whether none can, and no other test is left."""

    lines: tuple[str, ...] = ()
    idle: bool = False


KEPT = pytest.StashKey[Kept]()


def keep_affected(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the cases that no change since the revision can reach; tests of no suite's case stay.

    Raises InputError where that cannot be told.
    """
    settings = config.stash[SETTINGS]
    cases = [(item, experiment) for item in items if (experiment := experiment_of(item))]
    if settings.affected is None or not cases:
        return
    places = Places(
        suites=sorted({experiment.suite for _, experiment in cases}),
        baselines=settings.baselines,
        tests=sorted({item.path.parent for item, _ in cases}),
    )
    affected = affected_since(f"--peft-affected {settings.affected}", settings.affected, places)
    gone = [item for item, experiment in cases if not affected.reasons(experiment)]
    left = set(items) - set(gone)
    items[:] = [item for item in items if item in left]
    if gone:
        config.hook.pytest_deselected(items=gone)
    config.stash[KEPT] = Kept(tuple(told(affected, [experiment for _, experiment in cases])), idle=not items)


class ReachCheck:
    """Fails a case that executes a file of PEFT's outside of its reach."""

    def __init__(self) -> None:
        self._reach: Reach | None = None

    @pytest.hookimpl(wrapper=True, trylast=True)  # the innermost: what others do around a test is not the case's
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Record what the case executes, and what of that lies outside."""
        experiment = experiment_of(item)
        if experiment is None:
            return (yield)
        from pytest_peftbench.measure.collector import freeze_collector
        from pytest_peftbench.measure.executed import executed_files, import_all

        if self._reach is None:
            import_all("peft")
            self._reach = Reach(Package(folder_of("peft")))
        freeze_collector()  # frees what an earlier case left: `__del__` of OSF's layers is no work of this one
        with executed_files(self._reach.package.folder) as files:
            yield
        outside = sorted(files - self._reach.files(experiment))
        if outside:
            pytest.fail(
                f"{experiment.case} executed what --peft-affected would not run it for, were it changed: "
                + ", ".join(first(outside, _MOST)),
                pytrace=False,
            )
