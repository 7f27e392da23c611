"""One case: base model, adapter, training, evaluation, counters, times and checks, put together as a `Result`."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_peftbench.cases import checks
from pytest_peftbench.cases.methods import Hooks, hooks_of, make_config
from pytest_peftbench.cases.peft_schema import peft_fields
from pytest_peftbench.cases.training import Trainer
from pytest_peftbench.measure import counters as footprint
from pytest_peftbench.measure import timing
from pytest_peftbench.measure.counters import Footprint, set_apart
from pytest_peftbench.measure.environment import describe, deterministic, seed_everything
from pytest_peftbench.measure.memory import MemoryTracker
from pytest_peftbench.measure.weights import digest, digest_of, fingerprint
from pytest_peftbench.results.metrics import METRICS, Value
from pytest_peftbench.results.result import (
    BaseReference,
    Operators,
    PeakTensors,
    Picture,
    Result,
    SecondStage,
    SeedRun,
    mean,
)
from pytest_peftbench.results.words import first_line
from pytest_peftbench.suites import ADAPTER_FILE, Experiment
from pytest_peftbench.tasks.config import QUANTISED
from pytest_peftbench.tasks.protocol import Batch, Extra, Progress, Task, silent, task_of

# Counts up when the recipe changes so that its figures are no longer comparable with earlier ones.
RECIPE_VERSION = 4
FIRST_LOSSES = 20
# Of full fine-tuning on the probe batch, by which the base model shows what the environment does to its numbers.
BASE_STEPS = 3
_BASE_TRAINING: dict[str, Any] = {
    "optimizer_type": "AdamW",
    "optimizer_kwargs": {"lr": 1e-4},
    "lr_scheduler": None,
    "grad_norm_clip": 1.0,
    "use_amp": False,
    "compile": False,
}

BaseModel = Callable[[Experiment], nn.Module]
TaskData = Callable[[Experiment], Any]


def run_experiment(
    experiment: Experiment,
    base_model: BaseModel,
    task_data: TaskData,
    *,
    memory: MemoryTracker | None = None,
    benchmark: Any = None,
    progress: Progress = silent,
    second_stage: Callable[[Result], SecondStage] | None = None,
) -> Result:
    """Train the experiment with each of its seeds, evaluate it, and measure it on the first seed's model.

    base_model: gives a base model with fresh weights, the same ones each time after the same seed. task_data: gives
    the task's data. memory: tracker of the device's memory. benchmark: pytest-benchmark's fixture, to time the step
    as well. progress: gets a few words now and then. second_stage: gets what the first seed gave, its checks yet to
    come, and says what else to run; not asked where the experiment names several seeds.
    A device that runs out of memory gives a result that did not succeed, with the figures up to then. What else PEFT,
    torch or the task raise passes through: what did not train has no result.
    """
    memory = memory or MemoryTracker(experiment.device)
    so_far = _SoFar()
    with deterministic(experiment.device), tempfile.TemporaryDirectory() as folder:
        try:
            case = _Case(experiment, base_model, task_data, Path(folder), memory, progress, so_far)
            set_apart()
            return case.run(benchmark, second_stage)
        except torch.OutOfMemoryError as error:
            result = _out_of_memory(experiment, str(error), so_far, memory)
    memory.release()  # here, where the exception no longer holds on to models
    return result


def try_out(experiment: Experiment, base_model: BaseModel, task_data: TaskData) -> dict[str, Value]:
    """Train once and validate: the task's validation metric and `train_loss`, nothing measured or tested."""
    with deterministic(experiment.device), tempfile.TemporaryDirectory() as folder:
        memory = MemoryTracker(experiment.device)
        return _Case(experiment, base_model, task_data, Path(folder), memory, silent).try_out()


@dataclass(frozen=True)
class _Reference:
    """What the base model without adapter gives."""

    evaluation: Any
    output: Tensor


# Computed once per base model and data, used by every case of the session.
_references: dict[tuple[object, ...], _Reference] = {}
_base_references: dict[tuple[object, ...], BaseReference] = {}


@dataclass
class _SoFar:
    """What a case has measured, if it does not get to its end.

    started: seconds since the epoch. phase: what it is doing. reserved_peaks: the accelerator's peak in each phase.
    """

    started: float = field(default_factory=time.time)
    phase: str = "loading"
    reserved_peaks: list[int] = field(default_factory=list)
    metrics: dict[str, Value] = field(default_factory=dict)
    history: list[dict[str, Value]] = field(default_factory=list)


