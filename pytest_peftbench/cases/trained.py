"""A trained case: base model, adapter, training, evaluation, counters, times and checks, put together as a `Result`."""

from __future__ import annotations

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
from pytest_peftbench.cases.peft_schema import peft_fields
from pytest_peftbench.cases.reference import Reference, base_figures, base_trainer, reference_of
from pytest_peftbench.cases.subject import (
    BaseModel,
    Subject,
    TaskData,
    evaluating,
    figures_of,
    operators_of,
    parameters,
    subject_of,
)
from pytest_peftbench.cases.training import Trainer
from pytest_peftbench.cases.witness import can_be_witnessed, disturbed_witnesses, witness
from pytest_peftbench.measure import timing
from pytest_peftbench.measure.collector import freeze_collector, freeze_what_came
from pytest_peftbench.measure.counters import Counters
from pytest_peftbench.measure.environment import describe, deterministic, seed_everything
from pytest_peftbench.measure.memory import MemoryTracker
from pytest_peftbench.measure.weights import digest, last_digit, move
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS, Value, in_order
from pytest_peftbench.results.result import Operators, PeakTensors, Picture, Result, SecondStage, SeedRun, Witness, mean
from pytest_peftbench.results.words import first_line
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.task import Batch, Evaluation, Progress, silent

# Counts up when the recipe changes so that its figures are no longer comparable with earlier ones.
RECIPE_VERSION = 5
FIRST_LOSSES = 20


