"""The data of math reasoning: MetaMathQA to train on, GSM8K to test, Wikipedia text to see what is forgotten.

Apart from PEFT's recipe, each training text ends in EOS, the longest of a batch too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_peftbench.tasks import hub
from pytest_peftbench.tasks.config import TINY, Place
from pytest_peftbench.tasks.math_reasoning.spec import EMBEDDED, MathTrainConfig

CHAR_LIMIT = 1300  # longer training texts are left out: a filter that is the same for every tokenizer
VALID_SIZE = 50
DOCUMENTS = 100
MAX_DOCUMENT_TOKENS = 768
# Config, split, rows and columns of each data set.
_SPLITS: dict[str, tuple[str, str | None, str, int | None, tuple[str, ...]]] = {
    "train": ("meta-math/MetaMathQA", None, "train", None, ("query", "response")),
    "valid": ("openai/gsm8k", "main", "train", VALID_SIZE, ("question", "answer")),
    "test": ("openai/gsm8k", "main", "test", None, ("question", "answer")),
    "documents": ("HuggingFaceFW/finewiki", "en", "train", DOCUMENTS, ("text",)),
}


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


def load(config: MathTrainConfig, place: Place) -> MathData:
    """Read and tokenise all splits. Raises InputError, naming model or data set, where something is missing."""
    model = hub.model_source(place, config.model_id, EMBEDDED / "model")
    hub.require(model, *(_source(config, place, hub_id) for hub_id, *_ in _SPLITS.values()))
    rows = {
        key: hub.load_texts(_source(config, place, hub_id), name, split, limit, columns)
        for key, (hub_id, name, split, limit, columns) in _SPLITS.items()
    }
    tokenizer = _load_tokenizer(model)

    def prompts(texts: Sequence[str]) -> list[str]:
        return [config.query_template.format(query=text) for text in texts]

    def tokens(texts: list[str]) -> list[list[int]]:
        return [ids[: config.max_seq_length] for ids in tokenizer(texts)["input_ids"]]

    def problems(split: list[dict[str, str]]) -> list[Problem]:
        prompted = tokens(prompts([row["question"] for row in split]))
        return [Problem(ids, row["answer"]) for ids, row in zip(prompted, split, strict=True)]

    short = [row for row in rows["train"] if len(row["query"]) + 1 + len(row["response"]) <= CHAR_LIMIT]
    queries = prompts([row["query"] for row in short])
    texts = [f"{query} {row['response']}" for query, row in zip(queries, short, strict=True)]
    train = [[*ids, tokenizer.eos_token_id][: config.max_seq_length] for ids in tokens(texts)]
    documents = tokenizer([row["text"] for row in rows["documents"]])["input_ids"]
    return MathData(
        tokenizer,
        train,
        problems(rows["valid"]),
        problems(rows["test"]),
        [ids[:MAX_DOCUMENT_TOKENS] for ids in documents],
    )


def _source(config: MathTrainConfig, place: Place, hub_id: str) -> hub.Source:
    """The embedded base model has the embedded data."""
    if config.model_id == TINY:
        return hub.embedded_data(hub_id, EMBEDDED / "data" / Path(hub_id).name)
    return hub.data_source(place, hub_id)


def _load_tokenizer(model: hub.Source) -> Any:
    from transformers import AutoTokenizer

    with hub.loading(model):
        tokenizer = AutoTokenizer.from_pretrained(model.path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
