"""Chooses each experiment's learning rate: the same trials for every method, judged on the validation set alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_peftbench.results.files import InputError, read_json, write_json
from pytest_peftbench.results.metrics import Value
from pytest_peftbench.suites import PARAMS_FILE, Experiment, read_suite

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
OUTCOMES = "learning_rates"


def sweep(suite: Path, rates: Sequence[float], chosen: str, progress: Callable[[str], None]) -> dict[str, float]:
    """Try the rates on each experiment whose name contains `chosen`; return the best by experiment.

    The best, by the task's validation metric, is written to the experiment's training parameters, and all trials to
    `learning_rates/<method>--<name>.json` in the suite. Raises InputError when no experiment is meant, and when no
    rate trains one of them.
    """
    from pytest_peftbench.cases.trained import cached_base_models, cached_task_data

    experiments = [item for item in read_suite(suite) if chosen in f"{item.case.method}/{item.case.name}"]
    if not experiments:
        raise InputError(f"{suite}: no experiment's <method>/<name> contains {chosen!r}")
    base_model, task_data = cached_base_models(), cached_task_data()
    best: dict[str, float] = {}
    for experiment in experiments:
        name = f"{experiment.case.method}/{experiment.case.name}"
        trials: dict[str, dict[str, Value]] = {}
        for rate in rates:
            trials[f"{rate:g}"] = _trial(experiment, rate, base_model, task_data)
            progress(f"{name}: lr {rate:g}: {trials[f'{rate:g}']}")
        best[name] = _best(experiment, trials)
        outcome = {"seed": experiment.train.seed, "chosen": best[name], "trials": trials}
        write_json(suite / OUTCOMES / f"{experiment.case.method}--{experiment.case.name}.json", outcome)
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
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    bad = [name for name, value in figures.items() if isinstance(value, float) and not math.isfinite(value)]
    return {"error": f"{bad[0]} is not finite"} if bad else figures


def _best(experiment: Experiment, trials: dict[str, dict[str, Value]]) -> float:
    """The rate with the highest validation metric, the smaller of equals."""
    scores = [
        (value, -float(rate))
        for rate, figures in trials.items()
        for name, value in figures.items()
        if name.startswith("valid_") and isinstance(value, float)
    ]
    if not scores:
        raise InputError(f"{experiment.path}: no learning rate trains it: {trials}")
    return -max(scores)[1]


def _write_rate(experiment: Experiment, rate: float) -> None:
    file = experiment.path / PARAMS_FILE
    params = read_json(file) if file.exists() else {}
    kwargs = params.get("optimizer_kwargs", experiment.train.optimizer_kwargs)
    write_json(file, {**params, "optimizer_kwargs": {**kwargs, "lr": rate}})
