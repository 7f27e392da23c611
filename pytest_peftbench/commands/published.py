"""PEFT's published results in our words: which figures are the same measure, and which are not. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pytest_peftbench.compare.imported import MARK
from pytest_peftbench.results.baseline import Baseline, rounded
from pytest_peftbench.results.files import InputError, converted
from pytest_peftbench.results.metrics import Metric, Value
from pytest_peftbench.results.result import CaseId, Result, SeedRun
from pytest_peftbench.tasks.registry import specs
from pytest_peftbench.tasks.spec import TaskSpec

KEYS = frozenset({"run_info", "train_info", "meta_info"})
_COUNTS = {
    "params.trainable": "num_trainable_params",
    "params.total": "num_total_params",
    "checkpoint.bytes": "file_size",
}
_ACCELERATORS = {"NVIDIA": "cuda", "AMD": "cuda", "Intel": "xpu"}
_MACHINE = ("device", "accelerator")
# Figures that PEFT publishes and that are another measure than any of ours: shown beside each other, and compared
# with nothing but themselves, by size.
PUBLISHED: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "published.forgetting",
            "nats",
            "lower",
            "info",
            "rise of the loss on general text, as PEFT publishes it; ours is of the next token",
            absolute_margin=0.02,
            relative_margin=0.05,
        ),
        Metric(
            "published.memory_max_bytes",
            "bytes",
            "lower",
            "info",
            "most memory that the accelerator's allocator reserved in the whole run, as PEFT publishes it",
            relative_margin=0.05,
            needs=_MACHINE,
        ),
        Metric(
            "published.memory_avg_bytes",
            "bytes",
            "lower",
            "info",
            "mean memory that the accelerator's allocator reserved, as PEFT publishes it",
            relative_margin=0.05,
            needs=_MACHINE,
        ),
        Metric(
            "published.train_time_s",
            "s",
            "lower",
            "info",
            "time of the training, as PEFT publishes it",
            relative_margin=0.30,
            needs=_MACHINE,
        ),
    )
}
# Keys of `train_info`, today's and, of earlier results, those of CUDA.
_OF_TRAIN_INFO = {
    "published.memory_max_bytes": ("accelerator_memory_max", "cuda_memory_max"),
    "published.memory_avg_bytes": ("accelerator_memory_reserved_avg", "cuda_memory_reserved_avg"),
    "published.train_time_s": ("train_time",),
}


# Of PEFT's result, what a baseline takes; a run that failed may lack some of it.


@dataclass(frozen=True)
class _Status:
    status: str


@dataclass(frozen=True)
class _Ended:
    train_info: _Status


@dataclass(frozen=True)
class _Named:
    experiment_name: str
    train_config: dict[str, Any]
    error_msg: str = ""


@dataclass(frozen=True)
class _RunInfo:
    experiment_name: str
    train_config: dict[str, Any]
    peft_config: dict[str, Any] | None


@dataclass(frozen=True)
class _TrainInfo:
    num_trainable_params: int
    num_total_params: int
    file_size: int
    metrics: list[dict[str, Any]]


@dataclass(frozen=True)
class _MetaInfo:
    package_info: dict[str, Any]
    system_info: dict[str, Any]


@dataclass(frozen=True)
class _PeftResult:
    run_info: _RunInfo
    train_info: _TrainInfo
    meta_info: _MetaInfo


def read_published(file: Path, data: dict[str, Any]) -> Baseline | Result:
    """The baseline that one of PEFT's results stands for; of a run that failed, a result that says so.

    Raises InputError, naming file and key, for one that is damaged or of no task that publishes.
    """
    if (status := status_of(file, data)) == "success":
        return _read_success(file, data)
    named = converted(file, data["run_info"], _Named, "run_info")
    return Result(
        case=_case(_task_of_config(named.train_config, file), named.experiment_name, named.train_config),
        case_version="",
        environment={},
        metrics={},
        seeds=[],
        status=status,
        error_msg=named.error_msg,
    )


def status_of(file: Path, data: dict[str, Any]) -> str:
    """Whether a run of PEFT's got to its end: `success`, or another word. Raises InputError where it does not say."""
    return converted(file, data, _Ended).train_info.status


