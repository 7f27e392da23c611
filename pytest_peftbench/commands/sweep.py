"""`peftbench sweep`: each experiment's learning rate, by the same trials for every method on the validation set.

A rate counts where training keeps still: on a base model whose weights moved by their last digit it gives the same
figures. Beyond that, at the edge of stability, they tell rounding and not the method. That is asked of the best rate
first, then of the next best, until one keeps still. A rate that keeps still because it learns nothing tells nothing
either: where any learns, those that do not are passed over.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_peftbench.commands.command import Command, say, tell_progress
from pytest_peftbench.results.files import InputError, read_json, require_writable, write_json
from pytest_peftbench.results.metrics import METRICS, Value
from pytest_peftbench.results.words import error_line
from pytest_peftbench.suites import PARAMS_FILE, Experiment, find_suites, read_suite

if TYPE_CHECKING:
    from torch import nn

    from pytest_peftbench.cases.subject import BaseModel, TaskData

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
OUTCOMES = "learning_rates"
# What a still training moves by at most: the validation metric, in its unit (one of 50 problems is 0.02), and the train
# loss, relative to itself.
STILL_METRIC = 0.025
STILL_LOSS = 5e-4
# What learns is better than the base model by more than this, in the validation metric's unit: by three of 50 problems.
LEARNS = 0.05


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", type=Path, help="folder with default_training_params.json and experiments/")
    parser.add_argument("--only", default="", metavar="TEXT", help="experiments whose <method>/<name> contains TEXT")
    parser.add_argument(
        "--rates", type=_rates, default=RATES, metavar="LR,LR", help="learning rates (default: 3e-4 to 3e-1, seven)"
    )


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise InputError(f"{text!r}: expected learning rates greater than 0, separated by commas")
    return rates


def _run(options: argparse.Namespace) -> int:
    find_suites(options.suite)  # a folder, or a usage error
    require_writable(str(options.suite), options.suite)
    for name, rate in sweep(options.suite, options.rates, options.only, tell_progress).items():
        say(f"{name}  {rate:g}")
    return 0


@dataclass(frozen=True)
class Trial:
    """What a rate gives: the figures; where it was asked, by how much each changes on the moved base model; an error.

    An error takes the rate out; figures that stand beside it are those of the base model as it is.
    """

    figures: dict[str, float] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def metric(self) -> str:
        """Name of the task's validation metric."""
        return next(name for name in self.figures if name.startswith("valid_"))

    @property
    def merit(self) -> tuple[float, float]:
        """More is better: the validation metric, then the train loss."""
        return self.gain_over({self.metric: 0.0}), -self.figures["train_loss"]

    def gain_over(self, other: Mapping[str, float]) -> float:
        """By how much the validation metric is better than another's."""
        sign = -1 if METRICS[self.metric].direction == "lower" else 1
        return sign * (self.figures[self.metric] - other[self.metric])

    @property
    def unrest(self) -> float:
        """How far the figures moved, as a multiple of what a still training may."""
        loss = STILL_LOSS * abs(self.figures["train_loss"])
        return max(abs(self.moved[self.metric]) / STILL_METRIC, abs(self.moved["train_loss"]) / loss)

    def to_dict(self) -> dict[str, Any]:
        """As the suite's `learning_rates/` holds it: what there is."""
        moved = {"moved": self.moved} if self.moved else {}
        return {**self.figures, **moved, **({"error": self.error} if self.error else {})}


def sweep(suite: Path, rates: Sequence[float], chosen: str, progress: Callable[[str], None]) -> dict[str, float]:
    """Try the rates on each experiment whose <method>/<name> contains `chosen`; return the best by experiment.

    The best, by the task's validation metric among the rates that keep still, is written to the experiment's training
    parameters, and all trials to `learning_rates/<method>--<name>.json` in the suite. Where no rate that learns keeps
    still, the stillest is the best, and `progress` says so. Raises InputError when no experiment is meant, and when no
    rate trains one of them.
    """
    experiments = [item for item in read_suite(suite) if chosen in item.case.experiment]
    if not experiments:
        raise InputError(f"{suite}: no experiment's <method>/<name> contains {chosen!r}")
    from pytest_peftbench.cases.loading import cached_base_models, cached_task_data

    base_model, task_data = cached_base_models(), cached_task_data()
    best: dict[str, float] = {}
    for experiment in experiments:
        trials, rate, still = _swept(experiment, rates, base_model, task_data, progress)
        outcome = {
            "seed": experiment.train.seed,
            "chosen": rate,
            "still": still,
            "trials": {f"{rate:g}": trial.to_dict() for rate, trial in trials.items()},
        }
        write_json(suite / OUTCOMES / f"{experiment.case.stem}.json", outcome)
        _write_rate(experiment, rate)
        best[experiment.case.experiment] = rate
    return best


