"""What one case measured, and what each metric means. Knows nothing of pytest or torch.

A `Result` is written in the schema of PEFT's `method_comparison` (so PEFT's dashboard reads our files) plus one
block, `"peftbench"`, with everything that PEFT's schema has no place for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pytest_peftbench.jsonfile import InputError

SCHEMA_VERSION = 2
# History: 1, first version. 2, `base` (the base model's own figures), and in baselines `noise`, both optional.

Lane = Literal["exact", "numerics", "quality", "noisy", "info"]
Direction = Literal["lower", "higher", "equal"]
Kind = Literal["number", "text", "list", "table"]
Value = int | float | str | list[float] | dict[str, str]


@dataclass(frozen=True)
class Metric:
    """One metric, declared once.

    lane: how it is compared (see `compare`). direction: which way is better; "equal" knows no better.
    margin: difference below which nobody cares, `absolute` in the metric's unit, or `relative` to the expected
    value. needs: environment keys that must be equal for the metric to be comparable at all. kind: what a value
    is; "list" holds numbers, "table" texts by name. samples: name of the samples that the metric is the mean of.
    interval: name of the metric that holds its `[low, high]`, if any.
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

    def margin(self, expected: float) -> float:
        """Largest difference from `expected` that nobody cares about, in the metric's unit."""
        return max(self.absolute_margin, self.relative_margin * abs(expected))


# Operators depend on how torch and transformers compose a model, not on the processor.
_COUNTERS = ("torch", "transformers", "device")
# The same bits need the same kernels as well.
_BITS = ("torch", "transformers", "device", "arithmetic")
_DEVICE = ("device", "accelerator")


def _counters(phase: str, what: str, names: str) -> list[Metric]:
    all_metrics = {
        "flops": ("FLOP", "floating point operations of matrix multiplications, convolutions and attention"),
        "calls": ("calls", "operator calls"),
        "peak_bytes": ("bytes", "peak bytes of live tensors, weights and optimizer state included"),
        "saved_bytes": ("bytes", "bytes saved for the backward pass, weights not counted"),
    }
    return [
        Metric(
            f"{phase}.{n}",
            all_metrics[n][0],
            "lower",
            "exact",
            f"{all_metrics[n][1]} of {what}",
            needs=_COUNTERS,
        )
        for n in names.split()
    ]


