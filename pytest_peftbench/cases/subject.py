"""What every kind of case works on: a base model, the adapter on it, the probe batch, and how each piece is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_peftbench.cases.methods import Needs, make_config, needs_of
from pytest_peftbench.cases.training import Trainer
from pytest_peftbench.measure.counters import Counters, count, count_host_calls, difference
from pytest_peftbench.measure.environment import seed_everything
from pytest_peftbench.measure.weights import glimpse
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import PHASES, Value
from pytest_peftbench.results.raised import raised_in
from pytest_peftbench.results.result import Operators
from pytest_peftbench.results.words import error_line
from pytest_peftbench.suites import ADAPTER_FILE, Experiment
from pytest_peftbench.tasks.config import QUANTISED
from pytest_peftbench.tasks.task import Batch, Extra, Task

BaseModel = Callable[[Experiment], nn.Module]
TaskData = Callable[[Experiment], Any]
# Puts an adapter of a config on a base model, as `peft.get_peft_model` does.
AddAdapter = Callable[[nn.Module, Any, bool], nn.Module]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode, and without gradient checkpointing meanwhile.

    Checkpointing waits for a backward pass, which none follows here: PEFT's hooks for it would stay, and the next
    training step fail.
    """
    waiting = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]
    for module in waiting:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield model.eval()
    finally:
        for module in waiting:
            module.gradient_checkpointing = True  # type: ignore[assignment]


def _get_peft_model(base: nn.Module, config: Any, autocast_adapter_dtype: bool) -> nn.Module:
    from peft import get_peft_model

    model: nn.Module = get_peft_model(base, config, autocast_adapter_dtype=autocast_adapter_dtype)
    return model


@dataclass(frozen=True)
class Subject:
    """One experiment, ready to be worked on.

    task: bound to the experiment's parameters and data. make_base: gives the base model with fresh weights, the same
    ones each time after the same seed. needs: of the method. adapter: the completed keys of `adapter_config.json`;
    None for full fine-tuning.
    """

    experiment: Experiment
    task: Task
    make_base: Callable[[], nn.Module]
    needs: Needs
    adapter: dict[str, Any] | None
    add_adapter: AddAdapter = _get_peft_model

    @cached_property
    def probe(self) -> Batch:
        """The training batch that everything is counted on."""
        with torch.inference_mode(mode=False):
            return self.task.probe_batch()

    @cached_property
    def full_probe(self) -> Batch:
        """The same, with what the method wants beside it."""
        with torch.inference_mode(mode=False):  # whoever asks first: a training step needs it, too
            return {**self.probe, **self.needs.inputs(len(next(iter(self.probe.values()))))}

    def without_adapter(self) -> Subject:
        """The same experiment without the method: full fine-tuning of its base model."""
        return replace(self, needs=Needs(), adapter=None)

    # Models ---------------------------------------------------------------------------------------------------------

    def base(self, seed: int | None = None) -> nn.Module:
        """The base model with fresh weights, in evaluation mode."""
        seed_everything(self.experiment.seeds[0] if seed is None else seed)
        base = self.make_base()
        if not isinstance(base, nn.Module):
            raise InputError(
                f"{self.experiment.case}: base_model gave {type(base).__name__}, expected a torch.nn.Module; "
                "does the fixture return the model?"
            )
        # quantised weights were made on their device, and refuse to be moved
        return (base if self.experiment.train.dtype in QUANTISED else base.to(self.experiment.device)).eval()

    def injectable_base(self, seed: int | None = None) -> nn.Module:
        """The base model as the method wants it."""
        base = self.base(seed)
        self.needs.base(base)
        return base

    def peft_config(self) -> Any:
        """A fresh `PeftConfig`: making an adapter writes to it."""
        return make_config(self.adapter or {}, self.experiment.path / ADAPTER_FILE)

    def inject(self, base: nn.Module, seed: int) -> nn.Module:
        """The base model with a fresh adapter; the base model itself for full fine-tuning.

        Raises InputError for an adapter config that PEFT refuses on this base model.
        """
        if self.adapter is None:
            return base
        seed_everything(seed)
        config = self.peft_config()
        try:
            model = self.add_adapter(base, config, self.experiment.train.autocast_adapter_dtype)
        except torch.OutOfMemoryError:
            raise  # the device's, and no fault of the config
        except Exception as error:  # PEFT refuses a config in many ways
            file = self.experiment.path / ADAPTER_FILE
            raise InputError(f"{file}: PEFT cannot add the adapter: {error_line(error)}{raised_in(error)}") from error
        model.to(self.experiment.device)
        try:
            self.task.prepare(model)
        except InputError as error:
            raise InputError(self.experiment.located(error)) from error
        return model

    def trainer(self, model: nn.Module) -> Trainer:
        """What trains the model as the experiment says. Raises InputError, naming file and key, where nothing can."""
        source = self.experiment.file_of("optimizer_kwargs")
        try:
            return Trainer(model, self.experiment.train, self.needs, self.task.loss, source)
        except InputError as error:
            raise InputError(self.experiment.located(error)) from error

    @torch.inference_mode()
    def output(self, model: nn.Module) -> Tensor:
        """The adapted model's output on the probe batch, in evaluation mode."""
        with evaluating(model):
            return self.task.output(model, self.full_probe).clone()

    @torch.inference_mode()
    def plain_output(self, model: nn.Module) -> Tensor:
        """The output on the probe batch of a model without adapter."""
        with evaluating(model):
            return self.task.output(model, self.probe).clone()

    def decoding(self, model: nn.Module, steps: int) -> Callable[[], Tensor]:
        """A function that takes `steps` decoding steps with the model, and returns what they gave."""
        return partial(self.task.decode, model, steps, self.needs.inputs)

    # Counting -------------------------------------------------------------------------------------------------------

    def count_injection(self) -> tuple[Counters, int]:
        """Adding the adapter, and the Python calls that it takes, each on a fresh base model."""
        seed = self.experiment.seeds[0]
        base, again = self.injectable_base(), self.injectable_base()
        counted = count(lambda: self.inject(base, seed), base, work="inject")
        host_calls, _ = count_host_calls(lambda: self.inject(again, seed))
        return counted, host_calls

    def count_forward(self, model: nn.Module) -> Counters:
        """A forward pass for inference."""
        batch = self.full_probe
        with torch.inference_mode(), evaluating(model):
            return count(lambda: self.task.output(model, batch), model, work="output")

    def count_decoding(self, model: nn.Module) -> dict[str, Counters]:
        """One decoding step, as phase `decode_step`: the difference of two generations, whatever comes before the
        first. Nothing for a task that does not generate."""
        if not self.task.generates:
            return {}
        with evaluating(model):
            shorter, longer = (count(self.decoding(model, n), model, work="decode") for n in self.task.decoded_steps)
        return {"decode_step": difference(longer, shorter)}

    def count_loss(self, model: nn.Module, trainer: Trainer) -> Counters:
        """A forward pass for training. The backward pass after it is not counted; what waits for one must have it."""
        model.train()
        batch = self.full_probe
        losses: list[Tensor] = []
        counted = count(lambda: losses.append(self.task.loss(model, batch)), model, trainer.optimizer, work="loss")
        losses.pop().backward()  # type: ignore[no-untyped-call]
        trainer.optimizer.zero_grad()
        return counted

    def count_step(self, model: nn.Module, trainer: Trainer) -> Counters:
        """A training step, of a trainer that has taken one: the optimizer's state comes with the first."""
        model.train()
        batch = self.probe
        return count(lambda: trainer.step(batch), model, trainer.optimizer, work="step")


