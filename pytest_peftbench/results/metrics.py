"""The catalogue: what each metric means, declared once. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pytest_peftbench.results.files import InputError

Lane = Literal["exact", "numerics", "quality", "noisy", "info"]
Direction = Literal["lower", "higher", "equal"]
Kind = Literal["number", "text", "list", "table"]
Value = int | float | str | list[float] | dict[str, str]
# Units of metrics whose values are the words of `laws`.
WORDED = ("law", "outcome")


@dataclass(frozen=True)
class Metric:
    """One metric, declared once.

    lane: how it is compared (see `compare`). direction: which way is better; "equal" knows no better.
    margin: difference below which nobody cares, `absolute` in the metric's unit, or `relative` to the expected
    value. needs: environment keys that must be equal for the metric to be comparable at all. kind: what a value
    is; "list" holds numbers, "table" texts by name. samples: name of the samples that the metric is the mean of.
    interval: name of the metric that holds its `[low, high]`, if any. incidental: whether anything else that moved says
    more of the case.
    """

    name: str
    unit: str
    direction: Direction
    lane: Lane
    description: str
    absolute_margin: float = 0.0
    relative_margin: float = 0.0
    needs: tuple[str, ...] = ()
    kind: Kind = "number"
    samples: str = ""
    interval: str = ""
    incidental: bool = False

    def __post_init__(self) -> None:
        for key, choices in (("direction", get_args(Direction)), ("lane", get_args(Lane)), ("kind", get_args(Kind))):
            if getattr(self, key) not in choices:
                raise InputError(f"metric {self.name!r}: {key} is {getattr(self, key)!r}, not {' or '.join(choices)}")

    def margin(self, expected: float) -> float:
        """Largest difference from `expected` that nobody cares about, in the metric's unit."""
        return max(self.absolute_margin, self.relative_margin * abs(expected))


@dataclass(frozen=True)
class Column:
    """A column of the closing table: `Column("accuracy", "test_accuracy", ".1%")`, the last a format specification."""

    header: str
    metric: str
    form: str


# Units of what is counted or timed: never below zero.
COUNTED = frozenset({"FLOP", "calls", "bytes", "parameters", "tensors", "ratio", "s"})

# Operators depend on how torch and transformers compose a model, not on the processor.
STACK = ("torch", "transformers", "device")
# The same bits need the same kernels as well.
BITS = ("torch", "transformers", "device", "arithmetic")
_DEVICE = ("device", "accelerator")

_COUNTERS = {
    "flops": ("FLOP", "floating point operations of matrix multiplications, convolutions and attention"),
    "calls": ("calls", "operator calls"),
    "peak_bytes": ("bytes", "peak bytes of live tensors, weights and optimizer state included"),
    "saved_bytes": ("bytes", "bytes saved for the backward pass, weights not counted"),
    "peak_weights_bytes": ("bytes", "weights at the peak"),
    "peak_gradients_bytes": ("bytes", "gradients of weights at the peak"),
    "peak_optimizer_bytes": ("bytes", "optimizer state at the peak"),
    "peak_activations_bytes": ("bytes", "tensors saved for the backward pass at the peak"),
    "peak_temporary_bytes": ("bytes", "all other tensors at the peak"),
}
PEAK_PARTS = tuple(name for name in _COUNTERS if name.startswith("peak_") and name != "peak_bytes")
_COUNTERS_OF_WORK = {
    **{name: (unit, f"{description} of") for name, (unit, description) in _COUNTERS.items()},
    "kept_bytes": ("bytes", "bytes of the tensors that the model holds after"),
}
# What is counted, and which counters of it are kept.
PHASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "inject": ("adding the adapter to the base model", ("calls", "peak_bytes")),
    "forward_inference": ("a forward pass in inference mode", ("flops", "calls", "peak_bytes")),
    "forward_train": ("a forward pass in training mode", ("flops", "calls", "peak_bytes")),
    "train_step": ("one training step", ("flops", "calls", "peak_bytes", "saved_bytes", *PEAK_PARTS)),
    "merge": ("merging the adapter into the base weights", ("flops", "calls", "peak_bytes")),
    "load": ("loading the saved adapter into a fresh base model", ("calls", "peak_bytes")),
    "decode_step": (
        "one step of generation: a token with the cache, or noise removed with guidance",
        ("flops", "calls"),
    ),
}


