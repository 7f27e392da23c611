"""What a task is: its data, its loss, and how a trained model is evaluated. The kinds of case know the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from pytest_peftbench.results.metrics import Value
from pytest_peftbench.results.result import Picture
from pytest_peftbench.tasks.config import Place

Batch = dict[str, Tensor]
# Keyword arguments that a method needs in each forward call, for a batch of that many items (see `cases.methods`).
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
    def digest(self) -> str:
        """Hash of the content."""


class Task:
    """One task, bound to its training parameters, its place and its data.

    config: of the class that the task's spec names. data: what `load_data` gave. Models are on their device already;
    batches are put there by the task. timed_steps: how many steps of generation are timed in one go. decoded_steps:
    numbers of steps, one apart, of two generations whose difference is one step. generates: whether it has a `decode`.
    """

    timed_steps: ClassVar[int] = 1
    decoded_steps: ClassVar[tuple[int, int]] = (2, 3)
    generates: ClassVar[bool] = True

    def __init__(self, config: Any, place: Place, data: Any) -> None:
        self.config = config
        self.place = place
        self.data = data

    @staticmethod
    def load_base_model(config: Any, place: Place) -> nn.Module:
        """The base model, without adapter."""
        raise NotImplementedError

    @staticmethod
    def load_data(config: Any, place: Place) -> Any:
        """The task's `Data`."""
        raise NotImplementedError

    def problems(self) -> Iterator[str]:
        """What of the training parameters does not fit the data, as `key: what` lines: nothing, unless it is told."""
        yield from ()

    def problems_with(self, base: nn.Module) -> Iterator[str]:
        """What of them the base model cannot do, likewise, asked before it is trained: nothing, unless it is told."""
        yield from ()

    def prepare(self, model: nn.Module) -> None:
        """What the task does to a model whose adapter is fresh: nothing, unless it is told otherwise."""

    def batches(self, seed: int) -> Iterator[Batch]:
        """Endless training batches, in an order drawn from `seed`."""
        raise NotImplementedError

    def probe_batch(self) -> Batch:
        """The fixed training batch that counters, checks and, on an accelerator, step times are taken on."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean training loss of one batch, a scalar."""
        raise NotImplementedError

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's prediction for one batch, by which two models are told apart."""
        raise NotImplementedError

    def decode(self, model: nn.Module, steps: int, extra: Extra) -> Tensor:
        """Generate with exactly `steps` steps for one batch and return it: tokens, the first of which reads the prompt,
        or latents after noise was removed with guidance. Never called where the task does not generate."""
        raise NotImplementedError

    def reference(self, base: nn.Module, progress: Progress = silent) -> Any:
        """What `evaluate` compares with, measured once on the base model without adapter: nothing, unless told."""
        return None

    def validate(self, model: nn.Module, extra: Extra, progress: Progress = silent) -> dict[str, Value]:
        """The metrics that are read while training, as `valid_accuracy`."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module, extra: Extra, reference: Any, progress: Progress = silent) -> Evaluation:
        """Quality of a trained model on the test set, and what it forgot since `reference`."""
        raise NotImplementedError
