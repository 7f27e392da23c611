"""Image generation at a real base model's shapes, on the meta device: nothing is loaded and no number exists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pytest_peftbench.meta.device import META, made_on_meta
from pytest_peftbench.tasks.config import Place
from pytest_peftbench.tasks.image_generation.spec import ImageTrainConfig
from pytest_peftbench.tasks.image_generation.task import ImageGeneration, checkpointed
from pytest_peftbench.tasks.shapes import Lengths
from pytest_peftbench.tasks.task import Batch, Extra

# Pixels of a side that become one position of a FLUX.2 transformer: 8 by the autoencoder, 2 by packing.
PIXELS_PER_POSITION = 16


class ImageShapes(ImageGeneration):
    """See `tasks.shapes.TaskShapes`."""

    decoded_steps = (0, 1)

    def __init__(self, config: ImageTrainConfig, place: Place, architecture: dict[str, Any], lengths: Lengths) -> None:
        super().__init__(config, place, None)
        self.architecture = architecture
        self.lengths = lengths

    @staticmethod
    def usual_lengths(config: ImageTrainConfig) -> Lengths:
        return Lengths(config.batch_size, config.max_sequence_length)

    @property
    def positions(self) -> int:
        """Of one picture."""
        return int(self.config.resolution // PIXELS_PER_POSITION) ** 2

    @property
    def trained_tokens(self) -> int:
        """Positions of the whole batch."""
        return self.lengths.batch * self.positions

    def base_model(self) -> nn.Module:
        from diffusers import Flux2Transformer2DModel

        with made_on_meta(self.config.dtype):
            model: nn.Module = Flux2Transformer2DModel.from_config(self.architecture)
        return checkpointed(model, self.config)

    def probe_batch(self) -> Batch:
        channels, positions, tokens = self.architecture["in_channels"], self.positions, self.lengths.tokens
        dtype = getattr(torch, self.config.dtype)

        def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(self.lengths.batch, *shape, dtype=dtype, device=META)

        return {
            "latents": empty(positions, channels),
            "noise": empty(positions, channels),
            "sigmas": empty(1, 1),
            "weights": empty(1, 1, dtype=torch.float32),
            "timesteps": empty(),
            "prompt_embeds": empty(tokens, self.architecture["joint_attention_dim"]),
            "text_ids": empty(tokens, 4, dtype=torch.long),
            "image_ids": empty(positions, 4, dtype=torch.long),
        }

    @torch.no_grad()
    def decode(self, model: nn.Module, steps: int, extra: Extra) -> Tensor:
        """Each step reads the noisy picture with its prompt and with the empty one, as guidance does."""
        batch = self.probe_batch()
        velocity = batch["latents"]
        for _ in range(2 * steps):
            velocity = self.output(model, batch)
        return velocity