def _counters(phase: str) -> list[Metric]:
    what, names = PHASES[phase]
    return [
        Metric(f"{phase}.{name}", unit, "lower", "exact", f"{description} of {what}", needs=STACK)
        for name, (unit, description) in _COUNTERS.items()
        if name in names
    ]


def counter(phase: str, name: str, what: str) -> Metric:
    """One counter of a piece of work that only some kinds of case do. what: the work."""
    if name == "host_calls":
        return _host_calls(phase, what)
    unit, description = _COUNTERS_OF_WORK[name]
    return Metric(f"{phase}.{name}", unit, "lower", "exact", f"{description} {what}", needs=STACK)


def _host_calls(phase: str, what: str) -> Metric:
    """The calls on the host of a piece of work: a note up to the margin, and never what decides a case."""
    description = f"calls in peft and torch.nn while {what}, of Python functions and of built-in ones"
    return Metric(
        f"{phase}.host_calls",
        "calls",
        "lower",
        "exact",
        description,
        relative_margin=0.02,
        needs=STACK,
        incidental=True,
    )


def outcome(name: str, description: str) -> Metric:
    """A check whose outcome is a word, see `results.laws`: `ok`, `differs: 0.012`, `not reached`, an error's class."""
    return Metric(name, "outcome", "higher", "exact", description, kind="text")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        Metric("params.trainable", "parameters", "lower", "exact", "parameters that training changes"),
        Metric("params.total", "parameters", "lower", "exact", "parameters of base model and adapter"),
        Metric("checkpoint.bytes", "bytes", "lower", "exact", "size of the saved adapter weights"),
        Metric(
            "checkpoint.tensors",
            "tensors",
            "equal",
            "exact",
            "names, count, shape and dtype of the saved tensors",
            kind="table",
        ),
        *_counters("inject"),
        _host_calls("inject", "adding the adapter"),
        *(metric for phase in PHASES if phase != "inject" for metric in _counters(phase)),
        outcome("init.identity", "the adapted model's output before training is the base model's, to the bit"),
        outcome("disable.restores_base", "with the adapter disabled the output is the base model's, to the bit"),
        outcome("enable.restores_adapter", "enabled again, the output is the adapted model's, to the bit"),
        outcome("reload.same_output", "saved and reloaded, the adapter gives the same output, to the bit"),
        outcome("merge.same_output", "merged into the base weights, the output agrees within the tolerance"),
        outcome("unmerge.restores_base", "unmerging restores the base weights within the tolerance"),
        outcome("footprint.counted", "whether torch can count all of it on the meta device; if not, what is missing"),
        Metric(
            "first_losses",
            "loss",
            "equal",
            "numerics",
            "training losses of the first steps",
            needs=BITS,
            kind="list",
        ),
        Metric("adapter_sha256", "sha256", "equal", "numerics", "hash of the trained weights", needs=BITS, kind="text"),
        Metric(
            "init.max_output_difference",
            "units",
            "equal",
            "numerics",
            "largest difference of the output before training from the base model's",
            needs=BITS,
        ),
        Metric(
            "train_loss",
            "loss",
            "lower",
            "quality",
            "mean training loss over the last evaluation interval",
            absolute_margin=0.02,
            relative_margin=0.02,
        ),
        Metric(
            "step_time_ratio",
            "ratio",
            "lower",
            "noisy",
            "time of a training step over the base model's (full fine-tuning), interleaved in one process",
            relative_margin=0.30,
            interval="step_time_interval",
        ),
        Metric(
            "decode_time_ratio",
            "ratio",
            "lower",
            "noisy",
            "time of generating with a fixed number of steps over the base model's, interleaved in one process",
            relative_margin=0.30,
            interval="decode_time_interval",
        ),
        Metric(
            "step_time_interval",
            "ratio",
            "lower",
            "info",
            "bootstrap interval of step_time_ratio, low and high; empty where it was throttled",
            kind="list",
        ),
        Metric(
            "decode_time_interval",
            "ratio",
            "lower",
            "info",
            "bootstrap interval of decode_time_ratio, low and high; empty where it was throttled",
            kind="list",
        ),
        Metric("host.rss_bytes", "bytes", "lower", "info", "resident memory of the process at the end of training"),
        Metric(
            "gpu.allocated_peak_bytes",
            "bytes",
            "lower",
            "noisy",
            "peak allocated on the accelerator while training",
            relative_margin=0.02,
            needs=_DEVICE,
        ),
        Metric(
            "gpu.reserved_peak_bytes",
            "bytes",
            "lower",
            "noisy",
            "peak reserved by the accelerator's allocator while training",
            relative_margin=0.05,
            needs=_DEVICE,
        ),
        Metric(
            "gpu.load_peak_bytes",
            "bytes",
            "lower",
            "noisy",
            "peak allocated on the accelerator while the base model was loaded",
            relative_margin=0.02,
            needs=_DEVICE,
        ),
        Metric(
            "gpu.evaluate_peak_bytes",
            "bytes",
            "lower",
            "noisy",
            "peak allocated on the accelerator while the trained model was evaluated",
            relative_margin=0.02,
            needs=_DEVICE,
        ),
        Metric(
            "gpu.other_processes_bytes", "bytes", "lower", "info", "memory of the device that others hold, from NVML"
        ),
        Metric("gpu.device_bytes", "bytes", "lower", "info", "memory of the whole device in use, from NVML"),
        Metric("gpu.sm_clock_mhz", "MHz", "higher", "info", "clock of the accelerator while a step was timed"),
        Metric(
            "gpu.throttled_blocks",
            "blocks",
            "lower",
            "info",
            "timed blocks that do not count because the accelerator's clock was held back",
        ),
        Metric("step_time_s", "s", "lower", "info", "median time of one training step"),
        Metric("decode_time_s", "s", "lower", "info", "median time of generating with a fixed number of steps"),
    ]
}


