"""The witness: a short training in double precision whose figures tell rounding from change, on any machine.

Its purpose is to tell, not to learn. All of an experiment happens in it: base model, data, adapter, optimizer,
schedule, saving, merging and generation. Each leaves a few numbers, in the order in which they come about, so the first
one that differs says where a change began.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pytest_peftbench.cases.checks import outcome
from pytest_peftbench.cases.methods import compressed_steps
from pytest_peftbench.cases.subject import BaseModel, Subject, TaskData, subject_of
from pytest_peftbench.cases.training import Trainer
from pytest_peftbench.measure.environment import deterministic, seed_everything
from pytest_peftbench.measure.precision import (
    FreeOnCPU,
    OtherRounding,
    as_stored,
    digits,
    double_precision,
    project,
    widened,
)
from pytest_peftbench.measure.weights import move
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.config import QUANTISED
from pytest_peftbench.tasks.task import Batch

STEPS = 10
ROWS = 2
# Share of the limit of the gradient's norm: few rows and steps seldom reach it, and then nothing tells of clipping.
CLIP = 0.01
# By how much the base weights are moved, relative to each, to see what rounding can do.
MOVE = 1e-15

Quantities = dict[str, list[float]]


def can_be_witnessed(experiment: Experiment) -> bool:
    """Whether the experiment's code runs in double precision: quantised weights have kernels of their own."""
    return experiment.train.dtype not in QUANTISED and experiment.spec.in_double_precision


def witness(experiment: Experiment, base_model: BaseModel, task_data: TaskData, rate: float = 1.0) -> Quantities:
    """The quantities of the experiment's witness, each a few numbers, to 12 digits, in the order of their coming.

    base_model, task_data: as `run_experiment` takes them; the base model is read as it is stored and then widened, the
    data are made in the world of double precision. rate: share of the experiment's learning rate.
    """
    return _testify(compressed(experiment, rate), base_model, task_data)


def disturbed_witnesses(
    experiment: Experiment, base_model: BaseModel, task_data: TaskData, rate: float = 1.0
) -> list[Quantities]:
    """The same with base weights moved by MOVE, and with every sum rounded otherwise: what rounding can do to it."""
    experiment = compressed(experiment, rate)

    def moved(experiment: Experiment) -> nn.Module:
        return move(base_model(experiment).double(), MOVE)

    return [
        _testify(experiment, moved, task_data),
        _testify(experiment, base_model, task_data, OtherRounding()),
    ]


def compressed(experiment: Experiment, rate: float = 1.0) -> Experiment:
    """The experiment with its whole plan in STEPS steps of ROWS rows, in single precision, which then means double.

    Warm-up, decay and the steps at which a method allocates come as early as they are fewer; gradients are clipped at
    CLIP of the limit. rate: share of the learning rate. The device is the CPU where the experiment's has no double
    precision.
    """
    train = experiment.train
    config = replace(
        train,
        dtype="float32",
        max_steps=STEPS,
        eval_steps=STEPS,
        batch_size=min(ROWS, train.batch_size),
        grad_norm_clip=CLIP * train.grad_norm_clip,
        optimizer_kwargs={**train.optimizer_kwargs, "lr": rate * train.optimizer_kwargs["lr"]},
        compile=False,
        use_amp=False,
    )
    adapter = experiment.adapter and compressed_steps(experiment.adapter, STEPS / train.max_steps)
    device = "cpu" if experiment.device.startswith("mps") else experiment.device
    return replace(experiment, train=config, adapter=adapter, device=device)


@dataclass
class _Statement:
    """What has been told up to now, to 12 digits."""

    quantities: Quantities = field(default_factory=dict)

    def numbers(self, name: str, found: list[float]) -> None:
        self.quantities[name] = digits(found)

    def output(self, name: str, output: Tensor) -> None:
        self.quantities[name] = project(output)

    def norms(self, stage: str, tensors: Iterator[tuple[str, Tensor | None]]) -> None:
        """The norm of each group of tensors: those of one name but for the layer's number."""
        squares: dict[str, float] = {}
        for name, tensor in tensors:
            square = 0.0 if tensor is None else float(tensor.detach().double().square().sum())
            squares[_group(name)] = squares.get(_group(name), 0.0) + square
        for group, square in squares.items():
            self.numbers(f"{stage}: {group}", [square**0.5])

    def attempt(self, name: str, output: Callable[[], Tensor]) -> None:
        """An output that a method may be unable to give; that it is, the checks tell (see `cases.checks`)."""

        def tell() -> float:
            self.output(name, output())
            return 0.0

        outcome(tell)


