"""Math reasoning: train on MetaMathQA, test on GSM8K, forgetting on Wikipedia text.

The recipe of PEFT's `method_comparison/MetaMathQA`, the same code for the embedded and the real base model.
Apart from PEFT's, losses on general text are those of the *next* token.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pytest_peftbench.measure.environment import installed
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import Value
from pytest_peftbench.results.words import error_line, first_line
from pytest_peftbench.tasks import hub
from pytest_peftbench.tasks.config import QUANTISED, Place
from pytest_peftbench.tasks.math_reasoning.data import CHAR_LIMIT, MathData, Problem, load
from pytest_peftbench.tasks.math_reasoning.scores import forgetting, is_correct, token_losses
from pytest_peftbench.tasks.math_reasoning.spec import EMBEDDED, MathTrainConfig
from pytest_peftbench.tasks.task import Batch, Evaluation, Extra, Progress, Task, silent

BUCKET_FACTOR = 20  # batches per bucket of texts of similar length
IGNORE = -100
_MOST_LOGITS = 2**29
# Keys of `generation_kwargs` whose values `MathTrainConfig` has looked at, and with which any model generates.
_LIMITS = {"max_new_tokens", "max_length"}


class MathReasoning(Task):
    """See `tasks.task.Task`."""

    timed_steps = 3
    config: MathTrainConfig
    data: MathData

    @staticmethod
    def load_base_model(config: MathTrainConfig, place: Place) -> nn.Module:
        from transformers import AutoModelForCausalLM

        source, options = hub.model_source(place, config.model_id, EMBEDDED / "model"), _weights(config, place)
        hub.require(source)
        try:
            with hub.loading(source):
                model, info = AutoModelForCausalLM.from_pretrained(
                    source.path,
                    attn_implementation=config.attn_implementation,
                    output_loading_info=True,
                    **options,
                )
        except InputError as error:
            if config.attn_implementation is None:
                raise
            raise InputError(f"attn_implementation: {config.attn_implementation!r}: {error}") from error
        hub.require_all_weights(source, info)
        return checkpointed(model, config)

    @staticmethod
    def load_data(config: MathTrainConfig, place: Place) -> MathData:
        return load(config, place)

    def problems(self) -> Iterator[str]:
        data, config = self.data, self.config
        if not data.train:
            yield f"model_id: its data hold no training text of at most {CHAR_LIMIT} characters"
        elif config.batch_size > len(data.train):
            yield f"batch_size: must be at most the number of training texts, {len(data.train)}, is {config.batch_size}"
        for split in ("valid", "test", "documents"):
            if not getattr(data, split):
                yield f"model_id: its data hold nothing for {split}"
        longest = max((len(problem.prompt) for problem in [*data.valid, *data.test]), default=0)
        if (limit := config.generation_kwargs.get("max_length")) is not None and limit <= longest:
            yield f"generation_kwargs: max_length must be above the longest prompt's {longest} tokens, is {limit}"
        try:
            self._generation_config(config.generation_kwargs, longest).validate()
        except (AttributeError, TypeError, ValueError) as error:
            yield f"generation_kwargs: {first_line(error)}"

    def problems_with(self, base: nn.Module) -> Iterator[str]:
        """That it cannot generate: transformers finds out when it does, and no sooner, much that is wrong with a key.

        Where there are no unusual keys, it is not asked to; two tokens are enough.
        """
        kwargs = self.config.generation_kwargs
        if kwargs.keys() <= _LIMITS:
            return
        prompts = [problem.prompt for problem in self.data.test[: min(2, self.config.batch_size_eval)]]
        few = min(2, kwargs.get("max_new_tokens") or 2)
        try:
            self._generate(base, self._pad(prompts, "left"), {**kwargs, "max_new_tokens": few}, lambda size: {})
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # each key is refused in its own way, or in none
            names = ", ".join(sorted(kwargs.keys() - _LIMITS))
            yield f"generation_kwargs: the base model cannot generate with {names}: {error_line(error)}"

    def prepare(self, model: nn.Module) -> None:
        """Start a learned prefix from the base model's cache for `init_kv_cache_prefix`, if that is given."""
        text = self.config.init_kv_cache_prefix
        if text is None:
            return
        from peft import initialize_kv_prefix_from_text

        try:
            initialize_kv_prefix_from_text(model, self.data.tokenizer, text=text, use_chat_template=False)
        except ValueError as error:
            raise InputError(f"init_kv_cache_prefix: {error}") from error

    def batches(self, seed: int) -> Iterator[Batch]:
        """Batches of texts of similar length (bucketed), in an order drawn from `seed`, epoch after epoch."""
        train, size = self.data.train, self.config.batch_size
        generator = random.Random(seed)
        while True:
            order = generator.sample(range(len(train)), len(train))
            for start in range(0, len(order), size * BUCKET_FACTOR):
                bucket = sorted(order[start : start + size * BUCKET_FACTOR], key=lambda i: -len(train[i]))
                chunks = [bucket[i : i + size] for i in range(0, len(bucket), size)]
                generator.shuffle(chunks)
                for chunk in chunks:
                    yield self._train_batch(chunk)

    def probe_batch(self) -> Batch:
        return self._train_batch(range(self.config.batch_size))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss: Tensor = model(**batch).loss
        return loss

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits of the batch's own tokens, (batch, tokens, vocabulary): those of virtual tokens are cut off."""
        logits: Tensor = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
        return logits[:, -batch["input_ids"].shape[1] :]

    def decode(self, model: nn.Module, steps: int, extra: Extra) -> Tensor:
        prompts = [problem.prompt for problem in self.data.test[: self.config.batch_size]]
        return self._generate(
            model, self._pad(prompts, "left"), {"max_new_tokens": steps, "min_new_tokens": steps}, extra
        )

    def reference(self, base: nn.Module, progress: Progress = silent) -> list[Tensor]:
        """Losses of each document's tokens under the base model."""
        return self._document_losses(base, lambda _: {}, progress)

    def validate(self, model: nn.Module, extra: Extra, progress: Progress = silent) -> dict[str, Value]:
        correct = self._solve(model, self.data.valid, extra, progress)
        return {"valid_accuracy": sum(correct) / len(correct)}

    def evaluate(
        self, model: nn.Module, extra: Extra, reference: list[Tensor], progress: Progress = silent
    ) -> Evaluation:
        correct = self._solve(model, self.data.test, extra, progress)
        losses = self._document_losses(model, extra, progress)
        rises = [forgetting(before, after) for before, after in zip(reference, losses, strict=True)]
        return Evaluation(
            {
                "test_accuracy": sum(correct) / len(correct),
                "forgetting": forgetting(torch.cat(reference), torch.cat(losses)),
            },
            {"test_correct": "".join("01"[item] for item in correct), "forgetting_per_document": rises},
        )

    def _pad(self, sequences: Sequence[list[int]], side: str) -> Batch:
        padded = self.data.tokenizer.pad({"input_ids": list(sequences)}, return_tensors="pt", padding_side=side)
        return {key: padded[key].to(self.place.device) for key in ("input_ids", "attention_mask")}

    def _train_batch(self, indices: Sequence[int]) -> Batch:
        """Tokens padded on the right, with labels: each token but the padding (the EOS of each text counts)."""
        batch = self._pad([self.data.train[index] for index in indices], "right")
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
        return batch

    def _generate(self, model: nn.Module, batch: Batch, kwargs: dict[str, Any], extra: Extra) -> Tensor:
        """Greedy continuation of the prompts, (batch, new tokens), without the prompts."""
        prompt_tokens = batch["input_ids"].shape[1]
        config = self._generation_config(kwargs, prompt_tokens)
        with torch.inference_mode():
            tokens: Tensor = model.generate(  # type: ignore[operator]
                **batch, **extra(len(batch["input_ids"])), generation_config=config
            )
        return tokens[:, prompt_tokens:]

    def _generation_config(self, kwargs: dict[str, Any], prompt_tokens: int) -> Any:
        from transformers import GenerationConfig

        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        if {"max_length", "max_new_tokens"} <= kwargs.keys():  # transformers wants one of them: the smaller limit holds
            kwargs["max_new_tokens"] = min(kwargs["max_new_tokens"], kwargs.pop("max_length") - prompt_tokens)
        eos, pad = self.data.tokenizer.eos_token_id, self.data.tokenizer.pad_token_id
        return GenerationConfig(**{"do_sample": False, "eos_token_id": eos, "pad_token_id": pad, **kwargs})

    def _solve(
        self, model: nn.Module, problems: list[Problem], extra: Extra, progress: Progress = silent
    ) -> list[bool]:
        """Whether each problem is solved, in the given order."""
        correct = [False] * len(problems)
        lengths = [len(problem.prompt) for problem in problems]
        for chunk in _by_length(lengths, self.config.batch_size_eval, "problems", progress):
            batch = self._pad([problems[index].prompt for index in chunk], "left")
            tokens = self._generate(model, batch, self.config.generation_kwargs, extra)
            answers = self.data.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for index, answer in zip(chunk, answers, strict=True):
                correct[index] = is_correct(answer, problems[index].response)
        return correct

    @torch.inference_mode()
    def _document_losses(self, model: nn.Module, extra: Extra, progress: Progress) -> list[Tensor]:
        """Per-token losses of each document, in nats, on the CPU, in the given order."""
        documents, tokenizer = self.data.documents, self.data.tokenizer
        losses = [torch.empty(0)] * len(documents)
        lengths = [len(ids) for ids in documents]
        # at Llama 3's vocabulary fifty documents of 768 tokens have 5e9 logits, and the losses want them in float32
        at_once = max(1, _MOST_LOGITS // (max(lengths) * len(tokenizer)))
        for chunk in _by_length(lengths, min(self.config.batch_size_eval, at_once), "documents", progress):
            batch = self._pad([documents[index] for index in chunk], "right")
            logits = self.output(model, {**batch, **extra(len(chunk))})
            rows = token_losses(logits, batch["input_ids"], batch["attention_mask"]).cpu()
            for index, row in zip(chunk, rows, strict=True):
                losses[index] = row[: len(documents[index]) - 1]
        return losses


def checkpointed(model: nn.Module, config: MathTrainConfig) -> nn.Module:
    """The base model, with gradient checkpointing where the parameters ask for it."""
    if config.use_gc:
        model.enable_input_require_grads()  # type: ignore[operator]
        model.gradient_checkpointing_enable()  # type: ignore[operator]
    return model


def _weights(config: MathTrainConfig, place: Place) -> dict[str, Any]:
    """How `from_pretrained` makes the weights: of a float type, or quantised by bitsandbytes as PEFT's script does.

    Quantised weights are made on their device. Raises InputError without bitsandbytes.
    """
    dtype = config.dtype
    if dtype not in QUANTISED:
        return {"dtype": getattr(torch, dtype)}
    if installed("bitsandbytes") == "not installed":
        raise InputError(f"dtype: {dtype!r} needs bitsandbytes; pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    quantised = BitsAndBytesConfig(load_in_8bit=dtype == "int8", load_in_4bit=dtype == "int4")
    return {"quantization_config": quantised, "device_map": place.device}


def _by_length(lengths: Sequence[int], size: int, what: str, progress: Progress) -> Iterator[list[int]]:
    """Indices in batches of `size`, longest first: little padding, and what does not fit in memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), size):
        progress(f"{what} {start}/{len(order)}")
        yield order[start : start + size]
