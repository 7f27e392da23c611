"""What a case is expected to measure: where its baseline lies, and reading and writing it.

A baseline is a file under version control, so it holds only what is compared, rounded and ordered so that a diff
shows what changed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from pytest_peftbench.results.files import (
    MOST_SEEDS,
    TOO_LARGE,
    InputError,
    converted,
    format_json,
    read_json,
    stands,
    write_files,
)
from pytest_peftbench.results.laws import LAW, standing
from pytest_peftbench.results.metrics import COUNTED, METRICS, PEAK_PARTS, Kind, Metric, Value, by_lane
from pytest_peftbench.results.result import (
    LEAST_BOUND,
    MOST_BOUND,
    SCHEMA_VERSION,
    BaseReference,
    CaseId,
    Counts,
    Measured,
    Operators,
    Result,
    SeedRun,
    Witness,
)

# Significant digits of a quality or a time.
DIGITS = 6
_KINDS: dict[Kind, str] = {
    "number": "a number",
    "text": "text",
    "list": "a list of numbers",
    "table": "an object of texts",
}
# Between operator and owner in a row of `Operators`, tensor and owner in one of `PeakTensors`.
_AT = " @ "
# Characters of a text sample that a file holds in a row.
_CHUNK = 64
# phase -> owner -> operator or tensor -> counts
_ByOwner = dict[str, dict[str, dict[str, Counts]]]


@dataclass(frozen=True)
class Noise:
    """How much a quality metric differs between seeds of unchanged code.

    sd: standard deviation between `seeds` seeds, in the metric's unit. detectable: smallest regression that a case is
    caught with, nine times out of ten, when all of the baseline's seeds run. paired_sd: standard deviation of the same
    seeds' differences when each is trained again on base weights moved by their last digit; None where that was not
    measured. Where it was, `detectable` is that of pairs.
    """

    sd: Annotated[float, Meta(ge=0)]
    seeds: Annotated[int, Meta(ge=2, le=MOST_SEEDS)]
    detectable: Annotated[float, Meta(ge=0)]
    paired_sd: Annotated[float, Meta(ge=0)] | None = None


@dataclass(frozen=True)
class Baseline(Measured):
    """What a case is expected to measure, as far as it is compared.

    noise: of each quality metric, where there are at least two seeds. imported: what is kept of PEFT's own result,
    where the baseline stands for one (see `commands.published`). path: the file it was read from, if any. intervals:
    of the values that a result measured, by the name of their metric; no file holds them. Two baselines that differ
    in nothing but the last two are equal.
    """

    noise: dict[str, Noise] = field(default_factory=dict)
    imported: dict[str, Any] = field(default_factory=dict)
    path: Path | None = field(default=None, compare=False)
    intervals: dict[str, Value] = field(default_factory=dict, compare=False)


class OlderSchemaError(InputError):
    """A baseline that an older version of this package wrote; an update replaces it."""


def baseline_path(root: Path, case: CaseId) -> Path:
    """Where a case's baseline lies below `root`: see `CaseId.file`, which raises InputError."""
    return case.file(root)


def from_result(result: Result, metrics: Mapping[str, Metric] = METRICS) -> Baseline:
    """The part of `result` that is compared, rounded as a baseline is, so that equal measurements are equal.

    Information that is never compared is left out; it would only churn the diff. Undeclared metrics are kept:
    comparing reports them. Raises InputError for a result that did not succeed.
    """
    if result.status != "success":
        raise InputError(
            f"{result.case}: no baseline from a result with status {result.status!r}: {result.error_msg}".rstrip(": ")
        )
    return Baseline(
        case=result.case,
        case_version=result.case_version,
        environment=dict(sorted(result.environment.items())),
        metrics=_compared(result.metrics, metrics),
        seeds=[_compared_seed(run, metrics) for run in sorted(result.seeds, key=lambda run: run.seed)],
        operators=_sorted_operators(result.operators),
        peak_tensors=_sorted_operators(result.peak_tensors),
        base=replace(result.base, operators=_sorted_operators(result.base.operators)) if result.base else None,
        witness=result.witness,
        intervals={
            metric.name: result.metrics[metric.interval]
            for metric in metrics.values()
            if metric.interval in result.metrics
        },
    )


def _sorted_operators(operators: Operators) -> Operators:
    return {
        phase: {row: list(counts) for row, counts in sorted(rows.items())} for phase, rows in sorted(operators.items())
    }