def subject_of(experiment: Experiment, base_model: BaseModel, task_data: TaskData, folder: Path) -> Subject:
    """The experiment as it is trained. folder: for files of the method's own.

    Raises InputError for one that cannot run, before anything is loaded where that can be known.
    """
    experiment.require()
    if experiment.adapter is not None:
        make_config(experiment.adapter, experiment.path / ADAPTER_FILE)
    try:
        data = task_data(experiment)
    except InputError as error:
        raise InputError(experiment.located(error)) from error
    if data is None:
        raise InputError(
            f"{experiment.case}: task_data gave None, expected the task's data; does the fixture return it?"
        )
    task: Task = experiment.spec.load("task")(experiment.train, experiment.place, data)
    for problem in task.problems():
        raise InputError(experiment.located(problem))
    needs = needs_of(experiment.adapter)
    subject = Subject(
        experiment,
        task,
        make_base=_same_each_time(base_model, experiment),
        needs=replace(needs, inputs=on_device(needs.inputs, experiment.device)),
        adapter=None,
    )
    if experiment.adapter is None:
        return subject
    adapter = needs.prepare(dict(experiment.adapter), experiment.path, subject.base(), folder)
    return replace(subject, adapter=adapter)


def _same_each_time(base_model: BaseModel, experiment: Experiment) -> Callable[[], nn.Module]:
    """The function of a fixture, which is held to what it promises: no adapter, the same weights after the same seed.

    What it gives raises InputError otherwise: the figures would be those of another model.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    seen: dict[int, str] = {}

    def make_base() -> nn.Module:
        seed = torch.initial_seed()
        try:
            base = base_model(experiment)
        except InputError as error:
            raise InputError(experiment.located(error)) from error
        if not isinstance(base, nn.Module):
            return base
        if any(isinstance(module, (PeftModel, BaseTunerLayer)) for module in base.modules()):
            raise InputError(
                f"{experiment.case}: base_model gave a model that has an adapter already; give a fresh model, or a "
                "copy of it, at each call, without adapter"
            )
        found = glimpse(base)
        if seen.setdefault(seed, found) != found:
            raise InputError(
                f"{experiment.case}: base_model gave other weights than at an earlier call with seed {seed}; give a "
                "fresh model, or a copy of it, at each call, whose weights depend on the seed alone"
            )
        return base

    return make_base


def on_device(inputs: Extra, device: str) -> Extra:
    """The same inputs, on a device."""
    return lambda size: {key: value.to(device) for key, value in inputs(size).items()}


def parameters(model: nn.Module) -> dict[str, Value]:
    """How many parameters training changes, and how many there are."""
    return {
        "params.trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "params.total": sum(p.numel() for p in model.parameters()),
    }


def figures_of(phases: dict[str, Counters], *, peak_parts: bool) -> dict[str, Value]:
    """The counters of each phase by the name of their metric. peak_parts: what a peak consists of, too.

    Raises InputError for a phase that `results.metrics.PHASES` does not declare.
    """
    figures: dict[str, Value] = {}
    for phase, counted in phases.items():
        if phase not in PHASES:
            raise InputError(f"phase {phase!r} is counted but not declared; add it to results.metrics.PHASES")
        for name in PHASES[phase][1]:
            if peak_parts or not name.startswith("peak_") or name == "peak_bytes":
                figures[f"{phase}.{name}"] = counted.figures()[name]
    return figures


def operators_of(phases: dict[str, Counters]) -> Operators:
    """Who spent what, by phase."""
    return {phase: counted.operators for phase, counted in phases.items()}
