import itertools
import math
import re

import peft
import peft.optimizers
import pytest
import torch
from support import DEFAULTS, small_llama
from torch import nn

from pytest_peftbench.cases.methods import Needs, needs_of
from pytest_peftbench.cases.training import Trainer, make_optimizer, make_schedule
from pytest_peftbench.results.files import InputError
from pytest_peftbench.tasks.config import OF_PEFT, Place
from pytest_peftbench.tasks.math_reasoning.spec import MathTrainConfig
from pytest_peftbench.tasks.math_reasoning.task import MathReasoning

LORA = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
IDS = torch.arange(24).reshape(2, 12) % 64
has_riemannian = pytest.mark.skipif(
    not hasattr(peft.optimizers, "create_riemannian_optimizer"), reason="PEFT before 0.21 has no such optimizer"
)
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": IDS}


def llama(adapter=LORA):
    model = small_llama()
    return model if adapter is None else peft.get_peft_model(model, adapter)


def config(**params):
    defaults = {**DEFAULTS, "max_steps": 10, "eval_steps": 10, "lr_scheduler": None, "grad_norm_clip": 0.0}
    return MathTrainConfig(**{**defaults, **params})


def trainer(model=None, needs=None, **params):
    task = MathReasoning(config(**params), Place(), data=None)
    return Trainer(model or llama(), task.config, needs or needs_of(None), task.loss)


def weights(model, trainable=True):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad == trainable}


def largest_change(before, after):
    return max(float((before[name] - after[name]).abs().max()) for name in before)


# Learning rate


