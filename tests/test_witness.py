"""The witness: double precision all through, kept still by rounding, moved by faults, and it says where they begin."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from support import REPOSITORY
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pytest_peftbench.cases.loading import cached_base_models, cached_task_data
from pytest_peftbench.cases.witness import STEPS, _Statement, can_be_witnessed, compressed, disturbed_witnesses, witness
from pytest_peftbench.commands.selftest.faults.own import GRADIENTS_NOT_CLIPPED
from pytest_peftbench.commands.selftest.patching import Edit, patched
from pytest_peftbench.compare.witness import bounded, deviations, largest
from pytest_peftbench.measure import precision
from pytest_peftbench.measure.precision import (
    DIGITS,
    FreeOnCPU,
    OtherRounding,
    as_stored,
    digits,
    double_precision,
    project,
    widened,
)
from pytest_peftbench.measure.weights import move
from pytest_peftbench.results.result import Witness
from pytest_peftbench.suites import read_suite
from pytest_peftbench.tasks.registry import spec_of

LORA_FORWARD = "lora_B(lora_A(dropout(x))) * scaling"


@pytest.fixture(scope="module")
def loading():
    return cached_base_models(), cached_task_data()


@pytest.fixture(scope="module")
def experiments():
    suites = [REPOSITORY / "benchmarks" / task / "tiny" for task in ("MetaMathQA", "image-gen")]
    return {f"{item.case.task} {item.case.experiment}": item for suite in suites for item in read_suite(suite)}


@pytest.fixture(scope="module")
def told(loading, experiments):
    """Function that gives an experiment's witness, run once."""
    known = {}

    def of(name):
        if name not in known:
            known[name] = witness(experiments[name], *loading)
        return known[name]

    return of


# Double precision


class Narrow(TorchDispatchMode):
    """Counts operators that give a tensor of single precision."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # a number of NumPy's, as a scheduler has them, is lifted as it is; a base model is read as it is stored
        if func.overloadpacket.__name__ != "lift_fresh" and torch.float32 is not SINGLE:
            tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            self.found += [func for tensor in tensors if tensor.dtype in (SINGLE, COMPLEX_SINGLE)]
        return result


SINGLE, COMPLEX_SINGLE = torch.float32, torch.complex64


@pytest.mark.parametrize("name", ["MetaMathQA lora/rank8-pissa", "MetaMathQA waveft/freq512", "image-gen oft/block16"])
def test_nothing_is_in_single_precision_casts_and_refusals_included(loading, experiments, told, name):
    told(name)  # data and base model are loaded
    with Narrow() as narrow:
        witness(experiments[name], *loading)

    assert narrow.found == []
    with double_precision(), Narrow() as narrow:
        torch.ones(2, dtype=SINGLE) + 1
    assert narrow.found  # it would see them


def test_types_are_what_they_were_whatever_is_raised():
    @double_precision()
    def fail():
        assert torch.float32 is torch.float64
        assert torch.ones(1).dtype == torch.ones(1).float().dtype == torch.float64
        assert nn.Linear(1, 1).float().weight.dtype == torch.float64
        assert torch.fft.fft(torch.ones(2)).dtype == torch.complex64 is torch.complex128
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()

    assert torch.float32 is torch.float is SINGLE
    assert torch.complex64 is torch.cfloat is COMPLEX_SINGLE
    assert torch.ones(1).dtype == torch.ones(1).double().float().dtype == SINGLE
    assert nn.Linear(1, 1).double().float().weight.dtype == SINGLE


def test_dropout_is_drawn_by_torch_s_generator_which_is_the_same_on_any_machine():
    torch.manual_seed(0)
    kept = torch.rand(4, 8, dtype=torch.float64) >= 0.25
    layer, ones = nn.Dropout(0.25), torch.ones(4, 8)
    with double_precision():
        torch.manual_seed(0)
        assert torch.equal(layer(ones.double()), kept / 0.75)
        assert torch.equal(layer.eval()(ones), ones)

    assert nn.functional.dropout.__module__ == "torch.nn.functional"


def test_a_default_type_of_the_caller_s_own_is_restored():
    torch.set_default_dtype(torch.bfloat16)
    try:
        with double_precision():
            assert torch.ones(1).dtype == torch.float64
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(SINGLE)


def test_a_device_out_of_memory_is_no_capability_that_a_method_lacks():
    def exhausted():
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        _Statement().attempt("reloaded output", exhausted)


def test_files_are_read_as_they_are_stored_and_widened_then(tmp_path):
    from safetensors.torch import load_file, save_file

    save_file({"a": torch.tensor([1.0, 2.0])}, tmp_path / "x.safetensors")
    with double_precision():
        with as_stored():
            read = load_file(tmp_path / "x.safetensors")["a"]
            assert torch.float32 is SINGLE
        assert torch.float32 is torch.float64
        assert widened(nn.Linear(1, 1)).weight.dtype == torch.float64

    assert read.tolist() == [1.0, 2.0]
    assert widened(nn.Linear(1, 1)).weight.dtype == SINGLE


def test_what_a_model_computed_when_it_was_made_is_computed_anew_in_double_precision(loading, experiments):
    base = loading[0](experiments["MetaMathQA lora/rank8"])
    narrow = base.model.rotary_emb.inv_freq.double()
    with double_precision():
        wide = widened(base).model.rotary_emb.inv_freq

    assert wide.dtype == torch.float64
    assert torch.allclose(wide, narrow, rtol=1e-6)
    assert not torch.equal(wide, narrow)


def test_sums_are_rounded_otherwise_and_nothing_else():
    values = torch.linspace(0.1, 3.1, 100, dtype=torch.float64).square()
    with OtherRounding():
        other, twice = values.sum(), values * 2

    assert other != values.sum()
    assert other == pytest.approx(float(values.sum()), rel=1e-14)
    assert torch.equal(twice, values * 2)


def test_sums_of_whole_numbers_are_exact_in_any_order():
    mask = torch.ones(2, 7, dtype=torch.float64)
    with OtherRounding():
        positions = mask.cumsum(1)

    assert torch.equal(positions, mask.cumsum(1))


def drawn(device):
    """What a method may ask of a device where its answer is free."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.empty(3, 4, dtype=torch.float64, device=device))
    nn.init.kaiming_uniform_(parameter)
    with torch.no_grad():
        left, _, right = torch.linalg.svd(parameter)
    order = torch.tensor([1.0, 2.0, 1.0, 2.0], device=device)
    asked = (
        parameter,
        torch.randn(2, 3, device=device),
        torch.randperm(5, device=device),
        torch.rand_like(parameter),
        torch.bernoulli(torch.full((4,), 0.5, device=device)),
        torch.distributions.Chi2(torch.tensor([3.0, 4.0], device=device)).sample(),
        left,
        right,
        order.topk(2).indices,
        order.argsort(),
    )
    assert {tensor.device.type for tensor in asked} == {device}
    return [tensor.detach().cpu() for tensor in asked]


