"""The base model's own figures: computed once per base model and data, used by every case of a session."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor, nn

from pytest_peftbench.cases.subject import Subject, operators_of
from pytest_peftbench.cases.training import Trainer
from pytest_peftbench.measure.weights import digest_of
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.result import BaseReference
from pytest_peftbench.tasks.config import QUANTISED
from pytest_peftbench.tasks.task import Progress

T = TypeVar("T")

# Of full fine-tuning on the probe batch, by which the base model shows what the environment does to its numbers.
BASE_STEPS = 3
_BASE_TRAINING: dict[str, Any] = {
    "optimizer_type": "AdamW",
    "optimizer_kwargs": {"lr": 1e-4},
    "lr_scheduler": None,
    "grad_norm_clip": 1.0,
    "use_amp": False,
    "compile": False,
    "gradient_accumulation_steps": 1,
}
# Beside quantised weights the others are of half precision, in which AdamW's own epsilon is nothing to divide by.
_BESIDE_QUANTISED: dict[str, Any] = {"optimizer_kwargs": {"lr": 1e-4, "eps": 1e-4}}


@dataclass(frozen=True)
class Reference:
    """What the base model without adapter gives: what the task compares with, and its output on the probe batch."""

    evaluation: Any
    output: Tensor


# By the id of a task's data, and gone with it: what was measured on it.
_known: dict[int, dict[tuple[object, ...], Any]] = {}


def _once(subject: Subject, kind: str, base_digest: str, compute: Callable[[], T]) -> T:
    """What `compute` gives, once for all cases of this data that agree on what it depends on.

    base_digest: that of a large model tells no weights; its name does.
    """
    data, config, experiment = subject.task.data, subject.experiment.train, subject.experiment
    if id(data) not in _known:
        try:
            weakref.finalize(data, _known.pop, id(data), None)
        except TypeError as error:
            raise InputError(f"{experiment.case}: its data must be of a class without __slots__: {error}") from error
        _known[id(data)] = {}
    model = (config.telling("BASE_MODEL"), experiment.models, base_digest)
    key = (kind, model, digest_of(subject.probe), experiment.device, config.telling("REFERENCE"))
    if key not in _known[id(data)]:
        _known[id(data)][key] = compute()
    found: T = _known[id(data)][key]
    return found


def reference_of(subject: Subject, base: nn.Module, base_digest: str, progress: Progress) -> Reference:
    """The base model's own evaluation and output, before an adapter is added to it."""
    return _once(
        subject,
        "reference",
        base_digest,
        lambda: Reference(subject.task.reference(base, progress), subject.plain_output(base)),
    )


def base_figures(subject: Subject, base_digest: str) -> BaseReference:
    """The base model's own counters and losses on the probe batch, fully fine-tuned."""
    return _once(subject, "figures", base_digest, lambda: _measure_base(subject.without_adapter()))


def base_trainer(subject: Subject, base: nn.Module) -> Trainer:
    """Full fine-tuning of the base model, in training mode; all cases share it, so none has a say in how."""
    train = subject.experiment.train
    how = _BASE_TRAINING | (_BESIDE_QUANTISED if train.dtype in QUANTISED else {})
    config = replace(train, **how)
    plain = replace(subject.without_adapter(), experiment=replace(subject.experiment, train=config))
    return plain.trainer(base.train())


def _measure_base(plain: Subject) -> BaseReference:
    base = plain.base()
    phases = {"forward_inference": plain.count_forward(base), **plain.count_decoding(base)}
    trainer = base_trainer(plain, base)
    losses = [float(trainer.step(plain.probe)) for _ in range(BASE_STEPS)]
    trainer.optimizer.zero_grad()
    phases["forward_train"] = plain.count_loss(base, trainer)
    phases["train_step"] = plain.count_step(base, trainer)
    return BaseReference(
        losses=losses,
        metrics={
            "forward_inference.peak_bytes": phases["forward_inference"].peak_bytes,
            "forward_train.peak_bytes": phases["forward_train"].peak_bytes,
            "train_step.peak_bytes": phases["train_step"].peak_bytes,
            "train_step.saved_bytes": phases["train_step"].saved_bytes,
        },
        operators=operators_of(phases),
    )