def learning_rates(steps, **params):
    """The learning rate of each of `steps` steps, as shares of the one in the config."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = make_schedule(optimizer, config(**params))
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        schedule.step()
    return rates


def test_the_learning_rate_warms_up_over_a_tenth_of_the_steps_and_falls_along_a_cosine_to_zero():
    rates = learning_rates(51, max_steps=50, eval_steps=50, lr_scheduler="cosine")

    assert rates[:6] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5 + 15] == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
    assert rates[49] == pytest.approx(0.5 * (1 + math.cos(math.pi * 44 / 45)))
    assert rates[50] == pytest.approx(0.0)
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_the_learning_rates_are_those_of_peft_s_benchmark():
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=3, num_training_steps=37)
    expected = []
    for _ in range(37):
        expected.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        schedule.step()

    assert learning_rates(37, max_steps=37, lr_scheduler="cosine") == pytest.approx(expected)


def test_beyond_the_last_step_the_learning_rate_stays_zero():
    assert learning_rates(40, max_steps=20, lr_scheduler="cosine")[20:] == [0.0] * 20


def test_fewer_than_ten_steps_need_no_warm_up():
    assert learning_rates(2, max_steps=9, lr_scheduler="cosine")[0] == 1.0


def test_without_a_schedule_the_learning_rate_is_constant():
    assert learning_rates(20, max_steps=10, lr_scheduler=None) == [1.0] * 20


# Steps


def test_training_returns_the_loss_of_each_step_and_it_falls_on_a_repeated_batch():
    seen = []
    losses = trainer(optimizer_kwargs={"lr": 1e-2}).train(
        itertools.repeat(BATCH), 10, lambda step, all_losses: seen.append((step, len(all_losses)))
    )

    assert len(losses) == 10
    assert all(isinstance(loss, float) and math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0] - 0.05
    assert seen == [(step, step) for step in range(1, 11)]


def test_no_batch_is_drawn_that_no_step_uses():
    batches = iter([BATCH] * 5)

    trainer().train(batches, 3, lambda step, losses: None)

    assert len(list(batches)) == 2


def test_training_leaves_the_base_weights_alone():
    model = llama()
    before = weights(model, trainable=False)

    trainer(model, optimizer_kwargs={"lr": 1e-2}).train(itertools.repeat(BATCH), 2, lambda step, losses: None)

    assert largest_change(before, weights(model, trainable=False)) == 0


def norm_of_change(clip):
    """Length of one SGD step with learning rate 1, which is that of the gradient."""
    model = llama(None)
    before = weights(model)
    trainer(model, optimizer_type="SGD", optimizer_kwargs={"lr": 1.0}, grad_norm_clip=clip).step(BATCH)
    after = weights(model)
    return math.sqrt(sum(float((after[name] - before[name]).pow(2).sum()) for name in before))


def test_gradients_are_clipped_to_the_norm_and_zero_clips_nothing():
    norm = norm_of_change(0.0)

    assert norm > 0.2
    assert norm_of_change(0.1) == pytest.approx(0.1, rel=1e-3)
    assert norm_of_change(1000.0) == pytest.approx(norm, rel=1e-4)


def test_weight_decay_shrinks_the_trained_weights():
    decayed, plain = llama(), llama()
    before = weights(decayed)
    for model, decay in ((decayed, 0.5), (plain, 0.0)):
        trainer(model, optimizer_kwargs={"lr": 1e-2, "weight_decay": decay}).step(BATCH)

    after, expected = weights(decayed), weights(plain)
    for name in before:
        assert torch.allclose(after[name], expected[name] - 1e-2 * 0.5 * before[name], atol=1e-6)


def test_mixed_precision_trains_float32_weights_in_bfloat16():
    model = llama()
    seen = []
    model.get_base_model().model.layers[0].mlp.up_proj.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )

    loss = trainer(model, use_amp=True).step(BATCH)

    assert seen == [torch.bfloat16]
    assert torch.isfinite(loss)
    assert {weight.dtype for weight in weights(model).values()} == {torch.float32}


def gradients_and_loss(parts, rows=4):
    """Those of one step of SGD with learning rate 1, whose batch is divided."""
    model = llama()
    before = weights(model)
    ids = torch.arange(rows * 12).reshape(rows, 12) % 64
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    params = {"optimizer_type": "SGD", "optimizer_kwargs": {"lr": 1.0}, "batch_size": 4}
    loss = trainer(model, gradient_accumulation_steps=parts, **params).step(batch)
    after = weights(model)
    return {name: before[name] - after[name] for name in before}, loss


@pytest.mark.parametrize(("parts", "rows"), [(2, 4), (4, 4), (2, 3), (2, 1)])
def test_the_parts_of_a_batch_give_its_gradients_and_its_loss(parts, rows):
    found, loss = gradients_and_loss(parts, rows)
    expected, whole = gradients_and_loss(1, rows)

    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
    assert largest_change(expected, found) < 1e-6
    assert float(loss) == pytest.approx(float(whole), rel=1e-6)


def test_each_part_of_a_batch_goes_through_the_model_alone():
    model, seen = llama(), []
    model.get_base_model().model.layers[0].register_forward_hook(
        lambda module, inputs, output: seen.append(len(inputs[0]))
    )

    trainer(model, gradient_accumulation_steps=2, batch_size=2).step(BATCH)

    assert seen == [1, 1]


@pytest.mark.parametrize(("parts", "what"), [(0, "at least 1, is 0"), (3, r"at most batch_size \(2\), is 3")])
def test_a_batch_cannot_be_divided_into_fewer_than_one_part_or_more_than_rows(parts, what):
    (problem,) = config(gradient_accumulation_steps=parts, batch_size=2).problems()

    assert re.fullmatch(f"gradient_accumulation_steps: must be {what}", problem)


# Optimizers


def rates_by_factor(model, optimizer):
    """Learning rates of the weights called lora_A and of those called lora_B."""
    names = {id(p): "A" if "lora_A" in name else "B" for name, p in model.named_parameters() if p.requires_grad}
    rates = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in names:
                rates.setdefault(names[id(parameter)], set()).add(group["lr"])
    return rates


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adagrad"])
def test_any_optimizer_of_torch_trains_the_adapter_alone(name):
    model = llama()

    optimizer = make_optimizer(model, config(optimizer_type=name, optimizer_kwargs={"lr": 0.25}))

    assert type(optimizer) is getattr(torch.optim, name)
    assert rates_by_factor(model, optimizer) == {"A": {0.25}, "B": {0.25}}
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}


def test_lora_plus_trains_b_faster_than_a():
    model = llama()
    kwargs = {"lr": 1e-3, "loraplus_lr_ratio": 8.0}

    optimizer = make_optimizer(model, config(optimizer_type="lora+", optimizer_kwargs=kwargs))

    assert rates_by_factor(model, optimizer) == {"A": {1e-3}, "B": {8e-3}}


def test_the_schedule_keeps_the_ratio_of_lora_plus():
    model = llama()
    kwargs = {"lr": 1e-3, "loraplus_lr_ratio": 8.0}
    plus = trainer(model, optimizer_type="lora+", optimizer_kwargs=kwargs, lr_scheduler="cosine", max_steps=20)
    for _ in range(2):
        plus.step(BATCH)

    assert rates_by_factor(model, plus.optimizer) == {"A": {1e-3}, "B": {8e-3}}
    plus.step(BATCH)
    rates = {factor: rate for factor, (rate,) in rates_by_factor(model, plus.optimizer).items()}
    assert rates["B"] == pytest.approx(8 * rates["A"])
    assert rates["A"] < 1e-3


def test_lora_fa_trains_b_and_freezes_a():
    model = llama()
    before = weights(model)
    kwargs = {"lr": 1e-2, "r": 4, "lora_alpha": 8}

    trainer(model, optimizer_type="lora-fa", optimizer_kwargs=kwargs).train(
        itertools.repeat(BATCH), 2, lambda step, losses: None
    )

    after = {name: p.detach() for name, p in model.named_parameters()}
    for name, weight in before.items():
        assert torch.equal(weight, after[name]) == ("lora_A" in name)


@has_riemannian
def test_riemannian_steps_differ_from_those_of_adamw():
    after = {}
    for name in ("riemannian", "AdamW"):
        model = llama()
        trainer(model, optimizer_type=name, optimizer_kwargs={"lr": 1e-2}).train(
            itertools.repeat(BATCH), 3, lambda step, losses: None
        )
        after[name] = weights(model)

    assert largest_change(after["riemannian"], after["AdamW"]) > 1e-3


@pytest.mark.parametrize("name", ["Adam W", "adamw", "Optimizer2", "lr_scheduler", "lora++"])
def test_an_unknown_optimizer_is_an_error_that_names_key_and_value(name):
    with pytest.raises(InputError, match="optimizer_type") as error:
        make_optimizer(llama(), config(optimizer_type=name))

    assert repr(name) in str(error.value)
    assert "lora+, lora-fa, riemannian" in str(error.value)


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("AdamW", {"lr": 1e-3, "momentum": 0.9}, "momentum"),
        ("AdamW", {"lr": 1e-3, "betas": [2.0, 0.9]}, "2.0"),
        ("SGD", {"lr": 1e-3, "weight_decay": -1.0}, "-1.0"),
        ("lora+", {"lr": 1e-3}, "loraplus_lr_ratio"),
        ("lora-fa", {"lr": 1e-3}, "lora_alpha"),
        pytest.param("riemannian", {"lr": 1e-3, "rank": 4}, "rank", marks=has_riemannian),
    ],
)
def test_an_argument_that_the_optimizer_refuses_is_an_error_that_names_key_and_value(name, kwargs, words):
    with pytest.raises(InputError, match="optimizer_kwargs") as error:
        make_optimizer(llama(), config(optimizer_type=name, optimizer_kwargs=kwargs))

    assert repr(name) in str(error.value)
    assert words in str(error.value)


def test_an_optimizer_that_an_older_peft_does_not_have_is_an_error_that_names_it(monkeypatch):
    monkeypatch.delattr(peft.optimizers, "create_riemannian_optimizer", raising=False)

    with pytest.raises(InputError, match="optimizer_type: the installed PEFT does not have 'riemannian'"):
        make_optimizer(llama(), config(optimizer_type="riemannian"))


def test_an_adapter_that_trains_nothing_is_an_error_that_says_why():
    frozen = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", inference_mode=True)

    with pytest.raises(InputError, match="inference_mode"):
        make_optimizer(llama(frozen), config())


# Methods


def test_the_method_s_own_step_comes_once_after_each_step_with_gradients_in_place():
    calls = []

    def after_step(model, step):
        calls.append((step, all(p.grad is not None for p in model.parameters() if p.requires_grad)))

    own_step = trainer(needs=Needs(after_step=after_step))
    own_step.train(itertools.repeat(BATCH), 3, lambda step, losses: None)
    own_step.step(BATCH)

    assert calls == [(1, True), (2, True), (3, True), (4, True)]


def test_adalora_allocates_at_each_step_and_ends_at_its_target_rank(monkeypatch):
    steps = []
    allocate = peft.AdaLoraModel.update_and_allocate

    def spy(self, step):
        steps.append(step)
        allocate(self, step)

    monkeypatch.setattr(peft.AdaLoraModel, "update_and_allocate", spy)
    adapter = peft.AdaLoraConfig(
        init_r=6,
        target_r=2,
        tinit=1,
        tfinal=2,
        deltaT=1,
        total_step=8,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )
    model = llama(adapter)
    ranks = []

    def count_ranks(step, losses):
        values = [p for name, p in model.named_parameters() if "lora_E" in name]
        ranks.append(sum(int((value != 0).sum()) for value in values))

    trainer(model, max_steps=8, eval_steps=8, optimizer_kwargs={"lr": 1e-2}).train(
        itertools.repeat(BATCH), 8, count_ranks
    )

    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    modules = 2 * 2
    assert ranks[0] == 6 * modules
    assert ranks[-1] == 2 * modules
    assert ranks == sorted(ranks, reverse=True)


def test_what_the_method_needs_in_each_forward_reaches_the_model():
    poly = {"peft_type": "POLY"}
    adapter = peft.PolyConfig(r=2, n_tasks=1, n_skills=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = llama(adapter)

    with pytest.raises(Exception, match="task_ids"):
        trainer(model).step(BATCH)

    assert torch.isfinite(trainer(model, needs=needs_of(poly)).step(BATCH))


def test_configs_know_pefts_own_optimizers():
    from pytest_peftbench.cases.training import _PEFT_OPTIMIZERS

    assert tuple(_PEFT_OPTIMIZERS) == OF_PEFT
