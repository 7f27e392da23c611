"""What tuning one experiment gave, as a file holds it: each trial, the space, the best, its fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pytest_peftbench.commands.tune.spaces import Values
from pytest_peftbench.compare.budget import Search
from pytest_peftbench.results.files import InputError, converted, read_json, write_json
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId

SCHEMA = 1
# What a trial's figures begin with that is chosen by.
VALIDATION = "valid_"
LOSS = "train_loss"

Figures = dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One training. environment: which one of the outcome's. error: why it failed, which takes it out of the choice."""

    number: int
    values: Values
    seed: int
    state: Literal["complete", "failed"]
    figures: Figures = field(default_factory=dict)
    duration_s: float = 0.0
    environment: int = 0
    error: str = ""


@dataclass(frozen=True)
class Outcome:
    """All trials of an experiment, in the order in which they were drawn.

    space, space_sha256: what was searched. search_seed: of the draws. metric: the validation metric that is chosen by.
    untrained: the base model's own figures. best: number of the trial that is chosen; None where all failed. at_bounds:
    which of its values lie at a bound. moved: what trials gave on a base model that was moved by its last digit, by
    their number, where that was asked; then `best` keeps still if any does, as `still` says. retrained: the best with
    fresh seeds. environments: where trials ran.
    """

    schema: int
    case: CaseId
    space: dict[str, Any]
    space_sha256: str
    search_seed: int
    metric: str
    untrained: Figures
    best: int | None
    at_bounds: list[str]
    still: bool | None
    environments: list[dict[str, str]]
    trials: list[Trial]
    moved: list[Trial] = field(default_factory=list)
    retrained: list[Trial] = field(default_factory=list)

    @property
    def higher(self) -> bool:
        """Whether a larger score is better."""
        return METRICS[self.metric].direction != "lower"

    @property
    def tests(self) -> list[str]:
        """The figures that nothing is chosen by, in the order of the catalogue."""
        return [name for name in METRICS if name in self.untrained and name != self.metric]

    def score(self, trial: Trial) -> float:
        """What it is chosen by."""
        return trial.figures[self.metric]

    def merit(self, trial: Trial) -> tuple[float, float]:
        """More is better: the validation metric, then the train loss."""
        return (1 if self.higher else -1) * self.score(trial), -trial.figures[LOSS]

    def ranked(self) -> list[Trial]:
        """The trials that did not fail, the best first; of equals the earlier."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return sorted(complete, key=self.merit, reverse=True)

    def chosen(self) -> Trial | None:
        """The best."""
        return next((trial for trial in self.trials if trial.number == self.best), None)

    def search(self, count: int) -> Search:
        """The first trials for `compare.budget`: one that failed is the worst.

        Who has nothing else has the base model, so its figures are those of the base model, and its score no better
        than that of any trial that did not fail.
        """
        trials = sorted(self.trials, key=lambda trial: trial.number)[:count]
        scores = [self.score(trial) for trial in trials if trial.state == "complete"]
        worst = (min if self.higher else max)([self.untrained[self.metric], *scores])
        failed = {**self.untrained, self.metric: worst, LOSS: float("inf")}
        filled = [trial if trial.state == "complete" else replace(trial, figures=failed) for trial in trials]
        return Search(
            [self.score(trial) for trial in filled],
            [self.merit(trial) for trial in filled],
            {name: [trial.figures[name] for trial in filled] for name in self.tests},
        )

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        return {**asdict(self), "case": self.case.to_json()}


def outcome_file(folder: Path, case: CaseId) -> Path:
    """Where an outcome lies. Raises InputError for a name that no file can have."""
    return folder / case.file(Path()).name


def write(folder: Path, outcome: Outcome) -> None:
    """Write an outcome atomically."""
    write_json(outcome_file(folder, outcome.case), outcome.to_json())


def read(file: Path) -> Outcome:
    """The outcome in a file. Raises InputError naming file and key for what is none."""
    data = read_json(file)
    if (schema := converted(file, data.get("schema"), int, "schema")) != SCHEMA:
        raise InputError(f"{file}: schema is {schema}, this version reads {SCHEMA}; tune anew with this version")
    outcome = converted(file, data, Outcome)
    _require_whole(file, outcome)
    return outcome


def _require_whole(file: Path, outcome: Outcome) -> None:
    if outcome.metric not in METRICS:
        raise InputError(f"{file}: metric: {outcome.metric!r} is unknown here; is its task's conftest.py missing?")
    if not outcome.trials:
        raise InputError(f"{file}: trials: holds none")
    numbers = [trial.number for trial in outcome.trials]
    if numbers != list(range(len(numbers))):
        raise InputError(f"{file}: trials: their numbers must be 0, 1, 2, …, are {numbers[:8]}")
    wanted = (outcome.metric, *outcome.tests)
    for place, figures in _figures(outcome):
        for name in (*wanted, *([LOSS] if place != "untrained" else [])):
            if name not in figures:
                raise InputError(f"{file}: {place}: lacks {name}")
    if outcome.best is not None and outcome.best not in [trial.number for trial in outcome.ranked()]:
        raise InputError(f"{file}: best: {outcome.best} is no trial that did not fail")


def _figures(outcome: Outcome) -> list[tuple[str, Mapping[str, float]]]:
    trials: Sequence[Trial] = outcome.trials
    return [
        ("untrained", outcome.untrained),
        *((f"trials[{trial.number}].figures", trial.figures) for trial in trials if trial.state == "complete"),
    ]
