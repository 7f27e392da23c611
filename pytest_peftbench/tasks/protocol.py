"""The tasks, one file each. A task knows its data, its loss and how it is evaluated; the engine knows the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from torch import Tensor, nn

from pytest_peftbench.results.metrics import Value
from pytest_peftbench.results.result import Picture
from pytest_peftbench.suites import Experiment

Batch = dict[str, Tensor]
# Keyword arguments that a method needs in each forward call, for a batch of that many items (see `methods`).
Extra = Callable[[int], dict[str, Tensor]]
# Shows a few words about what is being done, such as "problems 64/128".
Progress = Callable[[str], None]


def silent(text: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Evaluation:
    """Quality of a trained model: metrics by name, the samples that they are means of, and pictures to look at."""

    metrics: dict[str, Value]
    samples: dict[str, str | list[float]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)


class Data(Protocol):
    """A task's data, tokenised; `digest` is a hash of its content and part of the case version."""

    @property
    def digest(self) -> str: ...


class Task(Protocol):
    """What the engine needs of a task. Models are on their device already; batches are put there by the task.

    timed_steps: how many steps of generation are timed in one go.
    """

    timed_steps: int

    def load_base_model(self, experiment: Experiment) -> nn.Module:
        """The base model of the experiment, without adapter."""

    def load_data(self, experiment: Experiment) -> Any:
        """The task's `Data`."""

    def prepare(self, model: nn.Module, data: Any, experiment: Experiment) -> None:
        """What the task does to a model whose adapter is fresh."""

    def batches(self, data: Any, experiment: Experiment, seed: int) -> Iterator[Batch]:
        """Endless training batches, in an order drawn from `seed`."""

    def probe_batch(self, data: Any, experiment: Experiment) -> Batch:
        """The fixed training batch that counters, checks and, on an accelerator, step times are taken on."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean training loss of one batch, a scalar."""

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's prediction for one batch, by which two models are told apart."""

    def decode(self, model: nn.Module, data: Any, experiment: Experiment, steps: int, extra: Extra) -> None:
        """Generate with exactly `steps` steps for one batch: tokens, the first of which reads the prompt, or noise
        removed with guidance."""

    def reference(self, base: nn.Module, data: Any, experiment: Experiment, progress: Progress = silent) -> Any:
        """What `evaluate` compares with, measured once on the base model without adapter."""

    def validate(
        self, model: nn.Module, data: Any, experiment: Experiment, extra: Extra, progress: Progress = silent
    ) -> dict[str, Value]:
        """The metrics that are read while training, as `valid_accuracy`."""

    def evaluate(
        self,
        model: nn.Module,
        data: Any,
        experiment: Experiment,
        extra: Extra,
        reference: Any,
        progress: Progress = silent,
    ) -> Evaluation:
        """Quality of a trained model on the test set, and what it forgot since `reference`."""


_MODULES = {
    "MetaMathQA": "pytest_peftbench.tasks.math_reasoning.task",
    "image-gen": "pytest_peftbench.tasks.image_generation.task",
}


def task_of(experiment: Experiment) -> Task:
    """The task that the experiment belongs to."""
    task: Task = import_module(_MODULES[experiment.case.task]).TASK
    return task
