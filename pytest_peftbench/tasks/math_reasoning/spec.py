"""What is known of math reasoning before it runs. Imports no torch."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pytest_peftbench.results.metrics import Column, Metric
from pytest_peftbench.results.sources import class_in
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
        yield from map("generation_kwargs: {}".format, _generation_problems(self.generation_kwargs))


def _takes_query(template: str) -> bool:
    try:
        return "{query}" in template and bool(template.format(query=""))
    except (KeyError, IndexError, ValueError, AttributeError):
        return False


# Keys that count something, at least one; and those that only one value leaves the answers as they are read.
_COUNTS = ("max_new_tokens", "max_length", "num_beams")
_FIXED = {"num_return_sequences": 1, "return_dict_in_generate": False, "stop_strings": None}
_NUMBERS = ("min_new_tokens", "min_length", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_time")


def _generation_problems(kwargs: dict[str, Any]) -> Iterator[str]:
    known = generation_keys()
    for key, value in kwargs.items():
        if key not in known:
            meant = difflib.get_close_matches(key, known, n=1)
            yield f"key {key!r} is unknown to transformers' GenerationConfig" + (f"; {meant[0]!r}?" if meant else "")
        elif key in _COUNTS and value is not None and (type(value) is not int or value < 1):
            yield f"{key} must be an integer of at least 1, is {json.dumps(value)}"
        elif key in _NUMBERS and value is not None and type(value) not in (int, float):
            yield f"{key} must be a number, is {json.dumps(value)}"
        elif key.endswith("_token_id") and value is not None and not _are_tokens(value):
            yield f"{key} must be a token's number or a list of them, is {json.dumps(value)}"
        elif key in _FIXED and value not in (None, _FIXED[key]):
            yield f"{key} must be {json.dumps(_FIXED[key])}, or the answers could not be read, is {json.dumps(value)}"


def _are_tokens(value: object) -> bool:
    tokens = value if isinstance(value, list) else [value]
    return all(type(token) is int for token in tokens)


@cache
def generation_keys() -> frozenset[str]:
    """The keys of the installed transformers' `GenerationConfig`."""
    config = class_in("transformers", "generation/configuration_utils.py", "GenerationConfig")
    targets = [target for node in ast.walk(config) if isinstance(node, ast.Assign) for target in node.targets]
    names = [target.attr for target in targets if isinstance(target, ast.Attribute)]
    fields = [node.target.id for node in config.body if isinstance(node, ast.AnnAssign) and hasattr(node.target, "id")]
    return frozenset(name for name in [*names, *fields] if not name.startswith("_"))


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
