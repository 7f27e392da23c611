"""What is known of image generation before it runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pytest_peftbench.results.metrics import BITS, Column, Metric, outcome
from pytest_peftbench.tasks.config import FloatDtype, TrainConfig
from pytest_peftbench.tasks.spec import Published, TaskSpec

EMBEDDED = Path(__file__).parent / "tiny"


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

    BASE_MODEL: ClassVar[tuple[str, ...]] = TrainConfig.BASE_MODEL
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
        yield from self._nameless("dataset_id", "dino_model_id")
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


SPEC = TaskSpec(
    name="image-gen",
    config=ImageTrainConfig,
    task="pytest_peftbench.tasks.image_generation.task:ImageGeneration",
    shapes="pytest_peftbench.tasks.image_generation.shapes:ImageShapes",
    build="pytest_peftbench.tasks.image_generation.build:build",
    embedded=EMBEDDED / "model",
    architecture="transformer/config.json",
    metrics=(
        Metric(
            "test_dino_similarity",
            "cosine",
            "higher",
            "quality",
            "likeness of generated to held-out pictures of the concept, to the image encoder",
            absolute_margin=0.02,
            samples="similarity_per_image",
        ),
        outcome("images.changed", "some picture of an unrelated prompt is not the base model's own, to the bit"),
        Metric("valid_dino_similarity", "cosine", "higher", "info", "the same for the validation pictures"),
        Metric(
            "drift",
            "drift",
            "lower",
            "quality",
            "distance of pictures of unrelated prompts from the base model's",
            absolute_margin=0.005,
            relative_margin=0.05,
            samples="drift_per_image",
        ),
        Metric(
            "images_sha256",
            "sha256",
            "equal",
            "numerics",
            "hashes of the generated pictures",
            needs=BITS,
            kind="table",
        ),
    ),
    columns=(Column("similarity", "test_dino_similarity", ".3f"), Column("drift", "drift", ".3f")),
    published=(
        Published("test dino_similarity", "test_dino_similarity"),
        # PEFT's is the mean of 1 - cosine, ours has the half
        Published("drift", "drift", 0.5),
        Published("train loss", "train_loss"),
    ),
)
