"""The kinds of case: what a test does with the experiments that it takes. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_peftbench.meta.architectures import is_embedded, is_real
from pytest_peftbench.results.metrics import METRICS, Column, by_lane
from pytest_peftbench.suites import Experiment


@dataclass(frozen=True)
class Kind:
    """One kind of case.

    name: as it stands in the case's id; empty for training. marker: of the tests of this kind; empty: any other test.
    description: what `pytest --markers` says about it. takes: whether such a test takes an experiment, as configured
    (its device is set); the other argument tells whether `--peft-suite` names its suite. lacking: what the suites hold
    no experiment of, where a test of the kind takes none. columns: of the kind's closing table; that of training has
    those of its task.
    """

    name: str
    marker: str
    description: str
    takes: Callable[[Experiment, bool], bool]
    lacking: str
    columns: tuple[Column, ...] = ()


def _can_be_trained(experiment: Experiment, named: bool) -> bool:
    """A real base model is trained on an accelerator, or where its suite is named."""
    return named or experiment.device != "cpu" or not is_real(experiment)


def _can_be_counted(experiment: Experiment, named: bool) -> bool:
    """An embedded base model has no footprint at real shapes."""
    return not is_embedded(experiment)


TRAINED = Kind("", "", "", _can_be_trained, "on a base model that a CPU can train")
FOOTPRINT = Kind(
    name="footprint",
    marker="peft_footprint",
    description="the test takes the experiments on real base models, to count and not to train",
    takes=_can_be_counted,
    lacking="on a real base model",
    columns=(Column("trainable", "params.trainable", ",.0f"), Column("step calls", "train_step.calls", ",.0f")),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in (TRAINED, FOOTPRINT)}

_TASK_COLUMNS = {
    "MetaMathQA": (Column("accuracy", "test_accuracy", ".1%"), Column("forgetting", "forgetting", "+.3f")),
    "image-gen": (Column("similarity", "test_dino_similarity", ".3f"), Column("drift", "drift", ".3f")),
}


def columns() -> dict[str, tuple[Column, ...]]:
    """The columns of each closing table, by the name of a task, or of a kind that has columns of its own."""
    return _TASK_COLUMNS | {kind.name: kind.columns for kind in KINDS.values() if kind.columns}


def quality_metrics(task: str | None) -> int:
    """How many metrics of quality a case of the task has; None, an unknown task: all that there are."""
    quality = by_lane(METRICS, "quality")
    if task not in _TASK_COLUMNS:
        return len(quality)
    others = {column.metric for name, found in _TASK_COLUMNS.items() if name != task for column in found}
    return sum(name not in others for name in quality)
