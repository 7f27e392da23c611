import json

import peft
import pytest
import torch
from support import small_llama

from pytest_peftbench.cases.methods import make_config, needs_of
from pytest_peftbench.results.files import InputError

LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


def llama():
    return small_llama().eval()


def test_the_keys_of_the_file_become_the_config(tmp_path):
    config = make_config(LORA, tmp_path)

    assert type(config) is peft.LoraConfig
    assert (config.r, config.target_modules, config.task_type) == (4, {"q_proj"}, "CAUSAL_LM")


def test_the_config_that_peft_saved_is_read_back(tmp_path):
    peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())

    assert make_config(saved, tmp_path).r == 4


def test_a_key_that_the_installed_peft_does_not_know_is_an_error_that_names_file_and_key(tmp_path):
    file = tmp_path / "adapter_config.json"

    with pytest.raises(InputError, match="'rnak' is unknown to LoraConfig") as error:
        make_config({**LORA, "rnak": 4}, file)

    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ({**LORA, "loftq_config": {}, "init_lora_weights": "loftq"}, "loftq"),
        ({"peft_type": "ADALORA", "task_type": "CAUSAL_LM"}, "total_step"),
        ({"peft_type": "OFT", "r": 4, "oft_block_size": 4}, "oft_block_size"),
    ],
)
def test_a_value_that_peft_refuses_is_an_error_that_names_the_file_and_peft_s_words(adapter, words, tmp_path):
    file = tmp_path / "adapter_config.json"

    with pytest.raises(InputError, match="refuses the values") as error:
        make_config(adapter, file)

    assert str(file) in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("adapter", [None, LORA])
def test_most_methods_need_nothing_beyond_their_config(adapter, tmp_path):
    needs = needs_of(adapter)

    assert needs.inputs(3) == {}
    assert needs.prepare({"r": 4}, tmp_path, llama(), tmp_path) == {"r": 4}
    needs.after_step(llama(), 1)


@pytest.mark.parametrize("method", ["POLY", "MULTITASK_PROMPT_TUNING"])
def test_methods_for_several_tasks_get_one_task_number_per_item(method):
    inputs = needs_of({"peft_type": method}).inputs(3)

    assert inputs["task_ids"].tolist() == [0, 0, 0]


def xlora(source, names=("0", "1")):
    """X-LoRA's config, with experts that have a config alone."""
    for name in names:
        folder = source / "experts" / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps(LORA))
    return {"peft_type": "XLORA", "adapters": {name: f"experts/{name}" for name in names}}


def test_x_lora_gets_experts_with_fresh_weights_and_the_suite_stays_as_it_is(tmp_path):
    source, workdir = tmp_path / "suite", tmp_path / "work"
    adapter = xlora(source)
    before = sorted(source.rglob("*"))

    prepared = needs_of(adapter).prepare(adapter, source, llama(), workdir)

    assert {str(workdir / "experts" / name) for name in "01"} == set(prepared["adapters"].values())
    assert all((workdir / "experts" / name / "adapter_model.safetensors").exists() for name in "01")
    assert sorted(source.rglob("*")) == before
    assert adapter["adapters"] == {"0": "experts/0", "1": "experts/1"}


def test_x_lora_s_experts_do_not_share_their_weights(tmp_path):
    adapter = xlora(tmp_path / "suite")

    prepared = needs_of(adapter).prepare(adapter, tmp_path / "suite", llama(), tmp_path / "work")

    first, second = (peft.PeftModel.from_pretrained(llama(), folder) for folder in prepared["adapters"].values())
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert not torch.equal(first.get_parameter(name), second.get_parameter(name))


def test_x_lora_takes_an_expert_that_has_weights_as_it_is(tmp_path):
    source = tmp_path / "suite"
    adapter = xlora(source, names=("0",))
    peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(source / "experts/0")

    prepared = needs_of(adapter).prepare(adapter, source, llama(), tmp_path / "work")

    assert prepared["adapters"] == {"0": str(source / "experts/0")}


def test_an_expert_s_unknown_key_is_an_error_that_names_its_file(tmp_path):
    adapter = xlora(tmp_path, names=("0",))
    (tmp_path / "experts/0/adapter_config.json").write_text(json.dumps({**LORA, "rnak": 4}))

    with pytest.raises(InputError, match="rnak") as error:
        needs_of(adapter).prepare(adapter, tmp_path, llama(), tmp_path / "work")

    assert str(tmp_path / "experts" / "0" / "adapter_config.json") in str(error.value)


def test_x_lora_s_base_model_does_not_cache_and_others_do():
    base, other = llama(), llama()

    needs_of({"peft_type": "XLORA"}).base(base)
    needs_of(LORA).base(other)

    assert base.config.use_cache is False
    assert other.config.use_cache is True