def _out_of_memory(experiment: Experiment, error: str, so_far: _SoFar, memory: MemoryTracker) -> Result:
    """The result of a case that did not fit, with the figures up to then."""
    use = memory.read()
    metrics = {**use.metrics(), **so_far.metrics}
    message = f"while {so_far.phase}: {first_line(error)}"
    return Result(
        case=experiment.case,
        case_version="",
        environment=describe(experiment.device),
        metrics={name: metrics[name] for name in METRICS if name in metrics},
        seeds=[],
        status="out of memory",
        error_msg=message,
        warnings=[memory.busy] if memory.busy else [],
        peft=peft_fields(
            experiment,
            config=experiment.adapter,
            history=so_far.history,
            metrics=metrics,
            train_time_s=0.0,
            started=so_far.started,
            reserved_bytes=[],
            reserved_peak_bytes=max([*so_far.reserved_peaks, use.reserved_peak_bytes or 0]),
            error_msg=f"out of memory {message}",
        ),
    )


@dataclass(frozen=True)
class _Run:
    """A trained model and what its training gave.

    train_time_s: as PEFT takes it: the base model's own evaluation (nothing where an earlier case made it), training,
    and evaluation at the end, without the validations on the way.
    """

    model: nn.Module
    trainer: Trainer
    reference: _Reference
    seed_run: SeedRun
    pictures: list[Picture]
    initial_output: Tensor
    memory: dict[str, Value]
    reserved_bytes: list[int]
    reserved_peak_bytes: int
    history: list[dict[str, Value]]
    train_time_s: float
    base_digest: str


