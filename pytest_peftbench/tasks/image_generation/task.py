"""Image generation: teach a FLUX.2 transformer a new concept from a few pictures, drift on unrelated prompts.

The recipe of PEFT's `method_comparison/image-gen`, the same code for the embedded and the real base model. Apart from
PEFT's, each picture has a seed of its own, none of them the training's, so that results depend neither on the batch
size of the evaluation nor on the training seed more than the adapter does; and drift is measured against pictures that
the base model drew before it was trained, so that full fine-tuning has one too. Methods that need inputs of their own
(`extra`) cannot take part: without a task type PEFT hands them on to the base model, which refuses them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_peftbench.results.metrics import Value
from pytest_peftbench.results.result import Picture
from pytest_peftbench.tasks import hub
from pytest_peftbench.tasks.config import Place
from pytest_peftbench.tasks.image_generation.data import NO_PROMPT, Example, ImageData, in_dtype, load
from pytest_peftbench.tasks.image_generation.scores import drift, similarity
from pytest_peftbench.tasks.image_generation.spec import EMBEDDED, ImageTrainConfig
from pytest_peftbench.tasks.task import Batch, Evaluation, Extra, Progress, Task, silent

# Pictures of each held-out prompt: PEFT draws its test prompts three times.
REPEATS = 3
# Far apart, and from any training seed.
VALID_SEED, TEST_SEED, SAMPLE_SEED, DRIFT_SEED = 100_000, 200_000, 300_000, 100_000_000
# What the transformer and the loss take from a batch; the rest are inputs that a method needs.
_BATCH = ("latents", "noise", "sigmas", "weights", "timesteps", "prompt_embeds", "text_ids", "image_ids")


@dataclass(frozen=True)
class Drawn:
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
class BaseDrawn:
    """What the base model draws."""

    samples: Drawn
    unrelated: Drawn


class ImageGeneration(Task):
    """See `tasks.task.Task`."""

    timed_steps = 1
    config: ImageTrainConfig
    data: ImageData

    @staticmethod
    def load_base_model(config: ImageTrainConfig, place: Place) -> nn.Module:
        from diffusers import Flux2Transformer2DModel

        source = hub.model_source(place, config.model_id, EMBEDDED / "model")
        hub.require(source)
        with hub.loading(source):
            model, info = Flux2Transformer2DModel.from_pretrained(
                source.path,
                subfolder="transformer",
                output_loading_info=True,
                **in_dtype(config.dtype),
            )
        hub.require_all_weights(source, info)
        return checkpointed(model, config)

    @staticmethod
    def load_data(config: ImageTrainConfig, place: Place) -> ImageData:
        return load(config, place)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Batches of latents with noise and timesteps, all drawn from `seed`, pass after pass over the pictures."""
        generator = torch.Generator().manual_seed(seed)
        size = self.config.batch_size
        rows = torch.empty(0, dtype=torch.long)
        while True:
            while len(rows) < size:
                rows = torch.cat([rows, torch.randperm(len(self.data.train), generator=generator)])
            yield self._train_batch(rows[:size], generator)
            rows = rows[size:]

    def probe_batch(self) -> Batch:
        rows = torch.arange(self.config.batch_size) % len(self.data.train)
        return self._train_batch(rows, torch.Generator().manual_seed(0))

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

    def decode(self, model: nn.Module, steps: int, extra: Extra) -> Tensor:
        prompts = [self.data.train[row % len(self.data.train)].prompt for row in range(self.config.batch_size)]
        return torch.stack(self._generate(model, prompts, list(range(len(prompts))), steps=steps, output_type="latent"))

    def reference(self, base: nn.Module, progress: Progress = silent) -> BaseDrawn:
        return self.draw_samples(base, progress)

    def validate(self, model: nn.Module, extra: Extra, progress: Progress = silent) -> dict[str, Value]:
        prompts = [example.prompt for example in self.data.valid] * REPEATS
        drawn = self.draw(model, prompts, VALID_SEED, progress)
        return {"valid_dino_similarity": similarity(self._likeness(drawn, self.data.valid))}

    def evaluate(self, model: nn.Module, extra: Extra, reference: BaseDrawn, progress: Progress = silent) -> Evaluation:
        concept = self.draw(model, [example.prompt for example in self.data.test] * REPEATS, TEST_SEED, progress)
        ours = self.draw_samples(model, progress)
        likeness = self._likeness(concept, self.data.test)
        sides = (self._embed_images(side.unrelated.images) for side in (ours, reference))
        cosines = torch.mul(*sides).sum(-1)
        drawn, base = ours.unrelated.hashes(), reference.unrelated.hashes()
        return Evaluation(
            {
                "test_dino_similarity": similarity(likeness),
                "drift": drift(cosines),
                "images.changed": "ok" if drawn != base else "differs",
                "images_sha256": {
                    **concept.hashes(),
                    **drawn,
                    **{f"base model: {name}": value for name, value in base.items()},
                },
            },
            {"similarity_per_image": likeness.tolist(), "drift_per_image": ((1 - cosines) / 2).tolist()},
            [
                *self._side_by_side("concept", reference.samples, ours.samples),
                *self._side_by_side("unrelated", reference.unrelated, ours.unrelated),
            ],
        )

    def _train_batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """Latents, noise, and timesteps drawn with the density that the config asks for."""
        from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

        config, device, data, scheduler = self.config, self.place.device, self.data, self.data.scheduler
        latents = data.latents[rows].to(device)
        scheme = config.weighting_scheme
        density = compute_density_for_timestep_sampling(
            scheme, len(rows), config.logit_mean, config.logit_std, config.mode_scale, generator=generator
        )
        last = scheduler.config.num_train_timesteps
        steps = (density * last).long().clamp(0, last - 1)
        sigmas = scheduler.sigmas[steps].view(-1, 1, 1).to(device)
        embeddings = torch.stack([data.embeddings[data.train[row].prompt] for row in rows])
        return {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=generator).to(device, latents.dtype),
            "sigmas": sigmas.to(latents.dtype),
            "weights": compute_loss_weighting_for_sd3(scheme, sigmas.float()),
            "timesteps": scheduler.timesteps[steps].to(device, latents.dtype),
            "prompt_embeds": embeddings.to(device),
            "text_ids": data.pipeline._prepare_text_ids(embeddings).to(device),
            "image_ids": data.image_ids.expand(len(rows), -1, -1).to(device),
        }

    def draw_samples(self, model: nn.Module, progress: Progress = silent) -> BaseDrawn:
        """Samples of the concept, and pictures of the unrelated prompts that drift is measured on."""
        samples = self.draw(model, self.config.sample_image_prompts, SAMPLE_SEED, progress)
        return BaseDrawn(samples, self.draw(model, self.config.drift_image_prompts, DRIFT_SEED, progress))

    def draw(self, model: nn.Module, prompts: list[str], first_seed: int, progress: Progress = silent) -> Drawn:
        """A picture of each prompt, seeds counted up from `first_seed`."""
        seeds = [first_seed + number for number in range(len(prompts))]
        return Drawn(prompts, seeds, self._generate(model, prompts, seeds, progress=progress))

    def _generate(
        self,
        model: nn.Module,
        prompts: list[str],
        seeds: list[int],
        *,
        steps: int | None = None,
        output_type: str = "pil",
        progress: Progress = silent,
    ) -> list[Any]:
        """What the pipeline draws with the model as its transformer, guided away from the empty prompt."""
        from diffusers.training_utils import offload_models

        config, device, pipeline = self.config, self.place.device, self.data.pipeline
        pipeline.transformer = model
        nothing = self.data.embeddings[NO_PROMPT].to(device)
        images: list[Any] = []
        try:
            # latents need no VAE: moving its weights would be timed as part of a denoising step
            with offload_models(pipeline.vae, device=device, offload=output_type != "latent"):
                for start in range(0, len(prompts), config.batch_size_eval):
                    progress(f"pictures {start}/{len(prompts)}")
                    chunk = slice(start, start + config.batch_size_eval)
                    embeddings = torch.stack([self.data.embeddings[prompt] for prompt in prompts[chunk]]).to(device)
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

    @torch.inference_mode()
    def _embed_images(self, images: list[Any]) -> Tensor:
        """The encoder's class tokens, of length 1: (pictures, width)."""
        inputs = self.data.processor(images=images, return_tensors="pt")
        tokens: Tensor = self.data.encoder(**inputs).last_hidden_state[:, 0]
        return nn.functional.normalize(tokens, dim=-1)

    def _likeness(self, drawn: Drawn, references: list[Example]) -> Tensor:
        """Cosine of each picture to the reference of its prompt; `drawn` goes through the references in turn."""
        embedded = self._embed_images([example.image for example in references])
        return (self._embed_images(drawn.images) * embedded.repeat(len(drawn.images) // len(references), 1)).sum(-1)

    def _side_by_side(self, kind: str, base: Drawn, adapted: Drawn) -> list[Picture]:
        """The base model's pictures on the left, the adapted model's on the right, as PNG."""
        return [
            Picture(f"{kind}-{number:02}.png", prompt, seed, _png(prompt, seed, [left, right]))
            for number, (prompt, seed, left, right) in enumerate(
                zip(adapted.prompts, adapted.seeds, base.images, adapted.images, strict=True), start=1
            )
        ]


def checkpointed(model: nn.Module, config: ImageTrainConfig) -> nn.Module:
    """The base model, with gradient checkpointing where the parameters ask for it."""
    if config.use_gc:
        model.enable_gradient_checkpointing()  # type: ignore[operator]
    return model


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