def within_margin(metric: Metric, obtained: float, expected: float) -> bool:
    """Whether the difference is one that nobody cares about."""
    excess = abs(obtained - expected) - metric.margin(expected)
    # 0.55 - 0.5 is a little more than 0.05: a difference of just the margin must not depend on how bits fall
    return excess <= 1e-9 * max(abs(obtained), abs(expected))


def problem(value: object, kind: Kind | None = None) -> str:
    """Why `value` cannot be compared, as `is NaN` or `holds text, expected a number`; empty when it can be.

    Without `kind`, a metric that is not declared, any kind of value will do.
    """
    found = _kind(value)
    if found is None or kind not in (None, found):
        expected = _KINDS[kind] if kind else "a number, text, a list of numbers or an object of texts"
        return f"holds {_KINDS[found] if found else type(value).__name__}, expected {expected}"
    if kind in ("text", "list") and not value:
        return "is empty"
    numbers = value if isinstance(value, list) else [value] if isinstance(value, (int, float)) else []
    if any(number != number for number in numbers):
        return "is NaN"
    return "is infinite" if any(abs(number) > TOO_LARGE for number in numbers) else ""


def problem_of(metric: Metric | None, value: object) -> str:
    """Why a metric's value cannot be compared, as `problem`; a count or a time is never below zero, a share below 1."""
    if reason := problem(value, metric.kind if metric else None):
        return reason
    if metric is not None and metric.unit == "law" and standing(str(value)) is None:
        return f"is {value!r}, no word of a law"
    if metric is None or not isinstance(value, (int, float)):
        return ""
    if metric.unit in COUNTED and value < 0:
        return "is negative"
    return "is no share, 0 to 1" if metric.unit == "fraction" and not 0 <= value <= 1 else ""


def problem_of_sample(sample: object) -> str:
    """Why samples cannot be compared, as `problem`; text holds an answer a character, 0 or 1."""
    if reason := problem(sample):
        return reason
    strange = sorted(set(sample) - set("01")) if isinstance(sample, str) else []
    return f"holds {strange[0]!r}, expected 0 and 1" if strange else ""


def _compared(values: Mapping[str, Value], metrics: Mapping[str, Metric]) -> dict[str, Value]:
    """The values that are compared, in the order in which metrics are declared, undeclared ones last."""
    declared = [name for name, metric in metrics.items() if name in values and metric.lane != "info"]
    undeclared = sorted(name for name in values if name not in metrics)
    return {name: _rounded_metric(metrics.get(name), values[name]) for name in [*declared, *undeclared]}


def _compared_seed(run: SeedRun, metrics: Mapping[str, Metric]) -> SeedRun:
    samples = {
        name: sample if isinstance(sample, str) else [rounded(number) for number in sample]
        for name, sample in sorted(run.samples.items())
    }
    return SeedRun(run.seed, _compared(run.metrics, metrics), samples)


def _rounded_metric(metric: Metric | None, value: Value) -> Value:
    # exact and numerics lanes compare bits
    if isinstance(value, float) and metric is not None and metric.lane in ("quality", "noisy"):
        return rounded(value)
    return value


