"""Math reasoning at a real base model's shapes, on the meta device: nothing is loaded and no number exists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock
from unittest.mock import Mock

import torch
from torch import Tensor, nn

from pytest_peftbench.meta.device import META, made_on_meta
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.words import first_line
from pytest_peftbench.tasks.config import Place
from pytest_peftbench.tasks.math_reasoning.data import MathData, Problem
from pytest_peftbench.tasks.math_reasoning.spec import MathTrainConfig
from pytest_peftbench.tasks.math_reasoning.task import MathReasoning, checkpointed
from pytest_peftbench.tasks.shapes import Lengths
from pytest_peftbench.tasks.task import Batch, Extra

# Tokens of a text of MetaMathQA, prompt and response: the mean that PEFT's published results give for Llama-3.2
# (4,198,051 tokens in 20,000 texts).
TOKENS = 210


class MathShapes(MathReasoning):
    """See `tasks.shapes.TaskShapes`."""

    decoded_steps = (1, 2)  # the first reads the prompt

    def __init__(self, config: MathTrainConfig, place: Place, architecture: dict[str, Any], lengths: Lengths) -> None:
        prompts = [Problem([0] * lengths.tokens, "")] * lengths.batch
        super().__init__(replace(config, batch_size=lengths.batch), place, MathData(_Tokenizer(), [], [], prompts, []))
        self.architecture = architecture
        self.lengths = lengths

    @staticmethod
    def usual_lengths(config: MathTrainConfig) -> Lengths:
        return Lengths(config.batch_size, min(TOKENS, config.max_seq_length))

    @property
    def trained_tokens(self) -> int:
        """Of the whole batch."""
        return self.lengths.batch * self.lengths.tokens

    def base_model(self) -> nn.Module:
        from transformers import AutoConfig, AutoModelForCausalLM

        attention = self.config.attn_implementation or "sdpa"
        with made_on_meta(self.config.dtype):
            try:
                model: nn.Module = AutoModelForCausalLM.from_config(
                    AutoConfig.for_model(**self.architecture),
                    dtype=getattr(torch, self.config.dtype),
                    attn_implementation=attention,
                )
            except (ImportError, ValueError) as error:
                raise InputError(
                    f"{self.place.source}: attn_implementation {attention!r}: {first_line(error)}"
                ) from error
        return checkpointed(model, self.config)

    def prepare(self, model: nn.Module) -> None:
        """Nothing: a prefix that starts from a text has the same shapes."""

    def probe_batch(self) -> Batch:
        """Tokens with a mask, as the texts of a batch differ in length."""
        shape = (self.lengths.batch, self.lengths.tokens)
        names = ("input_ids", "attention_mask", "labels")
        return {name: torch.zeros(shape, dtype=torch.long, device=META) for name in names}

    def decode(self, model: nn.Module, steps: int, extra: Extra) -> Tensor:
        from transformers import GenerationMixin

        generating = next(module for module in model.modules() if isinstance(module, GenerationMixin))
        # whether a text has ended stands in a tensor, which has no value
        unfinished = Mock(side_effect=[True] * steps + [False])
        # in inference mode the same operators arrive in larger ones, which Python takes apart one by one
        with (
            mock.patch.object(generating, "_has_unfinished_sequences", unfinished),
            mock.patch.object(torch, "inference_mode", torch.no_grad),
        ):
            return super().decode(model, steps, extra)


class _Tokenizer:
    """Pads prompts of one length."""

    eos_token_id = 1
    pad_token_id = 0

    def pad(self, encoded: dict[str, list[list[int]]], **kwargs: object) -> dict[str, Tensor]:
        ids = torch.tensor(encoded["input_ids"])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
