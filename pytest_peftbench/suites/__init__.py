"""Reads suites of experiments in the layout of PEFT's `method_comparison`. Reads JSON only: imports no torch.

A suite is a folder with `default_training_params.json` and `experiments/<method>/<name>/` folders; each of those
holds `adapter_config.json`, `training_params.json`, or both (without the first: full fine-tuning).
"""

from __future__ import annotations

import ast
import importlib.util
import types
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pytest_peftbench.results.files import TOO_LARGE, InputError, read_json
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.tasks.config import TINY, Place, TrainConfig
from pytest_peftbench.tasks.registry import spec_of, specs
from pytest_peftbench.tasks.spec import TaskSpec

DEFAULTS_FILE = "default_training_params.json"
PARAMS_FILE = "training_params.json"
ADAPTER_FILE = "adapter_config.json"
MARGINS_FILE = "margins.json"


@dataclass(frozen=True)
class Experiment:
    """One PEFT config on one task: a case as the benchmark runs it.

    adapter: the content of `adapter_config.json`; None for full fine-tuning. files: further JSON files below the
    experiment's folder, such as the configs of X-LoRA's experts, by relative path. seeds: training seeds to run.
    margins: differences by metric, in its unit, below which nobody cares, where they are not those of `result.METRICS`.
    data, models: local folders of data sets and models, `--peft-data` and `--peft-models`; None: each id says itself.
    problem: why this case cannot run with the installed PEFT, though the rest of its suite can; empty when it can.
    """

    case: CaseId
    path: Path
    train: TrainConfig
    adapter: dict[str, Any] | None
    files: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    seeds: tuple[int, ...] = (0,)
    margins: dict[str, float] = field(default_factory=dict)
    data: Path | None = None
    models: Path | None = None
    problem: str = ""

    def require(self) -> None:
        """Raise InputError when the case cannot run."""
        if self.problem:
            raise InputError(self.problem)

    @property
    def spec(self) -> TaskSpec:
        """What is known of the experiment's task."""
        return spec_of(self.case.task)

    @property
    def place(self) -> Place:
        """Where the task runs and finds its models and data."""
        return Place(self.device, self.path, self.data, self.models)

    @property
    def is_embedded(self) -> bool:
        """Whether the base model comes with the package, weights and all."""
        return self.train.model_id == TINY and self.spec.embedded is not None

    @property
    def suite(self) -> Path:
        """The folder of the suite that the experiment belongs to."""
        return self.path.parents[2]

    @property
    def marker(self) -> str:
        """The marker that selects this experiment's method: `peft_lora`."""
        return "peft_" + "".join(c if c.isalnum() else "_" for c in self.case.method)

    def definition(self) -> dict[str, Any]:
        """What the experiment's files define, without the machine it runs on: part of the case version."""
        return {"train": asdict(self.train), "adapter": self.adapter, "files": self.files}


