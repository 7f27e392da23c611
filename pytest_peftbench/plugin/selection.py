"""Which cases a session runs: those of the suites that each test takes, and why some cannot be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_peftbench.cases.kinds import KINDS, TRAINED, Kind, quality_metrics
from pytest_peftbench.plugin.options import Settings
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.kept import kept_path
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.suites import DEFAULTS_FILE, Experiment, find_suites, read_suite
from pytest_peftbench.tasks.registry import specs

# Of a baseline that is recorded without --peft-seeds.
BASELINE_SEEDS = 5


class Selection:
    """The cases of a session, and the problems that end it before anything runs.

    quality_tests: the most tests of quality that the session can run. known: the cases of all experiments beside those
    that some test takes, whatever was selected.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.problems: list[str] = []
        self.quality_tests = 1
        self.known: set[CaseId] = set()
        self._suites: dict[Path, list[Experiment]] = {}
        # the suites of tests that take `experiment`, and those that such a test got a case of
        self._offered: dict[Path, None] = {}
        self._taken: set[Path] = set()

    def cases(self, test: pytest.Item | pytest.Function) -> list[Experiment]:
        """The cases of a test: of the suites beside it, or of those that `--peft-suite` names.

        What cannot be read becomes a problem, and no case; so does a test without any case: a gate that compares
        nothing must not pass. (`--peft-suite` may name suites of other tests' tasks, as long as some test takes a
        case: `problem_of_suites`.)
        """
        folder, kind = test.path.parent, self._kind_of(test)
        try:
            task = self._task_of(test)
            found = self._experiments(folder)
        except InputError as error:
            self._add_problem(str(error))
            return []
        of_task = [self._configured(experiment, kind) for experiment in found if task in (None, experiment.case.task)]
        cases = [experiment for experiment in of_task if kind.takes(experiment, bool(self.settings.suite))]
        self._offered.update(dict.fromkeys(experiment.suite for experiment in found))
        self._taken.update(experiment.suite for experiment in cases)
        if cases:
            self.known.update(experiment.case for experiment in of_task)
        if not cases and not self.settings.suite:
            words = (f" of {task}" if task else "") + (f" {kind.lacking}" if of_task else "")
            self._add_problem(
                f"{folder}: a test here takes `experiment`, but no suite below holds one{words}; "
                f"add a folder with {DEFAULTS_FILE} and experiments/, or pass --peft-suite DIR"
            )
        return cases

    def select(self, items: Iterable[pytest.Item]) -> None:
        """Tell the tests that will run: how certain each must be depends on how many there are.

        Two tests of one case are a problem: one of the verdicts, or of the baselines, would be lost.
        """
        tasks, tests = [], dict[CaseId, str]()
        for item in filter(is_case, items):
            experiment = experiment_of(item)
            tasks.append(experiment.case.task if experiment else None)
            if experiment and (first := tests.setdefault(experiment.case, item.nodeid)) != item.nodeid:
                self._add_problem(f"{item.nodeid}: takes case {experiment.case}, as {first} does; run one at a time")
        self.quality_tests = max(1, sum(map(quality_metrics, tasks)))

    def untaken(self) -> list[Path]:
        """The suites that some test could have taken a case of, and none did."""
        return [suite for suite in self._offered if suite not in self._taken]

    def problem_of_suites(self, typed: bool) -> str:
        """That no collected test takes a case of a folder that `--peft-suite` names; empty where one does.

        typed: whether it stands on the command line. In an ini file it may stand for other runs than this one.
        """
        if not typed and (self._taken or not self._offered):
            return ""
        lost = [root for root in self.settings.suite if not any(suite.is_relative_to(root) for suite in self._taken)]
        if not lost:
            return ""
        return (
            f"{', '.join(map(str, lost))}: no collected test takes a case of the suites that --peft-suite names here, "
            "so nothing of them would be compared; collect the tests of their task"
        )

    def _task_of(self, test: pytest.Item) -> str | None:
        """The task that a test is marked with; None: it takes those of all."""
        marker = test.get_closest_marker("peft_task")
        if marker is None:
            return None
        task = marker.args[0] if len(marker.args) == 1 and not marker.kwargs else None
        if not isinstance(task, str) or task not in specs():
            known = ", ".join(specs())
            self._add_problem(f"{test.nodeid}: marker peft_task takes the name of a task: {known}")
        return task

    def _kind_of(self, test: pytest.Item) -> Kind:
        """The kind that a test is marked with, or training."""
        marked = [kind for kind in KINDS.values() if kind.marker and test.get_closest_marker(kind.marker)]
        if len(marked) > 1:
            markers = " and ".join(kind.marker for kind in marked)
            self._add_problem(
                f"{test.nodeid}: is marked {markers}, but a test takes cases of one kind; keep one marker"
            )
        return marked[0] if marked else TRAINED

    def _experiments(self, folder: Path) -> list[Experiment]:
        """The experiments of all suites of a test in `folder`, each case once."""
        found: dict[CaseId, Experiment] = {}
        for suite in self._named_suites() if self.settings.suite else find_suites(folder):
            for experiment in self._read(suite):
                first = found.setdefault(experiment.case, experiment)
                if first is not experiment:
                    places = f"{experiment.path}: {first.path}"
                    self._add_problem(f"{places} is case {experiment.case} too; run one at a time")
        return list(found.values())

    def _named_suites(self) -> list[Path]:
        found: list[Path] = []
        for root in self.settings.suite:
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
                self._add_problem(str(error))
        return self._suites[suite]

    def _configured(self, experiment: Experiment, kind: Kind) -> Experiment:
        settings, first = self.settings, experiment.train.seed
        count = settings.seeds or (BASELINE_SEEDS if settings.update_baselines else 1)
        case = replace(experiment.case, kind=kind.name)
        return replace(
            experiment,
            case=case,
            device=settings.device,
            seeds=tuple(range(first, first + count)),
            data=settings.data,
            models=settings.models,
            kept=kept_path(settings.baselines, case),
            recording=settings.update_baselines,
        )

    def _add_problem(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


SELECTION = pytest.StashKey[Selection]()


def takes_our_experiment(metafunc: pytest.Metafunc) -> bool:
    """Whether the test takes this plugin's `experiment`, and no parameter or fixture of its own with that name."""
    for fixture in reversed(metafunc._arg2fixturedefs.get("experiment", ())):
        if fixture.func.__module__ == __package__:
            return True
        if "experiment" not in fixture.argnames:
            return False
    return False


def experiment_of(item: pytest.Item) -> Experiment | None:
    """The experiment that a test runs; None where it takes none of ours."""
    value = item.callspec.params.get("experiment") if hasattr(item, "callspec") else None
    # without our marker it is a parameter of the test's own
    return value if isinstance(value, Experiment) and item.get_closest_marker(value.marker) else None


def is_case(item: pytest.Item) -> bool:
    """Whether the test measures a case: one of ours, or of an `experiment` that the user's own fixture gives."""
    return experiment_of(item) is not None or "peft_baseline" in getattr(item, "fixturenames", ())