@dataclass
class Case:
    """A case under way, and what it has measured up to now, if it does not get to its end.

    started: seconds since the epoch. phase: what it is doing. reserved_peaks: the accelerator's peak in each phase.
    """

    experiment: Experiment
    memory: MemoryTracker
    progress: Progress
    started: float = field(default_factory=time.time)
    phase: str = "loading"
    reserved_peaks: list[int] = field(default_factory=list)
    metrics: dict[str, Value] = field(default_factory=dict)
    history: list[dict[str, Value]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def telling(self, doing: str) -> Progress:
        """Progress of a part of the work."""
        return lambda text: self.progress(f"{doing}: {text}")


@dataclass(frozen=True)
class Trained:
    """A trained model and what its training gave.

    train_time_s: as PEFT takes it: the base model's own evaluation (nothing where an earlier case made it), training,
    and evaluation at the end, without the validations on the way.
    """

    model: nn.Module
    trainer: Trainer
    reference: Reference
    seed_run: SeedRun
    pictures: list[Picture]
    initial_output: Tensor
    memory: dict[str, Value]
    reserved_bytes: list[int]
    reserved_peak_bytes: int
    history: list[dict[str, Value]]
    train_time_s: float
    base_digest: str


@dataclass(frozen=True)
class _Course:
    """How a training went: losses by step, validations by interval, tokens seen, what the validations took."""

    losses: list[float]
    validations: list[dict[str, Value]]
    tokens: list[int]
    reserved_bytes: list[int]
    validation_time_s: float


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
    come, and says what else to run (seeds only where the experiment names one); asked once more with the witness.
    A device that runs out of memory gives a result that did not succeed, with the figures up to then. What else PEFT,
    torch or the task raise passes through: what did not train has no result.
    """
    case = Case(experiment, memory or MemoryTracker(experiment.device), progress)
    with deterministic(experiment.device), tempfile.TemporaryDirectory() as folder:
        try:
            subject = subject_of(experiment, base_model, task_data, Path(folder))
            # a model that a failed case left behind may fill an accelerator; on the host it is worth no search
            (freeze_what_came if experiment.device == "cpu" else freeze_collector)()
            # nothing holds on to the first model when the other seeds train: an accelerator may have no room for two
            testify = partial(_testified, case, base_model, task_data)
            result, stage = _run_first(case, subject, Path(folder), benchmark, second_stage, testify)
            further = [train(case, subject, seed, validate=False).seed_run for seed in stage.seeds]
            moved = [train(case, subject, seed, validate=False, moved=True).seed_run for seed in stage.moved]
            return replace(result, seeds=[*result.seeds, *further], moved=moved)
        except torch.OutOfMemoryError as error:
            result = _out_of_memory(case, str(error))
    case.memory.release()  # here, where the exception no longer holds on to models
    return result


def case_version(experiment: Experiment, base_model: BaseModel, task_data: TaskData) -> str:
    """The version that a result of the experiment would have: base model and data are loaded, nothing is trained."""
    with deterministic(experiment.device), tempfile.TemporaryDirectory() as folder:
        subject = subject_of(experiment, base_model, task_data, Path(folder))
        base_digest = digest(subject.injectable_base(experiment.seeds[0]))
        return _case_version(experiment, base_digest, subject.task.data.digest)


def _run_first(
    case: Case,
    subject: Subject,
    folder: Path,
    benchmark: Any,
    second_stage: Callable[[Result], SecondStage] | None,
    testify: Callable[[Result, SecondStage], Result | None],
) -> tuple[Result, SecondStage]:
    """The first seed, and what else to train; the merge comes last: it changes weights."""
    experiment = case.experiment
    first, *others = experiment.seeds
    trained = train(case, subject, first)
    case.phase = "measuring"
    case.progress(case.phase)
    metrics, operators, peak_tensors = _measure(subject, trained)
    metrics.update(_time(case, subject, trained, benchmark))
    case.memory.release()  # as in `_time`: the base model's figures take a base model
    result = Result(
        case=experiment.case,
        case_version=_case_version(experiment, trained.base_digest, subject.task.data.digest),
        environment=describe(experiment.device),
        metrics=metrics,
        seeds=[trained.seed_run],
        operators=operators,
        peak_tensors=peak_tensors,
        base=base_figures(subject, trained.base_digest),
        pictures=trained.pictures,
    )
    ask = second_stage or (lambda result: SecondStage())
    stage = ask(result)
    while stage.witness and not (result.witness and result.witness.rate == stage.witness):
        found = testify(result, stage)
        if found is None:
            break
        result, stage = found, ask(found)
    if others:
        stage = replace(stage, seeds=tuple(others))
    if stage.retime:
        metrics.update(_time(case, subject, trained, blocks=timing.CONFIRMING_BLOCKS))
    checked, counted = _check(subject, trained, folder)
    metrics.update(checked)
    metrics = in_order(metrics, str(experiment.case))
    if benchmark is not None:
        benchmark.extra_info.update(case=str(experiment.case), **metrics, **trained.seed_run.metrics)
    warnings = [*([case.memory.busy] if case.memory.busy else []), *case.warnings]
    operators = {**operators, **operators_of(counted)}
    peft = _peft(case, subject, trained, metrics)
    return replace(result, metrics=metrics, operators=operators, peft=peft, warnings=warnings), stage


def _testified(
    case: Case, base_model: BaseModel, task_data: TaskData, result: Result, stage: SecondStage
) -> Result | None:
    """The result with its witness, disturbed too where its bound is asked for; None where there can be none."""
    experiment = case.experiment
    if not can_be_witnessed(experiment):
        return None
    case.progress("witness")
    case.memory.release()
    try:
        quantities = witness(experiment, base_model, task_data, stage.witness)
        disturbed = disturbed_witnesses(experiment, base_model, task_data, stage.witness) if stage.disturb else []
    except torch.OutOfMemoryError as error:  # the experiment itself fitted
        case.warnings.append(f"no witness: {first_line(error)}")
        return None
    return replace(result, witness=Witness(quantities, rate=stage.witness), disturbed=disturbed)


def _peft(case: Case, subject: Subject, trained: Trained, metrics: dict[str, Value]) -> dict[str, Any]:
    """What PEFT's own result schema wants."""
    return peft_fields(
        case.experiment,
        config=None if subject.adapter is None else subject.peft_config().to_dict(),
        history=trained.history,
        metrics=metrics,
        train_time_s=trained.train_time_s,
        started=case.started,
        reserved_bytes=trained.reserved_bytes,
        reserved_peak_bytes=trained.reserved_peak_bytes,
    )


def _case_version(experiment: Experiment, base_digest: str, data_digest: str) -> str:
    """Hash of all that defines the case: recipe, experiment files, base model and data."""
    definition = [RECIPE_VERSION, experiment.definition(), base_digest, data_digest]
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]


