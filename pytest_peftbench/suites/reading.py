"""Reads suites of experiments in the layout of PEFT's `method_comparison`. Reads JSON only: imports no torch.

A suite is a folder with `default_training_params.json` and `experiments/<method>/<name>/` folders; each of those
holds `adapter_config.json`, `training_params.json`, or both (without the first: full fine-tuning).
"""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from pytest_peftbench.results.files import InputError, converted, read_json, require_plain, resolved, stands
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.results.sources import class_in
from pytest_peftbench.suites.experiment import (
    ADAPTER_FILE,
    DEFAULTS_FILE,
    MARGINS_FILE,
    PARAMS_FILE,
    WEIGHTS_FILE,
    Experiment,
    expert_folders,
)
from pytest_peftbench.tasks.config import TrainConfig
from pytest_peftbench.tasks.registry import spec_of, specs


@dataclass(frozen=True)
class _Adapter:
    peft_type: str


def find_suites(root: Path) -> list[Path]:
    """The suites in `root` (itself, or at any depth below), sorted.

    Raises InputError when `root` is no folder, and where experiments of a task lack the suite's defaults.
    """
    if not resolved(root).is_dir():
        raise InputError(f"{root}: no such folder; a suite is a folder with {DEFAULTS_FILE} and experiments/")
    suites, others = [], []
    for above, folders, files in os.walk(root):  # not by `rglob`, which passes over a link that leads nowhere
        if DEFAULTS_FILE in (*folders, *files):
            suites.append(Path(above))
        elif "experiments" in folders:
            others.append(Path(above))
    for suite in others:
        if {suite.name, suite.parent.name} & specs().keys():
            for file in sorted(suite.glob(f"experiments/*/*/{ADAPTER_FILE}")):
                raise InputError(f"{suite}: lacks {DEFAULTS_FILE}, so {file} and others would be passed over")
    return sorted(suites)


def read_suite(suite: Path) -> list[Experiment]:
    """All experiments of one suite, sorted by method and name. Raises InputError naming file and key.

    An experiment of another PEFT's time, with a type or a training parameter that is unknown here, is read with its
    `problem`: the others of the suite can run.
    """
    task, base_model = _task_of(suite)
    config_type = spec_of(task).config
    default_file = suite / DEFAULTS_FILE
    defaults = read_json(default_file)
    for key in _unknown(config_type, defaults):
        raise InputError(_unknown_param(config_type, key, default_file))
    # for the check alone: a value stays as the file has it, 1 for a number with a point too
    converted(default_file, defaults, config_type)
    base_model = base_model or Path(config_type(**defaults).model_id).name
    for file in sorted(suite.glob("*")):
        names = [DEFAULTS_FILE, MARGINS_FILE, ADAPTER_FILE, PARAMS_FILE]
        meant = difflib.get_close_matches(file.name, names, n=1, cutoff=0.8)
        if meant and file.name not in (DEFAULTS_FILE, MARGINS_FILE):
            there = "" if meant[0] in (DEFAULTS_FILE, MARGINS_FILE) else " in the folder of an experiment"
            raise InputError(f"{file}: would be passed over; name it {meant[0]}{there}, or give it another name")
    folders = [folder for method in _folders(suite / "experiments") for folder in _folders(method)]
    read = [_read_experiment(path, task, base_model, config_type, defaults) for path in folders]
    read += _brought(suite, task, base_model, config_type, defaults, known={experiment.path for experiment in read})
    if not read:
        raise InputError(f"{suite}: holds no experiment, which is a folder experiments/<method>/<name>/")
    return sorted(read, key=lambda experiment: experiment.path)


def _brought(
    suite: Path,
    task: str,
    base_model: str,
    config_type: type[TrainConfig],
    defaults: dict[str, Any],
    known: Collection[Path],
) -> list[Experiment]:
    """What the task brings itself, but for experiments that the suite has a folder for."""
    try:
        brought = spec_of(task).experiments(config_type(**defaults).model_id)
    except InputError as error:
        raise InputError(f"{suite / DEFAULTS_FILE}: {error}") from error
    found = []
    for name, (adapter, params) in brought.items():
        path = suite / "experiments" / name
        if path not in known:
            case = CaseId(task, base_model, path.parent.name, path.name)
            train = config_type(**{**defaults, **params})
            _require_sound(train, (), path, suite / DEFAULTS_FILE)
            problem = "\n".join(_unknown_type(adapter, path / ADAPTER_FILE))
            found.append(Experiment(case, path, train, adapter, seeds=(train.seed,), problem=problem))
    return found


def _folders(above: Path) -> list[Path]:
    """The folders in one, sorted. Raises InputError for anything else but notes: a broken link, a file too high."""
    found = sorted(path for path in above.glob("*") if not _is_note(path))
    for path in found:
        if not path.is_dir():
            raise InputError(
                f"{path}: is no folder and would be passed over; an experiment is a folder "
                f"experiments/<method>/<name>/ with {ADAPTER_FILE} or {PARAMS_FILE}"
            )
    return found


def _is_note(path: Path) -> bool:
    """Whether it is for people alone: a hidden file, or a text that does not have the name of a JSON file."""
    return path.name.startswith(".") or (path.suffix in (".md", ".txt") and ".json" not in path.name)


