"""One training with given values, and what it is worth: nothing is counted, timed or checked."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from torch import Tensor, nn

from pytest_peftbench.cases.reference import reference_of
from pytest_peftbench.cases.subject import BaseModel, TaskData, evaluating, subject_of
from pytest_peftbench.measure.environment import deterministic, seed_everything
from pytest_peftbench.measure.weights import digest, last_digit, move
from pytest_peftbench.results.metrics import Value
from pytest_peftbench.results.result import mean
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.task import silent

# Steps between two looks at the loss: each look waits for the device.
_LOOK = 10

Figures = dict[str, float]


class Diverged(ArithmeticError):
    """The loss or a figure is not finite."""


def attempt(experiment: Experiment, base_model: BaseModel, task_data: TaskData, *, moved: bool = False) -> Figures:
    """Train with the experiment's first seed: validation, `train_loss` and the test's figures, to the benchmark's bits.

    moved: on base weights moved by their last digit, and without the test's figures. Raises Diverged where a loss or a
    figure is not finite, and passes on what PEFT, torch and the task raise.
    """
    with deterministic(experiment.device), tempfile.TemporaryDirectory() as folder:
        subject = subject_of(experiment, base_model, task_data, Path(folder))
        seed, config = experiment.seeds[0], experiment.train
        base = subject.injectable_base(seed)
        reference = None if moved else reference_of(subject, base, digest(base), silent)
        model = subject.inject(move(base, last_digit(base)) if moved else base, seed)
        trainer = subject.trainer(model)
        seed_everything(seed)
        losses = trainer.train(subject.task.batches(seed), config.max_steps, _require_finite)
        with evaluating(model):
            figures = subject.task.validate(model, subject.needs.inputs)
            if reference is not None:
                figures |= subject.task.evaluate(model, subject.needs.inputs, reference.evaluation).metrics
        return _finite({**figures, "train_loss": mean(losses[-config.eval_steps :])})


def untrained(experiment: Experiment, base_model: BaseModel, task_data: TaskData) -> Figures:
    """The same figures of the base model as it is, all but the train loss."""
    with deterministic(experiment.device), tempfile.TemporaryDirectory() as folder:
        subject = subject_of(experiment, base_model, task_data, Path(folder)).without_adapter()
        base: nn.Module = subject.base()
        reference = reference_of(subject, base, digest(base), silent)
        with evaluating(base):
            figures = subject.task.validate(base, subject.needs.inputs)
            figures |= subject.task.evaluate(base, subject.needs.inputs, reference.evaluation).metrics
        return _finite(figures)


def _require_finite(step: int, losses: list[Tensor]) -> None:
    if step % _LOOK == 0 and not math.isfinite(float(losses[-1])):
        raise Diverged(f"the loss is not finite at step {step}")


def _finite(figures: dict[str, Value]) -> Figures:
    numbers = {name: float(value) for name, value in figures.items() if isinstance(value, (int, float))}
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise Diverged(f"{name} is not finite")
    return numbers
