"""Image generation: teach a FLUX.2 transformer a new concept from a few pictures, drift on unrelated prompts.

The recipe of PEFT's `method_comparison/image-gen`, the same code for the embedded and the real base model. Apart from
PEFT's, each picture has a seed of its own, none of them the training's, so that results depend neither on the batch
size of the evaluation nor on the training seed more than the adapter does; and drift is measured against pictures that
the base model drew before it was trained, so that full fine-tuning has one too. Methods that need inputs of their own
(`extra`) cannot take part: without a task type PEFT hands them on to the base model, which refuses them.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pytest_peftbench.measure.weights import digest
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import Value
from pytest_peftbench.results.result import Picture
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks import hub
from pytest_peftbench.tasks.config import ImageTrainConfig
from pytest_peftbench.tasks.embedded import IMAGE_DATA, IMAGE_MODEL
from pytest_peftbench.tasks.protocol import Batch, Evaluation, Extra, Progress, silent
from pytest_peftbench.tasks.scores import drift, similarity

TINY = "tiny"
# The embedded pipeline, image encoder and pictures go by the same name.
_EMBEDDED = {
    "model_id": IMAGE_MODEL,
    "dino_model_id": IMAGE_MODEL.parent / "dino",
    "dataset_id": IMAGE_DATA / "cat-image-dataset",
}
SPLIT_SEED = 0  # PEFT's
# Pictures of each held-out prompt: PEFT draws its test prompts three times.
REPEATS = 3
# Far apart, and from any training seed.
VALID_SEED, TEST_SEED, SAMPLE_SEED, DRIFT_SEED = 100_000, 200_000, 300_000, 100_000_000
NO_PROMPT = ""
# What the transformer and the loss take from a batch; the rest are inputs that a method needs.
_BATCH = ("latents", "noise", "sigmas", "weights", "timesteps", "prompt_embeds", "text_ids", "image_ids")


@dataclass(frozen=True)
class Example:
    """A picture of the concept (`PIL.Image`, RGB) and the prompt that describes it."""

    prompt: str
    image: Any


@dataclass(frozen=True)
class ImageData:
    """Pictures and prompts, and what draws and looks at them.

    pipeline: without transformer and text encoder, which has done its work. scheduler: the timesteps and sigmas of
    training; drawing sets those of the pipeline's own. encoder: the image encoder. latents: of the
    training pictures, normalised and packed, (pictures, positions, channels). image_ids: their positions. embeddings:
    of each prompt, (tokens, width). models: hash of text encoder, autoencoder, image encoder and scheduler.
    """

    pipeline: Any
    scheduler: Any
    encoder: nn.Module
    processor: Any
    train: list[Example]
    valid: list[Example]
    test: list[Example]
    latents: Tensor
    image_ids: Tensor
    embeddings: dict[str, Tensor]
    models: str

    @cached_property
    def digest(self) -> str:
        """Hash of the pictures and prompts of each split, and of the models that they go through."""
        splits = [
            [[example.prompt, hashlib.sha256(example.image.tobytes()).hexdigest()] for example in split]
            for split in (self.train, self.valid, self.test)
        ]
        return hashlib.sha256(json.dumps([splits, self.models]).encode()).hexdigest()


@dataclass(frozen=True)
class _Drawn:
    """Pictures (`PIL.Image`) with the prompt and the seed of the noise of each."""

    prompts: list[str]
    seeds: list[int]
    images: list[Any]

    def hashes(self) -> dict[str, str]:
        """Hash of each picture's pixels, by prompt and seed."""
        return {
            f"{prompt}, seed {seed}": hashlib.sha256(image.tobytes()).hexdigest()[:16]
            for prompt, seed, image in zip(self.prompts, self.seeds, self.images, strict=True)
        }


@dataclass(frozen=True)
class _Base:
    """What the base model draws."""

    samples: _Drawn
    unrelated: _Drawn


