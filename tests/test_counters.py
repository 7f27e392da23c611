import gc
import os
import sys
import weakref

import peft
import pytest
import torch
from support import small_llama
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from pytest_peftbench.measure import owners
from pytest_peftbench.measure.collector import freeze_collector
from pytest_peftbench.measure.counters import Counters, count, count_host_calls, difference

FLOAT = 4  # bytes


def llama(adapter=None):
    model = small_llama()
    return model if adapter is None else peft.get_peft_model(model, adapter)


def train_step(model):
    ids = torch.arange(24).reshape(2, 12) % 64
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)

    def step():
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, optimizer


ON_Q_AND_V = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
ADAPTERS = {
    "lora": peft.LoraConfig(r=4, **ON_Q_AND_V),
    "loha": peft.LoHaConfig(r=4, **ON_Q_AND_V),
    "oft": peft.OFTConfig(r=0, oft_block_size=4, **ON_Q_AND_V),
    "boft": peft.BOFTConfig(boft_block_size=4, **ON_Q_AND_V),
    "c3a": peft.C3AConfig(block_size=16, **ON_Q_AND_V),
    "randlora": peft.RandLoraConfig(r=4, **ON_Q_AND_V),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
}


def calls_of(result, operator):
    return sum(calls for name, (calls, _) in result.operators.items() if name.startswith(f"{operator} @"))


def flops_of(result, operator):
    return sum(flops for name, (_, flops) in result.operators.items() if name.startswith(f"{operator} @"))


# FLOPs and calls


def test_a_matrix_product_costs_two_flops_a_multiply_add():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    result = count(lambda: a @ b)
    assert (result.flops, result.calls) == (2 * 3 * 5 * 7, 1)


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (lambda: torch.ones(3, 5) @ torch.ones(5), 2 * 3 * 5),
        (lambda: torch.ones(5) @ torch.ones(5), 2 * 5),
        (lambda: torch.ones(3).addmv_(torch.ones(3, 5), torch.ones(5)), 2 * 3 * 5),
        (lambda: torch.ones(3, 7).addmm_(torch.ones(3, 5), torch.ones(5, 7)), 2 * 3 * 5 * 7),
        (lambda: torch.addbmm(torch.ones(3, 7), torch.ones(2, 3, 5), torch.ones(2, 5, 7)), 2 * 2 * 3 * 5 * 7),
        (lambda: functional.conv1d(torch.ones(2, 3, 8), torch.ones(4, 3, 1)), 2 * 2 * 3 * 8 * 4),
    ],
)
def test_products_that_torch_does_not_count_are_counted_too(function, flops):
    assert count(function).flops == flops


def test_attention_on_the_cpu_is_not_free():
    query, key, value = (torch.ones(2, 4, length, 8, requires_grad=True) for length in (6, 10, 10))
    forward = 2 * 2 * 4 * 6 * 10 * (8 + 8)
    result = count(lambda: functional.scaled_dot_product_attention(query, key, value).sum().backward())
    assert flops_of(result, "aten._scaled_dot_product_flash_attention_for_cpu") == forward
    assert flops_of(result, "aten._scaled_dot_product_flash_attention_for_cpu_backward") == forward * 5 // 2


def test_all_but_attention_agrees_with_torchs_own_counter():
    step, optimizer = train_step(model := llama(ADAPTERS["lora"]))
    step()
    result = count(step, model, optimizer)
    attention = sum(flops for name, (_, flops) in result.operators.items() if "attention_for_cpu" in name)
    with FlopCounterMode(display=False) as torchs:
        step()
    assert attention > 0
    assert result.flops - attention == torchs.get_total_flops()


def test_inference_mode_costs_what_no_grad_costs():
    model = llama(ADAPTERS["lora"]).eval()
    ids = torch.zeros(2, 12, dtype=torch.long)

    def forward(context):
        with context:
            model(input_ids=ids)

    forward(torch.no_grad())
    without_grad = count(lambda: forward(torch.no_grad()), model)
    inference = count(lambda: forward(torch.inference_mode()), model)
    assert inference.flops > 0
    assert inference == without_grad
    assert inference.saved_bytes == 0


def test_measuring_adds_no_calls_of_its_own():
    x = torch.ones(4, requires_grad=True)
    result = count(lambda: x.exp().sum().backward())
    # exp, sum; ones_like, expand, mul
    assert result.calls == 5


