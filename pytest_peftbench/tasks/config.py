"""Training parameters: the keys that PEFT's tasks share, and those of each. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Dtype = Literal["float32", "float16", "bfloat16", "int8", "int4"]


QUANTISED = ("int8", "int4")


FloatDtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The keys that PEFT's `TrainConfig`s of all tasks share (`method_comparison/<task>/utils.py`).

    grad_norm_clip: 0 clips nothing. lr_scheduler: "cosine" (10 % warm-up) or null (constant). optimizer_type: a
    class of `torch.optim`, or "lora+", "lora-fa", "riemannian".
    """

    # The keys that the base model, the data, and the base model's own figures depend on.
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

    def values(self, keys: tuple[str, ...]) -> str:
        """The values of some keys as text, by which two configs can be told apart."""
        return json.dumps({key: getattr(self, key) for key in keys})

    def problems(self) -> Iterator[str]:
        """What is wrong with the values, as `key: what` lines."""
        yield from self._below(1, "batch_size", "batch_size_eval", "max_steps", "eval_steps")
        if self.eval_steps > self.max_steps:
            yield f"eval_steps: must be at most max_steps ({self.max_steps}), is {self.eval_steps}"
        if self.grad_norm_clip < 0:
            yield f"grad_norm_clip: must be at least 0 (0 clips nothing), is {self.grad_norm_clip}"
        yield from self._below(0, "seed")
        lr: Any = self.optimizer_kwargs.get("lr")
        if not isinstance(lr, (int, float)) or isinstance(lr, bool) or not lr > 0:
            yield f"optimizer_kwargs: needs a learning rate 'lr' greater than 0, has {lr!r}"

    def _below(self, limit: int, *keys: str) -> Iterator[str]:
        for key in keys:
            if getattr(self, key) < limit:
                yield f"{key}: must be at least {limit}, is {getattr(self, key)}"


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


@dataclass(frozen=True, kw_only=True)
class ImageTrainConfig(TrainConfig):
    """Image generation, `method_comparison/image-gen`.

    dataset_id: on the hub, or a local folder of pictures. resolution: of the square pictures, in pixels.
    instance_prompts: one per picture of the data set, in its order; `valid_size` and `test_size` of them are held
    out. repeats: passes over the training pictures that there can be at most. guidance_scale: 1 or less guides nothing.
    text_encoder_out_layers: whose hidden states the transformer reads. weighting_scheme, logit_mean, logit_std,
    mode_scale: how training draws and weighs timesteps, see `diffusers.training_utils`. dino_image_size: accepted and
    unused, as in PEFT; the size is that of the encoder's own processor.
    """

    DATA: ClassVar[tuple[str, ...]] = (
        *TrainConfig.DATA,
        *("dtype", "dataset_id", "dataset_split", "image_column", "resolution", "valid_size", "test_size"),
        *("max_sequence_length", "text_encoder_out_layers", "dino_model_id"),
        *("instance_prompts", "sample_image_prompts", "drift_image_prompts"),
    )
    REFERENCE: ClassVar[tuple[str, ...]] = (*TrainConfig.REFERENCE, *DATA, "num_inference_steps", "guidance_scale")

    dtype: FloatDtype
    dataset_id: str
    dataset_split: str
    resolution: int
    repeats: int
    instance_prompts: list[str]
    image_column: str
    valid_size: int
    test_size: int
    num_inference_steps: int
    guidance_scale: float
    max_sequence_length: int
    text_encoder_out_layers: list[int]
    weighting_scheme: Literal["none", "sigma_sqrt", "logit_normal", "mode", "cosmap"]
    logit_mean: float
    logit_std: float
    mode_scale: float
    dino_model_id: str
    dino_image_size: int
    sample_image_prompts: list[str]
    drift_image_prompts: list[str]

    def problems(self) -> Iterator[str]:
        """What is wrong with the values, as `key: what` lines."""
        yield from super().problems()
        yield from self._below(1, "resolution", "repeats", "valid_size", "test_size", "num_inference_steps")
        yield from self._below(1, "max_sequence_length")
        for key in ("text_encoder_out_layers", "drift_image_prompts"):
            if not getattr(self, key):
                yield f"{key}: must not be empty"
        train = len(self.instance_prompts) - self.valid_size - self.test_size
        if train < 1:
            yield (
                f"instance_prompts: {len(self.instance_prompts)} prompts leave no picture to train on, "
                f"with valid_size {self.valid_size} and test_size {self.test_size}"
            )
        elif self.max_steps * self.batch_size > train * self.repeats:
            yield (
                f"max_steps: {self.max_steps} steps of batch_size {self.batch_size} need more than the "
                f"{train * self.repeats} pictures that {self.repeats} repeats of {train} give"
            )


# The task of a suite is the name of its folder, or of the folder above it.
TRAIN_CONFIGS: dict[str, type[TrainConfig]] = {"MetaMathQA": MathTrainConfig, "image-gen": ImageTrainConfig}