def find_suites(root: Path) -> list[Path]:
    """The suites in `root` (itself, or at any depth below), sorted. Raises InputError when `root` is no folder."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; a suite is a folder with {DEFAULTS_FILE} and experiments/")
    return sorted(path.parent for path in root.rglob(DEFAULTS_FILE))


def read_suite(suite: Path) -> list[Experiment]:
    """All experiments of one suite, sorted by method and name. Raises InputError naming file and key.

    An experiment of another PEFT's time, with a type or a training parameter that is unknown here, is read with its
    `problem`: the others of the suite can run.
    """
    task, base_model = _task_of(suite)
    config_type = spec_of(task).config
    default_file = suite / DEFAULTS_FILE
    defaults = read_json(default_file)
    _check_params(config_type, defaults, default_file)
    base_model = base_model or _base_model_name(config_type(**defaults).model_id)
    for name in (ADAPTER_FILE, PARAMS_FILE):
        for file in sorted((suite / "experiments").glob(f"*/{name}")):
            raise InputError(f"{file}: would be passed over; move it down, to experiments/<method>/<name>/{name}")
    folders = sorted(path for path in (suite / "experiments").glob("*/*") if path.is_dir())
    if not folders:
        raise InputError(f"{suite}: holds no experiment, which is a folder experiments/<method>/<name>/")
    return [_read_experiment(path, task, base_model, config_type, defaults) for path in folders]


def _task_of(suite: Path) -> tuple[str, str | None]:
    """Task and, where a folder of its own names it, base model of a suite."""
    suite = suite.resolve()
    if suite.name in specs():
        return suite.name, None
    if suite.parent.name in specs():
        return suite.parent.name, suite.name
    raise InputError(
        f"{suite}: neither this folder nor the one above it is named after a task "
        f"({', '.join(specs())}); name it <task>/ or <task>/<base model>/"
    )


def _base_model_name(model_id: str) -> str:
    return Path(model_id).name


def _read_experiment(
    path: Path, task: str, base_model: str, config_type: type[TrainConfig], defaults: dict[str, Any]
) -> Experiment:
    adapter_file, params_file = path / ADAPTER_FILE, path / PARAMS_FILE
    if not adapter_file.exists() and not params_file.exists():
        raise InputError(
            f"{path}: holds neither {ADAPTER_FILE} (a PEFT method) nor {PARAMS_FILE} (full fine-tuning); "
            "add one or remove the folder"
        )
    params = read_json(params_file) if params_file.exists() else {}
    known = {item.name for item in fields(config_type)}
    unknown = [_unknown_param(config_type, key, params_file) for key in params if key not in known]
    params = {key: value for key, value in params.items() if key in known}
    _check_params(config_type, params, params_file, partial=True)
    train = config_type(**{**defaults, **params})
    for problem in train.problems():
        raise InputError(
            f"{params_file if problem.split(':')[0] in params else path.parents[2] / DEFAULTS_FILE}: {problem}"
        )
    adapter = _read_adapter(adapter_file) if adapter_file.exists() else None
    unknown += _unknown_type(adapter, adapter_file)
    margins = {**_read_margins(path.parents[2]), **_read_margins(path)}
    ours = (adapter_file, params_file, path / MARGINS_FILE)
    others = [file for file in sorted(path.rglob("*.json")) if file not in ours]
    files = {file.relative_to(path).as_posix(): read_json(file) for file in others}
    case = CaseId(task, base_model, path.parent.name, path.name)
    return Experiment(
        case, path, train, adapter, files, seeds=(train.seed,), margins=margins, problem="\n".join(unknown)
    )


def _read_margins(folder: Path) -> dict[str, float]:
    file = folder / MARGINS_FILE
    margins = read_json(file) if file.exists() else {}
    known = [metric.name for metric in METRICS.values() if metric.lane in ("quality", "noisy")]
    for name, margin in margins.items():
        if name not in known:
            raise InputError(f"{file}: key {name!r} is no metric with a margin; there are {', '.join(known)}")
        if not is_a(margin, float) or margin < 0:
            raise InputError(f"{file}: {name}: expected a number of at least 0, found {margin!r}")
    return margins


def _read_adapter(file: Path) -> dict[str, Any]:
    adapter = read_json(file)
    if "peft_type" not in adapter:
        raise InputError(f"{file}: key 'peft_type' is missing")
    if not isinstance(adapter["peft_type"], str):
        raise InputError(f"{file}: peft_type: expected a string, found {adapter['peft_type']!r}")
    return adapter


def _unknown_type(adapter: dict[str, Any] | None, file: Path) -> list[str]:
    """The problem of a type that the installed PEFT does not have; none for full fine-tuning."""
    if adapter is None or adapter["peft_type"] in peft_types():
        return []
    return [
        f"{file}: peft_type: {adapter['peft_type']!r} is unknown to the installed PEFT, which knows "
        + ", ".join(sorted(peft_types()))
    ]


def _unknown_param(config_type: type[TrainConfig], key: str, file: Path) -> str:
    known = ", ".join(item.name for item in fields(config_type))
    return f"{file}: key {key!r} is no training parameter; known are {known}"


@cache
def peft_types() -> frozenset[str]:
    """The PEFT types of the installed PEFT, read from its source: importing PEFT takes seconds, and torch."""
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        raise InputError("peft is not installed: pip install peft")
    source = Path(spec.origin).parent / "utils" / "peft_types.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    enum = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "PeftType")
    values = (node.value for node in enum.body if isinstance(node, ast.Assign))
    return frozenset(
        value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)
    )


def _check_params(config_type: type[TrainConfig], params: dict[str, Any], file: Path, partial: bool = False) -> None:
    """Raise InputError unless each key of `params` is known and of the right type (and, if not partial, present)."""
    annotations = get_type_hints(config_type)
    hints = {item.name: annotations[item.name] for item in fields(config_type)}
    for key, value in params.items():
        if key not in hints:
            raise InputError(_unknown_param(config_type, key, file))
        if not is_a(value, hints[key]):
            raise InputError(f"{file}: {key}: expected {name_of(hints[key])}, found {value!r}")
    missing = [f.name for f in fields(config_type) if f.default is MISSING and f.name not in params]
    if missing and not partial:
        raise InputError(f"{file}: missing {', '.join(repr(name) for name in missing)}")


def is_a(value: object, hint: Any) -> bool:
    """Whether a JSON value has the annotated type. A bool is no number; an int is a float."""
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(is_a(item, get_args(hint)[0]) for item in value)
    if origin in (Union, types.UnionType):
        return any(is_a(value, option) for option in get_args(hint))
    expected = origin or hint
    if isinstance(value, bool):
        return expected is bool
    if expected is float:
        return isinstance(value, (int, float)) and abs(value) <= TOO_LARGE
    return isinstance(value, expected)


def name_of(hint: Any) -> str:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType, Literal) else (hint,)
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false", type(None): "null"}
    names |= {list[str]: "a list of strings", list[int]: "a list of integers"}
    return " or ".join(
        names.get(option) or ("an object" if get_origin(option) is dict else _name_or_value(option))
        for option in options
    )


def _name_or_value(option: Any) -> str:
    return name_of(option) if get_origin(option) is Literal else f'"{option}"'
