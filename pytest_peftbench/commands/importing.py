"""PEFT's published results as baselines, and what such a baseline may be compared with. Imports no torch.

A result of PEFT's says neither which data and weights it was measured on, nor what its operators were. So an imported
baseline is compared only with a case of the same training parameters and adapter config, on the same accelerator, and
only in the figures that are the same measure in both: everything else is `not comparable`, or left out, by name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pytest_peftbench.commands.command import Command, require_folder, say
from pytest_peftbench.compare.imported import MARK
from pytest_peftbench.results.baseline import DIGITS, Baseline, baseline_path, from_result, problem, write
from pytest_peftbench.results.files import InputError, read_json, typed
from pytest_peftbench.results.metrics import Value
from pytest_peftbench.results.result import CaseId, Result, SeedRun
from pytest_peftbench.results.words import plural

_T = TypeVar("_T")

# PEFT's names of the test figures, by task; each in the last entry of `metrics`.
_TASKS = {"MetaMathQA": "test accuracy", "image-gen": "test dino_similarity"}
_QUALITY: dict[str, tuple[str, Callable[[float], float]]] = {
    "test accuracy": ("test_accuracy", float),
    "test dino_similarity": ("test_dino_similarity", float),
    # PEFT's is the mean of 1 - cosine, ours has the half
    "drift": ("drift", lambda drift: drift / 2),
    "train loss": ("train_loss", float),
}
_COUNTS = {
    "params.trainable": "num_trainable_params",
    "params.total": "num_total_params",
    "checkpoint.bytes": "file_size",
}
NOT_IMPORTED = {
    "forgetting": "another measure: ours is of the next token",
    "accelerator memory": "of the whole run: ours is by phase",
    "times": "of another machine: ours are ratios to the base model",
}
_ACCELERATORS = {"NVIDIA": "cuda", "AMD": "cuda", "Intel": "xpu"}


def import_results(folder: Path, out: Path, say: Callable[[str], None]) -> int:
    """Write a baseline below `out` for each result file below `folder`; returns how many.

    say: gets a line per file. Raises InputError, naming file and key, for one that is no result, and when there is
    nothing to import.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; it should hold PEFT's result files, results/*.json")
    baselines: dict[CaseId, tuple[Path, Baseline]] = {}
    others = 0
    for file in sorted(folder.rglob("*.json")):
        data = read_json(file)
        if not {"run_info", "train_info", "meta_info"} <= data.keys():
            others += 1
            continue
        if (status := _get(file, data, "train_info", "status")) != "success":
            say(f"{file}: passed over: status {status}: {_get(file, data, 'run_info', 'error_msg')}")
            continue
        baseline = read_result(file, data)
        first, _ = baselines.setdefault(baseline.case, (file, baseline))
        if first != file:
            raise InputError(f"{file}: {first} is case {baseline.case} too; import one at a time")
    if not baselines:
        raise InputError(f"{folder}: holds no result that succeeded; {others} JSON files are no results")
    if others:
        say(f"{others} JSON files passed over: no results, which have run_info, train_info and meta_info")
    for case, (file, baseline) in baselines.items():
        path = baseline_path(out, case)
        write(baseline, path)
        say(f"{file}: {path}")
    if any(baseline.imported for _, baseline in baselines.values()):
        say("drift: PEFT's 1 - cosine became (1 - cosine) / 2, as here")
        for name, reason in NOT_IMPORTED.items():
            say(f"{name}: kept, but not compared: {reason}")
    return len(baselines)


def read_result(file: Path, data: dict[str, Any]) -> Baseline:
    """The baseline that a result file stands for: ours holds all of it, PEFT's what is the same measure in both."""
    if "peftbench" in data:
        return from_result(Result.from_json(data, str(file)))
    train, last = _typed(file, data, "run_info", "train_config", dict), _last_metrics(file, data)
    tasks = [task for task, name in _TASKS.items() if name in last]
    if len(tasks) != 1:
        raise InputError(f"{file}: train_info.metrics: the last entry holds none of {', '.join(_TASKS.values())}")
    method, _, name = _typed(file, data, "run_info", "experiment_name", str).partition("/")
    case = CaseId(tasks[0], Path(str(train.get("model_id", ""))).name, method, name)
    config = _get(file, data, "run_info", "peft_config")
    seed = typed(file, {"seed": 0, **train}, "seed", int, "run_info.train_config.")
    quality: dict[str, Value] = {
        ours: _rounded(convert(_number(file, f"train_info.metrics: {theirs}", last[theirs])))
        for theirs, (ours, convert) in _QUALITY.items()
        if theirs in last
    }
    definition = json.dumps([train, config], sort_keys=True)
    return Baseline(
        case=case,
        case_version=MARK + hashlib.sha256(definition.encode()).hexdigest()[:16],
        environment=_environment(file, data),
        metrics={
            ours: _number(file, f"train_info.{theirs}", _get(file, data, "train_info", theirs))
            for ours, theirs in _COUNTS.items()
        },
        seeds=[SeedRun(seed, quality)],
        imported={"file": file.name, **data},
    )


def _environment(file: Path, data: dict[str, Any]) -> dict[str, str]:
    packages, system = (_typed(file, data, "meta_info", key, dict) for key in ("package_info", "system_info"))
    accelerator = typed(file, {"accelerator": "unknown", **system}, "accelerator", str, "meta_info.system_info.")
    if not accelerator.strip():
        raise InputError(f"{file}: meta_info.system_info.accelerator is empty, so nobody knows what it was measured on")
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


def _get(file: Path, data: dict[str, Any], block: str, key: str) -> Any:
    found = data[block]
    if not isinstance(found, dict) or key not in found:
        raise InputError(f"{file}: key {block}.{key} is missing")
    return found[key]


def _rounded(number: float) -> float:
    """As any baseline's quality is; `imported` keeps all digits."""
    return float(f"{number:.{DIGITS}g}")


def _typed(file: Path, data: dict[str, Any], block: str, key: str, kind: type[_T]) -> _T:
    _get(file, data, block, key)
    return typed(file, data[block], key, kind, f"{block}.")


def _last_metrics(file: Path, data: dict[str, Any]) -> dict[str, Any]:
    found = _typed(file, data, "train_info", "metrics", list)
    if not found or not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{file}: train_info.metrics must be a list of objects, the last of which holds the test")
    last: dict[str, Any] = found[-1]
    return last


def _number(file: Path, place: str, value: Any) -> int | float:
    if reason := problem(value, "number"):
        raise InputError(f"{file}: {place} {reason}")
    number: int | float = value
    return number


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, metavar="DIR", help="folder of result files, at any depth")
    parser.add_argument("--out", type=Path, default=Path("baselines"), metavar="DIR", help="where (default: baselines)")


def _run(options: argparse.Namespace) -> int:
    require_folder(f"--out {options.out}", options.out)
    count = import_results(options.results, options.out, say)
    say(f"{plural(count, 'baseline')} written")
    return 0


COMMAND = Command(
    name="import",
    help="turn PEFT's published results into baselines",
    description="Write a baseline for each result file in the folder, PEFT's or ours. One of PEFT's is compared only "
    "on the same accelerator, with the same training parameters and adapter config, and only in what is the same "
    "measure in both.",
    add_arguments=_add_arguments,
    run=_run,
)
