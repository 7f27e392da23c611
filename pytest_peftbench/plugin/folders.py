"""The folders that a session writes to: asked before anything runs, and never those that others are read from."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from pytest_peftbench.cases.kinds import KINDS
from pytest_peftbench.plugin.options import Settings
from pytest_peftbench.results.files import InputError, require_plain, require_writable, require_writable_file, resolved
from pytest_peftbench.suites import Experiment
from pytest_peftbench.suites.shipped import is_installed


def problems_of_folders(experiments: Collection[Experiment], settings: Settings, writes: bool) -> Iterator[str]:
    """Why results or baselines of these cases cannot be written, or would lie where other files belong.

    writes: whether the session gets that far: one that only collects needs no folder that it can write to.
    """
    baselines, json = settings.baselines, settings.json
    if json is not None and (json == baselines or baselines in json.parents or baselines in _by_kind(json)):
        yield (
            f"--peft-json {json}: results would be written over baselines, which are in {baselines}; "
            "give each a folder of its own"
        )
        return
    if settings.html is not None and writes:
        try:
            require_writable_file(f"--peft-html {settings.html}", settings.html)
        except InputError as error:
            yield str(error)
    folders = {} if json is None else {"--peft-json": json}
    if settings.update_baselines or settings.calibrate or settings.update_durations:
        if is_installed(baselines):
            yield (
                f"{baselines}: belongs to the installed pytest-peftbench, so nothing is recorded there; "
                "`peftbench init` copies suites and baselines into a repository, where they can be updated"
            )
            return
        folders["--peft-baselines"] = baselines
    for flag, root in folders.items():
        try:
            if writes:
                require_writable(f"{flag} {root}", root)
            _check_files(f"{flag} {root}", root, experiments, writes)
        except InputError as error:
            yield str(error)


def _by_kind(root: Path) -> list[Path]:
    return [root / kind for kind in KINDS if kind]


def _check_files(named: str, root: Path, experiments: Collection[Experiment], writes: bool) -> None:
    suites = {resolved(experiment.suite) for experiment in experiments}
    taken = {suite / "experiments" for suite in suites}
    asked: set[Path] = set()
    for experiment in experiments:
        file = experiment.case.file(root)
        if file.parent in suites or taken.intersection(file.parents):
            raise InputError(f"{named}: {file} would lie in a suite; give another folder")
        if writes and file.parent not in asked:
            require_writable(named, file.parent)
            asked.add(file.parent)
        require_plain(file)