def test_totals_are_the_sums_of_the_rows_and_rows_are_sorted():
    step, optimizer = train_step(model := llama(ADAPTERS["loha"]))
    step()
    result = count(step, model, optimizer)
    assert result.calls == sum(calls for calls, _ in result.operators.values())
    assert result.flops == sum(flops for _, flops in result.operators.values())
    assert list(result.operators) == sorted(result.operators)


# Bytes


def test_weights_gradients_and_optimizer_state_count_from_the_start():
    model = nn.Linear(10, 10, bias=False)
    model.register_buffer("scale", torch.ones(5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    assert count(lambda: None).peak_bytes == 0
    assert count(lambda: None, model, optimizer).peak_bytes == (100 + 5 + 100 + 100) * FLOAT


def test_tied_weights_count_once():
    first, second = nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)
    second.weight = first.weight
    assert count(lambda: None, nn.Sequential(first, second)).peak_bytes == 100 * FLOAT


def test_a_tensor_made_earlier_counts_from_its_first_use():
    a = torch.ones(100)
    assert count(lambda: a + 1).peak_bytes == 200 * FLOAT


def test_views_and_in_place_operators_take_no_memory():
    def function():
        a = torch.zeros(100)
        a.view(10, 10).t().add_(1).clamp_(max=2)[3:5].mul_(2)

    assert count(function).peak_bytes == 100 * FLOAT


def test_memory_that_was_freed_does_not_count_later():
    def function():
        for _ in range(5):
            torch.zeros(100)
        torch.zeros(150)

    assert count(function).peak_bytes == 150 * FLOAT


def test_a_tensor_that_only_the_graph_holds_stays_counted():
    x = torch.zeros(100, requires_grad=True)

    def function(drop_graph):
        total = x.exp().sum()  # from here on only the graph holds the result of exp
        if drop_graph:
            total = total.detach()
        torch.zeros(1000)
        return total

    # x, the sum (one float), 1000 zeros; as long as there is a graph, the result of exp as well
    assert count(lambda: function(drop_graph=True)).peak_bytes == (100 + 1 + 1000) * FLOAT
    assert count(lambda: function(drop_graph=False)).peak_bytes == (100 + 1 + 1000 + 100) * FLOAT


def test_backward_frees_what_the_graph_held():
    x = torch.zeros(100, requires_grad=True)

    def function():
        total = x.exp().sum()
        total.backward()
        x.grad = None
        torch.zeros(1000)

    assert count(function).peak_bytes == (100 + 1 + 1000) * FLOAT


def test_a_resized_storage_counts_its_new_size():
    def function():
        a = torch.zeros(100)
        a.untyped_storage().resize_(0)
        torch.zeros(150)
        a.resize_(200)
        a.zero_()
        torch.zeros(10)

    assert count(function).peak_bytes == (100 + 150) * FLOAT


def test_memory_in_reference_cycles_counts_until_the_end_in_every_run():
    def function():
        for _ in range(3):
            cycle = [torch.zeros(100)]
            cycle.append(cycle)
            gc.collect(0) if gc.isenabled() else None

    assert count(function).peak_bytes == 300 * FLOAT


def test_the_garbage_collector_is_as_before_even_after_an_error():
    def fail():
        assert not gc.isenabled()
        raise ValueError("from the function")

    with pytest.raises(ValueError, match="from the function"):
        count(fail)
    assert gc.isenabled()
    gc.disable()
    try:
        count(lambda: None)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_frozen_and_nobody_holds_any_more_goes_when_that_is_done_again():
    cycle = nn.Linear(1, 1)
    cycle.itself = [cycle]
    alive = weakref.ref(cycle)
    try:
        freeze_collector()
        del cycle
        gc.collect()
        assert alive() is not None

        freeze_collector()
        assert alive() is None
    finally:
        gc.unfreeze()


def test_saved_bytes_are_the_activations_without_the_weights():
    model = nn.Linear(10, 20, bias=False)
    x = torch.zeros(3, 10)

    def function():
        y = model(x)  # saves x, for the weight's gradient
        (y.exp() * y).sum().backward()  # saves exp's result (twice) and y

    assert count(function, model).saved_bytes == (3 * 10 + 2 * 3 * 20) * FLOAT


def test_the_tensors_alive_at_the_peak_are_named_by_owner_shape_and_dtype():
    model = nn.Linear(10, 10, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    x = torch.ones(3, 10)

    class Layer:
        def forward(self):
            kept = [x @ model.weight for _ in range(2)]
            torch.zeros(5)  # gone before the peak
            kept.append(torch.zeros(100, dtype=torch.float64))

    result = count(Layer().forward, model, optimizer)
    owner = "test_the_tensors_alive_at_the_peak_are_named_by_owner_shape_and_dtype.Layer.forward"
    assert result.peak_tensors == {
        f"[100] float64 @ {owner}": [1, 800],
        "[3, 10] float32 @ earlier work": [1, 120],
        f"[3, 10] float32 @ {owner}": [2, 240],
        "float32 @ gradients": [1, 400],
        "float32 @ optimizer state": [1, 400],
        "float32 @ weights": [1, 400],
    }


def test_of_several_peaks_the_first_is_told():
    def function():
        torch.zeros(4, 25)
        torch.zeros(10, 10)

    assert list(count(function).peak_tensors) == ["[4, 25] float32 @ test_of_several_peaks_the_first_is_told.function"]


def test_a_resized_storage_is_told_at_its_size_at_the_peak():
    def function():
        a = torch.zeros(100)
        a.resize_(200)
        a.zero_()

    assert list(count(function).peak_tensors.values()) == [[1, 200 * FLOAT]]


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_tensors_alive_at_the_peak_add_up_to_it(name):
    step, optimizer = train_step(model := llama(ADAPTERS[name]))
    step()
    result = count(step, model, optimizer)
    assert sum(size for _, size in result.peak_tensors.values()) == result.peak_bytes
    assert all(number > 0 and size > 0 for number, size in result.peak_tensors.values())
    assert list(result.peak_tensors) == sorted(result.peak_tensors)


def test_checkpointing_saves_bytes_and_costs_flops():
    layers = nn.Sequential(*[nn.Linear(16, 16) for _ in range(4)], nn.Tanh(), nn.Linear(16, 1))
    x = torch.zeros(8, 16, requires_grad=True)

    def run(reentrant):
        def function():
            y = layers(x) if reentrant is None else checkpoint(layers, x, use_reentrant=reentrant)
            y.sum().backward()

        function()
        return count(function, layers)

    plain = run(None)
    for reentrant in (True, False):
        assert run(reentrant).flops > plain.flops
    assert run(False).saved_bytes < plain.saved_bytes


def test_meta_tensors_give_the_same_counters_as_real_ones():
    def step_on(device):
        with torch.device(device):
            model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
            x = torch.ones(5, 8)

        def function():
            model(x).sum().backward()
            for weight in model.parameters():
                weight.grad = None

        return count(function, model)

    real, meta = step_on("cpu"), step_on("meta")
    assert real.flops > 0
    assert meta == real


# Owners


def test_operators_are_attributed_to_the_function_outside_torch_in_forward_and_backward():
    step, optimizer = train_step(model := llama(ADAPTERS["lora"]))
    step()
    rows = count(step, model, optimizer).operators
    # 12 products of the base model's MLPs and one of its head; frozen weights have no gradient
    assert rows["aten.mm @ LlamaMLP.forward"][0] == 6
    assert rows["aten.mm @ LlamaMLP.forward (backward)"][0] == 6
    # A and B at 2 targets in 2 layers, and their gradients
    assert rows["aten.mm @ Linear.forward"][0] >= 8
    assert rows["aten.mm @ Linear.forward (backward)"][0] >= 8
    assert any(name.endswith("@ optimizer AdamW") for name in rows)


def test_what_no_function_of_a_library_calls_belongs_to_the_innermost_role(monkeypatch):
    monkeypatch.setitem(globals(), "__name__", "pytest_peftbench.of_ours")
    x = torch.ones(3, requires_grad=True)

    def step():
        with owners.role("loss"):
            total = x.exp().sum()
        total.backward()
        torch.zeros(1)

    rows = count(step, work="step").operators
    assert {"aten.exp @ loss", "aten.mul @ loss (backward)", "aten.zeros @ step"} <= rows.keys()
    assert {row.partition(" @ ")[2] for row in rows} == {"loss", "loss (backward)", "step"}


def test_custom_autograd_functions_own_their_backward():
    step, optimizer = train_step(model := llama(ADAPTERS["loha"]))
    step()
    rows = count(step, model, optimizer).operators
    assert rows["aten.mm @ HadaWeight.forward"][0] > 0
    assert rows["aten.mm @ HadaWeight.backward"][0] > 0


def test_a_graph_made_before_belongs_to_backward_alone():
    x = torch.ones(3, requires_grad=True)
    total = x.exp().sum()
    assert {name.split(" @ ")[1] for name in count(total.backward).operators} == {"work", "backward"}


def test_names_without_qualified_names_in_code_objects_are_the_same():
    class Outer:
        def method(self):
            return sys._getframe()

        @staticmethod
        def static():
            return sys._getframe()

    for frame in (Outer().method(), Outer.static()):
        name = owners._qualified_name(frame.f_code, {"Outer": Outer, "other": int})
        assert name.endswith(frame.f_code.co_name)
        assert "Outer." in name
    code = test_products_that_torch_does_not_count_are_counted_too.__code__
    assert owners._qualified_name(code, globals()) == code.co_name


# Results


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_warmed_up_step_gives_the_same_counters_every_time(name):
    step, optimizer = train_step(model := llama(ADAPTERS[name]))
    step()
    first = count(step, model, optimizer)
    assert first.flops > 0
    assert count(step, model, optimizer) == first


@pytest.mark.parametrize("name", ["lora", "loha", "c3a", "boft"])
def test_measuring_changes_no_bit_of_the_weights(name):
    def weights_after(run):
        step, optimizer = train_step(model := llama(ADAPTERS[name]))
        for _ in range(3):
            run(step, model, optimizer)
        return model.state_dict()

    plain = weights_after(lambda step, model, optimizer: step())
    measured = weights_after(count)
    assert all(torch.equal(plain[key], measured[key]) for key in plain)


def test_one_decoding_step_is_the_difference_of_two_generations():
    model = llama(ADAPTERS["lora"]).eval()
    prompt = torch.zeros(1, 5, dtype=torch.long)

    def generation(new_tokens):
        def function():
            model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                do_sample=False,
            )

        return count(function, model)

    generation(2)
    step = difference(generation(4), generation(3))
    assert 0 < step.flops < generation(1).flops
    assert step.calls > 0
    # one token through one frozen product of each of the 2 layers' 3 projections
    assert step.operators["aten.mm @ LlamaMLP.forward"] == [6, 2 * 3 * 2 * 32 * 48]


def test_difference_leaves_what_one_more_step_adds():
    a, b = torch.ones(3, 3), torch.ones(3, 3)

    def steps(number):
        def function():
            torch.ones(3) + 1
            for _ in range(number):
                a @ b

        return count(function)

    step = difference(steps(5), steps(4))
    owner = "test_difference_leaves_what_one_more_step_adds.steps.function"
    assert step == Counters(54, 1, 0, 0, {f"aten.mm @ {owner}": [1, 54]})


def test_difference_shows_operators_of_either_side():
    a = Counters(5, 1, 10, 0, {"x": [1, 5]})
    b = Counters(7, 2, 20, 0, {"y": [2, 7]})
    assert difference(a, b) == Counters(-2, -1, 0, 0, {"x": [1, 5], "y": [-2, -7]})


# Host calls


def test_host_calls_are_those_in_torch_nn_and_peft():
    layer = nn.Identity()

    def function():
        os.path.join("a", "b")
        return [layer.forward(i) for i in range(3)]

    assert count_host_calls(function) == (3, [0, 1, 2])


HOST_CALLS = """
def inner(n):
    return n

def work(items):
    inner(1)                                       # 1
    [inner(n) for n in items]                      # 2, and no more for the comprehension
    {n: inner(n) for n in items}                   # 2
    (lambda: None)()                               # 1
    any(inner(n) > 9 for n in items)               # any, the generator three times, 2
    isinstance(items, list)                        # 1
    " a ".strip()                                  # 1
    int("3")                                       # a class, and no function
"""


def test_host_calls_are_functions_lambdas_generators_and_what_is_built_in():
    names = {}
    exec(compile(HOST_CALLS, os.path.join(os.path.dirname(peft.__file__), "imagined.py"), "exec"), names)

    assert count_host_calls(lambda: names["work"]([1, 2]))[0] == 15  # with work itself


def test_adding_an_adapter_to_more_layers_takes_more_host_calls():
    def calls(targets):
        config = peft.LoraConfig(r=4, target_modules=targets)
        model = llama()
        return count_host_calls(lambda: peft.get_peft_model(model, config))[0]

    calls(["q_proj"])
    assert calls(["q_proj"]) == calls(["q_proj"])
    assert calls(["q_proj", "v_proj"]) > calls(["q_proj"])


def test_an_earlier_profile_function_is_restored_even_after_an_error():
    def earlier(*args):
        return None

    def fail():
        raise ValueError("from the function")

    sys.setprofile(earlier)
    try:
        with pytest.raises(ValueError, match="from the function"):
            count_host_calls(fail)
        assert sys.getprofile() is earlier
    finally:
        sys.setprofile(None)