def rounded(number: float) -> float:
    """To as many digits as a baseline keeps."""
    return float(f"{number:.{DIGITS}g}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(value: object) -> Kind | None:
    if _is_number(value):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and all(_is_number(item) for item in value):
        return "list"
    if isinstance(value, dict) and all(isinstance(item, str) for pair in value.items() for item in pair):
        return "table"
    return None


# The file: figures first, a line each, then what explains them


@dataclass(frozen=True)
class _BaseInFile:
    losses: list[float]
    metrics: dict[str, Any]
    operators: _ByOwner


@dataclass(frozen=True)
class _WitnessInFile:
    """A `Witness`; a file says each of these, since a version or a rate that is taken for granted may be another."""

    quantities: dict[str, list[float]]
    bound: float
    rate: float
    version: int


@dataclass(frozen=True)
class _Evidence:
    """What no figure is, and nobody reviews: values of many parts and hashes, samples, operators.

    per_seed, samples, answers: a value per seed, in the order of the seeds; answers are texts, cut to fit lines.
    """

    metrics: dict[str, Any]
    per_seed: dict[str, list[Any]]
    samples: dict[str, list[list[float]]]
    answers: dict[str, list[list[str]]]
    operators: _ByOwner
    peak_tensors: _ByOwner
    base: _BaseInFile | None
    witness: _WitnessInFile | None = None


@dataclass(frozen=True, kw_only=True)
class _File:
    """A baseline as its file holds it; what a metric's value may be is checked with the catalogue, not here.

    holds: how many metrics. One that a file lost would pass for one that a newer version added. laws: the metrics that
    are words of laws, a line for each group: `law.merge.safe` as `safe` of `merge`, `law.merge` as `merge` of it.
    """

    schema: int
    case: CaseId
    case_version: str
    holds: int
    environment: dict[str, str]
    metrics: dict[str, Any]
    laws: dict[str, dict[str, str]] = field(default_factory=dict)
    seeds: list[int]
    per_seed: dict[str, list[Any]]
    noise: dict[str, Noise]
    evidence: _Evidence
    imported: dict[str, Any] = field(default_factory=dict)


# What a case that is not trained has none of, so that its file does not say it.
_UNTRAINED: dict[str, Any] = {"seeds": [], "per_seed": {}, "noise": {}}
_UNTRAINED_EVIDENCE: dict[str, Any] = {
    "per_seed": {},
    "samples": {},
    "answers": {},
    "operators": {},
    "peak_tensors": {},
    "base": None,
}


@dataclass(frozen=True)
class _RunInfo:
    train_config: dict[str, Any]
    peft_config: dict[str, Any] | None


@dataclass(frozen=True)
class _Imported:
    run_info: _RunInfo


def read(path: Path, metrics: Mapping[str, Metric] = METRICS) -> Baseline:
    """The baseline in `path`. Raises InputError, naming file and key, for one that cannot be compared with."""
    return from_json(read_json(path), path, metrics)


def from_json(data: dict[str, Any], path: Path, metrics: Mapping[str, Metric] = METRICS) -> Baseline:
    """The baseline that a file's content stands for; path: of the file, for errors. Raises InputError as `read`."""
    _check_schema(path, converted(path, data.get("schema"), int, "schema"))
    file = converted(path, _with_nothing_trained(data), _File)
    if file.imported:
        converted(path, file.imported, _Imported, "imported")
    for reason in _contradictions(file):
        raise InputError(f"{path}: {reason}")
    baseline = _from_file(file, path)
    for reason in _problems(baseline, metrics):
        raise InputError(f"{path}: {reason}")
    places = (file.metrics, file.evidence.metrics, file.per_seed, file.evidence.per_seed, *file.laws.values())
    held = sum(map(len, places))
    if held != file.holds:
        raise InputError(f"{path}: holds {held} metrics and says {file.holds}; restore what is missing, or delete it")
    return baseline


def read_if_current(path: Path, metrics: Mapping[str, Metric] = METRICS) -> Baseline | None:
    """The baseline that an update starts from; None where there is none, or one of an older schema.

    Raises InputError for any other that cannot be read.
    """
    try:
        return read(path, metrics) if stands(path) else None
    except OlderSchemaError:
        return None


def write(baseline: Baseline, path: Path, metrics: Mapping[str, Metric] = METRICS) -> None:
    """Write `baseline` to `path`, atomically. Raises InputError as `require_usable`."""
    write_all({path: baseline}, metrics)


def write_all(baselines: Mapping[Path, Baseline], metrics: Mapping[str, Metric] = METRICS) -> None:
    """Write several baselines, all or none. Raises InputError as `write`, and where one cannot be written."""
    write_files({path: _content(baseline, path, metrics) for path, baseline in baselines.items()})


def require_usable(baseline: Baseline, path: Path, metrics: Mapping[str, Metric] = METRICS) -> None:
    """Raise InputError for a baseline that no later run could be held against. path: where it would be written."""
    _content(baseline, path, metrics)


def _content(baseline: Baseline, path: Path, metrics: Mapping[str, Metric]) -> bytes:
    for reason in chain(_problems(baseline, metrics), _gaps(baseline.seeds, metrics)):
        raise InputError(f"{path}: not written: {reason}")
    data = _to_json(baseline, metrics)
    try:
        again = from_json(data, path, metrics)
    except InputError as error:
        raise InputError(f"{path}: not written: {str(error).removeprefix(f'{path}: ')}") from error
    if again != baseline:
        raise InputError(f"{path}: not written: it would not read back as it is")
    # two levels: a line for each figure, and for each metric's noise
    return (format_json(data, spread=2) + "\n").encode()


def _check_schema(path: Path, schema: int) -> None:
    if schema > SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema {schema} is newer than this version reads ({SCHEMA_VERSION}); update pytest-peftbench"
        )
    if schema < 1:
        raise InputError(f"{path}: schema {schema} is unknown; the first one is 1")
    if schema < SCHEMA_VERSION:
        raise OlderSchemaError(
            f"{path}: schema {schema} is that of an older version, this one reads {SCHEMA_VERSION}; "
            "record it anew with --peft-update-baselines"
        )