class _Case:
    """The parts of one case, and what is measured on them."""

    def __init__(
        self,
        experiment: Experiment,
        base_model: BaseModel,
        task_data: TaskData,
        folder: Path,
        memory: MemoryTracker,
        progress: Progress,
        so_far: _SoFar | None = None,
    ) -> None:
        experiment.require()
        self.so_far = so_far or _SoFar()
        self.experiment = experiment
        self.config = experiment.train
        self.base_model = base_model
        self.folder = folder
        self.memory = memory
        self.progress = progress
        self.task: Task = task_of(experiment)
        if experiment.adapter is not None:  # a key that PEFT does not know is told before anything is loaded
            make_config(experiment.adapter, experiment.path / ADAPTER_FILE)
        self.data = task_data(experiment)
        hooks = hooks_of(experiment.adapter)
        self.hooks = replace(hooks, inputs=_on_device(hooks.inputs, experiment.device))
        self.probe = self.task.probe_batch(self.data, experiment)
        self.probe_inputs = self.hooks.inputs(len(next(iter(self.probe.values()))))
        self.adapter = experiment.adapter
        if self.adapter is not None:
            self.adapter = self.hooks.prepare(dict(self.adapter), experiment.path, self.base(), folder)

    def run(self, benchmark: Any, second_stage: Callable[[Result], SecondStage] | None) -> Result:
        """The whole case: all that is measured on the first seed's model, then the other seeds.

        Nothing holds on to the first model any more when these train: an accelerator may have no room for two.
        """
        result, seeds = self.run_first(benchmark, second_stage)
        further = [self.train(seed, validate=False).seed_run for seed in seeds]
        return replace(result, seeds=[*result.seeds, *further])

    def run_first(
        self, benchmark: Any, second_stage: Callable[[Result], SecondStage] | None
    ) -> tuple[Result, tuple[int, ...]]:
        """The first seed, and which seeds else to run; the merge comes last: it changes weights."""
        first, *others = self.experiment.seeds
        run = self.train(first)
        self.progress("measuring")
        self.so_far.phase = "measuring"
        metrics, operators, peak_tensors = self.measure(run)
        metrics.update(self.time(run, benchmark))
        self.memory.release()  # as in `time`: its own base model
        result = Result(
            case=self.experiment.case,
            case_version=self.case_version(run.base_digest),
            environment=describe(self.experiment.device),
            metrics=metrics,
            seeds=[run.seed_run],
            operators=operators,
            warnings=[self.memory.busy] if self.memory.busy else [],
            peak_tensors=peak_tensors,
            base=self.base_reference(run.base_digest),
            pictures=run.pictures,
        )
        stage = SecondStage(tuple(others))
        if second_stage is not None and not others:
            stage = second_stage(result)
        if stage.retime:
            metrics.update(self.time(run, blocks=timing.CONFIRMING_BLOCKS))
        metrics.update(self.check(run))
        metrics = {name: metrics[name] for name in METRICS if name in metrics}
        if benchmark is not None:
            benchmark.extra_info.update(case=str(self.experiment.case), **metrics, **run.seed_run.metrics)
        peft = peft_fields(
            self.experiment,
            config=None if self.adapter is None else self.peft_config().to_dict(),
            history=run.history,
            metrics=metrics,
            train_time_s=run.train_time_s,
            started=self.so_far.started,
            reserved_bytes=run.reserved_bytes,
            reserved_peak_bytes=run.reserved_peak_bytes,
        )
        return replace(result, metrics=metrics, peft=peft), stage.seeds

    def telling(self, doing: str) -> Progress:
        """Progress of a part of the work."""
        return lambda text: self.progress(f"{doing}: {text}")

    # Models ---------------------------------------------------------------------------------------------------------

    def base(self, seed: int | None = None) -> nn.Module:
        """The base model with fresh weights, in evaluation mode."""
        seed_everything(self.experiment.seeds[0] if seed is None else seed)
        base = self.base_model(self.experiment)
        # quantised weights were made on their device, and refuse to be moved
        return (base if self.config.dtype in QUANTISED else base.to(self.experiment.device)).eval()

    def injectable_base(self, seed: int | None = None) -> nn.Module:
        """The base model as the method wants it."""
        base = self.base(seed)
        self.hooks.base(base)
        return base

    def peft_config(self) -> Any:
        """A fresh `PeftConfig`: making an adapter writes to it."""
        return make_config(self.adapter or {}, self.experiment.path / ADAPTER_FILE)

    def inject(self, base: nn.Module, seed: int) -> nn.Module:
        """The base model with a fresh adapter; the base model itself for full fine-tuning."""
        if self.adapter is None:
            return base
        from peft import get_peft_model

        seed_everything(seed)
        model: nn.Module = get_peft_model(
            base, self.peft_config(), autocast_adapter_dtype=self.config.autocast_adapter_dtype
        )
        model.to(self.experiment.device)
        self.task.prepare(model, self.data, self.experiment)
        return model

    @torch.inference_mode()
    def output(self, model: nn.Module) -> Tensor:
        """The adapted model's output on the probe batch, in evaluation mode."""
        return self.task.output(model.eval(), {**self.probe, **self.probe_inputs}).clone()

    @torch.inference_mode()
    def base_output(self, model: nn.Module) -> Tensor:
        """The output on the probe batch of a model without adapter."""
        return self.task.output(model.eval(), self.probe).clone()

    def reference_key(self, base_digest: str) -> tuple[object, ...]:
        """What the base model's own figures depend on. The digest of a large model tells no weights, its name does."""
        config, experiment = self.config, self.experiment
        model = (config.values(config.BASE_MODEL), experiment.models, base_digest)
        data = (self.data.digest, digest_of(self.probe))
        return (model, data, experiment.device, config.values(config.REFERENCE))

    def reference(self, base: nn.Module, base_digest: str) -> _Reference:
        """The base model's own figures, before an adapter is added to it."""
        key = self.reference_key(base_digest)
        if key not in _references:
            evaluation = self.task.reference(base, self.data, self.experiment, self.telling("base model"))
            _references[key] = _Reference(evaluation, self.base_output(base))
        return _references[key]

    def base_reference(self, base_digest: str) -> BaseReference:
        """The base model's own counters and losses on the probe batch, fully fine-tuned, once per session."""
        key = self.reference_key(base_digest)
        if key not in _base_references:
            base, no_hooks = self.base(), hooks_of(None)
            with torch.inference_mode():
                forward = footprint.measure(lambda: self.task.output(base, self.probe), base)
            shorter, longer = (footprint.measure(self.decoding(base, steps, no_hooks), base) for steps in (2, 3))
            trainer = self.base_trainer(base)
            losses = [float(trainer.step(self.probe)) for _ in range(BASE_STEPS)]
            trainer.optimizer.zero_grad()
            loss = footprint.measure(lambda: self.task.loss(base, self.probe), base, trainer.optimizer)
            step = footprint.measure(lambda: trainer.step(self.probe), base, trainer.optimizer)
            phases = {
                "forward_inference": forward,
                "decode_step": footprint.difference(longer, shorter),
                "forward_train": loss,
                "train_step": step,
            }
            names = [f"{phase}.{name}" for phase in phases for name in ("peak_bytes", "saved_bytes")]
            _base_references[key] = BaseReference(
                losses=losses,
                metrics={n: getattr(phases[n.partition(".")[0]], n.partition(".")[2]) for n in names if n in METRICS},
                operators={phase: counted.operators for phase, counted in phases.items()},
            )
        return _base_references[key]

    def base_trainer(self, base: nn.Module) -> Trainer:
        """Full fine-tuning of the base model, in training mode; all cases share it, so none has a say in how."""
        base.train()
        return Trainer(base, replace(self.config, **_BASE_TRAINING), hooks_of(None), self.task.loss)

    def case_version(self, base_digest: str) -> str:
        """Hash of all that defines the case: recipe, experiment files, base model and data."""
        definition = [RECIPE_VERSION, self.experiment.definition(), base_digest, self.data.digest]
        return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]

    # Training -------------------------------------------------------------------------------------------------------

    def train(self, seed: int, *, validate: bool = True) -> _Run:
        """Train with one seed and evaluate; validate on the way, too."""
        config, task = self.config, self.task
        self.so_far.phase = "loading"
        self.memory.reset()
        base = self.injectable_base(seed)
        load = self.memory.read()
        reserved_peaks = self.so_far.reserved_peaks = [load.reserved_peak_bytes or 0]
        base_digest = digest(base)
        self.so_far.phase = "measuring the base model"
        train_times_s: list[float] = []
        validation_times_s: list[float] = []
        with _timed(train_times_s):
            reference = self.reference(base, base_digest)
        self.so_far.phase = f"training with seed {seed}"
        self.memory.reset()
        model = self.inject(base, seed)
        initial_output = self.output(model)
        trainer = Trainer(model, config, self.hooks, task.loss)
        self.so_far.metrics = {**load.load_metrics(), **_parameters(model)}
        history = self.so_far.history = []
        validations: list[dict[str, Value]] = []
        reserved_bytes: list[int] = []
        tokens: list[Tensor] = []

        def counted() -> Iterator[Batch]:
            for batch in task.batches(self.data, self.experiment, seed):
                tokens.extend([batch["attention_mask"].sum()] if "attention_mask" in batch else [])
                yield batch

        def after_step(step: int, losses: list[Tensor]) -> None:
            self.progress(f"seed {seed}, step {step}/{config.max_steps}")
            reserved_bytes.append(self.memory.reserved_bytes())
            if validate and step % config.eval_steps == 0:
                with _timed(validation_times_s):
                    tell = self.telling(f"seed {seed}, validating")
                    validation = task.validate(model.eval(), self.data, self.experiment, self.hooks.inputs, tell)
                model.train()
                validations.append(validation)
                history.append({"step": step, **_peft_names(validation), **self.train_figures(step, losses)})

        seed_everything(seed)
        with _timed(train_times_s):
            losses = trainer.train(counted(), config.max_steps, after_step)
        memory = self.memory.read()
        reserved_peaks.append(memory.reserved_peak_bytes or 0)
        self.so_far.phase = f"evaluating seed {seed}"
        self.so_far.metrics.update(memory.metrics())
        self.memory.reset()
        tell = self.telling(f"seed {seed}, evaluating")
        with _timed(train_times_s):
            evaluation = task.evaluate(
                model.eval(), self.data, self.experiment, self.hooks.inputs, reference.evaluation, tell
            )
        evaluate = self.memory.read()
        reserved_peaks.append(evaluate.reserved_peak_bytes or 0)
        history.append(
            {
                "step": config.max_steps,
                **_peft_names(evaluation.metrics),
                **self.train_figures(config.max_steps, losses),
                **({"train total tokens": sum(map(int, tokens))} if tokens else {}),
            }
        )
        seed_metrics: dict[str, Value] = {
            **evaluation.metrics,
            **(validations[-1] if validations else {}),
            "train_loss": mean(losses[-config.eval_steps :]),
            "first_losses": losses[:FIRST_LOSSES],
            "adapter_sha256": digest(model, trainable_only=True),
        }
        return _Run(
            model=model,
            trainer=trainer,
            reference=reference,
            seed_run=SeedRun(seed, seed_metrics, evaluation.samples),
            pictures=evaluation.pictures,
            initial_output=initial_output,
            memory={**load.load_metrics(), **memory.metrics(), **evaluate.evaluate_metrics()},
            reserved_bytes=reserved_bytes,
            reserved_peak_bytes=max(reserved_peaks),
            history=history,
            train_time_s=sum(train_times_s) - sum(validation_times_s),
            base_digest=base_digest,
        )

    def try_out(self) -> dict[str, Value]:
        """Train with the first seed and validate."""
        seed = self.experiment.seeds[0]
        model = self.inject(self.injectable_base(seed), seed)
        trainer = Trainer(model, self.config, self.hooks, self.task.loss)
        seed_everything(seed)
        batches = self.task.batches(self.data, self.experiment, seed)
        losses = trainer.train(batches, self.config.max_steps, lambda step, losses: None)
        validation = self.task.validate(model.eval(), self.data, self.experiment, self.hooks.inputs)
        return {**validation, "train_loss": mean(losses[-self.config.eval_steps :])}

    def train_figures(self, step: int, losses: list[Any]) -> dict[str, Value]:
        """PEFT's training figures after `step` steps."""
        recent = [float(loss) for loss in losses[-self.config.eval_steps :]]
        return {"train loss": mean(recent), "train samples": step * self.config.batch_size}

    # Measuring ------------------------------------------------------------------------------------------------------

    def measure(self, run: _Run) -> tuple[dict[str, Value], Operators, PeakTensors]:
        """The exact counters, on the trained model: everything is warmed up, the optimizer has its state.

        With them the operators of each phase, and the tensors alive at the peak of a training step.
        """
        model, trainer = run.model, run.trainer
        batch = {**self.probe, **self.probe_inputs}
        metrics: dict[str, Value] = {
            **run.memory,
            **_parameters(model),
        }
        phases: dict[str, Footprint] = {}
        if self.adapter is not None:
            phases["inject"], metrics["inject.host_calls"] = self.measure_injection()
        model.eval()
        with torch.inference_mode():
            phases["forward_inference"] = footprint.measure(lambda: self.task.output(model, batch), model)
        # The difference of two generations is one step, whatever `generate` does before the first.
        shorter, longer = (footprint.measure(self.decoding(model, steps), model) for steps in (2, 3))
        phases["decode_step"] = footprint.difference(longer, shorter)
        model.train()
        trainer.step(self.probe)  # gives the optimizer its state where training ended without a gradient
        trainer.optimizer.zero_grad()
        phases["forward_train"] = footprint.measure(lambda: self.task.loss(model, batch), model, trainer.optimizer)
        phases["train_step"] = footprint.measure(lambda: trainer.step(self.probe), model, trainer.optimizer)
        for phase, counted in phases.items():
            for name in ("flops", "calls", "peak_bytes", "saved_bytes"):
                if f"{phase}.{name}" in METRICS:
                    metrics[f"{phase}.{name}"] = getattr(counted, name)
        operators = {phase: counted.operators for phase, counted in phases.items()}
        return metrics, operators, {"train_step": phases["train_step"].peak_tensors}

    def measure_injection(self) -> tuple[Footprint, int]:
        """Counters and Python calls of adding the adapter, each on a fresh base model."""
        seed = self.experiment.seeds[0]
        base, again = self.injectable_base(), self.injectable_base()
        counted = footprint.measure(lambda: self.inject(base, seed), base)
        host_calls, _ = footprint.count_host_calls(lambda: self.inject(again, seed))
        return counted, host_calls

    def decoding(
        self, model: nn.Module, steps: int, hooks: Hooks | None = None, experiment: Experiment | None = None
    ) -> Callable[[], None]:
        """A function that takes `steps` decoding steps with the model."""
        inputs = (hooks or self.hooks).inputs
        return partial(self.task.decode, model, self.data, experiment or self.experiment, steps, inputs)

    def timed(self) -> Experiment:
        """The experiment with batches as they are timed."""
        rows = timing.rows(self.config.batch_size, self.experiment.device)
        return replace(self.experiment, train=replace(self.config, batch_size=rows))

    def time(self, run: _Run, benchmark: Any = None, blocks: int = timing.BLOCKS) -> dict[str, Value]:
        """Step and decode time over those of the base model, fully fine-tuned, in interleaved blocks."""
        self.memory.release()  # what is left of a fully fine-tuned base model: here comes another
        device, base, no_hooks, timed = self.experiment.device, self.base(), hooks_of(None), self.timed()
        run.model.train()
        batch = self.task.probe_batch(self.data, timed)
        step, base_step = partial(run.trainer.step, batch), partial(self.base_trainer(base).step, batch)
        steps = timing.compare(step, base_step, device, blocks, _margin("step_time_ratio"))
        if benchmark is not None:
            benchmark.pedantic(timing.waiting(step, device), rounds=3)
        run.model.eval()
        base.eval()
        decodes = timing.compare(
            self.decoding(run.model, self.task.timed_steps, experiment=timed),
            self.decoding(base, self.task.timed_steps, no_hooks, timed),
            device,
            blocks,
            _margin("decode_time_ratio"),
        )
        metrics: dict[str, Value] = {
            "step_time_ratio": steps.ratio,
            "decode_time_ratio": decodes.ratio,
            "step_time_interval": steps.interval,
            "decode_time_interval": decodes.interval,
            "step_time_s": steps.time_s,
            "decode_time_s": decodes.time_s,
        }
        if steps.sm_mhz is not None:
            metrics["gpu.sm_clock_mhz"] = steps.sm_mhz
            metrics["gpu.throttled_blocks"] = steps.throttled_blocks + decodes.throttled_blocks
        return metrics

    def check(self, run: _Run) -> dict[str, Value]:
        """What an adapter must be able to do; nothing for full fine-tuning, whose checkpoint is the whole model."""
        model, base_output = run.model, run.reference.output
        if self.adapter is None:
            return {"checkpoint.bytes": sum(p.numel() * p.element_size() for p in model.parameters())}
        base_names = [name for name, _ in self.base().named_parameters()]
        return {
            **checks.initial(run.initial_output, base_output),
            **checks.disabling(model, self.output, self.base_output, base_output),
            **checks.saving(
                model,
                self.output,
                self.injectable_base,
                self.folder / "checkpoint",
                autocast_adapter_dtype=self.config.autocast_adapter_dtype,
            ),
            **checks.merging(model, self.output, base_names),
        }


