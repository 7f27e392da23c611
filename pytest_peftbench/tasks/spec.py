"""What is known of a task before it runs. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pytest_peftbench.results.metrics import Column, Metric
from pytest_peftbench.tasks.config import TrainConfig


@dataclass(frozen=True)
class Published:
    """A figure of PEFT's own results that is the same measure as one of ours: ours is PEFT's times `factor`."""

    figure: str
    metric: str
    factor: float = 1.0


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    name: that of its suites' folders. config: its training parameters. task: its class, a `tasks.task.Task`, or
    `module:Class`, which is imported when a case runs. metrics: what it evaluates; those of the quality lane are
    gated by margin and significance. columns: of the closing table. published: PEFT's figures; the first one tells
    PEFT's results of this task from others. embedded: folder of the base model that comes with the package, for
    model_id "tiny". architecture: file in a base model's folder that holds its config. shapes: class of the task
    without numbers, which footprints are counted on; empty: it has none. build: function that builds the embedded
    model and its data. in_double_precision: whether its code runs where float32 means float64; only then a case has a
    witness (see `cases.witness`).
    """

    name: str
    config: type[TrainConfig]
    task: Any
    metrics: tuple[Metric, ...] = ()
    columns: tuple[Column, ...] = ()
    published: tuple[Published, ...] = ()
    embedded: Path | None = None
    architecture: str = "config.json"
    shapes: Any = ""
    build: Any = ""
    in_double_precision: bool = True

    @property
    def quality_metrics(self) -> int:
        """How many tests of quality a case of the task runs: its own, and the training loss."""
        return 1 + sum(metric.lane == "quality" for metric in self.metrics)

    def load(self, part: str) -> Any:
        """The task's class, shapes or build function: imported now, where its `module:name` stands for it."""
        value = getattr(self, part)
        if not isinstance(value, str):
            return value
        module, _, name = value.partition(":")
        return getattr(import_module(module), name)