# Training -------------------------------------------------------------------------------------------------------------


def train(case: Case, subject: Subject, seed: int, *, validate: bool = True, moved: bool = False) -> Trained:
    """Train with one seed and evaluate; validate on the way, too.

    moved: on base weights moved by their last digit, compared with what the unmoved base model gave: to evaluate each
    moved one would cost much, and give what differs in the last digit, too.
    """
    config, memory = case.experiment.train, case.memory
    case.phase = "loading"
    memory.reset()
    base = subject.injectable_base(seed)
    load = memory.read()
    case.reserved_peaks = [load.reserved_peak_bytes or 0]
    base_digest = digest(base)
    times_s: list[float] = []
    case.phase = "measuring the base model"
    with _timed(times_s):
        reference = reference_of(subject, base, base_digest, case.telling("base model"))
    for problem in subject.task.problems_with(base):
        raise InputError(case.experiment.located(problem))
    if moved:
        move(base, last_digit(base), seed)
    case.phase = f"training with seed {seed}"
    memory.reset()
    model = subject.inject(base, seed)
    initial_output = subject.output(model)
    trainer = subject.trainer(model)
    case.metrics = {**load.load_metrics(), **parameters(model)}
    with _timed(times_s):
        course = _take_steps(case, subject, trainer, seed, validate)
    used = memory.read()
    case.reserved_peaks.append(used.reserved_peak_bytes or 0)
    case.metrics.update(used.metrics())
    with _timed(times_s):
        evaluation = _evaluate(case, subject, model, reference, seed)
    evaluate = memory.read()
    case.reserved_peaks.append(evaluate.reserved_peak_bytes or 0)
    last = {**_peft_names(evaluation.metrics), **_train_figures(case, config.max_steps, course.losses)}
    case.history.append({"step": config.max_steps, **last, **_total_tokens(course)})
    return Trained(
        model=model,
        trainer=trainer,
        reference=reference,
        seed_run=_seed_run(case, seed, evaluation, course, model),
        pictures=evaluation.pictures,
        initial_output=initial_output,
        memory={**load.load_metrics(), **used.metrics(), **evaluate.evaluate_metrics()},
        reserved_bytes=course.reserved_bytes,
        reserved_peak_bytes=max(case.reserved_peaks),
        history=case.history,
        train_time_s=sum(times_s) - course.validation_time_s,
        base_digest=base_digest,
    )


def _evaluate(case: Case, subject: Subject, model: nn.Module, reference: Reference, seed: int) -> Evaluation:
    """Quality of the trained model; its pictures in a folder of the experiment's."""
    case.phase = f"evaluating seed {seed}"
    case.memory.reset()
    tell = case.telling(f"seed {seed}, evaluating")
    with evaluating(model):
        found = subject.task.evaluate(model, subject.needs.inputs, reference.evaluation, tell)
    metrics = in_order(found.metrics, f"{case.experiment.case}: evaluation")
    stem = case.experiment.case.stem
    return replace(
        found, metrics=metrics, pictures=[replace(item, name=f"{stem}/{item.name}") for item in found.pictures]
    )


