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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_peftbench.commands.command import Command, say
from pytest_peftbench.compare.imported import MARK
from pytest_peftbench.results.baseline import (
    Baseline,
    baseline_path,
    from_result,
    read,
    require_usable,
    rounded,
    write_all,
)
from pytest_peftbench.results.files import InputError, converted, read_json, require_writable, resolved, stands
from pytest_peftbench.results.metrics import Value
from pytest_peftbench.results.result import CaseId, Result, SeedRun
from pytest_peftbench.results.words import plural
from pytest_peftbench.tasks.registry import specs
from pytest_peftbench.tasks.spec import TaskSpec

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


# Of PEFT's result, what a baseline takes; a run that failed may lack some of it.


@dataclass(frozen=True)
class _Status:
    status: str


@dataclass(frozen=True)
class _Ended:
    train_info: _Status


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


def import_results(folder: Path, out: Path, replace_measured: bool, say: Callable[[str], None]) -> int:
    """Write a baseline below `out` for each result file below `folder`, all or none; returns how many.

    replace_measured: whether one may take the place of a baseline that was recorded. say: gets a line per file. Raises
    InputError, naming file and key, for one that is no result, and when there is nothing to import.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; it should hold PEFT's result files, results/*.json")
    if resolved(folder) == resolved(out):
        raise InputError(f"--out {out}: is the folder of the results; baselines need one of their own")
    baselines: dict[CaseId, tuple[Path, Baseline]] = {}
    others = 0
    for file in sorted(folder.rglob("*.json")):
        data = read_json(file)
        if not {"run_info", "train_info", "meta_info"} <= data.keys():
            others += 1
            continue
        if (status := converted(file, data, _Ended).train_info.status) != "success":
            error = converted(file, data["run_info"], dict[str, Any], "run_info").get("error_msg", "")
            say(f"{file}: passed over: status {status}: {error}")
            continue
        baseline = read_result(file, data)
        try:
            require_usable(baseline, baseline_path(out, baseline.case))
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        first, _ = baselines.setdefault(baseline.case, (file, baseline))
        if first != file:
            raise InputError(f"{file}: {first} is case {baseline.case} too; import one at a time")
    if not baselines:
        raise InputError(f"{folder}: holds no result that succeeded; {others} JSON files are no results")
    if others:
        say(f"{others} JSON files passed over: no results, which have run_info, train_info and meta_info")
    written = {baseline_path(out, case): found for case, found in baselines.items()}
    for path, (file, baseline) in written.items():
        if not replace_measured:
            _check_replaced(path, file, baseline)
    write_all({path: baseline for path, (_, baseline) in written.items()})
    for path, (file, _) in written.items():
        say(f"{file}: {path}")
    if any(baseline.imported for _, baseline in baselines.values()):
        say("drift: PEFT's 1 - cosine became (1 - cosine) / 2, as here")
        for name, reason in NOT_IMPORTED.items():
            say(f"{name}: kept, but not compared: {reason}")
    return len(baselines)


def _check_replaced(path: Path, file: Path, new: Baseline) -> None:
    """Raise InputError where a baseline is there that is more than another import."""
    if not stands(path):
        return
    try:
        old = read(path)
    except InputError as error:
        raise InputError(f"{error}; --replace puts {file} in its place") from error
    if not old.imported and old != new:
        noise = " with their noise" if old.noise else ""
        raise InputError(
            f"{path}: is a baseline that was measured, with {plural(len(old.seeds), 'seed')}{noise}, and {file} would "
            "take its place; give another --out, or --replace it"
        )


def read_result(file: Path, data: dict[str, Any]) -> Baseline:
    """The baseline that a result file stands for: ours holds all of it, PEFT's what is the same measure in both."""
    if "peftbench" in data:
        # a result's witness has no bound; one is measured where a baseline is recorded
        ours = Result.from_json(data, str(file))
        if ours.status != "success":
            raise InputError(f"{file}: peftbench.status is {ours.status!r}, not 'success'; it is no baseline")
        return replace(from_result(ours), witness=None)
    result = converted(file, data, _PeftResult)
    run, train, metrics = result.run_info, result.run_info.train_config, result.train_info.metrics
    if not metrics:
        raise InputError(f"{file}: train_info.metrics is empty; its last entry holds the figures of the test")
    last, place = metrics[-1], f"train_info.metrics[{len(metrics) - 1}]"
    task = _task_of(last, f"{file}: {place}")
    if missing := [item.figure for item in task.published if item.figure not in last]:
        raise InputError(f"{file}: {place} lacks {missing[0]!r}, which is compared; the whole result has it")
    method, _, name = run.experiment_name.partition("/")
    quality: dict[str, Value] = {
        item.metric: rounded(item.factor * converted(file, last[item.figure], float, f"{place}.{item.figure}"))
        for item in task.published
    }
    definition = json.dumps([train, run.peft_config], sort_keys=True)
    return Baseline(
        case=CaseId(task.name, Path(str(train.get("model_id", ""))).name, method, name),
        case_version=MARK + hashlib.sha256(definition.encode()).hexdigest()[:16],
        environment=_environment(file, result.meta_info),
        metrics={ours: getattr(result.train_info, theirs) for ours, theirs in _COUNTS.items()},
        seeds=[SeedRun(converted(file, train.get("seed", 0), int, "run_info.train_config.seed"), quality)],
        imported={"file": file.name, **_kept(data)},
    )


def _task_of(figures: dict[str, Any], place: str) -> TaskSpec:
    """The task whose first published figure is among these. Raises InputError for none or several."""
    published = [spec for spec in specs().values() if spec.published]
    found = [spec for spec in published if spec.published[0].figure in figures]
    if len(found) != 1:
        known = ", ".join(spec.published[0].figure for spec in published)
        raise InputError(f"{place}: holds {'several' if found else 'none'} of {known}")
    return found[0]


def _kept(data: dict[str, Any]) -> dict[str, Any]:
    """What a baseline keeps of a result: not the machine, whose description is long and part of no comparison."""
    packages = {"package_info": data["meta_info"]["package_info"]}
    return {"run_info": data["run_info"], "train_info": data["train_info"], "meta_info": packages}


def _environment(file: Path, meta: _MetaInfo) -> dict[str, str]:
    packages, system = meta.package_info, meta.system_info
    place = "meta_info.system_info.accelerator"
    accelerator = converted(file, system.get("accelerator", "unknown"), str, place)
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


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, metavar="DIR", help="folder of result files, at any depth")
    parser.add_argument("--out", type=Path, default=Path("baselines"), metavar="DIR", help="where (default: baselines)")
    parser.add_argument("--replace", action="store_true", help="put results in the place of measured baselines, too")


def _run(options: argparse.Namespace) -> int:
    require_writable(f"--out {options.out}", options.out)
    count = import_results(options.results, options.out, options.replace, say)
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
