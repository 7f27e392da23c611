"""The part of a result file that PEFT's own `method_comparison` writes and reads."""

from __future__ import annotations

import datetime
import importlib.util
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pytest_peftbench.measure.environment import accelerator_name, installed
from pytest_peftbench.results.metrics import Value
from pytest_peftbench.suites import Experiment

# Where a model or a data set comes from, which we do not ask the hub.
_UNKNOWN = {"sha": None, "created_at": None}
_PACKAGES = ("transformers", "peft", "datasets", "diffusers", "bitsandbytes", "torch")


def peft_fields(
    experiment: Experiment,
    config: dict[str, Any] | None,
    history: list[dict[str, Value]],
    metrics: dict[str, Value],
    train_time_s: float,
    started: float,
    reserved_bytes: list[int],
    reserved_peak_bytes: int,
    error_msg: str = "",
) -> dict[str, Any]:
    """`run_info`, `train_info` and `meta_info` of one case.

    config: `PeftConfig.to_dict()`. history: PEFT's `metrics` list, whose last entry holds the test figures.
    train_time_s: without validations. started: seconds since the epoch, before anything was loaded; all since then is
    the total time. reserved_bytes: the accelerator's reserved memory after each step. reserved_peak_bytes: the most
    while loading, training and evaluating. error_msg: why the case did not get to its end.
    """
    created = datetime.datetime.fromtimestamp(started, tz=datetime.timezone.utc).replace(microsecond=0)
    reserved = sorted(reserved_bytes) or [0]
    run_info = {
        "created_at": created.isoformat(),
        "total_time": time.time() - started,
        "experiment_name": experiment.case.experiment,
        "peft_branch": _git("peft", "rev-parse", "--abbrev-ref", "HEAD"),
        "train_config": asdict(experiment.train),
        "peft_config": _plain(config),
        "error_msg": error_msg,
    }
    train_info = {
        "accelerator_memory_reserved_avg": sum(reserved) // len(reserved),
        "accelerator_memory_max": reserved_peak_bytes,
        "accelerator_memory_reserved_99th": reserved[(len(reserved) - 1) * 99 // 100],
        "train_time": train_time_s,
        "file_size": metrics.get("checkpoint.bytes", 0),
        "num_trainable_params": metrics.get("params.trainable", 0),
        "num_total_params": metrics.get("params.total", 0),
        "status": "failed" if error_msg else "success",
        "metrics": history,
    }
    return {"run_info": run_info, "train_info": train_info, "meta_info": _meta_info(experiment)}


def _meta_info(experiment: Experiment) -> dict[str, Any]:
    system = {key: getattr(platform, key)() for key in ("system", "release", "version", "machine", "processor")}
    return {
        "model_info": _UNKNOWN,
        "dataset_info": dict.fromkeys(experiment.train.DATA_SETS, _UNKNOWN) or _UNKNOWN,
        "package_info": _packages(),
        "system_info": {**system, "accelerator": accelerator_name(experiment.device)},
        "pytorch_info": torch.__config__.show(),
    }


def _packages() -> dict[str, str | None]:
    info: dict[str, str | None] = {}
    for name in _PACKAGES:
        version = installed(name)
        info[f"{name}-version"] = None if version == "not installed" else version
        info[f"{name}-commit-hash"] = _git(name, "rev-parse", "HEAD")
    return info


def _git(package: str, *arguments: str) -> str | None:
    """Answer of git about the checkout that a package is installed from; None for one from an index."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or "site-packages" in spec.origin:
        return None
    answer = subprocess.run(
        ["git", *arguments], cwd=Path(spec.origin).parent, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or None


def _plain(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """The config with sets as sorted lists, which JSON and a reader of diffs can take."""
    if config is None:
        return None
    return {key: sorted(value) if isinstance(value, (set, frozenset)) else value for key, value in config.items()}
