import math
from contextlib import contextmanager

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import small_llama

from pytest_peftbench.cases import checks

IDS = torch.arange(24).reshape(2, 12) % 64
ON_Q = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
LORA = peft.LoraConfig(r=4, **ON_Q)
PREFIX = "base_model.model.model.layers.*.self_attn.q_proj"


def base():
    return small_llama().eval()


def trained(adapter=LORA, dtype=torch.float32, by=0.1):
    """A model whose adapter changes the output; by how much each of its weights was moved."""
    model = peft.get_peft_model(base().to(dtype), adapter).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * by)
    return model


@torch.no_grad()
def output(model):
    return model(input_ids=IDS).logits.clone()


def base_names():
    return [name for name, _ in base().named_parameters()]


def differing(word):
    """The size in `differs: 0.012`."""
    name, size = word.split(": ")
    assert name == "differs"
    return float(size)


# A fresh adapter


def test_an_adapter_that_starts_as_the_identity_is_ok():
    fresh = peft.get_peft_model(base(), LORA).eval()

    assert checks.initial(output(fresh), output(base())) == {"init.identity": "ok", "init.max_output_difference": 0.0}


def test_an_adapter_that_starts_with_an_effect_differs_by_the_largest_difference():
    base_output = output(base())

    found = checks.initial(output(trained()), base_output)

    assert found["init.identity"] == "differs"
    assert found["init.max_output_difference"] == pytest.approx(float((output(trained()) - base_output).abs().max()))


# Disabling


def disabling(model):
    return checks.disabling(model, output, output, output(base()))


def test_a_disabled_adapter_restores_the_base_model_and_comes_back():
    assert disabling(trained()) == {"disable.restores_base": "ok", "enable.restores_adapter": "ok"}


def test_disabling_that_does_nothing_differs(monkeypatch):
    @contextmanager
    def nothing(self):
        yield

    monkeypatch.setattr(peft.PeftModel, "disable_adapter", nothing)

    found = disabling(trained())

    assert 0.005 < differing(found["disable.restores_base"]) < 5
    assert found["enable.restores_adapter"] == "ok"


def test_a_base_model_that_an_adapter_changed_for_good_differs():
    model = trained()
    with torch.no_grad():
        model.get_base_model().lm_head.weight.mul_(1.0001)

    assert disabling(model)["disable.restores_base"] == "differs: 0.0001"


def test_an_adapter_that_stays_disabled_differs(monkeypatch):
    monkeypatch.setattr(peft.LoraModel, "enable_adapter_layers", lambda self: None)

    found = disabling(trained())

    assert found["disable.restores_base"] == "ok"
    assert 0.005 < differing(found["enable.restores_adapter"]) < 5


def test_a_method_that_cannot_be_disabled_has_the_class_of_its_error(monkeypatch):
    def refuse(self):
        raise NotImplementedError("not for this method")

    monkeypatch.setattr(peft.PeftModel, "disable_adapter", refuse)

    assert disabling(trained())["disable.restores_base"] == "NotImplementedError"


# Saving


def saving(model, folder, out=output, fresh=base):
    return checks.saving(model, out, fresh, folder, {})


def test_a_saved_adapter_gives_the_same_output_after_loading(tmp_path):
    found = saving(trained(), tmp_path)

    assert found["reload.same_output"] == "ok"
    assert found["checkpoint.bytes"] == (tmp_path / "adapter_model.safetensors").stat().st_size
    assert found["checkpoint.tensors"] == {
        f"{PREFIX}.lora_A.weight": "2 x [4, 32] F32",
        f"{PREFIX}.lora_B.weight": "2 x [32, 4] F32",
    }


def change_checkpoint(monkeypatch, change):
    """`save_pretrained` writes a state dict that `change` was done to."""
    save = peft.PeftModel.save_pretrained

    def save_changed(self, folder, *args, **kwargs):
        save(self, folder, *args, **kwargs)
        file = folder / "adapter_model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        change(tensors)
        save_file(tensors, file)

    monkeypatch.setattr(peft.PeftModel, "save_pretrained", save_changed)


def test_a_checkpoint_with_other_values_differs(monkeypatch, tmp_path):
    def scale(tensors):
        for tensor in tensors.values():
            tensor.mul_(1.001)

    change_checkpoint(monkeypatch, scale)

    assert 1e-5 < differing(saving(trained(), tmp_path)["reload.same_output"]) < 1e-2


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_a_checkpoint_that_lost_a_tensor_differs_and_the_table_counts_the_rest(monkeypatch, tmp_path):
    change_checkpoint(monkeypatch, lambda tensors: tensors.pop(f"{PREFIX}.lora_B.weight".replace("*", "1")))

    found = saving(trained(), tmp_path)

    assert 0.01 < differing(found["reload.same_output"]) < 5
    assert found["checkpoint.tensors"][f"{PREFIX}.lora_B.weight"] == "1 x [32, 4] F32"