def _testify(
    experiment: Experiment, base_model: BaseModel, task_data: TaskData, rounding: OtherRounding | None = None
) -> Quantities:
    told = _Statement()
    # on the CPU itself there is nothing to move there
    free = nullcontext() if experiment.device == "cpu" else FreeOnCPU()  # type: ignore[no-untyped-call]
    with deterministic(experiment.device), tempfile.TemporaryDirectory() as folder, double_precision(), free:
        task_data(experiment)  # pictures and prompts are encoded once, for all cases
        with rounding or nullcontext():
            subject = subject_of(experiment, partial(_widened_base, base_model), task_data, Path(folder) / "method")
            model = _train(subject, told)
            _use(subject, model, Path(folder) / "checkpoint", told)
    return told.quantities


def _widened_base(base_model: BaseModel, experiment: Experiment) -> nn.Module:
    """The base model, read as its files are, in double precision."""
    with as_stored():
        model = base_model(experiment)
    return widened(model)


def _train(subject: Subject, told: _Statement) -> nn.Module:
    """Tell how the adapter starts, learns and ends."""
    seed, task = subject.experiment.seeds[0], subject.task
    model = subject.inject(subject.injectable_base(seed), seed)
    start = {name: parameter.detach().clone() for name, parameter in _trained(model)}
    told.norms("start", iter(start.items()))
    told.output("untrained output", subject.output(model))
    trainer = subject.trainer(model)
    groups = trainer.optimizer.param_groups
    told.numbers("optimizer groups", [float(sum(p.numel() for p in group["params"])) for group in groups])
    _first_gradient(subject, trainer, told)
    rates: list[float] = []
    gradients: list[float] = []

    def after_step(step: int, losses: list[Tensor]) -> None:
        rates.extend(group["lr"] for group in groups)
        gradients.append(sum(float(gradient.square().sum()) for gradient in _gradients(model)) ** 0.5)

    seed_everything(seed)
    losses = trainer.train(map(_widened, task.batches(seed)), STEPS, after_step)
    # causes before their effects: a wrong rate moves losses, too
    told.numbers("learning rates", rates)
    told.numbers("clipped gradients", gradients)
    told.numbers("losses", losses)
    told.norms("learned", ((name, parameter - start[name]) for name, parameter in _trained(model) if name in start))
    told.output("trained output", subject.output(model))
    return model


def _first_gradient(subject: Subject, trainer: Trainer, told: _Statement) -> None:
    seed_everything(subject.experiment.seeds[0])
    model = trainer.model.train()
    trainer.loss(model, _widened(subject.full_probe)).backward()  # type: ignore[no-untyped-call]
    told.norms("gradient", ((name, parameter.grad) for name, parameter in _trained(model)))
    trainer.optimizer.zero_grad()


def _use(subject: Subject, model: nn.Module, folder: Path, told: _Statement) -> None:
    """Tell what the trained adapter does when it is used: weights are changed last."""
    if subject.task.generates:
        seed_everything(subject.experiment.seeds[0])
        told.output("generation", subject.decoding(model, subject.task.decoded_steps[1])())
    if subject.adapter is None:
        return
    with torch.no_grad():
        told.attempt("disabled output", lambda: _disabled(subject, model))
        told.attempt("reloaded output", lambda: _reloaded(subject, model, folder))
        told.attempt("merged output", lambda: _after(model, "merge_adapter", subject))
        told.attempt("unmerged output", lambda: _after(model, "unmerge_adapter", subject))


def _disabled(subject: Subject, model: nn.Module) -> Tensor:
    with model.disable_adapter():  # type: ignore[operator]
        return subject.plain_output(model)


def _reloaded(subject: Subject, model: nn.Module, folder: Path) -> Tensor:
    from peft import PeftModel

    model.save_pretrained(folder)  # type: ignore[operator]
    autocast = subject.experiment.train.autocast_adapter_dtype
    loaded = PeftModel.from_pretrained(subject.injectable_base(), folder, autocast_adapter_dtype=autocast)
    return subject.output(loaded)


def _after(model: nn.Module, change: str, subject: Subject) -> Tensor:
    getattr(model, change)()
    return subject.output(model)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for _, parameter in _trained(model) if parameter.grad is not None]


def _widened(batch: Batch) -> Batch:
    """The batch with what is in single precision in double: data that a task did not encode in this world."""
    return {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}


def _group(name: str) -> str:
    """`q_proj.lora_A` of `base_model.model.model.layers.3.self_attn.q_proj.lora_A.default.weight`."""
    parts = re.sub(r"(?:^|\.)(?:base_model|model|layers|default|weight|base_layer|\d+)(?=\.|$)", "", name).strip(".")
    return ".".join(parts.split(".")[-2:]) or name
