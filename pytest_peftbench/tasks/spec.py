"""What is known of a task before it runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


# `<method>/<name>` -> the keys of `adapter_config.json`, and those of `training_params.json`
Brought = Mapping[str, tuple[dict[str, Any], dict[str, Any]]]


def _brings_none(model_id: str) -> Brought:
    return {}


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    name: that of its suites' folders. config: its training parameters. task: its class, a `tasks.task.Task`, or
    `module:Class`, which is imported when a case runs; empty: its cases are not trained. metrics: what it evaluates;
    those of the quality lane are gated by margin and significance. columns: of the closing table. published: PEFT's
    figures; the first one tells PEFT's results of this task from others. embedded: folder of the base model that comes
    with the package, for model_id "tiny". architecture: file in a base model's folder that holds its config. shapes:
    class of the task without numbers, which footprints are counted on; empty: it has none. build: function that builds
    the embedded model and its data. in_double_precision: whether its code runs where float32 means float64; only then
    a case has a witness (see `cases.witness`). experiments: what the task brings itself for a model_id, beside the
    folders of a suite.
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
    experiments: Callable[[str], Brought] = _brings_none

    @property
    def quality_metrics(self) -> int:
        """How many tests of quality a case of the task runs: its own, and the training loss; none if not trained."""
        if not self.task:
            return 0
        return 1 + sum(metric.lane == "quality" for metric in self.metrics)

    def load(self, part: str) -> Any:
        """The task's class, shapes or build function: imported now, where its `module:name` stands for it."""
        value = getattr(self, part)
        if not isinstance(value, str):
            return value
        module, _, name = value.partition(":")
        return getattr(import_module(module), name)
