"""The training options of PEFT's benchmark, each through a whole case on a CPU: it trains, and does what it says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import DEFAULTS, LORA

from pytest_peftbench.cases.attempt import Diverged, attempt
from pytest_peftbench.cases.loading import cached_base_models, cached_task_data
from pytest_peftbench.cases.subject import subject_of
from pytest_peftbench.cases.trained import run_experiment
from pytest_peftbench.measure import timing
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.math_reasoning.spec import MathTrainConfig
from pytest_peftbench.tasks.math_reasoning.task import MathReasoning


def make_experiment(**params):
    train = MathTrainConfig(**{**DEFAULTS, **params})
    return Experiment(CaseId("MetaMathQA", "tiny", "lora", "r4"), Path("suite/experiments/lora/r4"), train, LORA)


@pytest.fixture(scope="module")
def few():
    data = cached_task_data()(make_experiment())
    return replace(data, train=data.train[:20], valid=data.valid[:2], test=data.test[:4], documents=data.documents[:2])


def run(few, **params):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))
        return run_experiment(make_experiment(**params), cached_base_models(), lambda experiment: few)


@pytest.fixture(scope="module")
def plain(few):
    return run(few)


def losses(result):
    return result.seeds[0].metrics["first_losses"]


def test_gradient_checkpointing_gives_the_same_losses_with_fewer_saved_bytes_and_more_work(few, plain):
    checkpointed = run(few, use_gc=True)

    assert losses(checkpointed) == losses(plain)
    assert checkpointed.metrics["train_step.saved_bytes"] < plain.metrics["train_step.saved_bytes"] / 2
    assert checkpointed.metrics["train_step.flops"] > plain.metrics["train_step.flops"]


def trained(few, **params):
    """The train loss of a case that is trained and evaluated, and nothing else."""
    return attempt(make_experiment(**params), cached_base_models(), lambda experiment: few)["train_loss"]


def test_a_trial_of_tuning_gives_what_the_case_gives_to_the_bit(few, plain):
    found = attempt(make_experiment(), cached_base_models(), lambda experiment: few)

    assert found.keys() == {"valid_accuracy", "test_accuracy", "forgetting", "train_loss"}
    assert found == {name: plain.seeds[0].metrics[name] for name in found}


def test_a_trial_whose_loss_is_not_finite_stops(few):
    with pytest.raises(Diverged, match="the loss is not finite at step 10"):
        attempt(
            make_experiment(max_steps=30, optimizer_kwargs={"lr": 1e30}, grad_norm_clip=0, lr_scheduler=None),
            cached_base_models(),
            lambda experiment: few,
        )


@pytest.mark.parametrize("params", [{"use_amp": True}, {"dtype": "bfloat16"}])
def test_half_precision_trains_to_nearly_the_same_loss(few, plain, params):
    expected = plain.seeds[0].metrics["train_loss"]
    obtained = trained(few, **params)

    assert obtained == pytest.approx(expected, rel=0.01)
    assert obtained != expected


def test_a_compiled_model_trains_and_generates_as_the_plain_one(few, plain, monkeypatch):
    # the default backend compiles C++ for minutes; what is traced, and called how, is the same
    compiled = []

    def compile(model, **kwargs):
        compiled.append(kwargs)
        return torch_compile(model, backend="eager", **kwargs)

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile)

    assert trained(few, compile=True) == pytest.approx(plain.seeds[0].metrics["train_loss"], rel=1e-5)
    assert {"dynamic": True} in compiled


def test_a_quantised_base_model_is_not_moved_and_not_kept_as_a_copy(few, monkeypatch):
    loaded = []

    class Quantised(torch.nn.Module):
        def to(self, *arguments):
            raise ValueError("`.to` is not supported for quantised models")

    def load(config, place):
        loaded.append(Quantised())
        return loaded[-1]

    monkeypatch.setattr(MathReasoning, "load_base_model", load)
    subject = subject_of(make_experiment(dtype="int4"), cached_base_models(), lambda experiment: few, Path("nowhere"))

    first, second = (subject.base() for _ in range(2))

    assert first is not second
    assert first in loaded
    assert second in loaded


def test_a_device_that_torch_does_not_have_is_told_by_name(bench):
    result = bench.run("--peft-device", "cuda", "-k", "loha")

    if not torch.cuda.is_available():
        result.assert_outcomes(errors=1, deselected=2)
        assert "--peft-device cuda: torch" in result.stdout.str()


def test_an_unknown_attention_implementation_is_refused(few):
    with pytest.raises((InputError, ValueError), match="flash_attention_9"):
        run(few, attn_implementation="flash_attention_9")