def _outcome(name: str, description: str) -> Metric:
    """A check whose outcome is a word: `ok`, `differs`, or the error class of a method that cannot do it."""
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
        *_counters("inject", "adding the adapter to the base model", "calls peak_bytes"),
        Metric(
            "inject.host_calls",
            "calls",
            "lower",
            "exact",
            "Python functions called in peft and torch.nn while adding the adapter",
            needs=_COUNTERS,
        ),
        *_counters("forward_inference", "a forward pass in inference mode", "flops calls peak_bytes"),
        *_counters("forward_train", "a forward pass in training mode", "flops calls peak_bytes"),
        *_counters("train_step", "one training step", "flops calls peak_bytes saved_bytes"),
        *_counters(
            "decode_step",
            "one step of generation: a token with the cache, or noise removed with guidance",
            "flops calls",
        ),
        _outcome("init.identity", "the adapted model's output before training is the base model's, to the bit"),
        _outcome("disable.restores_base", "with the adapter disabled the output is the base model's, to the bit"),
        _outcome("enable.restores_adapter", "enabled again, the output is the adapted model's, to the bit"),
        _outcome("reload.same_output", "saved and reloaded, the adapter gives the same output, to the bit"),
        _outcome("merge.same_output", "merged into the base weights, the output agrees within the tolerance"),
        _outcome("unmerge.restores_base", "unmerging restores the base weights within the tolerance"),
        Metric(
            "first_losses",
            "loss",
            "equal",
            "numerics",
            "training losses of the first steps",
            needs=_BITS,
            kind="list",
        ),
        Metric(
            "adapter_sha256", "sha256", "equal", "numerics", "hash of the trained weights", needs=_BITS, kind="text"
        ),
        Metric(
            "init.max_output_difference",
            "units",
            "equal",
            "numerics",
            "largest difference of the output before training from the base model's",
            needs=_BITS,
        ),
        Metric(
            "test_accuracy",
            "fraction",
            "higher",
            "quality",
            "share of test problems solved",
            absolute_margin=0.05,
            samples="test_correct",
        ),
        Metric("valid_accuracy", "fraction", "higher", "info", "share of validation problems solved"),
        Metric(
            "forgetting",
            "nats",
            "lower",
            "quality",
            "rise of the mean per-token cross-entropy on general text",
            absolute_margin=0.02,
            relative_margin=0.05,
            samples="forgetting_per_document",
        ),
        Metric(
            "test_dino_similarity",
            "cosine",
            "higher",
            "quality",
            "likeness of generated to held-out pictures of the concept, to the image encoder",
            absolute_margin=0.02,
            samples="similarity_per_image",
        ),
        _outcome("images.changed", "some picture of an unrelated prompt is not the base model's own, to the bit"),
        Metric("valid_dino_similarity", "cosine", "higher", "info", "the same for the validation pictures"),
        Metric(
            "drift",
            "drift",
            "lower",
            "quality",
            "distance of pictures of unrelated prompts from the base model's",
            absolute_margin=0.005,
            relative_margin=0.05,
            samples="drift_per_image",
        ),
        Metric(
            "images_sha256",
            "sha256",
            "equal",
            "numerics",
            "hashes of the generated pictures",
            needs=_BITS,
            kind="table",
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


@dataclass(frozen=True)
class CaseId:
    """Names one case: `MetaMathQA-tiny-loha-rank8`."""

    task: str
    base_model: str
    method: str
    name: str

    def __str__(self) -> str:
        return f"{self.task}-{self.base_model}-{self.method}-{self.name}"


@dataclass(frozen=True)
class SeedRun:
    """What one training seed gave: `metrics` by name, and the `samples` that the metrics are means of.

    samples: `test_correct`, a string of 0 and 1 in the order of the test set; `forgetting_per_document`, a list of
    rises in nats, in the order of the documents; `similarity_per_image` and `drift_per_image`, lists of cosines and
    of (1 - cosine) / 2, in the order of the prompts.
    """

    seed: int
    metrics: dict[str, Value]
    samples: dict[str, str | list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A sample to look at: the base model's picture on the left, the adapted model's on the right, from the same noise.

    name: of the file, without folder. seed: of the noise. png: the file's content, prompt and seed in its metadata.
    """

    name: str
    prompt: str
    seed: int
    png: bytes


# phase -> "operator @ owner" -> [calls, FLOPs]; says who spends what, and is compared only to explain a difference
Operators = dict[str, dict[str, list[int]]]
# phase -> "shape dtype @ owner" -> [count, bytes]; what is alive at the peak, likewise
PeakTensors = dict[str, dict[str, list[int]]]


@dataclass(frozen=True)
class BaseReference:
    """The base model's own figures, without adapter, on the batch that the case's counters are taken on.

    What the environment moves, another torch or processor, it moves here too. losses: of a few steps of full
    fine-tuning. metrics: peak and saved bytes by the name of the case's metric. operators: as in `Result`.
    """

    losses: list[float]
    metrics: dict[str, Value]
    operators: Operators


@dataclass(frozen=True)
class Result:
    """Everything that one case measured.

    metrics: the metrics that do not depend on the training seed (counters, checks, times). seeds: the others, by
    seed, ascending. case_version: a hash of all that defines the case; figures of different versions are not
    comparable. environment: see `environment.describe`. peak_tensors: the tensors alive at a phase's peak. base: the
    base model's own figures. warnings: of a device that was not idle. pictures: samples of the first seed's model.
    peft: the fields that PEFT's own schema wants and we do not compare (`run_info`, `train_info`, `meta_info`).
    """

    case: CaseId
    case_version: str
    environment: dict[str, str]
    metrics: dict[str, Value]
    seeds: list[SeedRun]
    operators: Operators = field(default_factory=dict)
    peak_tensors: PeakTensors = field(default_factory=dict)
    base: BaseReference | None = None
    status: str = "success"
    error_msg: str = ""
    warnings: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    peft: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """PEFT's result schema plus the block `"peftbench"`."""
        block = {
            "schema": SCHEMA_VERSION,
            "case": asdict(self.case),
            "case_version": self.case_version,
            "status": self.status,
            "error_msg": self.error_msg,
            "warnings": self.warnings,
            "environment": self.environment,
            "metrics": self.metrics,
            "seeds": [asdict(seed) for seed in self.seeds],
            "operators": self.operators,
            "peak_tensors": self.peak_tensors,
            "base": asdict(self.base) if self.base else None,
            "pictures": [{"file": item.name, "prompt": item.prompt, "seed": item.seed} for item in self.pictures],
        }
        return {**self.peft, "peftbench": block}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], source: str) -> Result:
        """The result that `to_json` wrote, without the pictures' content.

        source: names it in errors. Raises InputError for a block that another version wrote, or that is damaged.
        """
        block = data["peftbench"]
        try:
            if not 1 <= block["schema"] <= SCHEMA_VERSION:
                raise InputError(
                    f"{source}: peftbench.schema is {block['schema']}, this version reads {SCHEMA_VERSION}"
                )
            base = block.get("base")
            names = ("case_version", "environment", "metrics", "operators", "status", "error_msg")
            return cls(
                case=CaseId(**block["case"]),
                seeds=[SeedRun(**run) for run in block["seeds"]],
                peft={key: value for key, value in data.items() if key != "peftbench"},
                base=BaseReference(**base) if base else None,
                peak_tensors=block.get("peak_tensors", {}),
                warnings=block.get("warnings", []),
                **{name: block[name] for name in names},
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{source}: peftbench: damaged: {error}") from error


@dataclass(frozen=True)
class SecondStage:
    """What a case does after its first seed: the further seeds that it trains, and whether it takes its times again."""

    seeds: tuple[int, ...] = ()
    retime: bool = False


def mean(values: list[float]) -> float:
    """Arithmetic mean; NaN when there is no value, so that nothing passes for a measurement."""
    return sum(values) / len(values) if values else float("nan")


def mean_of_seeds(seeds: list[SeedRun], name: str) -> float | None:
    """Mean over the seeds of a number metric; None when no seed has it. Raises KeyError when only some have it."""
    values = [seed.metrics.get(name) for seed in seeds]
    if all(value is None for value in values):
        return None
    if not all(isinstance(value, (int, float)) for value in values):
        raise KeyError(f"{name} is missing for some seeds: {values}")
    return mean([float(value) for value in values if isinstance(value, (int, float))])


def by_lane(metrics: Mapping[str, Metric], lane: Lane) -> list[str]:
    """Names of the metrics of one lane, in the order of declaration."""
    return [name for name, metric in metrics.items() if metric.lane == lane]
