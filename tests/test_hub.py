"""Models and data sets that are missing, gated, misspelt or out of reach: each a worded outcome, before loading."""

import json
import re
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from support import DEFAULTS, LORA, assert_usage_error, make_suite, output, small_llama, table, write_json

from pytest_peftbench.cases.loading import cached_task_data
from pytest_peftbench.cases.trained import run_experiment
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks import hub
from pytest_peftbench.tasks.config import Place
from pytest_peftbench.tasks.math_reasoning.spec import EMBEDDED, MathTrainConfig
from pytest_peftbench.tasks.math_reasoning.task import MathReasoning

MODEL = hub.Source("model", "meta-llama/Llama-3.2-3B", None)
DATA = hub.Source("data set", "openai/gsm8k", None)


def config(model_id=MODEL.id):
    return MathTrainConfig(**{**DEFAULTS, "model_id": model_id})


def answer(cls):
    """An error as the hub's client raises it."""
    import httpx2

    return cls("refused", response=httpx2.Response(403, request=httpx2.Request("GET", "https://huggingface.co")))


@pytest.fixture
def answers(monkeypatch):
    """Lets the hub answer with an error, or not at all."""

    def answer_with(error):
        def auth_check(self, repo_id, *, repo_type):
            raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", auth_check)

    return answer_with


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


# The hub


@pytest.mark.parametrize(("source", "url"), [(MODEL, MODEL.id), (DATA, f"datasets/{DATA.id}")])
def test_a_gated_repository_says_where_to_accept_its_terms(answers, source, url):
    answers(answer(GatedRepoError))

    with pytest.raises(InputError, match=f"{source.id}: gated; accept its terms at https://huggingface.co/{url} and"):
        hub.require(source)


def test_a_wrong_id_is_told_by_name_with_the_way_out(answers):
    answers(answer(RepositoryNotFoundError))

    with pytest.raises(InputError, match=r"model meta-llama/Llama-3.2-3B: the hub knows no such id.*--peft-models DIR"):
        hub.require(MODEL)
    with pytest.raises(InputError, match=r"data set openai/gsm8k: the hub knows no such id.*--peft-data DIR.* gsm8k"):
        hub.require(DATA)


@pytest.mark.parametrize("name", ["/nowhere/model", "a/b/c"])
def test_a_path_that_does_not_exist_is_no_id(offline, name):
    with pytest.raises(InputError, match=f"model {name}: neither a folder nor an id of the hub"):
        hub.require(hub.Source("model", name, None))


def test_a_hub_out_of_reach_is_asked_for_nothing_where_the_cache_has_the_model(answers, monkeypatch):
    answers(ConnectionError("no route to host"))

    with pytest.raises(InputError, match=r"cannot be loaded \(no route to host\); pass --peft-models DIR"):
        hub.require(MODEL)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda model, name: "/cache/config.json")
    hub.require(MODEL)


def test_offline_a_model_must_be_in_the_cache(offline, answers, monkeypatch):
    answers(AssertionError("the hub was asked"))

    with pytest.raises(InputError, match=r"not in the hub's cache, and HF_HUB_OFFLINE is set; pass --peft-models DIR"):
        hub.require(MODEL)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda model, name: "/cache/config.json")
    hub.require(MODEL)