def _take_steps(case: Case, subject: Subject, trainer: Trainer, seed: int, validate: bool) -> _Course:
    """All training steps, with the validations among them."""
    config, task, model = case.experiment.train, subject.task, trainer.model
    case.history = []
    validations: list[dict[str, Value]] = []
    validation_times_s: list[float] = []
    reserved_bytes: list[int] = []
    tokens: list[Tensor] = []

    def batches() -> Iterator[Batch]:
        for batch in task.batches(seed):
            tokens.extend([batch["attention_mask"].sum()] if "attention_mask" in batch else [])
            yield batch

    def after_step(step: int, losses: list[Tensor]) -> None:
        case.progress(f"seed {seed}, step {step}/{config.max_steps}")
        reserved_bytes.append(case.memory.reserved_bytes())
        if validate and step % config.eval_steps == 0:
            with _timed(validation_times_s), evaluating(model):
                tell = case.telling(f"seed {seed}, validating")
                found = task.validate(model, subject.needs.inputs, tell)
            validations.append(in_order(found, f"{case.experiment.case}: validation"))
            model.train()
            figures = {**_peft_names(validations[-1]), **_train_figures(case, step, losses)}
            case.history.append({"step": step, **figures})

    seed_everything(seed)
    losses = trainer.train(batches(), config.max_steps, after_step)
    return _Course(losses, validations, list(map(int, tokens)), reserved_bytes, sum(validation_times_s))


def _seed_run(case: Case, seed: int, evaluation: Evaluation, course: _Course, model: nn.Module) -> SeedRun:
    validation = course.validations[-1] if course.validations else {}
    ours: dict[str, Value] = {
        "train_loss": mean(course.losses[-case.experiment.train.eval_steps :]),
        "first_losses": course.losses[:FIRST_LOSSES],
        "adapter_sha256": digest(model, trainable_only=True),
    }
    metrics = {**evaluation.metrics, **validation, **ours}
    if len(metrics) < len(evaluation.metrics) + len(validation) + len(ours):
        raise InputError(f"{case.experiment.case}: evaluation and validation give a metric of one name; use two names")
    return SeedRun(seed, in_order(metrics, str(case.experiment.case)), evaluation.samples)


def _train_figures(case: Case, step: int, losses: list[Any]) -> dict[str, Value]:
    """PEFT's training figures after `step` steps."""
    config = case.experiment.train
    recent = [float(loss) for loss in losses[-config.eval_steps :]]
    return {"train loss": mean(recent), "train samples": step * config.batch_size}


def _total_tokens(course: _Course) -> dict[str, Value]:
    return {"train total tokens": sum(course.tokens)} if course.tokens else {}


def _peft_names(metrics: dict[str, Value]) -> dict[str, Value]:
    """Metric names as PEFT's results have them: `test accuracy`, `test dino_similarity`."""
    return {name.replace("_", " ", 1): value for name, value in metrics.items() if METRICS[name].kind == "number"}


@contextmanager
def _timed(times_s: list[float]) -> Iterator[None]:
    """Append how long the block takes."""
    started = time.perf_counter()
    yield
    times_s.append(time.perf_counter() - started)


# Measuring ------------------------------------------------------------------------------------------------------------


def _measure(subject: Subject, trained: Trained) -> tuple[dict[str, Value], Operators, PeakTensors]:
    """The exact counters, on the trained model: everything is warmed up, the optimizer has its state.

    With them the operators of each phase, and the tensors alive at the peak of a training step.
    """
    model, trainer = trained.model, trained.trainer
    metrics: dict[str, Value] = {**trained.memory, **parameters(model)}
    phases = {}
    if subject.adapter is not None:
        phases["inject"], metrics["inject.host_calls"] = subject.count_injection()
    phases["forward_inference"] = subject.count_forward(model)
    phases.update(subject.count_decoding(model))
    model.train()
    trainer.step(subject.probe)  # gives the optimizer its state where training ended without a gradient
    trainer.optimizer.zero_grad()
    phases["forward_train"] = subject.count_loss(model, trainer)
    phases["train_step"] = subject.count_step(model, trainer)
    metrics.update(figures_of(phases, peak_parts=False))
    return metrics, operators_of(phases), {"train_step": phases["train_step"].peak_tensors}


