"""The data of image generation: the concept's pictures with their prompts, and what draws and looks at pictures."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pytest_peftbench.measure.precision import widened
from pytest_peftbench.measure.weights import digest
from pytest_peftbench.results.files import InputError
from pytest_peftbench.tasks import hub
from pytest_peftbench.tasks.config import TINY, Place
from pytest_peftbench.tasks.image_generation.spec import EMBEDDED, ImageTrainConfig

SPLIT_SEED = 0  # PEFT's
NO_PROMPT = ""
_SPLITS = ("training", "validation", "test")


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


def load(config: ImageTrainConfig, place: Place) -> ImageData:
    """Read the pictures and the models that they go through; encode pictures and prompts.

    Raises InputError, naming model, data set or key, where something is missing or does not fit.
    """
    flux = hub.model_source(place, config.model_id, EMBEDDED / "model")
    dino = hub.model_source(place, config.dino_model_id, EMBEDDED / "dino")
    pictures = pictures_source(config, place)
    hub.require(flux, dino, pictures)
    train, valid, test = load_splits(config, pictures)
    pipeline = _load_pipeline(flux, config)
    encoder, processor = _load_encoder(dino)
    for model in (pipeline.text_encoder, pipeline.vae, encoder):
        widened(model)
    # made anew here, its timesteps are in double precision where float32 means that
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    models = _digest_of_models(pipeline, encoder)  # before the text encoder goes
    prompts = [example.prompt for example in [*train, *valid, *test]]
    prompts += [*config.sample_image_prompts, *config.drift_image_prompts, NO_PROMPT]
    embeddings = _embed_prompts(pipeline, list(dict.fromkeys(prompts)), config, place.device)
    pipeline.text_encoder = None
    latents = _encode_images(pipeline, train, config, place.device)
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
        models=models,
    )


def pictures_source(config: ImageTrainConfig, place: Place) -> hub.Source:
    """Where the concept's pictures lie."""
    if config.dataset_id == TINY:
        return hub.embedded_data(TINY, EMBEDDED / "data" / "cat-image-dataset")
    return hub.data_source(place, config.dataset_id)


def load_splits(config: ImageTrainConfig, source: hub.Source) -> list[list[Example]]:
    """The pictures with their prompts, shuffled and split as PEFT does: train, validation, test.

    Raises InputError when column, number of prompts, or a picture that stands in two splits, makes them useless.
    """
    rows = hub.load_rows(source, None, config.dataset_split)
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
    split_of: dict[bytes, str] = {}
    for split, examples in zip(_SPLITS, splits, strict=True):
        for example in examples:
            first = split_of.setdefault(example.image.tobytes(), split)
            if first != split:
                raise InputError(
                    f"dataset_id: {config.dataset_id} holds a picture ({example.prompt!r}) that is in the "
                    f"{first} split and in the {split} split; remove one of the two"
                )


def in_dtype(name: str) -> dict[str, torch.dtype]:
    """The argument of diffusers' `from_pretrained` for the type of weights, by the name that its version knows."""
    from diffusers.utils import deprecation_utils

    known = hasattr(deprecation_utils, "_resolve_dtype")  # it came with the warning that `torch_dtype` is deprecated
    return {"dtype" if known else "torch_dtype": getattr(torch, name)}


def _load_pipeline(flux: hub.Source, config: ImageTrainConfig) -> Any:
    from diffusers import Flux2KleinPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()  # of its own components; the plugin shows its own progress
    with hub.loading(flux):
        pipeline = Flux2KleinPipeline.from_pretrained(flux.path, transformer=None, **in_dtype(config.dtype))
    pipeline.set_progress_bar_config(disable=True)
    multiple = 2 * pipeline.vae_scale_factor
    if config.resolution % multiple:  # the pipeline would draw in another size, with no more than a warning
        raise InputError(
            f"resolution: must be a multiple of {multiple} for {config.model_id}, is {config.resolution}; "
            f"{config.resolution // multiple * multiple} is one"
        )
    return pipeline


def _load_encoder(dino: hub.Source) -> tuple[nn.Module, Any]:
    """The image encoder, and its processor by the class that needs no torchvision."""
    from transformers import AutoModel, BitImageProcessorPil

    with hub.loading(dino):
        encoder: nn.Module = AutoModel.from_pretrained(dino.path, dtype=torch.float32).eval()
        return encoder, BitImageProcessorPil.from_pretrained(dino.path)


def _digest_of_models(pipeline: Any, encoder: nn.Module) -> str:
    """Hash of text encoder, autoencoder, image encoder, tokenizer and schedule."""
    models = [digest(model) for model in (pipeline.text_encoder, pipeline.vae, encoder)]
    models += [pipeline.tokenizer.backend_tokenizer.to_str(), pipeline.tokenizer.chat_template]
    # names that start with an underscore tell of the library and the folder that the file came from
    schedule = {name: value for name, value in pipeline.scheduler.config.items() if name[0] != "_"}
    models.append(json.dumps(schedule, sort_keys=True))
    return hashlib.sha256(json.dumps(models).encode()).hexdigest()


@torch.no_grad()
def _embed_prompts(pipeline: Any, prompts: list[str], config: ImageTrainConfig, device: str) -> dict[str, Tensor]:
    from diffusers.training_utils import offload_models

    with offload_models(pipeline.text_encoder, device=device):
        try:
            return {
                prompt: pipeline.encode_prompt(
                    prompt,
                    device=torch.device(device),
                    max_sequence_length=config.max_sequence_length,
                    text_encoder_out_layers=config.text_encoder_out_layers,
                )[0][0]
                for prompt in prompts
            }
        except IndexError as error:
            layers = pipeline.text_encoder.config.num_hidden_layers
            raise InputError(
                f"text_encoder_out_layers: the text encoder has layers 0 to {layers}, not all of "
                f"{config.text_encoder_out_layers}"
            ) from error


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
