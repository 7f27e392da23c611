"""`peftbench sweep`: each experiment's learning rate, by the same trials for every method on the validation set."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_peftbench.commands.command import Command, require_folder, say, tell_progress
from pytest_peftbench.results.files import InputError, read_json, write_json
from pytest_peftbench.results.metrics import METRICS, Value
from pytest_peftbench.results.words import error_line
from pytest_peftbench.suites import PARAMS_FILE, Experiment, find_suites, read_suite

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
OUTCOMES = "learning_rates"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", type=Path, help="folder with default_training_params.json and experiments/")
    parser.add_argument("--only", default="", metavar="TEXT", help="experiments whose <method>/<name> contains TEXT")
    parser.add_argument(
        "--rates", type=_rates, default=RATES, metavar="LR,LR", help="learning rates (default: 1e-3 to 1e-1, five)"
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
    require_folder(str(options.suite), options.suite)
    for name, rate in sweep(options.suite, options.rates, options.only, tell_progress).items():
        say(f"{name}  {rate:g}")
    return 0


def sweep(suite: Path, rates: Sequence[float], chosen: str, progress: Callable[[str], None]) -> dict[str, float]:
    """Try the rates on each experiment whose <method>/<name> contains `chosen`; return the best by experiment.

    The best, by the task's validation metric, is written to the experiment's training parameters, and all trials to
    `learning_rates/<method>--<name>.json` in the suite. Raises InputError when no experiment is meant, and when no
    rate trains one of them.
    """
    experiments = [item for item in read_suite(suite) if chosen in item.case.experiment]
    if not experiments:
        raise InputError(f"{suite}: no experiment's <method>/<name> contains {chosen!r}")
    from pytest_peftbench.cases.loading import cached_base_models, cached_task_data

    base_model, task_data = cached_base_models(), cached_task_data()
    best: dict[str, float] = {}
    for experiment in experiments:
        name = experiment.case.experiment
        trials: dict[str, dict[str, Value]] = {}
        for rate in rates:
            trials[f"{rate:g}"] = _trial(experiment, rate, base_model, task_data)
            progress(f"{name}: lr {rate:g}: {trials[f'{rate:g}']}")
        best[name] = _best(experiment, trials)
        outcome = {"seed": experiment.train.seed, "chosen": best[name], "trials": trials}
        write_json(suite / OUTCOMES / f"{experiment.case.stem}.json", outcome)
        _write_rate(experiment, best[name])
    return best


def _trial(experiment: Experiment, rate: float, base_model: Any, task_data: Any) -> dict[str, Value]:
    """Validation metric and train loss, or the error, of one training with this rate."""
    from pytest_peftbench.cases.trained import try_out

    kwargs = {**experiment.train.optimizer_kwargs, "lr": rate}
    config = replace(experiment.train, optimizer_kwargs=kwargs)
    try:
        figures = try_out(replace(experiment, train=config), base_model, task_data)
    except (RuntimeError, ValueError) as error:  # a rate that is too large for a decomposition, say
        return {"error": error_line(error)}
    bad = [name for name, value in figures.items() if isinstance(value, float) and not math.isfinite(value)]
    return {"error": f"{bad[0]} is not finite"} if bad else figures


def _best(experiment: Experiment, trials: dict[str, dict[str, Value]]) -> float:
    """The rate with the best validation metric, the smaller of equals."""
    scores = [
        (-value if METRICS[name].direction == "lower" else value, -float(rate))
        for rate, figures in trials.items()
        for name, value in figures.items()
        if name.startswith("valid_") and isinstance(value, (int, float))
    ]
    if not scores:
        raise InputError(f"{experiment.path}: no learning rate trains it: {trials}")
    return -max(scores)[1]


def _write_rate(experiment: Experiment, rate: float) -> None:
    file = experiment.path / PARAMS_FILE
    params = read_json(file) if file.exists() else {}
    kwargs = params.get("optimizer_kwargs", experiment.train.optimizer_kwargs)
    write_json(file, {**params, "optimizer_kwargs": {**kwargs, "lr": rate}})


COMMAND = Command(
    name="sweep",
    help="choose the learning rates of a suite's experiments",
    description="Train each experiment with the same learning rates, keep the best by the validation set, and "
    "record all trials beside the experiments, in learning_rates/.",
    add_arguments=_add_arguments,
    run=_run,
)