def _time(
    case: Case, subject: Subject, trained: Trained, benchmark: Any = None, blocks: int = timing.BLOCKS
) -> dict[str, Value]:
    """Step and decode time over those of the base model, fully fine-tuned, in interleaved blocks."""
    case.memory.release()  # what is left of a fully fine-tuned base model: here comes another
    device, config = case.experiment.device, case.experiment.train
    base, plain = subject.base(), subject.without_adapter()
    rows = timing.rows(config.batch_size, device)
    task = type(subject.task)(replace(config, batch_size=rows), subject.task.place, subject.task.data)
    trained.model.train()
    batch = task.probe_batch()
    step, base_step = partial(trained.trainer.step, batch), partial(base_trainer(subject, base).step, batch)
    steps = timing.compare(step, base_step, device, blocks, METRICS["step_time_ratio"].relative_margin)
    if benchmark is not None:
        benchmark.pedantic(timing.waiting(step, device), rounds=3)
    metrics = steps.metrics("step")
    if task.generates:
        with evaluating(trained.model), evaluating(base):
            decodes = timing.compare(
                replace(subject, task=task).decoding(trained.model, task.timed_steps),
                replace(plain, task=task).decoding(base, task.timed_steps),
                device,
                blocks,
                METRICS["decode_time_ratio"].relative_margin,
            )
        metrics.update(decodes.metrics("decode"))
        steps = replace(steps, throttled_blocks=steps.throttled_blocks + decodes.throttled_blocks)
    if steps.sm_mhz is not None:
        metrics["gpu.sm_clock_mhz"] = steps.sm_mhz
        metrics["gpu.throttled_blocks"] = steps.throttled_blocks
    return metrics


def _check(subject: Subject, trained: Trained, folder: Path) -> tuple[dict[str, Value], dict[str, Counters]]:
    """What an adapter must be able to do, and what loading and merging it cost, where it can be.

    Nothing for full fine-tuning, whose checkpoint is the whole model.
    """
    model, base_output = trained.model, trained.reference.output
    if subject.adapter is None:
        return {"checkpoint.bytes": sum(p.numel() * p.element_size() for p in model.parameters())}, {}
    base_names = [name for name, _ in subject.base().named_parameters()]
    autocast = subject.experiment.train.autocast_adapter_dtype
    counted: dict[str, Counters] = {}
    outcomes = {
        **checks.initial(trained.initial_output, base_output),
        **checks.disabling(model, subject.output, subject.plain_output, base_output),
        **checks.saving(model, subject.output, subject.injectable_base, folder / "checkpoint", counted, autocast),
        **checks.merging(model, subject.output, base_names, counted),
    }
    return {**outcomes, **figures_of(counted, peak_parts=False)}, counted


def _out_of_memory(case: Case, error: str) -> Result:
    """The result of a case that did not fit, with the figures up to then."""
    experiment, use = case.experiment, case.memory.read()
    metrics = {**use.metrics(), **case.metrics}
    message = f"while {case.phase}: {first_line(error)}"
    return Result(
        case=experiment.case,
        case_version="",
        environment=describe(experiment.device),
        metrics=in_order(metrics, str(experiment.case)),
        seeds=[],
        status="out of memory",
        error_msg=message,
        warnings=[case.memory.busy] if case.memory.busy else [],
        peft=peft_fields(
            experiment,
            config=experiment.adapter,
            history=case.history,
            metrics=metrics,
            train_time_s=0.0,
            started=case.started,
            reserved_bytes=[],
            reserved_peak_bytes=max([*case.reserved_peaks, use.reserved_peak_bytes or 0]),
            error_msg=f"out of memory {message}",
        ),
    )
