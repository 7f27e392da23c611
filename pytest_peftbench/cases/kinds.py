"""The kinds of case, a row each: which experiments one takes, what it runs, what its table shows. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pytest_peftbench.meta.architectures import shipped
from pytest_peftbench.results.metrics import METRICS, Column, by_lane
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.registry import specs
from pytest_peftbench.tasks.structures.spec import SPEC as STRUCTURES


@dataclass(frozen=True)
class Kind:
    """One kind of case.

    name: as it stands in the case's id; empty for training. marker: of the tests of this kind; empty: any other test.
    description: what `pytest --markers` says about it. takes: whether such a test takes an experiment, as configured
    (its device is set); the other argument tells whether `--peft-suite` names its suite. lacking: what the suites hold
    no experiment of, where a test of the kind takes none. run: `module:function` that gives the `Result` of an
    experiment. version: likewise, that gives the case version which such a result would have; empty: nobody asks.
    version_needs: the fixtures that it asks for beside the experiment. columns: of the kind's closing table; that of
    training has those of its task.
    """

    name: str
    marker: str
    description: str
    takes: Callable[[Experiment, bool], bool]
    lacking: str
    run: str
    version: str = ""
    version_needs: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()

    def load(self) -> Callable[..., Any]:
        """The function that runs a case, imported now: it needs torch."""
        return _imported(self.run)

    def load_version(self) -> Callable[..., Any]:
        """The function that gives a case's version, likewise."""
        return _imported(self.version)


def _imported(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _can_be_trained(experiment: Experiment, named: bool) -> bool:
    """A real base model is trained on an accelerator, or where its suite is named; a structure is not."""
    if not experiment.spec.task:
        return False
    return named or experiment.device != "cpu" or shipped(experiment.train.model_id) is None


def _can_be_counted(experiment: Experiment, named: bool) -> bool:
    """An embedded base model has no footprint at real shapes, nor has a task that says nothing about shapes."""
    return bool(experiment.spec.shapes) and not experiment.is_embedded


def _can_be_lived_through(experiment: Experiment, named: bool) -> bool:
    """What is put on a structure lives on any machine, on the CPU."""
    return experiment.case.task == STRUCTURES.name


TRAINED = Kind(
    name="",
    marker="",
    description="",
    takes=_can_be_trained,
    lacking="on a base model that a CPU can train",
    run="pytest_peftbench.cases.trained:run_experiment",
    version="pytest_peftbench.cases.trained:case_version",
    version_needs=("base_model", "task_data"),
)
FOOTPRINT = Kind(
    name="footprint",
    marker="peft_footprint",
    description="the test takes the experiments on real base models, to count and not to train",
    takes=_can_be_counted,
    lacking="on a real base model",
    run="pytest_peftbench.cases.footprint:count_footprint",
    version="pytest_peftbench.cases.footprint:case_version",
    columns=(Column("trainable", "params.trainable", ",.0f"), Column("step calls", "train_step.calls", ",.0f")),
)
LIFE_CYCLE = Kind(
    name="life-cycle",
    marker="peft_life_cycle",
    description="the test takes the experiments on structures, to ask laws and not to train",
    takes=_can_be_lived_through,
    lacking="on a structure",
    run="pytest_peftbench.cases.life_cycle.run:live_through",
    version="pytest_peftbench.cases.life_cycle.run:case_version",
    columns=(Column("trainable", "params.trainable", ",.0f"),),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in (TRAINED, FOOTPRINT, LIFE_CYCLE)}


def columns() -> Mapping[str, Sequence[Column]]:
    """The columns of each table: of a task's trained cases by its name, of other kinds by theirs."""
    of_tasks = {name: spec.columns for name, spec in specs().items()}
    return {**of_tasks, **{kind.name: kind.columns for kind in KINDS.values() if kind.name}}


def quality_metrics(task: str | None) -> int:
    """How many tests of quality a case of the task runs; of an unknown task as many as there are metrics of quality."""
    known = specs().get(task or "")
    return known.quality_metrics if known else len(by_lane(METRICS, "quality"))
