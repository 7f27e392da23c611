"""What only PEFT, torch or the data can refuse: told in words that name file and key, before anything is trained."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from spoiling import content
from support import LORA, make_suite, output, table, write_json

from pytest_peftbench import run_experiment
from pytest_peftbench.cases.loading import cached_base_models, cached_task_data
from pytest_peftbench.cases.subject import subject_of
from pytest_peftbench.cases.training import Trainer
from pytest_peftbench.commands.fit import Sizes, predict
from pytest_peftbench.results.files import InputError
from pytest_peftbench.suites import read_suite

ADAPTER = "lora/r4/adapter_config.json: "
PARAMS = "lora/r4/training_params.json: "
XLORA = {"peft_type": "XLORA", "task_type": "CAUSAL_LM", "hidden_size": 128}


class Row(NamedTuple):
    """Changed keys of the adapter config, those of the training parameters, and what the error says."""

    adapter: dict
    params: dict
    words: str


def adapter(words, without=(), **keys):
    return Row({name: value for name, value in {**LORA, **keys}.items() if name not in without}, {}, ADAPTER + words)


def params(words, **keys):
    return Row(LORA, keys, PARAMS + words)


def optimizer(words, name="AdamW", **kwargs):
    return params(words, optimizer_type=name, optimizer_kwargs={"lr": 1e-3, **kwargs})


ROWS = [
    adapter("key 'rnak' is unknown to LoraConfig of the installed PEFT", rnak=4),
    adapter("key '' is unknown to LoraConfig of the installed PEFT", **{"": 4}),
    adapter("key 'r' must be a number, is \"8\"", r="8"),
    adapter("key 'r' must be a number, is [8]", r=[8]),
    adapter("key 'r' must be a number, is true", r=True),
    adapter("key 'lora_dropout' must be a number, is \"0.1\"", lora_dropout="0.1"),
    adapter("PEFT cannot add the adapter: ValueError: `r` should be a positive integer", r=0),
    adapter("PEFT cannot add the adapter: ValueError: `r` should be a positive integer", r=-1),
    adapter("PEFT cannot add the adapter: ", r=1.5),
    adapter("PEFT cannot add the adapter: ", target_modules=["no_such_proj"]),
    adapter("PEFT cannot add the adapter: ", target_modules=[""]),
    adapter("PEFT cannot add the adapter: ", target_modules=[]),
    adapter("PEFT cannot add the adapter: ", target_modules=5),
    adapter("PEFT cannot add the adapter: ", target_modules="("),
    adapter("PEFT cannot add the adapter: ", layers_to_transform="0"),
    adapter("PEFT cannot add the adapter: ", init_lora_weights="best"),
    adapter("LoraConfig refuses the values: ValueError: Invalid task type", task_type="POETRY"),
    adapter("PEFT cannot add the adapter: ", modules_to_save=["no_such_module"], bias="some"),
    adapter("OFTConfig refuses the values", peft_type="OFT", r=8, oft_block_size=8),
    adapter("adapters: names no expert", without=("r", "target_modules"), **XLORA),
    optimizer("optimizer_type: 'Adam W' is neither a class of torch.optim nor one of lora+", "Adam W"),
    optimizer("optimizer_type: 'lr_scheduler' is neither a class of torch.optim", "lr_scheduler"),
    optimizer("optimizer_kwargs: {'lr': 0.001, 'momentum': 0.9} do not fit optimizer_type 'AdamW'", momentum=0.9),
    optimizer("optimizer_kwargs: {'lr': 0.001, 'betas': 5} do not fit optimizer_type 'AdamW'", betas=5),
    optimizer("optimizer_kwargs: {'lr': 0.001, 'betas': [0.9]} do not fit", betas=[0.9]),
    optimizer("optimizer_kwargs: {'lr': 0.001, 'betas': [2.0, 0.9]} do not fit", betas=[2.0, 0.9]),
    optimizer("optimizer_kwargs: {'lr': 0.001, 'weight_decay': '0'} do not fit", weight_decay="0"),
    optimizer("optimizer_kwargs: {'lr': 0.001, 'foreach': True, 'fused': True} do not fit", foreach=True, fused=True),
    optimizer("optimizer_kwargs: no step can be taken: ", capturable=True),
    optimizer("optimizer_kwargs: {'lr': 0.001} do not fit optimizer_type 'lora-fa'", "lora-fa"),
    optimizer("optimizer_kwargs: {'lr': 0.001} do not fit optimizer_type 'lora+'", "lora+"),
    params("batch_size: must be at most the number of training texts, 8, is 9", batch_size=9),
    params("generation_kwargs: max_length must be above the longest prompt's", generation_kwargs={"max_length": 2}),
    params("generation_kwargs: Invalid `cache_implementation`", generation_kwargs={"cache_implementation": "x"}),
    params("generation_kwargs: ", generation_kwargs={"max_new_tokens": 4, "early_stopping": "soon"}),
    Row(
        {**LORA, "inference_mode": True}, {}, "lora/r4: no parameter of the model is trainable; is inference_mode true"
    ),
    params("attn_implementation: 'junk': model tiny", attn_implementation="junk"),
]


@pytest.fixture(scope="module")
def loaded():
    """The embedded base model, and few of its data, loaded once."""
    models, data = cached_base_models(), cached_task_data()

    def few(experiment):
        found = data(experiment)
        parts = {"train": found.train[:8], "valid": found.valid[:2], "test": found.test[:2]}
        return replace(found, **parts, documents=found.documents[:2])

    return models, few


@pytest.fixture
def suite(tmp_path):
    """Makes a suite of one experiment, and reads that."""

    def read(adapter, params):
        make_suite(tmp_path / "MetaMathQA" / "mini", {"lora/r4": (adapter, params or None)})
        (experiment,) = read_suite(tmp_path / "MetaMathQA" / "mini")
        return experiment

    return read


def first_step(experiment, loaded, folder):
    """All that comes before a second training step."""
    subject = subject_of(experiment, *loaded, folder)
    subject.trainer(subject.inject(subject.injectable_base(0), 0)).step(subject.probe)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: (row.words or "?")[-60:])
def test_what_cannot_be_trained_is_refused_by_file_and_key(suite, loaded, tmp_path, row):
    with pytest.raises(InputError) as raised:
        first_step(suite(row.adapter, row.params), loaded, tmp_path / "work")

    assert row.words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha, top_k: ValueError: Contrastive Search requires"),
        ({"dola_layers": "high"}, "dola_layers: ValueError: Dola Generation requires"),
        ({"repetition_penalty": 2}, "repetition_penalty: ValueError: `penalty` has to be a strictly positive float"),
        ({"do_sample": True, "temperature": 0.0}, "do_sample, temperature: ValueError: `temperature` (=0.0)"),
        ({"suppress_tokens": "x"}, "suppress_tokens: ValueError: "),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens: ValueError: assisted generate is only"),
    ],
)
def test_what_generating_alone_can_refuse_is_told_before_anything_is_trained(suite, loaded, monkeypatch, kwargs, words):
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained"))
    experiment = suite(LORA, {"generation_kwargs": {"max_new_tokens": 300, **kwargs}})

    with pytest.raises(InputError) as raised:
        run_experiment(experiment, *loaded)

    assert f"{PARAMS}generation_kwargs: the base model cannot generate with {words}" in str(raised.value)


def test_no_target_modules_is_told_where_peft_has_none_for_the_base_model(suite, loaded, tmp_path, monkeypatch):
    experiment = suite({key: value for key, value in LORA.items() if key != "target_modules"}, {})
    first_step(experiment, loaded, tmp_path / "work")  # PEFT's own choice for a Llama
    monkeypatch.setattr(type(loaded[0](experiment).config), "model_type", "unheard of")

    with pytest.raises(InputError, match="PEFT cannot add the adapter: ValueError: Please specify `target_modules`"):
        first_step(experiment, loaded, tmp_path / "work")


def test_a_default_is_told_by_the_file_of_the_defaults(tmp_path, loaded):
    folder = tmp_path / "MetaMathQA" / "mini"
    make_suite(folder, {"lora/r4": (LORA, {"seed": 1})}, optimizer_kwargs={"lr": 1e-3, "momentum": 1})
    (experiment,) = read_suite(folder)

    with pytest.raises(InputError, match=r"mini.default_training_params\.json: optimizer_kwargs: .*momentum"):
        first_step(experiment, loaded, tmp_path / "work")


def test_an_experiment_of_no_suite_has_one_file(suite):
    alone = replace(suite(LORA, {}), path=Path("alone"))

    assert alone.located("seed: is odd") == f"{Path('alone/training_params.json')}: seed: is odd"
    assert alone.located("no loss") == "alone: no loss"


@pytest.fixture
def of_experts(suite, tmp_path):
    """An X-LoRA of one expert by this name, in which `{tmp}` is the folder of the test; and what files there are."""

    def make(name):
        content(LORA)(tmp_path / "MetaMathQA/mini/experiments/lora/r4/experts/0/adapter_config.json")
        experiment = suite({**XLORA, "adapters": {name.replace("{tmp}", str(tmp_path)): "experts/0"}}, None)
        return experiment, files_in(tmp_path)

    return make


def files_in(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../../../../escaped", "/{tmp}/escaped", "0", "", "a\x00b", "n" * 300])
def test_an_expert_s_name_leads_nowhere(of_experts, loaded, tmp_path, name):
    experiment, before = of_experts(name)

    subject = subject_of(experiment, *loaded, tmp_path / "work")

    written = files_in(tmp_path) - before
    assert written
    assert all(path.is_relative_to(tmp_path / "work" / "experts" / "0") for path in written)
    assert subject.adapter["adapters"] == {"0": str(tmp_path / "work" / "experts" / "0")}


@pytest.mark.parametrize("name", ["../../../escaped", "{tmp}/or/../escaped"])
def test_an_expert_s_name_leads_nowhere_in_fit_either(of_experts, tmp_path, monkeypatch, name):
    experiment, before = of_experts(name)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    (need,) = predict([experiment], Sizes(1, 8, "float32"), lambda text: None)

    assert need.error == ""
    assert files_in(tmp_path) == before


def test_what_peft_refuses_fails_the_case_in_words_and_says_where_peft_does(bench):
    write_json(bench.suite / "experiments/lora/r4/adapter_config.json", {**LORA, "r": 0})
    bench.trains()

    result = bench.run("-k", "lora", "--peft-no-compare")

    assert result.ret == 1
    assert "lora/r4/adapter_config.json: PEFT cannot add the adapter: ValueError: `r` should be" in output(result)
    assert "peft/tuners/lora/" in output(result)
    assert "Traceback" not in output(result)
    assert table(result) == {"MetaMathQA-mini-lora-r4": "failed"}


@pytest.mark.parametrize(
    ("fixture", "words"),
    [
        ("base_model", "MetaMathQA-mini-lora-r4: base_model gave NoneType, expected a torch.nn.Module"),
        ("task_data", "MetaMathQA-mini-lora-r4: task_data gave None, expected the task's data"),
    ],
)
def test_a_fixture_that_gives_nothing_is_told_by_name(bench, fixture, words):
    bench.trains()
    own = f"\n\n@pytest.fixture(scope='session')\ndef {fixture}():\n    return lambda experiment: None\n"
    text = (bench.path / "conftest.py").read_text()
    (bench.path / "conftest.py").write_text(("import pytest\n" if fixture == "task_data" else text) + own)

    result = bench.run("-k", "lora", "--peft-no-compare")

    assert result.ret == 1
    assert words in output(result)
    assert "Traceback" not in output(result)