def _contradictions(file: _File) -> Iterator[str]:
    """What stands in two places, or not once for each seed."""
    evidence = file.evidence
    for place, figures, others in (
        ("evidence.metrics", file.metrics, evidence.metrics),
        ("evidence.per_seed", file.per_seed, evidence.per_seed),
        ("laws", file.metrics, _ungrouped(file.laws)),
    ):
        for name in figures.keys() & others.keys():
            yield f"{place.removeprefix('evidence.')}.{name} stands in {place}, too"
    for place, columns in (
        ("per_seed", file.per_seed),
        ("evidence.per_seed", evidence.per_seed),
        ("evidence.samples", evidence.samples),
        ("evidence.answers", evidence.answers),
    ):
        for name, column in columns.items():
            if len(column) != len(file.seeds):
                yield f"{place}.{name} holds {len(column)} values for {len(file.seeds)} seeds"


def _from_file(file: _File, path: Path) -> Baseline:
    evidence, base = file.evidence, file.evidence.base
    texts = {name: ["".join(parts) for parts in column] for name, column in evidence.answers.items()}
    metrics, samples = file.per_seed | evidence.per_seed, evidence.samples | texts
    return Baseline(
        case=file.case,
        case_version=file.case_version,
        environment=file.environment,
        metrics=file.metrics | _ungrouped(file.laws) | evidence.metrics,
        seeds=[
            SeedRun(seed, _of_seed(index, metrics), _of_seed(index, samples)) for index, seed in enumerate(file.seeds)
        ],
        operators=_by_row(evidence.operators),
        peak_tensors=_by_row(evidence.peak_tensors),
        base=BaseReference(base.losses, base.metrics, _by_row(base.operators)) if base else None,
        witness=Witness(**vars(evidence.witness)) if evidence.witness else None,
        noise=file.noise,
        imported=file.imported,
        path=path,
    )