def test_offline_a_data_set_must_be_in_the_cache(offline, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    with pytest.raises(InputError, match=r"data set openai/gsm8k: not in the hub's cache, and HF_HUB_OFFLINE is set"):
        hub.load_rows(DATA, "main", "train")


def test_a_gated_data_set_is_told_by_the_error_of_datasets_too(monkeypatch):
    def load_dataset(*arguments, **kwargs):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'openai/gsm8k' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    with pytest.raises(InputError, match=r"gated; accept its terms at https://huggingface.co/datasets/openai/gsm8k"):
        hub.load_rows(DATA, "main", "train")


def test_an_error_that_is_not_of_the_source_passes_through(answers):
    answers(MemoryError("no memory"))

    with pytest.raises(MemoryError), hub.loading(MODEL):
        raise MemoryError("no memory")


# Local folders


def test_a_model_that_the_folder_lacks_is_named_with_those_it_has(tmp_path):
    (tmp_path / "Llama-3.2-1B").mkdir()
    source = hub.model_source(Place(models=tmp_path), MODEL.id, EMBEDDED)

    with pytest.raises(
        InputError, match=r"Llama-3.2-3B\): no such folder; --peft-models needs one .* has Llama-3.2-1B"
    ):
        hub.require(source)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no config.json or model_index.json"):
        hub.require(hub.Source("model", "a", tmp_path))


def test_a_model_without_weights_is_refused_by_name(tmp_path):
    small_llama().save_pretrained(tmp_path / "Llama-3.2-3B")
    (tmp_path / "Llama-3.2-3B" / "model.safetensors").unlink()

    with pytest.raises(InputError, match=r"model meta-llama/Llama-3.2-3B \(.*\): cannot be read: .*model.safetensors"):
        MathReasoning.load_base_model(config(), Place(models=tmp_path))


def test_a_missing_data_set_is_told_before_the_model_is_loaded(tmp_path):
    (tmp_path / "MetaMathQA").mkdir()
    case = CaseId("MetaMathQA", "b", "m", "n")
    experiment = Experiment(case, Path("suite"), config(str(EMBEDDED / "model")), None, data=tmp_path)

    def never(experiment):
        raise AssertionError("loaded")

    with pytest.raises(InputError, match=r"data set openai/gsm8k \(.*gsm8k\): no such folder; .*has MetaMathQA"):
        run_experiment(experiment, never, cached_task_data())


@pytest.mark.parametrize(
    ("file", "rows", "words"),
    [
        ("train.jsonl", [{"question": "1+1?"}], r"split 'train' has no column 'answer', but \['question'\]"),
        ("test.jsonl", [{"question": "1+1?", "answer": "#### 2"}], "cannot be read: .*split"),
        ("README", [], "cannot be read: "),
    ],
)
def test_a_data_set_without_split_or_column_is_refused_by_name(tmp_path, file, rows, words):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = hub.Source("data set", "openai/gsm8k", folder)

    with pytest.raises(InputError, match=rf"data set openai/gsm8k \(.*gsm8k\): {words}"):
        hub.load_rows(source, "main", "train", columns=("question", "answer"))


def test_a_config_may_be_a_folder_in_the_data_set(tmp_path):
    for config, number in (("main", 1), ("socratic", 2)):
        write_json(tmp_path / config / "train.jsonl", {"number": number})

    rows = hub.load_rows(hub.Source("data set", "a/b", tmp_path), "main", "train", limit=5)

    assert rows.to_list() == [{"number": 1}]


def test_the_folder_is_used_before_the_hub_and_other_data_are_another_case(tmp_path, answers):
    answers(AssertionError("the hub was asked"))
    copied = config(str(EMBEDDED / "model"))
    for folder in (EMBEDDED / "data").iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "finewiki").unlink()
    write_json(tmp_path / "finewiki" / "train.jsonl", {"text": "A river runs through the town."})

    here = MathReasoning.load_data(copied, Place(data=EMBEDDED / "data"))
    embedded = MathReasoning.load_data(config("tiny"), Place())
    other = MathReasoning.load_data(copied, Place(data=tmp_path))

    assert here.digest == embedded.digest != other.digest
    assert len(other.documents) == 1


# In a run


def test_what_is_missing_fails_the_case_in_words(bench):
    bench.trains()
    make_suite(bench.path / "real" / "MetaMathQA", {"lora/r4": (LORA, None)}, model_id="owner/Llama")
    for folder in ("models", "data"):
        (bench.path / folder).mkdir()

    result = bench.run("--peft-suite", "real", "--peft-models", "models", "--peft-data", "data", "--peft-no-compare")

    result.assert_outcomes(failed=1)
    assert table(result) == {"MetaMathQA-Llama-lora-r4": "failed"}
    assert re.search(r"model owner/Llama \(.*models/Llama\): no such folder", output(result))
    assert "Traceback" not in output(result)


@pytest.mark.parametrize("option", ["--peft-data", "--peft-models"])
def test_a_folder_that_does_not_exist_is_refused_before_anything_runs(bench, option):
    assert_usage_error(bench.run(option, "nowhere"), "nowhere: no such folder", option[7:])
