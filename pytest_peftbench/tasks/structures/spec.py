"""The task of cases that are lived through and not trained: a structure in the place of the base model. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pytest_peftbench.results.laws import LAW
from pytest_peftbench.results.metrics import Metric
from pytest_peftbench.tasks.config import Dtype, TrainConfig
from pytest_peftbench.tasks.spec import TaskSpec
from pytest_peftbench.tasks.structures.experiments import experiments_of
from pytest_peftbench.tasks.structures.laws import LAWS
from pytest_peftbench.tasks.structures.operations import metrics_of_operations
from pytest_peftbench.tasks.structures.shapes import STRUCTURES


@dataclass(frozen=True, kw_only=True)
class StructureConfig(TrainConfig):
    """Which structure, in which type: the other keys are those of a training, of which there are a few steps.

    model_id: the structure's name. dtype: of the base model; float32 means float64, see `measure.precision`. compile,
    use_amp: how it is run, which is then all that it is asked about.
    """

    BASE_MODEL: ClassVar[tuple[str, ...]] = ("model_id", "dtype", "use_gc")

    dtype: Dtype = "float32"
    batch_size: int = 2
    batch_size_eval: int = 2
    max_steps: int = 3
    eval_steps: int = 3
    seed: int = 0
    grad_norm_clip: float = 0.0
    optimizer_type: str = "AdamW"
    optimizer_kwargs: dict[str, Any] = field(default_factory=lambda: {"lr": 0.02})
    lr_scheduler: Literal["cosine"] | None = None

    @property
    def package(self) -> str:
        """The optional package that the structure needs; empty for none."""
        return STRUCTURES[self.model_id].package if self.model_id in STRUCTURES else ""


# What torch.compile makes of an adapter, on the structure that is compiled: of the installed torch's own doing, too.
_COUNTS = (
    Metric("compile.graphs", "graphs", "lower", "exact", "graphs that are compiled while an adapter is used"),
    Metric("compile.graph_breaks", "breaks", "lower", "exact", "graph breaks meanwhile"),
)

SPEC = TaskSpec(
    name="structures",
    config=StructureConfig,
    task="",
    experiments=experiments_of,
    metrics=(
        *_COUNTS,
        *(Metric(f"{LAW}{name}", "law", "higher", "exact", what, kind="text") for name, what in LAWS.items()),
        *metrics_of_operations(),
    ),
)
