"""Benchmarks parameter-efficient fine-tuning methods and fails when one regresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_peftbench.results.metrics import Column, Metric
from pytest_peftbench.tasks.config import Place, TrainConfig
from pytest_peftbench.tasks.registry import register as register_task
from pytest_peftbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from torch import nn

    from pytest_peftbench.measure.memory import MemoryTracker
    from pytest_peftbench.results.result import Result, SecondStage
    from pytest_peftbench.suites import Experiment

__version__ = "0.1.0"
__all__ = [
    "Column",
    "Metric",
    "Place",
    "TaskSpec",
    "TrainConfig",
    "count_footprint",
    "live_through",
    "register_task",
    "run_experiment",
]


def run_experiment(
    experiment: Experiment,
    base_model: Callable[[Experiment], nn.Module],
    task_data: Callable[[Experiment], Any],
    *,
    memory: MemoryTracker | None = None,
    benchmark: Any = None,
    progress: Callable[[str], None] = lambda text: None,
    second_stage: Callable[[Result], SecondStage] | None = None,
) -> Result:
    """Train, evaluate and measure one experiment: see `cases.trained.run_experiment`.

    It is imported when called: it imports torch, which a run that only collects need not.
    """
    from pytest_peftbench.cases.kinds import TRAINED

    result: Result = TRAINED.load()(
        experiment,
        base_model,
        task_data,
        memory=memory,
        benchmark=benchmark,
        progress=progress,
        second_stage=second_stage,
    )
    return result


def count_footprint(experiment: Experiment) -> Result:
    """Count what one experiment costs at its base model's true shapes, without weights: see `cases.footprint`."""
    from pytest_peftbench.cases.kinds import FOOTPRINT

    result: Result = FOOTPRINT.load()(experiment)
    return result


def live_through(experiment: Experiment, *, second_stage: Callable[[Result], SecondStage] | None = None) -> Result:
    """Ask the laws of one adapter on its structure: see `cases.life_cycle.run`."""
    from pytest_peftbench.cases.kinds import LIFE_CYCLE

    result: Result = LIFE_CYCLE.load()(experiment, second_stage)
    return result