def _task_of(suite: Path) -> tuple[str, str | None]:
    """Task and, where a folder of its own names it, base model of a suite."""
    suite = resolved(suite)
    if suite.name in specs():
        return suite.name, None
    if suite.parent.name in specs():
        return suite.parent.name, suite.name
    raise InputError(
        f"{suite}: neither this folder nor the one above it is named after a task "
        f"({', '.join(specs())}); name it <task>/ or <task>/<base model>/"
    )


def _read_experiment(
    path: Path, task: str, base_model: str, config_type: type[TrainConfig], defaults: dict[str, Any]
) -> Experiment:
    adapter_file, params_file = path / ADAPTER_FILE, path / PARAMS_FILE
    adapter = _read_adapter(adapter_file) if stands(adapter_file) else None
    experts = expert_folders(adapter or {}, path).values()
    ours = (adapter_file, params_file, path / MARGINS_FILE)
    experts_files = [folder / name for folder in experts for name in (ADAPTER_FILE, WEIGHTS_FILE)]
    _require_known(path, [*ours, *experts_files])
    if adapter is None and not stands(params_file):
        raise InputError(
            f"{path}: holds neither {ADAPTER_FILE} (a PEFT method) nor {PARAMS_FILE} (full fine-tuning); "
            "add one or remove the folder"
        )
    if adapter is None and _letters(path.parent.name) in map(_letters, peft_types()):
        raise InputError(
            f"{path}: holds no {ADAPTER_FILE}, so it would be full fine-tuning under the name of a method; add it, or "
            "move the folder to experiments/full-finetuning/"
        )
    params = read_json(params_file) if stands(params_file) else {}
    strange = _unknown(config_type, params)
    unknown = [_unknown_param(config_type, key, params_file) for key in strange]
    params = {key: value for key, value in params.items() if key not in strange}
    converted(params_file, {**defaults, **params}, config_type)
    train = config_type(**{**defaults, **params})
    _require_sound(train, params, params_file, path.parents[2] / DEFAULTS_FILE)
    unknown += _unknown_type(adapter, adapter_file)
    margins = {**_read_margins(path.parents[2]), **_read_margins(path)}
    others = sorted({folder / ADAPTER_FILE for folder in experts})
    files = {file.relative_to(path).as_posix(): read_json(file) for file in others}
    case = CaseId(task, base_model, path.parent.name, path.name)
    try:
        case.file(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return Experiment(
        case, path, train, adapter, files, seeds=(train.seed,), margins=margins, problem="\n".join(unknown)
    )


def _require_sound(train: TrainConfig, params: Collection[str], params_file: Path, defaults_file: Path) -> None:
    """Raise InputError for a value that cannot be trained with, naming the file that holds it."""
    for problem in train.problems():
        raise InputError(f"{params_file if problem.split(':')[0] in params else defaults_file}: {problem}")


def _require_known(folder: Path, known: Collection[Path]) -> None:
    """Raise InputError for a file that nobody would read, and for what is no file: a typo changes the meaning."""
    for file in sorted(folder.rglob("*")):
        if file in known:
            require_plain(file)
        elif not file.is_dir() and not _is_note(file):
            names = ", ".join(sorted({item.relative_to(folder).as_posix() for item in known}))
            raise InputError(f"{file}: is no file of an experiment, here {names}; correct its name or remove it")


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _read_margins(folder: Path) -> dict[str, float]:
    file = folder / MARGINS_FILE
    margins = read_json(file) if stands(file) else {}
    known = [metric.name for metric in METRICS.values() if metric.lane in ("quality", "noisy")]
    for name in margins:
        if name not in known:
            raise InputError(f"{file}: key {name!r} is no metric with a margin; there are {', '.join(known)}")
    return converted(file, margins, dict[str, Annotated[float, Meta(ge=0)]])


def _read_adapter(file: Path) -> dict[str, Any]:
    adapter = read_json(file)
    converted(file, adapter, _Adapter)
    return adapter


def _unknown_type(adapter: dict[str, Any] | None, file: Path) -> list[str]:
    """The problem of a type that the installed PEFT does not have; none for full fine-tuning."""
    if adapter is None or adapter["peft_type"] in peft_types():
        return []
    return [
        f"{file}: peft_type: {adapter['peft_type']!r} is unknown to the installed PEFT, which knows "
        + ", ".join(sorted(peft_types()))
    ]


def _unknown(config_type: type[TrainConfig], params: dict[str, Any]) -> list[str]:
    known = {item.name for item in fields(config_type)}
    return [key for key in params if key not in known]


def _unknown_param(config_type: type[TrainConfig], key: str, file: Path) -> str:
    known = ", ".join(item.name for item in fields(config_type))
    return f"{file}: key {key!r} is no training parameter; known are {known}"


@cache
def peft_types() -> frozenset[str]:
    """The PEFT types of the installed PEFT."""
    enum = class_in("peft", "utils/peft_types.py", "PeftType")
    values = (node.value for node in enum.body if isinstance(node, ast.Assign))
    return frozenset(
        value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)
    )
