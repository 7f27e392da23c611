"""What is known of math reasoning before it runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pytest_peftbench.results.metrics import Column, Metric
from pytest_peftbench.tasks.config import TrainConfig
from pytest_peftbench.tasks.spec import Published, TaskSpec

EMBEDDED = Path(__file__).parent / "tiny"


@dataclass(frozen=True, kw_only=True)
class MathTrainConfig(TrainConfig):
    """Math reasoning, `method_comparison/MetaMathQA`. generation_kwargs: of transformers' `GenerationConfig`."""

    BASE_MODEL: ClassVar[tuple[str, ...]] = (*TrainConfig.BASE_MODEL, "attn_implementation")
    DATA: ClassVar[tuple[str, ...]] = (*TrainConfig.DATA, "query_template", "max_seq_length")
    REFERENCE: ClassVar[tuple[str, ...]] = (*TrainConfig.REFERENCE, "attn_implementation")
    DATA_SETS: ClassVar[tuple[str, ...]] = ("metamath", "gsm8k")

    max_seq_length: int
    query_template: str
    generation_kwargs: dict[str, Any]
    attn_implementation: str | None = None
    init_kv_cache_prefix: str | None = None

    def problems(self) -> Iterator[str]:
        """What is wrong with the values, as `key: what` lines."""
        yield from super().problems()
        yield from self._below(1, "max_seq_length")
        if not _takes_query(self.query_template):
            yield f"query_template: must contain '{{query}}' and no other placeholder, is {self.query_template!r}"


def _takes_query(template: str) -> bool:
    try:
        return "{query}" in template and bool(template.format(query=""))
    except (KeyError, IndexError, ValueError, AttributeError):
        return False


SPEC = TaskSpec(
    name="MetaMathQA",
    config=MathTrainConfig,
    task="pytest_peftbench.tasks.math_reasoning.task:MathReasoning",
    shapes="pytest_peftbench.tasks.math_reasoning.shapes:MathShapes",
    build="pytest_peftbench.tasks.math_reasoning.build:build",
    embedded=EMBEDDED / "model",
    metrics=(
        Metric(
            "test_accuracy",
            "fraction",
            "higher",
            "quality",
            "share of test problems solved",
            absolute_margin=0.05,
            samples="test_correct",
        ),
        Metric("valid_accuracy", "fraction", "higher", "info", "share of validation problems solved"),
        Metric(
            "forgetting",
            "nats",
            "lower",
            "quality",
            "rise of the mean per-token cross-entropy on general text",
            absolute_margin=0.02,
            relative_margin=0.05,
            samples="forgetting_per_document",
        ),
    ),
    columns=(Column("accuracy", "test_accuracy", ".1%"), Column("forgetting", "forgetting", "+.3f")),
    published=(Published("test accuracy", "test_accuracy"), Published("train loss", "train_loss")),
)
