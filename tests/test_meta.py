"""The meta device as an accelerator: the answers it gives, and that remembering changes no counter."""

import copy
from dataclasses import replace

import peft
import pytest
import torch
from support import small_llama
from torch.nn import functional

from pytest_peftbench.measure.counters import count
from pytest_peftbench.meta import device as meta
from pytest_peftbench.meta.device import META, Remembering, Shapes, accelerator

ON_Q_AND_V = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def train_step(device, adapter=None):
    """One measured step of a small Llama, attention by plain operators, the optimizer by its multi-tensor path."""
    with torch.device(device):
        model = small_llama(attn_implementation="eager")
    if adapter is not None:
        model = peft.get_peft_model(model, copy.deepcopy(adapter)).to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, foreach=True)
    ids = torch.zeros(2, 12, dtype=torch.long, device=device)

    def step():
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    return count(step, model, optimizer)


@pytest.mark.parametrize(
    "adapter",
    [
        None,
        peft.LoraConfig(r=4, **ON_Q_AND_V),
        peft.LoHaConfig(r=4, **ON_Q_AND_V),
        peft.IA3Config(feedforward_modules=["down_proj"], **{**ON_Q_AND_V, "target_modules": ["k_proj", "down_proj"]}),
    ],
    ids=["full", "lora", "loha", "ia3"],
)
def test_a_training_step_counts_the_same_on_real_and_on_meta_tensors(adapter):
    real = train_step("cpu", adapter)
    with accelerator():
        shapes = train_step("meta", adapter)

    assert real.flops > 0
    assert shapes.calls == real.calls - sum(calls for calls, _ in lifted(real).values())
    assert replace(shapes, calls=0) == replace(
        real, calls=0, operators={row: counts for row, counts in real.operators.items() if row not in lifted(real)}
    )


def lifted(counted):
    """What the cache's empty `torch.tensor` ends in where there are numbers; it computes nothing."""
    made = "aten.lift_fresh @ DynamicLayer.lazy_initialization"
    return {row: counts for row, counts in counted.operators.items() if row == made}


def test_remembered_calls_count_as_worked_out_ones(monkeypatch):
    adapter = peft.BOFTConfig(boft_block_size=4, **ON_Q_AND_V)
    with accelerator():
        remembered = train_step("meta", adapter)
    monkeypatch.setattr(meta, "_kind", lambda func: "other")
    with accelerator():
        worked_out = train_step("meta", adapter)

    assert remembered == worked_out


def test_a_remembered_result_is_a_tensor_of_its_own():
    x = torch.empty(3, 4, device=META)
    with Remembering():
        first, second = x + 1, x + 1
        view = x.t()

    assert first.untyped_storage() is not second.untyped_storage()
    assert (second.shape, second.dtype, second.device) == (x.shape, x.dtype, META)
    assert view.untyped_storage() is x.untyped_storage()


def test_a_remembered_call_follows_the_default_type():
    before = torch.get_default_dtype()
    with Remembering():
        first = torch.empty(3, 5, device=META)
        torch.set_default_dtype(torch.bfloat16)
        try:
            second = torch.empty(3, 5, device=META)
        finally:
            torch.set_default_dtype(before)

    assert (first.dtype, second.dtype) == (before, torch.bfloat16)


def test_values_that_python_asks_for_are_zero_and_real_tensors_keep_theirs():
    nothing, three = torch.empty((), device=META), torch.tensor(3)
    with accelerator():
        assert (nothing.item(), bool(nothing), int(nothing), float(nothing)) == (0, False, 0, 0.0)
        assert torch.equal(nothing, nothing)
        assert (three.item(), bool(three), int(three)) == (3, True, 3)


def calls_of(result):
    return {name.partition(" @ ")[0].removeprefix("aten.") for name in result.operators}


@pytest.mark.parametrize(
    ("dtype", "mask", "kernel"),
    [
        (torch.bfloat16, False, "_scaled_dot_product_flash_attention"),
        (torch.bfloat16, True, "_scaled_dot_product_efficient_attention"),
        (torch.float32, False, "_scaled_dot_product_efficient_attention"),
    ],
)
def test_attention_goes_to_the_kernel_of_an_accelerator_with_its_flops(dtype, mask, kernel):
    query, key, value = (torch.empty(2, 4, 6, 8, dtype=dtype, device=META, requires_grad=True) for _ in range(3))
    attn_mask = torch.empty(2, 1, 6, 6, dtype=torch.bool, device=META) if mask else None
    with accelerator():
        result = count(
            lambda: functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask).sum().backward()
        )

    forward = 2 * 2 * 4 * 6 * 6 * (8 + 8)
    assert {kernel, f"{kernel}_backward"} <= calls_of(result)
    assert result.flops == forward + forward * 5 // 2


def test_key_and_value_may_have_fewer_heads():
    query = torch.empty(2, 4, 6, 8, dtype=torch.bfloat16, device=META)
    key = torch.empty(2, 2, 6, 8, dtype=torch.bfloat16, device=META)
    with accelerator():
        attended = functional.scaled_dot_product_attention(query, key, key, enable_gqa=True)
        wide = functional.scaled_dot_product_attention(query.float(), key.float(), key.float(), enable_gqa=True)

    assert attended.shape == wide.shape == query.shape


def test_large_tensors_are_made_without_memory_and_small_ones_are_real():
    with Shapes():
        large, small = torch.zeros(100, 100), torch.zeros(3)
        both = large[:3, 0] + small
        eye, order = torch.eye(100), torch.randperm(5000, generator=torch.Generator())

    assert large.is_meta
    assert eye.is_meta
    assert order.is_meta
    assert both.is_meta
    assert small.tolist() == [0, 0, 0]


def test_a_condition_holds_for_all_elements_or_for_as_many_as_told():
    weight = torch.empty(100, 50, device=META)
    with Shapes():
        assert [len(index) for index in torch.where(weight == 1)] == [5000, 5000]
    with Shapes(matches=lambda shape: 7):
        assert [len(index) for index in torch.where(weight == 1)] == [7, 7]
        assert weight[weight > 0].shape == (7,)


def test_the_optimizers_own_list_of_devices_is_restored():
    from torch.utils import _foreach_utils

    before = _foreach_utils._get_foreach_kernels_supported_devices
    with accelerator():
        assert "meta" in _foreach_utils._get_foreach_kernels_supported_devices()
    assert _foreach_utils._get_foreach_kernels_supported_devices is before
