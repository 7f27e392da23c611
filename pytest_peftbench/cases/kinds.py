"""The kinds of case, a row each: which experiments one takes, what it runs, what its table shows. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pytest_peftbench.meta.architectures import shipped
from pytest_peftbench.results.metrics import Column
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.registry import specs


@dataclass(frozen=True)
class Kind:
    """A kind of case.

    name: part of the case's id and of its baseline's folder; empty for the one that trains. marker: of the tests that
    take it, with its description; empty for all other tests. takes: whether it is for an experiment. device: that the
    session runs on. named: whether the experiment's suite was asked for by name. needs: what the experiments that it
    does not take lack, in words. columns: of its table; empty: those of the experiment's task. run: `module:function`
    that runs a case.
    """

    name: str
    marker: str
    description: str
    takes: Callable[[Experiment, str, bool], bool]
    needs: str
    run: str
    columns: tuple[Column, ...] = ()


def _trains(experiment: Experiment, device: str, named: bool) -> bool:
    """A real base model trains on an accelerator, or where its suite was named; any other anywhere."""
    return named or device != "cpu" or shipped(experiment.train.model_id) is None


def _counts(experiment: Experiment, device: str, named: bool) -> bool:
    """An embedded base model has no footprint at real shapes, nor has a task without shapes."""
    return bool(experiment.spec.shapes) and not experiment.is_embedded


TRAINED = Kind(
    name="",
    marker="",
    description="the test trains the experiments",
    takes=_trains,
    needs="on a base model that a CPU can train",
    run="pytest_peftbench.cases.trained:run_experiment",
)
FOOTPRINT = Kind(
    name="footprint",
    marker="peft_footprint",
    description="the test takes the experiments on real base models, to count and not to train",
    takes=_counts,
    needs="on a real base model",
    run="pytest_peftbench.cases.footprint:count_footprint",
    columns=(Column("trainable", "params.trainable", ",.0f"), Column("step calls", "train_step.calls", ",.0f")),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in (TRAINED, FOOTPRINT)}


def columns() -> Mapping[str, Sequence[Column]]:
    """The columns of each table: of a task's trained cases by its name, of other kinds by theirs."""
    of_tasks = {name: spec.columns for name, spec in specs().items()}
    return {**of_tasks, **{kind.name: kind.columns for kind in KINDS.values() if kind.name}}