def _to_json(baseline: Baseline, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    base = baseline.base
    figures, parts = _apart(baseline.metrics, metrics)
    laws = {name: figures.pop(name) for name in list(figures) if name.startswith(LAW)}
    per_seed, parts_per_seed = _apart(_by_name([run.metrics for run in baseline.seeds]), metrics)
    samples = _by_name([run.samples for run in baseline.seeds])
    file = _File(
        schema=SCHEMA_VERSION,
        case=baseline.case,
        case_version=baseline.case_version,
        holds=sum(map(len, (figures, laws, parts, per_seed, parts_per_seed))),
        environment=baseline.environment,
        metrics=figures,
        laws=_grouped(laws),
        seeds=[run.seed for run in baseline.seeds],
        per_seed=per_seed,
        noise=baseline.noise,
        evidence=_Evidence(
            metrics=parts,
            per_seed=parts_per_seed,
            samples={name: column for name, column in samples.items() if not isinstance(column[0], str)},
            answers={name: list(map(_cut, column)) for name, column in samples.items() if isinstance(column[0], str)},
            operators=_by_owner(baseline.operators),
            peak_tensors=_by_owner(baseline.peak_tensors),
            base=_BaseInFile(base.losses, base.metrics, _by_owner(base.operators)) if base else None,
            witness=_WitnessInFile(**vars(baseline.witness)) if baseline.witness else None,
        ),
        imported=baseline.imported,
    )
    noise = {name: _without_none(asdict(found)) for name, found in baseline.noise.items()}
    values = asdict(file) | {"case": baseline.case.to_json(), "noise": noise}
    if baseline.witness is None:  # a case that is not trained has none
        del values["evidence"]["witness"]
    if not baseline.seeds:
        values = _without_nothing(values, _UNTRAINED)
        values["evidence"] = _without_nothing(values["evidence"], _UNTRAINED_EVIDENCE)
    return {key: value for key, value in values.items() if value or key not in ("laws", "imported")}


def _without_nothing(values: dict[str, Any], nothing: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value or key not in nothing}


def _with_nothing_trained(data: dict[str, Any]) -> dict[str, Any]:
    """What a file of a case that is not trained leaves out. One that says any of it says all."""
    if not _UNTRAINED.keys().isdisjoint(data) or not isinstance(data.get("evidence"), dict):
        return data
    return {**_UNTRAINED, **data, "evidence": {**_UNTRAINED_EVIDENCE, **data["evidence"]}}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _by_name(parts: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The values of all seeds by name, from the values by name of each seed."""
    return {name: [part[name] for part in parts] for name in (parts[0] if parts else ())}


def _of_seed(index: int, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {name: column[index] for name, column in columns.items()}


def _apart(values: Mapping[str, Any], metrics: Mapping[str, Metric]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures, which a person reads, and the evidence: hashes, and values of many parts."""
    evidence = {
        name: value
        for name, value in values.items()
        if name in metrics and (metrics[name].kind in ("list", "table") or metrics[name].unit == "sha256")
    }
    return {name: value for name, value in values.items() if name not in evidence}, evidence


def _grouped(laws: Mapping[str, str]) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    for name, word in laws.items():
        group, _, rest = name.removeprefix(LAW).partition(".")
        groups.setdefault(group, {})[rest or group] = word
    return groups


def _ungrouped(groups: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {
        f"{LAW}{group}" if name == group else f"{LAW}{group}.{name}": word
        for group, laws in groups.items()
        for name, word in laws.items()
    }


def _cut(text: str) -> list[str]:
    return [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]


def _by_owner(operators: Operators) -> _ByOwner:
    """`aten.mm @ Linear.forward` as owner -> operator, which the file holds a line per owner."""
    phases: _ByOwner = {}
    for phase, rows in sorted(operators.items()):
        owners = phases[phase] = {}
        for row in sorted(rows, key=lambda row: row.partition(_AT)[::-1]):
            operator, _, owner = row.partition(_AT)
            owners.setdefault(owner, {})[operator] = rows[row]
    return phases


def _by_row(phases: _ByOwner) -> Operators:
    return {
        phase: dict(
            sorted((f"{what}{_AT}{owner}", counts) for owner, rows in owners.items() for what, counts in rows.items())
        )
        for phase, owners in phases.items()
    }


# What no comparison could use


def _problems(baseline: Baseline, metrics: Mapping[str, Metric]) -> Iterator[str]:
    """What is wrong with the values, as `metrics.forgetting is NaN`."""
    # an unknown name is no problem here: comparing reports it, and an update drops it
    yield from _problems_of("metrics.", baseline.metrics, metrics)
    for run in baseline.seeds:
        yield from _problems_of(f"seed {run.seed}: ", run.metrics, metrics)
        for name, sample in run.samples.items():
            if reason := problem_of_sample(sample):
                yield f"seed {run.seed}: {name} {reason}"
    seeds = [run.seed for run in baseline.seeds]
    if seeds != sorted(set(seeds)):
        yield f"seeds must be ascending and differ, found {', '.join(map(str, seeds))}"
    if baseline.imported and not seeds:
        yield "seeds is empty; an imported baseline holds the one that PEFT trained"
    yield from _disagreements(baseline, metrics)
    if baseline.witness is not None:
        yield from _problems_of_witness(baseline.witness)
    yield from _problems_of_noise(baseline, metrics)
    yield from _problems_of_parts(baseline)
    if baseline.base is not None:
        yield from _problems_of("base.metrics.", baseline.base.metrics, metrics)
        if reason := problem(baseline.base.losses, "list"):
            yield f"base.losses {reason}"
        operators = baseline.base.operators
        empty = [f"base.operators.{phase}" for phase, rows in operators.items() if not rows]
        if empty or not operators:
            yield f"{[*empty, 'base.operators'][0]} is empty, so it cannot tell what the environment changed"


def _disagreements(baseline: Baseline, metrics: Mapping[str, Metric]) -> Iterator[str]:
    """Where a figure and what explains it, operators, tensors and samples, do not tell the same."""
    for place, explained, columns in (
        ("operators", baseline.operators, ("calls", "flops")),
        ("peak_tensors", baseline.peak_tensors, ("", "peak_bytes")),
    ):
        for phase, rows in explained.items():
            for column, counter in enumerate(columns):
                name = f"{phase}.{counter}"
                total = sum(counts[column] for counts in rows.values())
                if name in baseline.metrics and total != baseline.metrics[name]:
                    yield f"{place}.{phase} adds up to {total:,}, and {name} is {baseline.metrics[name]:,}"
    for run in baseline.seeds:
        for name, value in run.metrics.items():
            samples = metrics[name].samples if name in metrics else ""
            low, high = _mean_of(run.samples.get(samples, ""))
            if isinstance(value, (int, float)) and not (low <= value <= high or rounded(value) in (low, high)):
                told = f"{low:g}" if low == high else f"{low:g} to {high:g}"
                yield f"seed {run.seed}: {name} is {value:g}, and its samples {samples} say {told}"


def _mean_of(samples: str | list[float]) -> tuple[float, float]:
    """Between what the mean of samples lies: of answers, 0 or 1, it is known; others may have weights."""
    if isinstance(samples, str):
        mean = rounded(samples.count("1") / len(samples)) if samples and set(samples) <= set("01") else None
        return (-TOO_LARGE, TOO_LARGE) if mean is None else (mean, mean)
    return (min(samples), max(samples)) if samples else (-TOO_LARGE, TOO_LARGE)


def _problems_of_witness(witness: Witness) -> Iterator[str]:
    if not witness.quantities:
        yield "witness.quantities is empty, so it could tell nothing"
    if not LEAST_BOUND <= witness.bound <= MOST_BOUND:
        yield f"witness.bound must be between {LEAST_BOUND:g} and {MOST_BOUND:g}, is {witness.bound:g}"
    if not 0 < witness.rate <= 1:
        yield f"witness.rate must be above 0 and at most 1, is {witness.rate:g}"
    for name, numbers in witness.quantities.items():
        if reason := problem(numbers, "list"):
            yield f"witness.quantities: {name} {reason}"


def _problems_of_noise(baseline: Baseline, metrics: Mapping[str, Metric]) -> Iterator[str]:
    """Noise that is not that of the seeds' values. That of more seeds than the file holds cannot be recomputed."""
    held = {name for run in baseline.seeds for name in run.metrics}
    if baseline.noise and len(baseline.seeds) > 1:
        lacking = (held & set(by_lane(metrics, "quality"))) - baseline.noise.keys()
        yield from (f"noise holds no {name}; restore what is missing, or delete it" for name in sorted(lacking))
    for name, noise in baseline.noise.items():
        values = [run.metrics[name] for run in baseline.seeds if name in run.metrics]
        if not values:
            yield f"noise.{name}: per_seed holds no {name}; restore what is missing, or delete it"
        elif noise.seeds < len(values):
            yield f"noise.{name}.seeds is {noise.seeds}, and per_seed holds {len(values)} values"
        elif noise.seeds == len(values) and name in metrics:
            sd = rounded(statistics.stdev(float(value) for value in values if isinstance(value, (int, float))))
            # where the digit before is just between two, another Python rounds it the other way
            if not math.isclose(noise.sd, sd, rel_tol=2 * 10.0 ** (1 - DIGITS)):
                yield f"noise.{name}.sd is {noise.sd:g}, that of the values in per_seed is {sd:g}"


def _problems_of_parts(baseline: Baseline) -> Iterator[str]:
    """A peak that is not the sum of its parts, where all of them were counted."""
    parts = [baseline.metrics.get(f"train_step.{part}") for part in PEAK_PARTS]
    numbers = [part for part in parts if isinstance(part, (int, float))]
    peak = baseline.metrics.get("train_step.peak_bytes")
    if len(numbers) == len(parts) and sum(numbers) != peak:
        yield f"metrics.train_step.peak_bytes is {peak}, and its parts add up to {sum(numbers)}"


def _problems_of(place: str, values: Mapping[str, Any], metrics: Mapping[str, Metric]) -> Iterator[str]:
    for name, value in values.items():
        if not name:
            yield f"{place} holds a figure without a name"
        if reason := problem_of(metrics.get(name), value):
            yield f"{place}{name} {reason}"


def _gaps(seeds: list[SeedRun], metrics: Mapping[str, Metric]) -> Iterator[str]:
    """What some seed lacks."""
    for run in seeds:
        for ours, theirs in ((run.metrics, seeds[0].metrics), (run.samples, seeds[0].samples)):
            if missing := ours.keys() ^ theirs.keys():
                yield f"seeds do not all hold {', '.join(sorted(missing))}"
        if not any(name in metrics and metrics[name].lane == "quality" for name in run.metrics):
            yield f"seed {run.seed} holds no quality metric; did it train?"
