"""A footprint: what one experiment costs on its base model's true shapes, without weights or a GPU.

The model is the one that training would make, its loss and training step are those of the task and of `training`; only
the numbers do not exist. So parameters, checkpoint bytes and counters are exact, for the lengths below.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from pytest_peftbench.cases.methods import Needs, needs_of
from pytest_peftbench.cases.stand_ins import StandIn, stand_in_of
from pytest_peftbench.cases.subject import Subject, figures_of, on_device, operators_of, parameters
from pytest_peftbench.measure.collector import freeze_what_came
from pytest_peftbench.measure.counters import Counters
from pytest_peftbench.measure.environment import installed
from pytest_peftbench.meta.architectures import read_architecture
from pytest_peftbench.meta.device import Shapes, accelerator
from pytest_peftbench.meta.safetensors_size import file_bytes
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import Value, in_order
from pytest_peftbench.results.result import Result
from pytest_peftbench.results.words import first_line
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.config import QUANTISED
from pytest_peftbench.tasks.shapes import Lengths

# Counts up when what is counted changes so that its figures are no longer comparable with earlier ones.
RECIPE_VERSION = 1


def count_footprint(experiment: Experiment, lengths: Lengths | None = None, *, decode: bool = True) -> Result:
    """Parameters, checkpoint bytes and the cost of a training and of a decoding step of one experiment.

    lengths: of the batch; PEFT's batch size and the task's usual length unless given. decode: whether to count a
    decoding step as well.
    Raises InputError, with the reason, for an experiment that cannot be counted. What PEFT or torch raise passes
    through.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet(), accelerator():
        shapes = shapes_of(experiment, lengths)
        subject, stand_in = _subject(experiment, shapes, Path(folder))
        freeze_what_came()
        base = subject.injectable_base()
        if experiment.adapter is not None:
            adapter = stand_in.prepare(dict(experiment.adapter), experiment.path, base, Path(folder))
            subject = replace(subject, adapter=adapter)
        model = subject.inject(base, experiment.seeds[0])
        metrics: dict[str, Value] = {"checkpoint.bytes": _checkpoint_bytes(subject, model)}
        phases: dict[str, Counters] = {}
        try:
            phases["train_step"] = _count_step(subject, model)
            if decode:
                phases.update(_count_decoding(subject, model))
            metrics["footprint.counted"] = "ok"
        except NotImplementedError as error:  # an operator that has no meta kernel
            metrics["footprint.counted"] = _missing_kernel(error)
        metrics.update(parameters(model))  # at the end: an optimizer may freeze some
    metrics.update(figures_of(phases, peak_parts=True))
    return Result(
        case=experiment.case,
        case_version=_case_version(experiment, shapes),
        environment={
            **{name: installed(name) for name in ("torch", "transformers", "diffusers", "peft")},
            "device": "meta",
        },
        metrics=in_order(metrics, str(experiment.case)),
        seeds=[],
        operators=operators_of(phases),
        notes=_notes(experiment, stand_in),
    )


def shapes_of(experiment: Experiment, lengths: Lengths | None = None) -> Any:
    """The experiment's task without numbers, `tasks.shapes.TaskShapes`.

    Raises InputError for one that cannot be counted on the meta device.
    """
    train, spec = experiment.train, experiment.spec
    if not spec.shapes:
        raise InputError(
            f"{experiment.path}: task {spec.name!r} has no shapes, so that it cannot be counted without weights"
        )
    if train.dtype in QUANTISED:
        raise InputError(
            f"{experiment.path}: dtype {train.dtype!r} has no operators on the meta device; choose a float type, or "
            f"`peftbench fit --dtype {train.dtype}`, which estimates"
        )
    for key in ("compile", "use_amp"):
        if getattr(train, key):
            raise InputError(f"{experiment.path}: {key}: cannot be counted on the meta device; set it to false")
    model_id = str(spec.embedded) if experiment.is_embedded else train.model_id
    architecture = read_architecture(model_id, spec.architecture, experiment.path)
    shapes = spec.load("shapes")
    place = replace(experiment.place, device="meta")
    return shapes(train, place, architecture, lengths or shapes.usual_lengths(train))


def _subject(experiment: Experiment, shapes: Any, folder: Path) -> tuple[Subject, StandIn]:
    """The experiment with its base model on the meta device, and what stands in for its method's numbers."""
    needs, stand_in = needs_of(experiment.adapter), stand_in_of(experiment.adapter or {})

    def add_adapter(base: nn.Module, config: Any, autocast_adapter_dtype: bool) -> nn.Module:
        from peft import get_peft_model

        matches = partial(stand_in.matches, experiment.adapter or {})
        with stand_in.patches(), Shapes(matches):
            model: nn.Module = get_peft_model(base, config, autocast_adapter_dtype=autocast_adapter_dtype)
            stand_in.complete(model)
        return model

    subject = Subject(
        replace(experiment, device="meta"),
        shapes,
        make_base=shapes.base_model,
        # what a method prepares from numbers, its stand-in prepares
        needs=replace(Needs(base=needs.base, after_step=needs.after_step), inputs=on_device(needs.inputs, "meta")),
        adapter=None,
        add_adapter=add_adapter,
    )
    return subject, stand_in


def case_version(experiment: Experiment) -> str:
    """The version that a footprint of the experiment would have, at its task's usual lengths."""
    return _case_version(experiment, shapes_of(experiment))


def _case_version(experiment: Experiment, shapes: Any) -> str:
    """Hash of all that defines what is counted."""
    lengths = [shapes.lengths.batch, shapes.lengths.tokens]
    definition = [RECIPE_VERSION, experiment.definition(), shapes.architecture, lengths]
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]


def _notes(experiment: Experiment, stand_in: StandIn) -> list[str]:
    notes = [stand_in.note] if stand_in.note else []
    if experiment.adapter is not None and getattr(experiment.train, "init_kv_cache_prefix", None) is not None:
        notes.append("the prefix does not start from a text: its shapes are the same")
    return notes


def _checkpoint_bytes(subject: Subject, model: nn.Module) -> int:
    """Size of the file that `save_pretrained` would write; for full fine-tuning of the weights, as in PEFT."""
    if subject.adapter is None:
        return sum(p.numel() * p.element_size() for p in model.parameters())
    from peft import get_peft_model_state_dict

    with Shapes():  # some methods bring their weights to the CPU first
        return file_bytes(get_peft_model_state_dict(model))


def _count_step(subject: Subject, model: nn.Module) -> Counters:
    model.train()
    trainer = subject.trainer(model)
    # autocast and loss scaling know no meta device, and are off
    trainer.device_type = "cpu"
    trainer.step(subject.probe)  # the optimizer's state comes with the first step
    trainer.optimizer.zero_grad()
    return subject.count_step(model, trainer)


def _count_decoding(subject: Subject, model: nn.Module) -> dict[str, Counters]:
    for parameter in model.parameters():
        parameter.grad = None
    return subject.count_decoding(model)


def _missing_kernel(error: NotImplementedError) -> str:
    """`no meta kernel for aten::_coalesce`."""
    found = re.search(r"(aten::\w+|torch\.\w+\(\))", str(error))
    return f"no meta kernel for {found[0]}" if found else f"no meta kernel: {first_line(error)}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing that libraries warn of on the meta device means anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
