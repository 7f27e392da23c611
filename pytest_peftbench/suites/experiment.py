"""An experiment, as a suite's files define it. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from pytest_peftbench.results.files import InputError, converted, read_json, require_name, resolved
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.tasks.config import TINY, Place, TrainConfig
from pytest_peftbench.tasks.registry import spec_of
from pytest_peftbench.tasks.spec import TaskSpec

DEFAULTS_FILE = "default_training_params.json"
PARAMS_FILE = "training_params.json"
ADAPTER_FILE = "adapter_config.json"
MARGINS_FILE = "margins.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def marker_of(method: str) -> str:
    """The marker that selects a method's cases: `peft_lora`."""
    return "peft_" + "".join(c if c.isalnum() else "_" for c in method)


@dataclass(frozen=True)
class Experiment:
    """One PEFT config on one task: a case as the benchmark runs it.

    adapter: the content of `adapter_config.json`; None for full fine-tuning. files: further JSON files below the
    experiment's folder, such as the configs of X-LoRA's experts, by relative path. seeds: training seeds to run.
    margins: differences by metric, in its unit, below which nobody cares, where they are not the catalogue's.
    data, models: local folders of data sets and models, `--peft-data` and `--peft-models`; None: each id says itself.
    kept: the folder for an adapter of the case that an earlier PEFT wrote, see `results.kept`; None: there is none.
    recording: whether the case's baseline is to be written.
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
    kept: Path | None = None
    recording: bool = False
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
    def file(self) -> Path:
        """The file that a reader opens to see what is run: the experiment's first one, or its suite's defaults."""
        own = [self.path / name for name in (ADAPTER_FILE, PARAMS_FILE)]
        return resolved(next((file for file in own if file.is_file()), None) or self.file_of("seed"))

    @property
    def marker(self) -> str:
        """The marker that selects this experiment's method: `peft_lora`."""
        return marker_of(self.case.method)

    def located(self, problem: object) -> str:
        """`file: key: what` of a problem `key: what`; of another, the experiment's folder stands before it."""
        key = str(problem).partition(":")[0]
        if hasattr(self.train, key):
            return f"{self.file_of(key)}: {problem}"
        return str(problem) if str(self.path) in str(problem) else f"{self.path}: {problem}"

    def file_of(self, key: str) -> Path:
        """The file that a training parameter is from: the experiment's own, or that of the suite's defaults."""
        own = self.path / PARAMS_FILE
        if len(self.path.parents) < 3 or (own.exists() and key in read_json(own)):  # the first: of no suite
            return own
        return self.suite / DEFAULTS_FILE

    def definition(self) -> dict[str, Any]:
        """What the experiment's files define, without the machine it runs on: part of the case version."""
        train = asdict(self.train)
        if self.train.gradient_accumulation_steps == 1:  # as in the versions that did not know the key
            del train["gradient_accumulation_steps"]
        return {"train": train, "adapter": self.adapter, "files": self.files}


def expert_folders(adapter: dict[str, Any], path: Path) -> dict[str, Path]:
    """The folders of the adapters that an adapter is made of, as X-LoRA's key `adapters` names them; none for others.

    path: the experiment's folder, which they lie in. Names are our own, counted up from 0: PEFT makes paths of them.
    Raises InputError for what is no folder of an adapter in the experiment's folder.
    """
    file = path / ADAPTER_FILE
    names = converted(file, adapter.get("adapters", {}), dict[str, str], "adapters")
    if "adapters" in adapter and not names:
        raise InputError(f"{file}: adapters: names no adapter; give each a name and a folder")
    for name, folder in names.items():
        parts = PurePath(folder).parts
        if not parts or ".." in parts or PurePath(folder).is_absolute():
            raise InputError(
                f"{file}: adapters.{name}: {folder!r} leads out of the experiment; name a folder in it, as experts/0"
            )
        for part in parts:
            require_name(f"{file}: adapters.{name}", part)
        if not (path / folder / ADAPTER_FILE).is_file():
            raise InputError(f"{file}: adapters.{name}: folder {folder!r} of the experiment holds no {ADAPTER_FILE}")
        weights = [item.name for item in sorted((path / folder).glob("adapter_model.*")) if item.name != WEIGHTS_FILE]
        if weights:
            raise InputError(f"{path / folder / weights[0]}: weights are read from {WEIGHTS_FILE} alone; save them so")
    return {str(number): path / folder for number, folder in enumerate(names.values())}
