"""What a task without numbers is: its base model and batches on the meta device, for footprints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from pytest_peftbench.tasks.config import Place, TrainConfig


@dataclass(frozen=True)
class Lengths:
    """Sizes of a batch. batch: texts or pictures. tokens: of each text, or of each picture's prompt."""

    batch: int
    tokens: int


class TaskShapes(Protocol):
    """A `Task` bound to a base model's config (`architecture`) and to the sizes of a batch, on the meta device.

    Its loss and output are the task's own; it has no data.
    """

    def __init__(self, config: Any, place: Place, architecture: dict[str, Any], lengths: Lengths) -> None: ...

    @staticmethod
    def usual_lengths(config: TrainConfig) -> Lengths:
        """The sizes that an experiment is counted with unless others are given."""

    @property
    def trained_tokens(self) -> int:
        """Tokens of a batch that are trained on; for pictures their positions, the prompts' not counted."""

    def base_model(self) -> nn.Module:
        """The base model on the meta device, as the task loads it."""
