"""Base models and data sets in folders that cannot be read: told by model or data set, and nothing of them is run."""

import json
import pickle
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from spoiling import broken, content, device, folder, gone, keys, loop, pipe
from support import DEFAULTS

from pytest_peftbench.results.files import InputError
from pytest_peftbench.tasks.config import Place
from pytest_peftbench.tasks.math_reasoning.spec import EMBEDDED, MathTrainConfig
from pytest_peftbench.tasks.math_reasoning.task import MathReasoning


class Row(NamedTuple):
    """A file of the model or of the data sets, what is done to it, and what the error says."""

    file: str
    change: object
    words: str


class Code:
    """A pickle that would run code."""

    def __reduce__(self):
        return (Path("executed").touch, ())


def pickled(path):
    """Weights as a pickle, in place of the model's safetensors."""
    path.with_name("model.safetensors").unlink()
    path.write_bytes(pickle.dumps({"weight": Code()}))


def lines(*rows):
    return content("".join(json.dumps(row) + "\n" for row in rows))


MODEL, DATA = "model own (", "data set "
CONFIG, WEIGHTS = "models/own/config.json", "models/own/model.safetensors"
TRAIN, TEST = "data/MetaMathQA/train.jsonl", "data/gsm8k/test.jsonl"
OF_THE_MODEL = [
    Row(CONFIG, gone, "holds no config.json or model_index.json"),
    Row(CONFIG, content("{"), MODEL),
    Row(CONFIG, content("[]"), MODEL),
    Row(CONFIG, content({}), MODEL),
    Row(CONFIG, content(b"\xff\x00"), MODEL),
    Row(CONFIG, keys(model_type="junk"), MODEL),
    Row(CONFIG, keys(hidden_size="wide"), MODEL),
    Row(CONFIG, keys(num_attention_heads=0), MODEL),
    Row(WEIGHTS, gone, MODEL),
    Row(WEIGHTS, content(b""), MODEL),
    Row(WEIGHTS, content(b"\xff" * 100), MODEL),
    Row(WEIGHTS, content(b"\x08" + b"\0" * 7 + b"{}      "), "its files lack 39 of its weights"),
    Row(CONFIG, keys(num_hidden_layers=5), "its files lack 9 of its weights"),
    Row(CONFIG, keys(vocab_size=640), MODEL),
    Row(WEIGHTS, pipe, "is a pipe or a device, expected a file"),
    Row(WEIGHTS, device, "is a pipe or a device, expected a file"),
    Row(WEIGHTS, folder, MODEL),
    Row(WEIGHTS, broken, MODEL),
    Row(WEIGHTS, loop, MODEL),
    Row("models/own/pytorch_model.bin", pickled, MODEL),
    Row("models/own/other.safetensors", pipe, "is a pipe or a device, expected a file"),
]
OF_THE_DATA = [
    Row("models/own/tokenizer.json", content("{"), MODEL),
    Row("models/own/tokenizer.json", gone, MODEL),
    Row(TRAIN, gone, DATA + "meta-math/MetaMathQA"),
    Row(TRAIN, content(""), DATA + "meta-math/MetaMathQA"),
    Row(TRAIN, content("{"), DATA + "meta-math/MetaMathQA"),
    Row(TRAIN, content(b"\xff\x00\x01"), DATA + "meta-math/MetaMathQA"),
    Row(TRAIN, lines({"query": "1?"}), "split 'train' has no column 'response'"),
    Row(TRAIN, lines({"query": "1?", "response": None}), "row 0: response: expected text, found None"),
    Row(TRAIN, lines({"query": 1, "response": "1"}), "row 0: query: expected text, found 1"),
    Row(TRAIN, lines({"query": ["1"], "response": "1"}), "row 0: query: expected text, found ['1']"),
    Row(TRAIN, pipe, "is a pipe or a device, expected a file"),
    Row(TEST, lines({"question": "1?", "answer": None}), "split 'test': row 0: answer: expected text, found None"),
    Row(TEST, loop, DATA + "openai/gsm8k"),
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The embedded model, and a row of each data set, as a user's own folders."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EMBEDDED / "model", tmp_path / "models" / "own")
    lines({"query": "1 + 1?", "response": "2"})(tmp_path / TRAIN)
    lines({"question": "1 + 1?", "answer": "#### 2"})(tmp_path / TEST)
    lines({"question": "1 + 1?", "answer": "#### 2"})(tmp_path / "data/gsm8k/train.jsonl")
    lines({"text": "A river runs through the town."})(tmp_path / "data/finewiki/train.jsonl")
    return Place("cpu", tmp_path, tmp_path / "data", tmp_path / "models")


CONFIG_OF_THE_TASK = MathTrainConfig(**{**DEFAULTS, "model_id": "own"})


def test_the_folders_are_read_as_long_as_nothing_is_wrong_with_them(place):
    assert MathReasoning.load_base_model(CONFIG_OF_THE_TASK, place) is not None
    data = MathReasoning.load_data(CONFIG_OF_THE_TASK, place)
    assert [len(data.train), len(data.valid), len(data.test), len(data.documents)] == [1, 1, 1, 1]


@pytest.mark.parametrize("row", OF_THE_MODEL, ids=lambda row: row.file)
def test_a_base_model_that_cannot_be_read_is_told_by_name(place, row):
    row.change(place.source / row.file)

    with pytest.raises(InputError) as raised:
        MathReasoning.load_base_model(CONFIG_OF_THE_TASK, place)

    assert row.words in str(raised.value)
    assert not (place.source / "executed").exists()


@pytest.mark.parametrize("row", OF_THE_DATA, ids=lambda row: row.file)
def test_data_that_cannot_be_read_are_told_by_name(place, row):
    row.change(place.source / row.file)

    with pytest.raises(InputError) as raised:
        MathReasoning.load_data(CONFIG_OF_THE_TASK, place)

    assert row.words in str(raised.value)