@contextmanager
def _timed(times_s: list[float]) -> Iterator[None]:
    """Append how long the block takes."""
    started = time.perf_counter()
    yield
    times_s.append(time.perf_counter() - started)


def _parameters(model: nn.Module) -> dict[str, Value]:
    return {
        "params.trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "params.total": sum(p.numel() for p in model.parameters()),
    }


def _on_device(inputs: Extra, device: str) -> Extra:
    return lambda size: {key: value.to(device) for key, value in inputs(size).items()}


def _margin(metric: str) -> float:
    return METRICS[metric].relative_margin


def _peft_names(metrics: dict[str, Value]) -> dict[str, Value]:
    """Metric names as PEFT's results have them: `test accuracy`, `test dino_similarity`."""
    numbers = {name: value for name, value in metrics.items() if METRICS[name].kind == "number"}
    return {name.replace("_", " ", 1): value for name, value in numbers.items()}


def cached_base_models() -> BaseModel:
    """Loads each base model once and gives a copy of it at each call, with the weights as loaded, to the bit.

    A quantised one is loaded each time: it lies on its device, where there is no room for two.
    """
    loaded: dict[tuple[object, ...], tuple[nn.Module, int]] = {}

    def base_model(experiment: Experiment) -> nn.Module:
        if experiment.train.dtype in QUANTISED:
            return task_of(experiment).load_base_model(experiment)
        key = (experiment.case.task, experiment.models, experiment.train.values(experiment.train.BASE_MODEL))
        if key not in loaded:
            model = task_of(experiment).load_base_model(experiment)
            loaded[key] = model, fingerprint(model)
        model, expected = loaded[key]
        restored = copy.deepcopy(model)
        if fingerprint(restored) != expected:
            raise RuntimeError(f"{experiment.train.model_id}: an earlier case changed the weights that all start from")
        return restored

    return base_model


def cached_task_data() -> TaskData:
    """Loads each task's data once for all experiments that agree on what it depends on."""
    loaded: dict[tuple[object, ...], Any] = {}

    def task_data(experiment: Experiment) -> Any:
        places = (experiment.device, experiment.data, experiment.models)
        key = (experiment.case.task, places, experiment.train.values(experiment.train.DATA))
        if key not in loaded:
            loaded[key] = task_of(experiment).load_data(experiment)
        return loaded[key]

    return task_data
