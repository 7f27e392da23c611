"""What one pytest session holds: its settings, its cases, its progress line. Imports no torch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_peftbench.compare import GREEN_BY_DEFAULT, SEVERITY, Verdict
from pytest_peftbench.experiment import Experiment, find_suites, read_suite
from pytest_peftbench.jsonfile import InputError

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


@dataclass(frozen=True)
class Settings:
    """The options of the plugin, from the command line or the ini file."""

    baselines: Path
    suites: tuple[Path, ...]
    seeds: int | None
    device: str
    results: Path | None
    update: bool
    compare: bool
    green: frozenset[Verdict]

    @classmethod
    def from_pytest_config(cls, config: pytest.Config) -> Settings:
        """Command line before ini file; paths in the ini file are relative to the root directory."""

        def option(name: str) -> Any:
            given = config.getoption(name)
            return config.getini(name) if given is None else given

        root = config.rootpath
        results = option("peft_json")
        seeds = option("peft_seeds")
        green = option("peft_green")
        return cls(
            baselines=root / (option("peft_baselines") or "baselines"),
            suites=tuple(root / suite for suite in option("peft_suite") or ()),
            seeds=None if seeds in (None, "") else positive(seeds),
            device=option("peft_device") or "cpu",
            results=root / results if results else None,
            update=bool(option("peft_update_baselines")),
            compare=not option("peft_no_compare"),
            green=verdicts(green) if isinstance(green, str) and green else (green or GREEN_BY_DEFAULT),
        )


def positive(text: object) -> int:
    """An integer of at least 1, for an option's `type`."""
    try:
        number = int(str(text))
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"{text!r}: expected an integer of at least 1")
    return number


def verdicts(text: str) -> frozenset[Verdict]:
    """Verdicts of a comma-separated list, for an option's `type`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in SEVERITY:
            raise InputError(f"{name!r} is no verdict; there are {', '.join(SEVERITY)}")
    return frozenset(verdict for verdict in SEVERITY if verdict in names)


@dataclass
class Session:
    """The settings, the cases of each suite, and the problems found while reading them."""

    settings: Settings
    problems: list[str] = field(default_factory=list)
    _suites: dict[Path, list[Experiment]] = field(default_factory=dict)

    def experiments(self, folder: Path, task: str | None) -> list[Experiment]:
        """The cases of a test in `folder`: of the suites in it, or of those that `--peft-suite` names.

        task: only those of this task. What cannot be read becomes a problem, and no case.
        """
        found: list[Experiment] = []
        try:
            suites = [suite for root in self.settings.suites or (folder,) for suite in find_suites(root)]
        except InputError as error:
            self._add_problem(str(error))
            return []
        for suite in dict.fromkeys(suites):
            found += self._read(suite)
        return [self._configured(experiment) for experiment in found if task in (None, experiment.case.task)]

    def suites(self) -> list[Path]:
        """The suites read so far."""
        return list(self._suites)

    def _read(self, suite: Path) -> list[Experiment]:
        if suite not in self._suites:
            try:
                self._suites[suite] = read_suite(suite)
            except InputError as error:
                self._suites[suite] = []
                self._add_problem(str(error))
        return self._suites[suite]

    def _add_problem(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _configured(self, experiment: Experiment) -> Experiment:
        first, count = experiment.train.seed, self.settings.seeds or 1
        return replace(experiment, device=self.settings.device, seeds=tuple(range(first, first + count)))


SESSION = pytest.StashKey[Session]()


class Progress:
    """Shows on one line of the terminal what a case is doing; silent without a terminal, under -q and in a worker."""

    INTERVAL_S = 0.2

    def __init__(self, config: pytest.Config, title: str) -> None:
        reporter: TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
        worker = hasattr(config, "workerinput")
        self._reporter = reporter if reporter and reporter.isatty and reporter.verbosity >= 0 and not worker else None
        self._capture: Any = config.pluginmanager.get_plugin("capturemanager")
        self._title = title
        self._shown_at = 0.0
        self._width = 0

    def __call__(self, text: str) -> None:
        """Show `text` in place of what was shown."""
        if self._reporter is not None and time.monotonic() - self._shown_at >= self.INTERVAL_S:
            self._shown_at = time.monotonic()
            self._write(f"{self._title}: {text}")

    def clear(self) -> None:
        """Remove what was shown."""
        if self._width:
            self._write("")

    def _write(self, line: str) -> None:
        assert self._reporter is not None
        with self._capture.global_and_fixture_disabled():
            self._reporter._tw.write("\r" + line.ljust(self._width) + ("" if line else "\r"), flush=True)
        self._width = len(line)