class ImageGeneration:
    """See `tasks.Task`."""

    timed_steps = 1

    def load_base_model(self, experiment: Experiment) -> nn.Module:
        from diffusers import Flux2Transformer2DModel

        config, source = _config(experiment), _model(experiment, "model_id")
        hub.require(source)
        with hub.loading(source):
            model: nn.Module = Flux2Transformer2DModel.from_pretrained(
                source.path, subfolder="transformer", torch_dtype=getattr(torch, config.dtype)
            )
        if config.use_gc:
            model.enable_gradient_checkpointing()  # type: ignore[operator]
        return model

    def load_data(self, experiment: Experiment) -> ImageData:
        from diffusers import Flux2KleinPipeline
        from diffusers.utils import logging
        from transformers import AutoModel, BitImageProcessorPil

        config, dtype = _config(experiment), getattr(torch, _config(experiment).dtype)
        logging.disable_progress_bar()  # of its own components; the plugin shows its own progress
        flux, dino = _model(experiment, "model_id"), _model(experiment, "dino_model_id")
        hub.require(flux, dino, _data(experiment))
        train, valid, test = _load_splits(experiment)
        with hub.loading(flux):
            pipeline = Flux2KleinPipeline.from_pretrained(flux.path, transformer=None, torch_dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        _check_resolution(config, pipeline)
        with hub.loading(dino):
            encoder: nn.Module = AutoModel.from_pretrained(dino.path, dtype=torch.float32).eval()
            # the class that needs no torchvision
            processor = BitImageProcessorPil.from_pretrained(dino.path)
        models = [digest(model) for model in (pipeline.text_encoder, pipeline.vae, encoder)]
        models += [pipeline.tokenizer.backend_tokenizer.to_str(), pipeline.tokenizer.chat_template]
        # names that start with an underscore tell of the library and the folder that the file came from
        schedule = {name: value for name, value in pipeline.scheduler.config.items() if name[0] != "_"}
        models.append(json.dumps(schedule, sort_keys=True))
        prompts = [example.prompt for example in [*train, *valid, *test]]
        prompts += [*config.sample_image_prompts, *config.drift_image_prompts, NO_PROMPT]
        embeddings = _embed_prompts(pipeline, list(dict.fromkeys(prompts)), config, experiment.device)
        pipeline.text_encoder = None
        latents = _encode_images(pipeline, train, config, experiment.device)
        return ImageData(
            pipeline=pipeline,
            scheduler=copy.deepcopy(pipeline.scheduler),
            encoder=encoder,
            processor=processor,
            train=train,
            valid=valid,
            test=test,
            latents=pipeline._pack_latents(latents),
            image_ids=pipeline._prepare_latent_ids(latents[:1])[0].to(latents.device),
            embeddings=embeddings,
            models=hashlib.sha256(json.dumps(models).encode()).hexdigest(),
        )

    def prepare(self, model: nn.Module, data: ImageData, experiment: Experiment) -> None:
        """Nothing: a fresh adapter is as it should be."""

    def batches(self, data: ImageData, experiment: Experiment, seed: int) -> Iterator[Batch]:
        """Batches of latents with noise and timesteps, all drawn from `seed`, pass after pass over the pictures."""
        generator = torch.Generator().manual_seed(seed)
        size = experiment.train.batch_size
        rows = torch.empty(0, dtype=torch.long)
        while True:
            while len(rows) < size:
                rows = torch.cat([rows, torch.randperm(len(data.train), generator=generator)])
            yield _train_batch(data, rows[:size], experiment, generator)
            rows = rows[size:]

    def probe_batch(self, data: ImageData, experiment: Experiment) -> Batch:
        rows = torch.arange(experiment.train.batch_size) % len(data.train)
        return _train_batch(data, rows, experiment, torch.Generator().manual_seed(0))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Flow matching: weighted squared distance of the predicted velocity from noise minus latents."""
        target = batch["noise"].float() - batch["latents"].float()
        return (batch["weights"] * (self.output(model, batch).float() - target) ** 2).mean()

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """The predicted velocity, (batch, positions, channels)."""
        velocity: Tensor = model(
            hidden_states=(1 - batch["sigmas"]) * batch["latents"] + batch["sigmas"] * batch["noise"],
            timestep=batch["timesteps"] / 1000,
            guidance=None,
            encoder_hidden_states=batch["prompt_embeds"],
            txt_ids=batch["text_ids"],
            img_ids=batch["image_ids"],
            return_dict=False,
            **{name: value for name, value in batch.items() if name not in _BATCH},
        )[0]
        return velocity

    def decode(self, model: nn.Module, data: ImageData, experiment: Experiment, steps: int, extra: Extra) -> None:
        prompts = [data.train[row % len(data.train)].prompt for row in range(experiment.train.batch_size)]
        seeds = list(range(len(prompts)))
        _generate(model, data, prompts, seeds, experiment, steps=steps, output_type="latent")

    def reference(self, base: nn.Module, data: ImageData, experiment: Experiment, progress: Progress = silent) -> _Base:
        return _Base(*_draw_samples(base, data, experiment, progress))

    def validate(
        self, model: nn.Module, data: ImageData, experiment: Experiment, extra: Extra, progress: Progress = silent
    ) -> dict[str, Value]:
        drawn = _draw(model, data, _prompts(data.valid) * REPEATS, VALID_SEED, experiment, progress)
        return {"valid_dino_similarity": similarity(_likeness(data, drawn, data.valid))}

    def evaluate(
        self,
        model: nn.Module,
        data: ImageData,
        experiment: Experiment,
        extra: Extra,
        reference: _Base,
        progress: Progress = silent,
    ) -> Evaluation:
        concept = _draw(model, data, _prompts(data.test) * REPEATS, TEST_SEED, experiment, progress)
        samples, unrelated = _draw_samples(model, data, experiment, progress)
        likeness = _likeness(data, concept, data.test)
        cosines = (_embed_images(data, unrelated.images) * _embed_images(data, reference.unrelated.images)).sum(-1)
        changed = unrelated.hashes() != reference.unrelated.hashes()
        base = {f"base model: {name}": value for name, value in reference.unrelated.hashes().items()}
        return Evaluation(
            {
                "test_dino_similarity": similarity(likeness),
                "drift": drift(cosines),
                "images.changed": "ok" if changed else "differs",
                "images_sha256": {**concept.hashes(), **unrelated.hashes(), **base},
            },
            {"similarity_per_image": likeness.tolist(), "drift_per_image": ((1 - cosines) / 2).tolist()},
            [
                *_side_by_side(experiment, "concept", reference.samples, samples),
                *_side_by_side(experiment, "unrelated", reference.unrelated, unrelated),
            ],
        )


TASK = ImageGeneration()


def _config(experiment: Experiment) -> ImageTrainConfig:
    assert isinstance(experiment.train, ImageTrainConfig)
    return experiment.train


def _model(experiment: Experiment, key: str) -> hub.Source:
    name: str = getattr(experiment.train, key)
    return hub.Source("model", name, _EMBEDDED[key]) if name == TINY else hub.model_source(experiment, name)


def _data(experiment: Experiment) -> hub.Source:
    name = _config(experiment).dataset_id
    return hub.Source("data set", name, _EMBEDDED["dataset_id"]) if name == TINY else hub.data_source(experiment, name)


# Data


def _check_resolution(config: ImageTrainConfig, pipeline: Any) -> None:
    """The pipeline would draw in another size, with no more than a warning."""
    multiple = 2 * pipeline.vae_scale_factor
    if config.resolution % multiple:
        raise InputError(
            f"resolution: must be a multiple of {multiple} for {config.model_id}, is {config.resolution}; "
            f"{config.resolution // multiple * multiple} is one"
        )


def _load_splits(experiment: Experiment) -> list[list[Example]]:
    """The pictures with their prompts, shuffled and split as PEFT does: train, validation, test.

    Raises InputError when column, number of prompts, or a picture that stands in two splits, makes them useless.
    """
    config = _config(experiment)
    rows = hub.load_rows(_data(experiment), None, config.dataset_split)
    if config.image_column not in rows.column_names:
        raise InputError(
            f"image_column: {config.dataset_id} has no column {config.image_column!r}, but {rows.column_names}"
        )
    if len(rows) != len(config.instance_prompts):
        raise InputError(
            f"instance_prompts: {config.dataset_id} holds {len(rows)} pictures, there are "
            f"{len(config.instance_prompts)} prompts; each picture needs one"
        )
    images = [image.convert("RGB") for image in rows[config.image_column]]
    order = np.arange(len(images))
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    examples = [Example(config.instance_prompts[index], images[index]) for index in order]
    train = len(examples) - config.valid_size - config.test_size
    splits = [examples[:train], examples[train : train + config.valid_size], examples[train + config.valid_size :]]
    _check_splits(config, splits)
    return splits


def _check_splits(config: ImageTrainConfig, splits: list[list[Example]]) -> None:
    """A test picture that was trained on measures memory."""
    split_of: dict[bytes, int] = {}
    for number, split in enumerate(splits):
        for example in split:
            first = split_of.setdefault(example.image.tobytes(), number)
            if first != number:
                names = ("training", "validation", "test")
                raise InputError(
                    f"dataset_id: {config.dataset_id} holds a picture ({example.prompt!r}) that is in the "
                    f"{names[first]} split and in the {names[number]} split; remove one of the two"
                )


@torch.no_grad()
def _embed_prompts(pipeline: Any, prompts: list[str], config: ImageTrainConfig, device: str) -> dict[str, Tensor]:
    from diffusers.training_utils import offload_models

    with offload_models(pipeline.text_encoder, device=device):
        return {
            prompt: pipeline.encode_prompt(
                prompt,
                device=torch.device(device),
                max_sequence_length=config.max_sequence_length,
                text_encoder_out_layers=config.text_encoder_out_layers,
            )[0][0]
            for prompt in prompts
        }


@torch.no_grad()
def _encode_images(pipeline: Any, examples: list[Example], config: ImageTrainConfig, device: str) -> Tensor:
    """Latents of the pictures, cut square, as the pipeline normalises them: (pictures, channels, height, width)."""
    from diffusers.training_utils import offload_models
    from PIL import Image, ImageOps

    size = (config.resolution, config.resolution)
    latents = []
    with offload_models(pipeline.vae, device=device):
        for example in examples:
            square = ImageOps.fit(example.image, size, Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 127.5 - 1
            latents.append(pipeline._encode_vae_image(pixels.to(device, pipeline.vae.dtype), generator=None))
    return torch.cat(latents)


def _train_batch(data: ImageData, rows: Tensor, experiment: Experiment, generator: torch.Generator) -> Batch:
    """Latents, noise, and timesteps drawn with the density that the config asks for."""
    from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

    config, device, scheduler = _config(experiment), experiment.device, data.scheduler
    latents = data.latents[rows].to(device)
    density = compute_density_for_timestep_sampling(
        config.weighting_scheme, len(rows), config.logit_mean, config.logit_std, config.mode_scale, generator=generator
    )
    steps = (density * scheduler.config.num_train_timesteps).long().clamp(0, scheduler.config.num_train_timesteps - 1)
    sigmas = scheduler.sigmas[steps].view(-1, 1, 1).to(device)
    embeddings = torch.stack([data.embeddings[data.train[row].prompt] for row in rows])
    return {
        "latents": latents,
        "noise": torch.randn(latents.shape, generator=generator).to(device, latents.dtype),
        "sigmas": sigmas.to(latents.dtype),
        "weights": compute_loss_weighting_for_sd3(config.weighting_scheme, sigmas.float()),
        "timesteps": scheduler.timesteps[steps].to(device, latents.dtype),
        "prompt_embeds": embeddings.to(device),
        "text_ids": data.pipeline._prepare_text_ids(embeddings).to(device),
        "image_ids": data.image_ids.expand(len(rows), -1, -1).to(device),
    }


# Drawing


def _prompts(examples: Sequence[Example]) -> list[str]:
    return [example.prompt for example in examples]


def _draw_samples(
    model: nn.Module, data: ImageData, experiment: Experiment, progress: Progress = silent
) -> tuple[_Drawn, _Drawn]:
    """Samples of the concept, and pictures of the unrelated prompts that drift is measured on."""
    config = _config(experiment)
    draw = partial(_draw, model, data, experiment=experiment, progress=progress)
    return draw(config.sample_image_prompts, SAMPLE_SEED), draw(config.drift_image_prompts, DRIFT_SEED)


def _draw(
    model: nn.Module,
    data: ImageData,
    prompts: list[str],
    first_seed: int,
    experiment: Experiment,
    progress: Progress = silent,
) -> _Drawn:
    """A picture of each prompt, seeds counted up from `first_seed`."""
    seeds = [first_seed + number for number in range(len(prompts))]
    return _Drawn(prompts, seeds, _generate(model, data, prompts, seeds, experiment, progress=progress))


def _generate(
    model: nn.Module,
    data: ImageData,
    prompts: list[str],
    seeds: list[int],
    experiment: Experiment,
    *,
    steps: int | None = None,
    output_type: str = "pil",
    progress: Progress = silent,
) -> list[Any]:
    """What the pipeline draws with the model as its transformer, guided away from the empty prompt."""
    from diffusers.training_utils import offload_models

    config, device = _config(experiment), experiment.device
    pipeline = data.pipeline
    pipeline.transformer = model
    nothing = data.embeddings[NO_PROMPT].to(device)
    images: list[Any] = []
    try:
        # latents need no VAE: moving its weights would be timed as part of a denoising step
        with offload_models(pipeline.vae, device=device, offload=output_type != "latent"):
            for start in range(0, len(prompts), config.batch_size_eval):
                progress(f"pictures {start}/{len(prompts)}")
                chunk = slice(start, start + config.batch_size_eval)
                embeddings = torch.stack([data.embeddings[prompt] for prompt in prompts[chunk]]).to(device)
                images += pipeline(
                    prompt_embeds=embeddings,
                    negative_prompt_embeds=nothing.expand_as(embeddings),
                    # on the CPU: the same noise on any device
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds[chunk]],
                    height=config.resolution,
                    width=config.resolution,
                    num_inference_steps=steps or config.num_inference_steps,
                    guidance_scale=config.guidance_scale,
                    output_type=output_type,
                ).images
    finally:
        pipeline.transformer = None
    return images


# Looking


@torch.inference_mode()
def _embed_images(data: ImageData, images: list[Any]) -> Tensor:
    """The encoder's class tokens, of length 1: (pictures, width)."""
    inputs = data.processor(images=images, return_tensors="pt")
    tokens: Tensor = data.encoder(**inputs).last_hidden_state[:, 0]
    return nn.functional.normalize(tokens, dim=-1)


def _likeness(data: ImageData, drawn: _Drawn, references: list[Example]) -> Tensor:
    """Cosine of each picture to the reference of its prompt; `drawn` goes through the references in turn."""
    embedded = _embed_images(data, [example.image for example in references])
    return (_embed_images(data, drawn.images) * embedded.repeat(len(drawn.images) // len(references), 1)).sum(-1)


def _side_by_side(experiment: Experiment, kind: str, base: _Drawn, adapted: _Drawn) -> list[Picture]:
    """The base model's pictures on the left, the adapted model's on the right, as PNG."""
    folder = f"{experiment.case.method}--{experiment.case.name}"
    pictures = []
    for number, (prompt, seed) in enumerate(zip(adapted.prompts, adapted.seeds, strict=True), start=1):
        png = _png(prompt, seed, [base.images[number - 1], adapted.images[number - 1]])
        pictures.append(Picture(f"{folder}/{kind}-{number:02}.png", prompt, seed, png))
    return pictures


def _png(prompt: str, seed: int, images: list[Any]) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    width, height = images[0].size
    strip = Image.new("RGB", (len(images) * width, height))
    for number, image in enumerate(images):
        strip.paste(image, (number * width, 0))
    info = PngInfo()
    for key, value in (("prompt", prompt), ("seed", str(seed)), ("left", "base model"), ("right", "adapted model")):
        info.add_itxt(key, value)
    file = io.BytesIO()
    strip.save(file, "PNG", pnginfo=info)
    return file.getvalue()