def by_lane(metrics: Mapping[str, Metric], lane: Lane) -> list[str]:
    """Names of the metrics of one lane, in the order of declaration."""
    return [name for name, metric in metrics.items() if metric.lane == lane]


def declare(metrics: Iterable[Metric], by: str) -> None:
    """Add metrics to the catalogue; `by` names who asks. The same ones may be declared again.

    Raises InputError where one has the name of another.
    """
    metrics = list(metrics)
    names = [metric.name for metric in metrics]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{by}: metric {twice[0]!r} is declared twice")
    for metric in metrics:
        if METRICS.get(metric.name, metric) != metric:
            raise InputError(f"{by}: metric {metric.name!r} is declared already, as another one; choose another name")
    new = {metric.name: metric for metric in metrics if metric.name not in METRICS}
    # what a task is about is read before the training loss and the times
    known = [*METRICS]
    later = {name: METRICS.pop(name) for name in known[known.index("train_loss") :]}
    METRICS.update(new | later)


def in_order(values: Mapping[str, Value], by: str) -> dict[str, Value]:
    """`values` in the order of the catalogue. `by` names who measured them.

    Raises InputError for a metric that is not declared: it would be compared by nobody.
    """
    if undeclared := sorted(values.keys() - METRICS.keys()):
        raise InputError(f"{by}: metric {undeclared[0]!r} is measured but not declared; add it to the task's metrics")
    return {name: values[name] for name in METRICS if name in values}