def _read_success(file: Path, data: dict[str, Any]) -> Baseline:
    result = converted(file, data, _PeftResult)
    run, train, metrics = result.run_info, result.run_info.train_config, result.train_info.metrics
    if not metrics:
        raise InputError(f"{file}: train_info.metrics is empty; its last entry holds the figures of the test")
    last, place = metrics[-1], f"train_info.metrics[{len(metrics) - 1}]"
    task = task_of(last, f"{file}: {place}")
    if missing := [item.figure for item in task.published if item.figure not in last]:
        raise InputError(f"{file}: {place} lacks {missing[0]!r}, which is compared; the whole result has it")
    quality: dict[str, Value] = {
        item.metric: rounded(item.factor * converted(file, last[item.figure], float, f"{place}.{item.figure}"))
        for item in task.published
    }
    definition = json.dumps([train, run.peft_config], sort_keys=True)
    return Baseline(
        case=_case(task, run.experiment_name, train),
        case_version=MARK + hashlib.sha256(definition.encode()).hexdigest()[:16],
        environment=_environment(file, result.meta_info),
        metrics={ours: getattr(result.train_info, theirs) for ours, theirs in _COUNTS.items()},
        seeds=[SeedRun(converted(file, train.get("seed", 0), int, "run_info.train_config.seed"), quality)],
        imported={"file": file.name, **_kept(data)},
    )


def other_figures(data: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a result of PEFT's that are no measure of ours, by their names in PUBLISHED."""
    train = data["train_info"]
    found = {name: next((train[key] for key in keys if key in train), None) for name, keys in _OF_TRAIN_INFO.items()}
    if train.get("metrics"):
        found["published.forgetting"] = train["metrics"][-1].get("forgetting")
    numbers = {name: found.get(name) for name in PUBLISHED}
    return {name: float(value) for name, value in numbers.items() if isinstance(value, (int, float))}


def task_of(figures: dict[str, Any], place: str) -> TaskSpec:
    """The task whose first published figure is among these. Raises InputError for none or several."""
    published = [spec for spec in specs().values() if spec.published]
    found = [spec for spec in published if spec.published[0].figure in figures]
    if len(found) != 1:
        known = ", ".join(spec.published[0].figure for spec in published)
        raise InputError(f"{place}: holds {'several' if found else 'none'} of {known}")
    return found[0]


def _task_of_config(config: Mapping[str, Any], file: Path) -> TaskSpec:
    """The task whose training parameters these are: a run that failed has no figures that would tell."""
    shared = {
        name: len(config.keys() & {item.name for item in fields(spec.config)})
        for name, spec in specs().items()
        if spec.published
    }
    best = [name for name, count in shared.items() if count and count == max(shared.values())]
    if len(best) != 1:
        raise InputError(f"{file}: run_info.train_config is of none of the tasks {', '.join(shared)}")
    return specs()[best[0]]


def _case(task: TaskSpec, experiment: str, config: Mapping[str, Any]) -> CaseId:
    method, _, name = experiment.partition("/")
    return CaseId(task.name, Path(str(config.get("model_id", ""))).name, method, name)


def _kept(data: dict[str, Any]) -> dict[str, Any]:
    """What a baseline keeps of a result: not the machine, whose description is long and part of no comparison."""
    packages = {"package_info": data["meta_info"]["package_info"]}
    return {"run_info": data["run_info"], "train_info": data["train_info"], "meta_info": packages}


def _environment(file: Path, meta: _MetaInfo) -> dict[str, str]:
    packages, system = meta.package_info, meta.system_info
    key = "accelerator" if "accelerator" in system or "gpu" not in system else "gpu"  # the name in earlier results
    place = f"meta_info.system_info.{key}"
    accelerator = converted(file, system.get(key, "unknown"), str, place)
    if not accelerator.strip():
        raise InputError(f"{file}: {place} is empty, so nobody knows what it was measured on")
    versions = {name: str(packages.get(f"{name}-version")).split("+")[0] for name in ("torch", "transformers", "peft")}
    return dict(
        sorted(
            {
                **versions,
                "machine": str(system.get("machine", "unknown")),
                "device": _ACCELERATORS.get(accelerator.partition(" ")[0], "unknown"),
                "accelerator": accelerator,
            }.items()
        )
    )