def test_what_a_device_is_free_to_answer_is_the_cpu_s_answer(monkeypatch):
    """A copy stands in for a tensor of another device."""
    copied = partial(tree_map, lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf)
    monkeypatch.setattr(precision, "_placed", lambda value, device: copied(value))
    with FreeOnCPU():
        found = drawn("cpu")

    assert all(map(torch.equal, found, drawn("cpu")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_answers_as_the_cpu_where_it_is_free_to():
    with FreeOnCPU():
        found = drawn("cuda")

    assert all(map(torch.equal, found, drawn("cpu")))


def test_where_there_are_shapes_alone_nothing_is_drawn_on_the_cpu():
    """transformers initialises a model on the meta device before it reads its weights."""
    with FreeOnCPU():
        made = [torch.empty(3, device="meta").normal_(), torch.rand(3, device="meta"), torch.rand(3)]

    assert [tensor.device.type for tensor in made] == ["meta", "meta", "cpu"]


def test_moved_weights_that_are_equal_stay_equal():
    model = nn.Linear(3, 1, bias=False)
    model.weight.data = torch.tensor([[0.5, 0.25, 0.5]], dtype=torch.float64)
    moved = move(model, 1e-15).weight[0].tolist()

    assert moved[0] == moved[2] != 0.5
    assert moved == pytest.approx([0.5, 0.25, 0.5], rel=1e-14)


# What it tells


def test_it_tells_the_whole_course_in_order_to_twelve_digits(told):
    quantities = told("MetaMathQA lora/rank8")

    stages = list(dict.fromkeys(name.partition(":")[0] for name in quantities))
    assert stages == [
        "start",
        "untrained output",
        "optimizer groups",
        "gradient",
        "learning rates",
        "clipped gradients",
        "losses",
        "learned",
        "trained output",
        "generation",
        "disabled output",
        "reloaded output",
        "merged output",
        "unmerged output",
    ]
    assert len(quantities["losses"]) == len(quantities["learning rates"]) == STEPS
    assert quantities["disabled output"] == quantities["untrained output"] != quantities["trained output"]
    assert all(numbers == digits(numbers) for numbers in quantities.values())
    assert len(f"{quantities['losses'][0]:.15g}") <= DIGITS + 1


def test_what_a_method_cannot_do_is_left_out_and_full_fine_tuning_has_no_adapter(told):
    assert "merged output" not in told("MetaMathQA prompttuning/sample-vocab")
    assert "disabled output" not in told("MetaMathQA full-finetuning/default")


@pytest.mark.parametrize("name", ["MetaMathQA lora/rank8", "image-gen lora/rank8", "image-gen frod/default"])
def test_it_repeats_to_the_last_digit_and_rounding_moves_it_by_next_to_nothing(loading, experiments, told, name):
    assert witness(experiments[name], *loading) == told(name)
    disturbed = disturbed_witnesses(experiments[name], *loading)
    recorded = bounded(experiments[name].case, Witness(told(name)), disturbed)

    assert recorded.bound <= 1e-9


def test_a_learning_rate_off_by_a_thousandth_of_a_per_cent_is_told(loading, experiments, told):
    experiment = experiments["MetaMathQA lora/rank8"]
    kwargs = experiment.train.optimizer_kwargs
    slow = replace(experiment.train, optimizer_kwargs={**kwargs, "lr": kwargs["lr"] * (1 + 1e-5)})
    beyond = first_moved(witness(replace(experiment, train=slow), *loading), told("MetaMathQA lora/rank8"))

    assert beyond == "learning rates"


def first_moved(obtained, expected):
    """The stage that moved first."""
    moved = [found.name.partition(":")[0] for found in deviations(obtained, expected) if found.size > 3e-10]
    return moved[0] if moved else None


@pytest.mark.parametrize(
    ("name", "edit", "stage"),
    [
        (
            "lora/rank8",
            Edit("peft.tuners.lora.layer:LoraLayer.reset_lora_parameters", "a=math.sqrt(5)", "a=math.sqrt(5.00001)"),
            "start",
        ),
        (
            "lora/rank8",
            Edit("peft.tuners.lora.layer:Linear.forward", LORA_FORWARD, f"{LORA_FORWARD} * 1.000001"),
            "gradient",
        ),
        (
            "lora/rank8-loraplus",
            Edit(
                "peft.optimizers.loraplus:create_loraplus_optimizer",
                'list(param_groups["groupB"].values())',
                "[]",
            ),
            "optimizer groups",
        ),
        (
            "lora/rank8",
            Edit("pytest_peftbench.cases.training:make_schedule", "0.5 * (1 +", "0.500001 * (1 +"),
            "learning rates",
        ),
        ("vera/rank64", GRADIENTS_NOT_CLIPPED, "clipped gradients"),
        (
            "lora/rank8",
            Edit("torch.optim.adam:_single_tensor_adam", "lerp_(grad, 1 -", "lerp_(grad, 1.000001 -"),
            "losses",  # the limit leaves clipped gradients their first digits only
        ),
        (
            "lora/rank8",
            Edit(
                "peft.tuners.lora.layer:Linear.merge",
                "base_layer.weight.data += delta_weight",
                "base_layer.weight.data += delta_weight * 1.000001",
            ),
            "merged output",
        ),
        (
            "lora/rank8",
            Edit(
                "peft.utils.save_and_load:get_peft_model_state_dict",
                "    # REMOVE ADAPTER NAME\n",
                "    to_return = {k: v * 1.000001 for k, v in to_return.items()}\n",
            ),
            "reloaded output",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_fault_is_told_by_where_it_begins(loading, experiments, told, name, edit, stage):
    name = f"MetaMathQA {name}"
    expected = told(name)
    with patched([edit]):
        obtained = witness(experiments[name], *loading)

    assert first_moved(obtained, expected) == stage


# What it is of


def test_the_whole_plan_is_compressed(experiments):
    found = compressed(experiments["MetaMathQA adalora/rank8"])

    assert found.train.max_steps == found.train.eval_steps == found.adapter["total_step"] == STEPS
    assert 1 <= found.adapter["tinit"] < STEPS - found.adapter["tfinal"]
    assert found.adapter["deltaT"] >= 1
    assert compressed(experiments["image-gen adamss/rank32-asa"]).adapter["final_warmup"] < STEPS


def test_quantised_weights_and_tasks_that_say_so_have_none(experiments, monkeypatch):
    experiment = experiments["MetaMathQA lora/rank8"]

    assert can_be_witnessed(experiment)
    assert can_be_witnessed(replace(experiment, train=replace(experiment.train, dtype="bfloat16")))
    assert not can_be_witnessed(replace(experiment, train=replace(experiment.train, dtype="int8")))
    other = replace(spec_of("MetaMathQA"), in_double_precision=False)
    monkeypatch.setattr(type(experiment), "spec", property(lambda self: other))
    assert not can_be_witnessed(experiment)


def test_where_a_device_has_no_double_precision_it_is_of_the_cpu(experiments):
    experiment = experiments["MetaMathQA lora/rank8"]

    assert compressed(replace(experiment, device="mps:0")).device == "cpu"
    assert compressed(replace(experiment, device="cuda:0")).device == "cuda:0"


def test_a_projection_sees_each_entry_and_its_place():
    tensor = torch.arange(12.0).reshape(3, 4)
    swapped = tensor.clone()
    swapped[0, 0], swapped[2, 3] = tensor[2, 3], tensor[0, 0]

    assert project(tensor) != project(swapped)
    assert project(tensor)[0] == project(swapped)[0] == pytest.approx(float(tensor.square().mean().sqrt()))
    assert largest({"a": project(tensor)}, {"a": project(tensor)}).size == 0