def test_a_checkpoint_that_does_not_load_has_the_class_of_its_error(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise KeyError("lora_A")

    monkeypatch.setattr(peft.PeftModel, "from_pretrained", refuse)

    assert saving(trained(), tmp_path)["reload.same_output"] == "KeyError"


def test_the_tensor_table_lists_types_and_shapes_apart_and_keeps_digits_inside_names(tmp_path):
    save_file(
        {
            "layers.0.w1": torch.zeros(2, 3),
            "layers.1.w1": torch.zeros(2, 3),
            "layers.12.w1": torch.zeros(4, 3),
            "layers.0.w2": torch.zeros(2, dtype=torch.bfloat16),
            "blocks.3.5.w2": torch.zeros(()),
        },
        tmp_path / "a.safetensors",
    )
    save_file({"layers.3.w1": torch.zeros(2, 3, dtype=torch.float64)}, tmp_path / "b.safetensors")

    assert checks.tensor_table(sorted(tmp_path.glob("*.safetensors"))) == {
        "blocks.*.*.w2": "1 x [] F32",
        "layers.*.w1": "2 x [2, 3] F32, 1 x [2, 3] F64, 1 x [4, 3] F32",
        "layers.*.w2": "1 x [2] BF16",
    }


# Merging


def merging(model, counted=None):
    return checks.merging(model, output, base_names(), {} if counted is None else counted)


def test_merging_keeps_the_output_and_unmerging_restores_the_weights():
    assert merging(trained()) == {"merge.same_output": "ok", "unmerge.restores_base": "ok"}


def scaled_delta(monkeypatch, scales):
    """LoRA's merge, and its unmerge, use a delta weight that is off by these factors, in the order of the calls."""
    delta = peft.tuners.lora.Linear.get_delta_weight
    factors = iter([factor for factor in scales for _ in range(2)])  # two layers
    monkeypatch.setattr(
        peft.tuners.lora.Linear, "get_delta_weight", lambda self, adapter: delta(self, adapter) * next(factors)
    )


def test_a_merge_that_is_one_per_cent_off_differs(monkeypatch):
    scaled_delta(monkeypatch, [1.01, 1.01])

    found = merging(trained())

    assert 1e-4 < differing(found["merge.same_output"]) < 0.1
    assert found["unmerge.restores_base"] == "ok"


def test_unmerging_that_leaves_one_per_cent_behind_differs(monkeypatch):
    scaled_delta(monkeypatch, [1.0, 0.99])

    found = merging(trained())

    assert found["merge.same_output"] == "ok"
    assert 1e-5 < differing(found["unmerge.restores_base"]) < 0.1


def test_a_merge_that_is_not_implemented_has_the_class_of_its_error(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(peft.tuners.lora.Linear, "merge", refuse)

    assert merging(trained()) == {"merge.same_output": "NotImplementedError", "unmerge.restores_base": "not reached"}


def test_prompt_learning_cannot_merge_which_is_its_outcome():
    adapter = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")

    found = checks.merging(trained(adapter), lambda model: output(model)[:, -IDS.shape[1] :], base_names(), {})

    assert found == {"merge.same_output": "AttributeError", "unmerge.restores_base": "not reached"}


def test_merging_is_counted_where_it_can_be_done():
    counted = {}
    merging(trained(), counted)

    rows = counted["merge"].operators  # two layers: B @ A, times the scaling, and added to the weight
    assert {row: count[0] for row, count in rows.items() if "mm" in row} == {"aten.mm @ Linear.get_delta_weight": 2}
    assert counted["merge"].flops == 2 * (2 * 32 * 4 * 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_rounding_is_no_difference_and_a_wrong_scale_is(monkeypatch, dtype):
    def merged():
        return merging(trained(dtype=dtype, by=0.5))

    assert merged() == {"merge.same_output": "ok", "unmerge.restores_base": "ok"}
    scaled_delta(monkeypatch, [1.5, 1.5])
    assert differing(merged()["merge.same_output"]) > 0.05


def test_an_outcome_is_ok_differs_or_the_class_of_the_error():
    def fail():
        raise AttributeError("x")

    assert checks.outcome(lambda: 0.0) == "ok"
    assert checks.outcome(lambda: 1e-5, 1e-4) == "ok"
    assert checks.outcome(lambda: 0.01234) == "differs: 0.012"
    assert checks.outcome(lambda: math.nan, 1e-4) == "differs: nan"
    assert checks.outcome(fail) == "AttributeError"


def test_a_difference_is_a_share_of_the_largest_value_and_infinite_where_there_is_none():
    expected = torch.tensor([1.0, -4.0])

    assert checks.gap(expected.clone(), expected) == 0
    assert checks.gap(torch.tensor([1.5, -4.0]), expected) == 0.125
    assert checks.gap(expected.double(), expected) == math.inf
    assert checks.gap(expected[:1], expected) == math.inf
    assert checks.gap(torch.tensor([math.nan, -4.0]), expected) == math.inf
    assert checks.gap(torch.tensor([0.5]), torch.tensor([0.0])) == 0.5


def test_an_interrupted_check_is_no_outcome():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checks.outcome(interrupt)


def test_an_output_that_is_nan_is_never_ok():
    model = trained()
    with torch.no_grad():
        model.get_base_model().lm_head.weight.fill_(torch.nan)

    found = {**disabling(model), **merging(model), **checks.initial(output(model), output(model))}

    assert found["disable.restores_base"] == "differs: inf"
    assert found["enable.restores_adapter"] == "differs: inf"
    assert found["merge.same_output"] == "differs: inf"
    assert found["init.identity"] == "differs"


def test_out_of_memory_is_no_outcome_of_a_check():
    def check():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        checks.outcome(check)
