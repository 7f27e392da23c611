"""What one pytest session holds: its settings, its cases, its progress line. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_peftbench.cases.kinds import KINDS
from pytest_peftbench.compare import GREEN_BY_DEFAULT, SEVERITY, Verdict
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.suites import DEFAULTS_FILE, Experiment, find_suites, read_suite

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


# Of a baseline that is recorded without --peft-seeds.
BASELINE_SEEDS = 5
# A task's two and the training loss.
QUALITY_METRICS = 3
# Kind of the cases that are counted at real shapes, without training.
FOOTPRINT = "footprint"


@dataclass(frozen=True)
class Settings:
    """The options of the plugin, from the command line or the ini file."""

    baselines: Path
    suites: tuple[Path, ...]
    seeds: int | None
    device: str
    data: Path | None
    models: Path | None
    results: Path | None
    update: bool
    calibrate: int
    compare: bool
    green: frozenset[Verdict]
    bisect: bool

    @classmethod
    def from_pytest_config(cls, config: pytest.Config) -> Settings:
        """Command line before ini file: relative paths start at the working directory there, at the root here.

        Raises InputError, naming the key, for a value in the ini file that cannot be used.
        """

        def from_ini(name: str, convert: Callable[[str], Any] | None = None) -> Any:
            try:
                value = config.getini(name)
                return convert(value) if convert and value else value
            except (TypeError, ValueError, pytest.UsageError) as error:
                raise InputError(f"{name}: {error}") from error

        def option(name: str, convert: Callable[[str], Any] | None = None) -> Any:
            given = config.getoption(name)
            return from_ini(name, convert) if given is None else given

        def paths(name: str) -> tuple[Path, ...]:
            given = config.getoption(name)
            start = config.rootpath if given is None else config.invocation_params.dir
            value = (from_ini(name) if given is None else given) or []
            return tuple((start / path).resolve() for path in ([value] if isinstance(value, str) else value))

        def folder(name: str) -> Path | None:
            path = next(iter(paths(name)), None)
            if path is not None and not path.is_dir():
                raise InputError(f"{name}: {path}: no such folder")
            return path

        green = option("peft_green", verdicts) or GREEN_BY_DEFAULT
        settings = cls(
            baselines=next(iter(paths("peft_baselines")), config.rootpath / "baselines"),
            suites=paths("peft_suite"),
            seeds=option("peft_seeds", positive) or None,
            device=option("peft_device") or "cpu",
            data=folder("peft_data"),
            models=folder("peft_models"),
            results=next(iter(paths("peft_json")), None),
            update=bool(option("peft_update_baselines")),
            calibrate=option("peft_calibrate", positive) or 0,
            compare=not option("peft_no_compare"),
            green=green - {"environment drift"} if option("peft_strict_env") else green,
            bisect=bool(option("peft_bisect")),
        )
        if settings.calibrate and settings.seeds and not settings.update:
            raise InputError(
                "peft_calibrate trains seeds beside the baseline's own, so peft_seeds cannot be given too; leave it "
                "out, or record both together with --peft-update-baselines"
            )
        return settings


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
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in SEVERITY:
            raise InputError(f"{name!r} is no verdict; there are {', '.join(SEVERITY)}")
    return frozenset(verdict for verdict in SEVERITY if verdict in names)


@dataclass
class Session:
    """The settings, the cases of each suite, and the problems found while reading them. cases: how many will run."""

    settings: Settings
    problems: list[str] = field(default_factory=list)
    cases: int = 1
    _suites: dict[Path, list[Experiment]] = field(default_factory=dict)
    # of each test that takes `experiment`, whether it got a case
    _got_cases: list[bool] = field(default_factory=list)

    def experiments(self, folder: Path, task: str | None, kind: str = "") -> list[Experiment]:
        """The cases of a test in `folder`: of the suites in it, or of those that `--peft-suite` names.

        task: only those of this task. kind: what the test does with them; it trains unless told otherwise. A real base
        model is trained on an accelerator or when its suite is named; an embedded one has no footprint at real shapes.
        What cannot be read becomes a problem, and no case; so does a test without
        any case: a gate that compares nothing must not pass. (`--peft-suite` may name suites of other tests' tasks,
        as long as some test takes a case: `problem_of_suites`.)
        """
        try:
            suites = self._named_suites() if self.settings.suites else find_suites(folder)
        except InputError as error:
            self.add_problem(str(error))
            return []
        found: dict[CaseId, Experiment] = {}
        for experiment in (experiment for suite in suites for experiment in self._read(suite)):
            first = found.setdefault(experiment.case, experiment)
            if first is not experiment:
                self.add_problem(f"{experiment.path}: {first.path} is case {experiment.case} too; run one at a time")
        of_task = [experiment for experiment in found.values() if task in (None, experiment.case.task)]
        cases = [self._configured(experiment, kind) for experiment in of_task if self._is_for(experiment, kind)]
        self._got_cases.append(bool(cases))
        if not cases and not self.settings.suites:
            words = f" of {task}" if task else ""
            if of_task:
                words += " on a real base model" if kind else " on a base model that a CPU can train"
            self.add_problem(
                f"{folder}: a test here takes `experiment`, but no suite below holds one{words}; "
                f"add a folder with {DEFAULTS_FILE} and experiments/, or pass --peft-suite DIR"
            )
        return cases

    def problem_of_suites(self) -> str:
        """That no collected test takes a case of the suites that `--peft-suite` names; empty when one does."""
        if not self.settings.suites or not self._got_cases or any(self._got_cases):
            return ""
        return (
            f"{', '.join(map(str, self.settings.suites))}: no collected test takes a case of the suites that "
            "--peft-suite names, so nothing would be compared; collect the tests of their task"
        )

    @property
    def quality_tests(self) -> int:
        """The most tests of quality that the session can run."""
        return max(1, self.cases) * QUALITY_METRICS

    def add_problem(self, problem: str) -> None:
        """Remember what makes the session end before anything runs."""
        if problem not in self.problems:
            self.problems.append(problem)

    def _named_suites(self) -> list[Path]:
        found: list[Path] = []
        for root in self.settings.suites:
            suites = find_suites(root)
            if not suites:
                raise InputError(f"{root}: holds no suite, which is a folder with {DEFAULTS_FILE} and experiments/")
            found += suites
        return list(dict.fromkeys(found))

    def _read(self, suite: Path) -> list[Experiment]:
        if suite not in self._suites:
            try:
                self._suites[suite] = read_suite(suite)
            except InputError as error:
                self._suites[suite] = []
                self.add_problem(str(error))
        return self._suites[suite]

    def _is_for(self, experiment: Experiment, kind: str) -> bool:
        """Whether a test of this kind takes the experiment."""
        return KINDS[kind].takes(experiment, self.settings.device, bool(self.settings.suites))

    def _configured(self, experiment: Experiment, kind: str) -> Experiment:
        settings, first = self.settings, experiment.train.seed
        count = settings.seeds or (BASELINE_SEEDS if settings.update else 1)
        if settings.update:
            count += settings.calibrate
        return replace(
            experiment,
            case=replace(experiment.case, kind=kind),
            device=settings.device,
            seeds=tuple(range(first, first + count)),
            data=settings.data,
            models=settings.models,
        )


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
