"""Math reasoning: train on MetaMathQA, test on GSM8K, forgetting on Wikipedia text.

The recipe of PEFT's `method_comparison/MetaMathQA`, the same code for the embedded and the real base model.
Apart from PEFT's, each training text ends in EOS, the longest of a batch too, and losses on general text are
those of the *next* token.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_peftbench.measure.environment import installed
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import Value
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks import hub
from pytest_peftbench.tasks.config import QUANTISED, MathTrainConfig
from pytest_peftbench.tasks.embedded import MATH_DATA, MATH_MODEL
from pytest_peftbench.tasks.protocol import Batch, Evaluation, Extra, Progress, silent
from pytest_peftbench.tasks.scores import forgetting, is_correct, token_losses

TINY = "tiny"
CHAR_LIMIT = 1300  # longer training texts are left out: a filter that is the same for every tokenizer
VALID_SIZE = 50
DOCUMENTS = 100
BUCKET_FACTOR = 20  # batches per bucket of texts of similar length
MAX_DOCUMENT_TOKENS = 768
_MOST_LOGITS = 2**29
IGNORE = -100


@dataclass(frozen=True)
class Problem:
    """A prompt, as tokens, and the reference response, as text."""

    prompt: list[int]
    response: str


@dataclass(frozen=True)
class MathData:
    """train: tokens of prompt, response and EOS. documents: tokens of general text."""

    tokenizer: Any
    train: list[list[int]]
    valid: list[Problem]
    test: list[Problem]
    documents: list[list[int]]

    @cached_property
    def digest(self) -> str:
        """Hash of texts and tokenizer: both show in the tokens."""
        problems = [[problem.prompt, problem.response] for problem in [*self.valid, *self.test]]
        return hashlib.sha256(json.dumps([self.train, problems, self.documents]).encode()).hexdigest()


class MathReasoning:
    """See `tasks.Task`."""

    timed_steps = 3

    def load_base_model(self, experiment: Experiment) -> nn.Module:
        from transformers import AutoModelForCausalLM

        train = _config(experiment)
        source, options = _model(experiment), _weights(experiment)
        hub.require(source)
        with hub.loading(source):
            model: nn.Module = AutoModelForCausalLM.from_pretrained(
                source.path, attn_implementation=train.attn_implementation, **options
            )
        if train.use_gc:
            model.enable_input_require_grads()  # type: ignore[operator]
            model.gradient_checkpointing_enable()  # type: ignore[operator]
        return model

    def load_data(self, experiment: Experiment) -> MathData:
        from transformers import AutoTokenizer

        train, model = _config(experiment), _model(experiment)
        hub.require(model, *(_data(experiment, hub_id) for hub_id, *_ in _SPLITS.values()))
        rows = {
            key: hub.load_rows(_data(experiment, hub_id), name, split, limit=limit, columns=columns).to_list()
            for key, (hub_id, name, split, limit, columns) in _SPLITS.items()
        }
        with hub.loading(model):
            tokenizer = AutoTokenizer.from_pretrained(model.path)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

        def prompts(texts: Sequence[str]) -> list[str]:
            return [train.query_template.format(query=text) for text in texts]

        def tokens(texts: list[str]) -> list[list[int]]:
            return [ids[: train.max_seq_length] for ids in tokenizer(texts)["input_ids"]]

        def problems(split: list[dict[str, str]]) -> list[Problem]:
            prompted = tokens(prompts([row["question"] for row in split]))
            return [Problem(ids, row["answer"]) for ids, row in zip(prompted, split, strict=True)]

        short = [row for row in rows["train"] if len(row["query"]) + 1 + len(row["response"]) <= CHAR_LIMIT]
        queries = prompts([row["query"] for row in short])
        texts = [f"{query} {row['response']}" for query, row in zip(queries, short, strict=True)]
        with_eos = [[*ids, tokenizer.eos_token_id][: train.max_seq_length] for ids in tokens(texts)]
        documents = [
            ids[:MAX_DOCUMENT_TOKENS] for ids in tokenizer([row["text"] for row in rows["documents"]])["input_ids"]
        ]
        valid, test = problems(rows["valid"]), problems(rows["test"])
        return MathData(tokenizer, with_eos, valid, test, documents)

    def prepare(self, model: nn.Module, data: MathData, experiment: Experiment) -> None:
        """Start a learned prefix from the base model's cache for `init_kv_cache_prefix`, if that is given."""
        text = _config(experiment).init_kv_cache_prefix
        if text is None:
            return
        from peft import initialize_kv_prefix_from_text

        try:
            initialize_kv_prefix_from_text(model, data.tokenizer, text=text, use_chat_template=False)
        except ValueError as error:
            raise InputError(f"{experiment.path}: init_kv_cache_prefix: {error}") from error

    def batches(self, data: MathData, experiment: Experiment, seed: int) -> Iterator[Batch]:
        """Batches of texts of similar length (bucketed), in an order drawn from `seed`, epoch after epoch."""
        if not data.train:
            raise InputError(f"{experiment.case}: there is no training text of at most {CHAR_LIMIT} characters")
        size = experiment.train.batch_size
        generator = random.Random(seed)
        while True:
            order = generator.sample(range(len(data.train)), len(data.train))
            for start in range(0, len(order), size * BUCKET_FACTOR):
                bucket = sorted(order[start : start + size * BUCKET_FACTOR], key=lambda i: -len(data.train[i]))
                chunks = [bucket[i : i + size] for i in range(0, len(bucket), size)]
                generator.shuffle(chunks)
                for chunk in chunks:
                    yield _train_batch(data, chunk, experiment.device)

    def probe_batch(self, data: MathData, experiment: Experiment) -> Batch:
        return _train_batch(data, range(experiment.train.batch_size), experiment.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss: Tensor = model(**batch).loss
        return loss

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits of the batch's own tokens, (batch, tokens, vocabulary): those of virtual tokens are cut off."""
        logits: Tensor = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
        return logits[:, -batch["input_ids"].shape[1] :]

    def decode(self, model: nn.Module, data: MathData, experiment: Experiment, steps: int, extra: Extra) -> None:
        prompts = [problem.prompt for problem in data.test[: experiment.train.batch_size]]
        batch = _pad(prompts, data.tokenizer, experiment.device, side="left")
        _generate(model, data, batch, {"max_new_tokens": steps, "min_new_tokens": steps}, extra)

    def reference(
        self, base: nn.Module, data: MathData, experiment: Experiment, progress: Progress = silent
    ) -> list[Tensor]:
        """Losses of each document's tokens under the base model."""
        return _document_losses(base, data, experiment, lambda _: {}, progress)

    def validate(
        self, model: nn.Module, data: MathData, experiment: Experiment, extra: Extra, progress: Progress = silent
    ) -> dict[str, Value]:
        correct = _solve(model, data, data.valid, experiment, extra, progress)
        return {"valid_accuracy": sum(correct) / len(correct)}

    def evaluate(
        self,
        model: nn.Module,
        data: MathData,
        experiment: Experiment,
        extra: Extra,
        reference: list[Tensor],
        progress: Progress = silent,
    ) -> Evaluation:
        correct = _solve(model, data, data.test, experiment, extra, progress)
        losses = _document_losses(model, data, experiment, extra, progress)
        rises = [forgetting(before, after) for before, after in zip(reference, losses, strict=True)]
        return Evaluation(
            {
                "test_accuracy": sum(correct) / len(correct),
                "forgetting": forgetting(torch.cat(reference), torch.cat(losses)),
            },
            {"test_correct": "".join("01"[item] for item in correct), "forgetting_per_document": rises},
        )


TASK = MathReasoning()


def _config(experiment: Experiment) -> MathTrainConfig:
    assert isinstance(experiment.train, MathTrainConfig)
    return experiment.train


def _weights(experiment: Experiment) -> dict[str, Any]:
    """How `from_pretrained` makes the weights: of a float type, or quantised by bitsandbytes as PEFT's script does.

    Quantised weights are made on their device. Raises InputError without bitsandbytes.
    """
    dtype = experiment.train.dtype
    if dtype not in QUANTISED:
        return {"dtype": getattr(torch, dtype)}
    if installed("bitsandbytes") == "not installed":
        raise InputError(f"{experiment.path}: dtype {dtype!r} needs bitsandbytes; pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=dtype == "int8", load_in_4bit=dtype == "int4")
    return {"quantization_config": config, "device_map": experiment.device}


# Config, split, rows and columns of each data set.
_SPLITS: dict[str, tuple[str, str | None, str, int | None, tuple[str, ...]]] = {
    "train": ("meta-math/MetaMathQA", None, "train", None, ("query", "response")),
    "valid": ("openai/gsm8k", "main", "train", VALID_SIZE, ("question", "answer")),
    "test": ("openai/gsm8k", "main", "test", None, ("question", "answer")),
    "documents": ("HuggingFaceFW/finewiki", "en", "train", DOCUMENTS, ("text",)),
}


def _model(experiment: Experiment) -> hub.Source:
    model_id = experiment.train.model_id
    return hub.Source("model", TINY, MATH_MODEL) if model_id == TINY else hub.model_source(experiment, model_id)


def _data(experiment: Experiment, hub_id: str) -> hub.Source:
    """The embedded base model has the embedded data."""
    if experiment.train.model_id == TINY:
        return hub.Source("data set", hub_id, MATH_DATA / Path(hub_id).name)
    return hub.data_source(experiment, hub_id)


def _pad(sequences: Sequence[list[int]], tokenizer: Any, device: str, side: str) -> Batch:
    padded = tokenizer.pad({"input_ids": list(sequences)}, return_tensors="pt", padding_side=side)
    return {key: padded[key].to(device) for key in ("input_ids", "attention_mask")}


def _train_batch(data: MathData, indices: Sequence[int], device: str) -> Batch:
    """Tokens padded on the right, with labels: each token but the padding (the EOS of each text counts)."""
    batch = _pad([data.train[index] for index in indices], data.tokenizer, device, side="right")
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
    return batch


def _generate(model: nn.Module, data: MathData, batch: Batch, kwargs: dict[str, Any], extra: Extra) -> Tensor:
    """Greedy continuation of the prompts, (batch, new tokens), without the prompts."""
    from transformers import GenerationConfig

    prompt_tokens = batch["input_ids"].shape[1]
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    if {"max_length", "max_new_tokens"} <= kwargs.keys():  # transformers wants one of them: the smaller limit holds
        kwargs["max_new_tokens"] = min(kwargs["max_new_tokens"], kwargs.pop("max_length") - prompt_tokens)
    eos, pad = data.tokenizer.eos_token_id, data.tokenizer.pad_token_id
    config = GenerationConfig(**{"do_sample": False, "eos_token_id": eos, "pad_token_id": pad, **kwargs})
    with torch.inference_mode():
        tokens: Tensor = model.generate(  # type: ignore[operator]
            **batch, **extra(len(batch["input_ids"])), generation_config=config
        )
    return tokens[:, prompt_tokens:]


def _by_length(lengths: Sequence[int], size: int, what: str, progress: Progress) -> Iterator[list[int]]:
    """Indices in batches of `size`, longest first: little padding, and what does not fit in memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), size):
        progress(f"{what} {start}/{len(order)}")
        yield order[start : start + size]


def _solve(
    model: nn.Module,
    data: MathData,
    problems: list[Problem],
    experiment: Experiment,
    extra: Extra,
    progress: Progress = silent,
) -> list[bool]:
    """Whether each problem is solved, in the given order."""
    correct = [False] * len(problems)
    lengths = [len(problem.prompt) for problem in problems]
    for chunk in _by_length(lengths, experiment.train.batch_size_eval, "problems", progress):
        batch = _pad([problems[index].prompt for index in chunk], data.tokenizer, experiment.device, side="left")
        tokens = _generate(model, data, batch, _config(experiment).generation_kwargs, extra)
        answers = data.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        for index, answer in zip(chunk, answers, strict=True):
            correct[index] = is_correct(answer, problems[index].response)
    return correct


@torch.inference_mode()
def _document_losses(
    model: nn.Module, data: MathData, experiment: Experiment, extra: Extra, progress: Progress
) -> list[Tensor]:
    """Per-token losses of each document, in nats, on the CPU, in the given order."""
    losses = [torch.empty(0)] * len(data.documents)
    lengths = [len(ids) for ids in data.documents]
    # at Llama 3's vocabulary fifty documents of 768 tokens have 5e9 logits, and the losses want them in float32
    at_once = max(1, _MOST_LOGITS // (max(lengths) * len(data.tokenizer)))
    for chunk in _by_length(lengths, min(experiment.train.batch_size_eval, at_once), "documents", progress):
        batch = _pad([data.documents[index] for index in chunk], data.tokenizer, experiment.device, side="right")
        logits = TASK.output(model, {**batch, **extra(len(chunk))})
        rows = token_losses(logits, batch["input_ids"], batch["attention_mask"]).cpu()
        for index, row in zip(chunk, rows, strict=True):
            losses[index] = row[: len(data.documents[index]) - 1]
    return losses