def _swept(
    experiment: Experiment,
    rates: Sequence[float],
    base_model: BaseModel,
    task_data: TaskData,
    progress: Callable[[str], None],
) -> tuple[dict[float, Trial], float, bool]:
    """All trials of one experiment, the best rate, and whether it keeps still."""
    name = experiment.case.experiment
    trials: dict[float, Trial] = {}
    for rate in rates:
        trials[rate] = _trial(experiment, rate, base_model, task_data)
        progress(f"{name}: lr {rate:g}: {trials[rate].to_dict()}")

    def moved(rate: float, trial: Trial) -> Trial:
        found = _moved(experiment, rate, trial, base_model, task_data)
        progress(f"{name}: lr {rate:g} moves by {found.moved or found.error}")
        return found

    best, still = _best(experiment, trials, _of_base_model(experiment, base_model, task_data), moved)
    if not still:
        progress(f"{name}: no learning rate learns and keeps still; {best:g} moves least")
    return trials, best, still


def _trial(experiment: Experiment, rate: float, base_model: BaseModel, task_data: TaskData) -> Trial:
    """One training with this rate."""
    try:
        figures = _figures(experiment, rate, base_model, task_data)
    except (RuntimeError, ValueError) as error:  # a rate that is too large for a decomposition, say
        return Trial(error=error_line(error))
    bad = [name for name, figure in figures.items() if not math.isfinite(figure)]
    return Trial(error=f"{bad[0]} is not finite") if bad else Trial(figures)


def _moved(experiment: Experiment, rate: float, trial: Trial, base_model: BaseModel, task_data: TaskData) -> Trial:
    """The trial with what the same training gives on a base model moved by its weights' last digit."""
    from pytest_peftbench.measure.weights import last_digit, move

    def moved(item: Experiment) -> nn.Module:
        base = base_model(item)
        return move(base, last_digit(base))

    other = _trial(experiment, rate, moved, task_data)
    if other.error:
        return replace(trial, error=f"on the moved base model: {other.error}")
    return replace(trial, moved={name: other.figures[name] - trial.figures[name] for name in trial.figures})


def _figures(experiment: Experiment, rate: float, base_model: BaseModel, task_data: TaskData) -> dict[str, float]:
    from pytest_peftbench.cases.trained import try_out

    kwargs = {**experiment.train.optimizer_kwargs, "lr": rate}
    tried = replace(experiment, train=replace(experiment.train, optimizer_kwargs=kwargs))
    return _numbers(try_out(tried, base_model, task_data))


def _numbers(figures: dict[str, Value]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if isinstance(value, (int, float))}


def _of_base_model(experiment: Experiment, base_model: BaseModel, task_data: TaskData) -> dict[str, float]:
    from pytest_peftbench.cases.trained import validate_base_model

    return _numbers(validate_base_model(experiment, base_model, task_data))


def _best(
    experiment: Experiment,
    trials: dict[float, Trial],
    base: Mapping[str, float],
    moved: Callable[[float, Trial], Trial],
) -> tuple[float, bool]:
    """The best rate that learns and keeps still, the smaller of equals, or the stillest; and whether it is still.

    base: the base model's validation metric, which a rate that learns betters; where none does, all count.
    moved: gives a trial what a moved base model does to it; `trials` then holds that.
    """
    trained = [rate for rate, trial in trials.items() if not trial.error]
    tried = [rate for rate in trained if trials[rate].gain_over(base) > LEARNS] or trained
    for rate in sorted(tried, key=lambda rate: (*trials[rate].merit, -rate), reverse=True):
        trials[rate] = moved(rate, trials[rate])
        if not trials[rate].error and trials[rate].unrest <= 1:
            return rate, True
    left = [rate for rate in tried if not trials[rate].error]
    if not left:
        errors = {f"{rate:g}": trial.error for rate, trial in trials.items() if trial.error}
        raise InputError(f"{experiment.path}: no learning rate trains it: {errors}")
    return min(left, key=lambda rate: (trials[rate].unrest, rate)), False


def _write_rate(experiment: Experiment, rate: float) -> None:
    file = experiment.path / PARAMS_FILE
    params = read_json(file) if file.exists() else {}
    kwargs = params.get("optimizer_kwargs", experiment.train.optimizer_kwargs)
    write_json(file, {**params, "optimizer_kwargs": {**kwargs, "lr": rate}})


COMMAND = Command(
    name="sweep",
    help="choose the learning rates of a suite's experiments",
    description="Train each experiment with the same learning rates. Keep the best, by the validation set, whose "
    "figures keep still on a base model moved by its weights' last digit, and record all trials beside the "
    "experiments, in learning_rates/.",
    add_arguments=_add_arguments,
    run=_run,
)
