"""The task of cases that are lived through and not trained: a structure in the place of the base model. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from pytest_peftbench.results.laws import LAW
from pytest_peftbench.results.metrics import STACK, Metric
from pytest_peftbench.tasks.config import OF_PEFT, QUANTISED, Dtype, FloatDtype, TrainConfig
from pytest_peftbench.tasks.spec import TaskSpec
from pytest_peftbench.tasks.structures.experiments import experiments_of
from pytest_peftbench.tasks.structures.laws import LAWS
from pytest_peftbench.tasks.structures.operations import metrics_of_operations
from pytest_peftbench.tasks.structures.shapes import STRUCTURES

FLOATS = ", ".join(get_args(FloatDtype))


@dataclass(frozen=True, kw_only=True)
class StructureConfig(TrainConfig):
    """Which structure, in which type: the other keys are those of a training, of which there are a few steps.

    model_id: the structure's name. dtype: of the base model; float32 means float64, see `measure.precision`. compile,
    use_amp: how it is run, which is then all that it is asked about.
    """

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

    def problems(self) -> Iterator[str]:
        """What is wrong with the values, as `key: what` lines: those of a type that the structure is not of, too."""
        yield from super().problems()
        shape = STRUCTURES.get(self.model_id)
        if shape is not None and (shape.dtype or self.dtype in QUANTISED) and self.dtype != shape.dtype:
            yield f"dtype: {self.dtype!r} is not what structure {self.model_id!r} is of, {shape.dtype or FLOATS}"
        if self.optimizer_type in OF_PEFT:
            yield f"optimizer_type: {self.optimizer_type!r} is PEFT's; a life cycle takes a class of torch.optim"
        for name in ("use_gc", "grad_norm_clip", "lr_scheduler", "gradient_accumulation_steps"):
            if getattr(self, name) != _DEFAULTS[name]:
                yield f"{name}: is not read, since a life cycle trains a few plain steps; leave it out"

    @property
    def package(self) -> str:
        """The optional package that the structure needs; empty for none."""
        return STRUCTURES[self.model_id].package if self.model_id in STRUCTURES else ""


_DEFAULTS = {item.name: item.default for item in fields(StructureConfig)}
# What torch.compile makes of an adapter, on the structure that is compiled: of the installed torch's own doing, too.
_COUNTS = (
    Metric(
        "compile.graphs", "graphs", "lower", "exact", "graphs that are compiled while an adapter is used", needs=STACK
    ),
    Metric("compile.graph_breaks", "breaks", "lower", "exact", "graph breaks meanwhile", needs=STACK),
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
