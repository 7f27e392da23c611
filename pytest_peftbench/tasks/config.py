"""Training parameters that all tasks share, and where a task runs. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal

from pytest_peftbench.results.files import MOST_SEEDS, InputError, require_name

Dtype = Literal["float32", "float16", "bfloat16", "int8", "int4"]
FloatDtype = Literal["float32", "float16", "bfloat16"]
QUANTISED = ("int8", "int4")
# The model_id of a base model that comes with the package.
TINY = "tiny"
# The highest seed that NumPy takes, less the further ones that a run may count up to.
MOST_SEED = 2**32 - 1 - MOST_SEEDS
_ACCUMULATION = "gradient_accumulation_steps"
# Optimizers of PEFT's own.
OF_PEFT = ("lora+", "lora-fa", "riemannian")
# Classes of torch.optim that no training loop of this kind can use.
_UNUSABLE = {
    "LBFGS": "calls the loss again in each step",
    "SparseAdam": "takes sparse gradients alone",
    "Optimizer": "is the class that optimizers are made from",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The keys that PEFT's `TrainConfig`s of all tasks share (`method_comparison/<task>/utils.py`).

    grad_norm_clip: 0 clips nothing. lr_scheduler: "cosine" (10 % warm-up) or null (constant). optimizer_type: a
    class of `torch.optim`, or "lora+", "lora-fa", "riemannian". gradient_accumulation_steps: into how many parts the
    rows of a batch are divided, whose gradients, weighed by their rows, add up; not a key of PEFT's.
    """

    # The keys that the base model, the data, and the base model's own figures depend on: what agrees in them is shared.
    # A config that does not narrow them itself shares nothing between cases that differ in a key of its own.
    BASE_MODEL: ClassVar[tuple[str, ...]] = ("model_id", "dtype", "use_gc")
    DATA: ClassVar[tuple[str, ...]] = ("model_id",)
    REFERENCE: ClassVar[tuple[str, ...]] = ("batch_size", "batch_size_eval")
    # The data sets by their names in PEFT's results; none where there is but one.
    DATA_SETS: ClassVar[tuple[str, ...]] = ()

    model_id: str
    dtype: Dtype
    batch_size: int
    batch_size_eval: int
    max_steps: int
    eval_steps: int
    seed: int
    grad_norm_clip: float
    optimizer_type: str
    optimizer_kwargs: dict[str, Any]
    lr_scheduler: Literal["cosine"] | None
    compile: bool = False
    use_gc: bool = False
    use_amp: bool = False
    autocast_adapter_dtype: bool = True
    gradient_accumulation_steps: int = 1

    @property
    def package(self) -> str:
        """The optional package that a case needs, which is skipped without it; empty for none.

        On a base model of a hub's its lack is an error: who chose quantised weights wants them.
        """
        return "bitsandbytes" if self.dtype in QUANTISED and self.model_id == TINY else ""

    def telling(self, what: Literal["BASE_MODEL", "DATA", "REFERENCE"]) -> str:
        """The values of the keys that `what` depends on, as text: two configs that agree in it share it."""
        keys: tuple[str, ...] = getattr(self, what)
        if what not in vars(type(self)):
            shared = {item.name for item in fields(TrainConfig)}
            keys += tuple(item.name for item in fields(self) if item.name not in (*shared, *keys))
        return json.dumps({key: getattr(self, key) for key in keys})

    def problems(self) -> Iterator[str]:
        """What is wrong with the values, as `key: what` lines."""
        yield from self._below(1, "batch_size", "batch_size_eval", "max_steps", "eval_steps", _ACCUMULATION)
        if getattr(self, _ACCUMULATION) > self.batch_size:
            yield f"{_ACCUMULATION}: must be at most batch_size ({self.batch_size}), is {getattr(self, _ACCUMULATION)}"
        if self.eval_steps > self.max_steps:
            yield f"eval_steps: must be at most max_steps ({self.max_steps}), is {self.eval_steps}"
        if self.grad_norm_clip < 0:
            yield f"grad_norm_clip: must be at least 0 (0 clips nothing), is {self.grad_norm_clip}"
        yield from self._below(0, "seed")
        if self.seed > MOST_SEED:
            yield f"seed: must be at most {MOST_SEED}, is {self.seed}"
        yield from self._nameless("model_id")
        if self.optimizer_type in _UNUSABLE:
            yield f"optimizer_type: {self.optimizer_type!r} {_UNUSABLE[self.optimizer_type]}; choose another"
        lr: object = self.optimizer_kwargs.get("lr")
        if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not lr > 0:
            yield f"optimizer_kwargs: needs a learning rate 'lr' greater than 0, has {lr!r}"

    def _nameless(self, *keys: str) -> Iterator[str]:
        """Of ids of models and data sets, which name folders; the last part is the folder's below --peft-models."""
        for key in keys:
            path = PurePath(getattr(self, key))
            try:
                for name in (path.name, *(part for part in path.parts if part not in (path.anchor, "..", "."))):
                    require_name(key, name)
            except InputError as error:
                yield str(error)

    def _below(self, limit: int, *keys: str) -> Iterator[str]:
        for key in keys:
            if getattr(self, key) < limit:
                yield f"{key}: must be at least {limit}, is {getattr(self, key)}"


@dataclass(frozen=True)
class Place:
    """Where a task runs and finds things.

    device: torch's name. source: the experiment's folder, which messages name. data, models: local folders of data
    sets and models, `--peft-data` and `--peft-models`; None: each id says itself where it lies.
    """

    device: str = "cpu"
    source: Path = Path()
    data: Path | None = None
    models: Path | None = None
