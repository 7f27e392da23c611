"""What one case measured, and what each metric means. Knows nothing of pytest or torch.

A `Result` is written in the schema of PEFT's `method_comparison` (so PEFT's dashboard reads our files) plus one
block, `"peftbench"`, with everything that PEFT's schema has no place for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from pytest_peftbench.results.files import LINE, InputError, converted, require_name
from pytest_peftbench.results.metrics import Value

SCHEMA_VERSION = 3
# History: 1, first version. 2, `base` (the base model's own figures), and in baselines `noise`, both optional. 3, no
# owner is a function of this package; in baselines figures stand by metric, and apart from their evidence.


@dataclass(frozen=True)
class CaseId:
    """Names one case: `MetaMathQA-tiny-loha-rank8`, or `footprint-MetaMathQA-llama-3.2-3B-loha-rank32`.

    kind: what is done with the experiment; empty where it is trained.
    """

    task: str
    base_model: str
    method: str
    name: str
    kind: str = ""

    def __str__(self) -> str:
        return "-".join(part for part in (self.kind, self.task, self.base_model, self.method, self.name) if part)

    @property
    def experiment(self) -> str:
        """The experiment's folder in its suite: `loha/rank8`."""
        return f"{self.method}/{self.name}"

    @property
    def stem(self) -> str:
        """The name of files about the case, without suffix: `loha--rank8`."""
        return f"{self.method}--{self.name}"

    def to_json(self) -> dict[str, str]:
        """The fields; `kind` only where there is one."""
        return {name: value for name, value in asdict(self).items() if value or name != "kind"}

    def file(self, root: Path) -> Path:
        """`<root>/<task>/<base model>/<method>--<name>.json`; a kind comes before the task, if the case has one.

        Raises InputError when two cases could share the file, or when it would lie outside of its folder.
        """
        for part in (self.task, self.base_model, self.method, self.name, self.kind or "-"):
            require_name(f"case {self}"[:LINE], part)
        if "--" in self.method:
            raise InputError(f"case {self}: '--' separates method and name, so method {self.method!r} cannot hold it")
        require_name(f"case {self}"[:LINE], f"{self.stem}.json")
        return root / self.kind / self.task / self.base_model / f"{self.stem}.json"


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

    Or a reference, a picture of the concept alone. name: of the file, `reference-01.png`; what stands before the number
    says what it is of. seed: of the noise; 0 for a reference. png: the file's content, prompt and seed in its metadata.
    """

    name: str
    prompt: str
    seed: int
    png: bytes


# What a row counts: calls and FLOPs of an operator, or how many tensors and their bytes.
Counts = Annotated[list[int], Meta(min_length=2, max_length=2)]
# phase -> "operator @ owner" -> counts; says who spends what, and is compared only to explain a difference
Operators = dict[str, dict[str, Counts]]
# phase -> "shape dtype @ owner" -> counts; what is alive at the peak, likewise
PeakTensors = dict[str, dict[str, Counts]]


@dataclass(frozen=True)
class BaseReference:
    """The base model's own figures, without adapter, on the batch that the case's counters are taken on.

    What the environment moves, another torch or processor, it moves here too. losses: of a few steps of full
    fine-tuning. metrics: peak and saved bytes by the name of the case's metric. operators: as in `Result`.
    """

    losses: list[float]
    metrics: dict[str, Value]
    operators: Operators


# Counts up when a witness tells other things, or tells them otherwise: only those of one version are compared.
WITNESS_VERSION = 2
# The bound of a witness: quantities have 12 digits, so none is narrower; beyond the other a change could hide in it.
LEAST_BOUND, MOST_BOUND = 1e-10, 1e-7


@dataclass(frozen=True)
class Witness:
    """What a short training in double precision gave: equal on any machine but for rounding, see `cases.witness`.

    quantities: lists of numbers by name, in the order in which they come about, so that the first one that moved says
    where a change began. bound: the largest relative deviation that rounding explains; 0 where it was not measured.
    rate: the share of the experiment's learning rate that it trained with. version: see WITNESS_VERSION.
    """

    quantities: dict[str, list[float]]
    bound: float = 0.0
    rate: float = 1.0
    version: int = WITNESS_VERSION


@dataclass(frozen=True)
class Measured:
    """What one case measures, in a `Result`, or should measure, in a `Baseline`.

    metrics: the metrics that do not depend on the training seed (counters, checks, times). seeds: the others, by
    seed, ascending. case_version: a hash of all that defines the case; figures of different versions are not
    comparable. environment: see `environment.describe`. peak_tensors: the tensors alive at a phase's peak. base: the
    base model's own figures. witness: what tells rounding from change; a result has it where it was asked for.
    """

    case: CaseId
    case_version: str
    environment: dict[str, str]
    metrics: dict[str, Value]
    seeds: list[SeedRun]
    operators: Operators = field(default_factory=dict)
    peak_tensors: PeakTensors = field(default_factory=dict)
    base: BaseReference | None = None
    witness: Witness | None = None


@dataclass(frozen=True)
class Result(Measured):
    """Everything that one case measured.

    moved: seeds once more, those that were asked for, on base weights moved by their last digit. warnings: of a device
    that was not idle. pictures: samples of the first seed's model. notes: what a reader must know about how the figures
    came about. disturbed: quantities of the witness under what moves last digits only; a baseline's bound comes from
    them. kept: the files of an adapter that is to be kept beside the baseline, by path, see `results.kept`. made_from:
    what the result depends on beside its case version, by name; empty until its test has come to its end. peft: the
    fields that PEFT's own schema wants and we do not compare (`run_info`, `train_info`, `meta_info`).
    """

    status: str = "success"
    error_msg: str = ""
    moved: list[SeedRun] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    disturbed: list[dict[str, list[float]]] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)
    made_from: dict[str, str] = field(default_factory=dict)
    peft: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """PEFT's result schema plus the block `"peftbench"`."""
        block = {
            "schema": SCHEMA_VERSION,
            "case": self.case.to_json(),
            "case_version": self.case_version,
            "status": self.status,
            "error_msg": self.error_msg,
            "warnings": self.warnings,
            "environment": self.environment,
            "metrics": self.metrics,
            "seeds": [asdict(seed) for seed in self.seeds],
            "moved": [asdict(seed) for seed in self.moved],
            "operators": self.operators,
            "peak_tensors": self.peak_tensors,
            "base": asdict(self.base) if self.base else None,
            "witness": asdict(self.witness) if self.witness else None,
            "notes": self.notes,
            "pictures": [{"file": item.name, "prompt": item.prompt, "seed": item.seed} for item in self.pictures],
            "made_from": self.made_from,
        }
        return {**self.peft, "peftbench": block}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], source: str) -> Result:
        """The result that `to_json` wrote, without the pictures' content.

        source: names it in errors. Raises InputError for a block that another version wrote, or that is damaged.
        """
        block = converted(source, data.get("peftbench"), dict[str, Any], "peftbench")
        schema = converted(source, block.get("schema"), int, "peftbench.schema")
        if schema != SCHEMA_VERSION:
            raise InputError(f"{source}: peftbench.schema is {schema}, this version reads {SCHEMA_VERSION}")
        if missing := [key for key in ("case_version", "status", "metrics", "seeds", "operators") if key not in block]:
            raise InputError(f"{source}: peftbench.{missing[0]} is missing")
        fields = {key: value for key, value in block.items() if key != "pictures"}
        peft = {key: value for key, value in data.items() if key != "peftbench"}
        return replace(converted(source, fields, cls, "peftbench"), peft=peft)


@dataclass(frozen=True)
class SecondStage:
    """What a case does after its first seed.

    seeds: further ones that it trains. retime: whether it takes its times again. moved: seeds that it trains once more,
    on base weights moved by their last digit. witness: the share of its learning rate that it runs its witness with,
    after which it asks once more; 0: none. disturb: whether that is disturbed as well, for its bound.
    """

    seeds: tuple[int, ...] = ()
    retime: bool = False
    moved: tuple[int, ...] = ()
    witness: float = 0.0
    disturb: bool = False


def mean(values: list[float]) -> float:
    """Arithmetic mean; NaN when there is no value, so that nothing passes for a measurement."""
    return sum(values) / len(values) if values else float("nan")
