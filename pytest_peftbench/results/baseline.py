"""What a case is expected to measure: where its baseline lies, and reading and writing it.

A baseline is a file under version control, so it holds only what is compared, rounded and ordered so that a diff
shows what changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_peftbench.results.files import TOO_LARGE, TYPES, InputError, read_json, typed, write_json
from pytest_peftbench.results.metrics import METRICS, Kind, Metric, Value
from pytest_peftbench.results.result import (
    SCHEMA_VERSION,
    BaseReference,
    CaseId,
    Operators,
    PeakTensors,
    Result,
    SeedRun,
)

DIGITS = 6
# More seeds than anyone will train.
MOST_SEEDS = 10_000
_KINDS: dict[Kind, str] = {
    "number": "a number",
    "text": "text",
    "list": "a list of numbers",
    "table": "an object of texts",
}


# Between operator and owner in a row of `Operators`, tensor and owner in one of `PeakTensors`.
_AT = " @ "


@dataclass(frozen=True)
class Noise:
    """How much a quality metric differs between seeds of unchanged code.

    sd: standard deviation between `seeds` seeds, in the metric's unit. detectable: smallest regression that a case is
    caught with, nine times out of ten, when all of the baseline's seeds run.
    """

    sd: float
    seeds: int
    detectable: float


@dataclass(frozen=True)
class Baseline:
    """What a case is expected to measure; the fields are those of `Result`, as far as they are compared.

    noise: of each quality metric, where there are at least two seeds. imported: PEFT's own result, where the baseline
    stands for one (see `importing`).
    path: the file it was read from, if any. intervals: of the values that a result measured, by the name of their
    metric; no file holds them. Two baselines that differ in nothing else are equal.
    """

    case: CaseId
    case_version: str
    environment: dict[str, str]
    metrics: dict[str, Value]
    seeds: list[SeedRun]
    operators: Operators = field(default_factory=dict)
    peak_tensors: PeakTensors = field(default_factory=dict)
    base: BaseReference | None = None
    noise: dict[str, Noise] = field(default_factory=dict)
    imported: dict[str, Any] = field(default_factory=dict)
    path: Path | None = field(default=None, compare=False)
    intervals: dict[str, Value] = field(default_factory=dict, compare=False)


def baseline_path(root: Path, case: CaseId) -> Path:
    """`<root>/<task>/<base model>/<method>--<name>.json`; a kind comes before the task, if the case has one.

    Raises InputError when two cases could share the file, or when it would lie outside of its folder.
    """
    for part in (case.task, case.base_model, case.method, case.name, case.kind or "-"):
        if part in ("", ".", "..") or set(part) & set("/\\"):
            raise InputError(f"case {case}: {part!r} cannot be part of a baseline's file name")
    if "--" in case.method:
        raise InputError(f"case {case}: '--' separates method and name, so method {case.method!r} cannot hold it")
    return case.folder(root) / f"{case.method}--{case.name}.json"


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
        return f"holds {TYPES.get(type(value), type(value).__name__)}, expected {expected}"
    if kind in ("text", "list") and not value:
        return "is empty"
    numbers = value if isinstance(value, list) else [value] if isinstance(value, (int, float)) else []
    if any(number != number for number in numbers):
        return "is NaN"
    return "is infinite" if any(abs(number) > TOO_LARGE for number in numbers) else ""


def read(path: Path, metrics: Mapping[str, Metric] = METRICS) -> Baseline:
    """The baseline in `path`. Raises InputError, naming file and key, for one that cannot be compared with."""
    data = read_json(path)
    _check_schema(path, typed(path, data, "schema", int))
    case = typed(path, data, "case", dict)
    seeds = _checked_seeds(path, typed(path, data, "seeds", list), metrics)
    return Baseline(
        case=CaseId(
            **{key: typed(path, case, key, str, "case.") for key in ("task", "base_model", "method", "name")},
            kind=typed(path, case, "kind", str, "case.") if "kind" in case else "",
        ),
        case_version=typed(path, data, "case_version", str),
        environment=_checked_environment(path, typed(path, data, "environment", dict)),
        metrics=_checked_metrics(path, "metrics", typed(path, data, "metrics", dict), metrics),
        seeds=seeds,
        operators=_checked_rows(path, typed(path, data, "operators", dict), "operators", "calls and FLOPs"),
        # older files do not hold the following
        peak_tensors=_checked_rows(
            path, typed(path, {"peak_tensors": {}, **data}, "peak_tensors", dict), "peak_tensors", "count and bytes"
        ),
        base=_checked_base(path, data.get("base")),
        noise=_checked_noise(path, data.get("noise")),
        imported=_checked_import(path, data.get("imported", {}), seeds),
        path=path,
    )


def write(baseline: Baseline, path: Path, metrics: Mapping[str, Metric] = METRICS) -> None:
    """Write `baseline` to `path`, atomically. Raises InputError for one that no later run could be held against."""
    for place, values in _metrics_by_place(baseline):
        for name, value in values.items():
            if reason := problem(value, _kind_of(name, metrics)):
                raise InputError(f"{path}: not written: {place}{name} {reason}")
    for run in baseline.seeds:
        for name, sample in run.samples.items():
            if reason := problem(sample):
                raise InputError(f"{path}: not written: seed {run.seed} {name} {reason}")
    _refuse_incomplete_seeds(path, baseline.seeds, metrics)
    write_json(path, _to_json(baseline))


def _to_json(baseline: Baseline) -> dict[str, Any]:
    imported = {"imported": baseline.imported} if baseline.imported else {}
    return {
        "schema": SCHEMA_VERSION,
        "case": baseline.case.to_json(),
        "case_version": baseline.case_version,
        "environment": baseline.environment,
        "metrics": baseline.metrics,
        "seeds": [asdict(run) for run in baseline.seeds],
        "noise": {name: asdict(noise) for name, noise in baseline.noise.items()},
        "operators": _by_phase(baseline.operators),
        "peak_tensors": _by_phase(baseline.peak_tensors),
        "base": asdict(baseline.base) | {"operators": _by_phase(baseline.base.operators)} if baseline.base else None,
        **imported,
    }


def _by_phase(operators: Operators) -> dict[str, Any]:
    return {phase: _by_owner(rows) for phase, rows in sorted(operators.items())}


def _by_owner(rows: Mapping[str, list[int]]) -> dict[str, dict[str, list[int]]]:
    """`aten.mm @ Linear.forward` as owner -> operator, which the file holds a line per owner."""
    owners: dict[str, dict[str, list[int]]] = {}
    for row in sorted(rows):
        operator, _, owner = row.partition(_AT)
        owners.setdefault(owner, {})[operator] = rows[row]
    return dict(sorted(owners.items()))


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


def _kind_of(name: str, metrics: Mapping[str, Metric]) -> Kind | None:
    return metrics[name].kind if name in metrics else None


def _metrics_by_place(baseline: Baseline) -> Iterable[tuple[str, dict[str, Value]]]:
    yield "", baseline.metrics
    for run in baseline.seeds:
        yield f"seed {run.seed} ", run.metrics


def _refuse_incomplete_seeds(path: Path, seeds: list[SeedRun], metrics: Mapping[str, Metric]) -> None:
    for run in seeds:
        if missing := set(seeds[0].metrics) ^ set(run.metrics):
            raise InputError(f"{path}: not written: seeds do not all hold {', '.join(sorted(missing))}")
        if not any(name in metrics and metrics[name].lane == "quality" for name in run.metrics):
            raise InputError(f"{path}: not written: seed {run.seed} holds no quality metric; did it train?")
    if [run.seed for run in seeds] != sorted({run.seed for run in seeds}):
        raise InputError(f"{path}: not written: seeds must be ascending and differ")


def _check_schema(path: Path, schema: int) -> None:
    if schema > SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema {schema} is newer than this version reads ({SCHEMA_VERSION}); update pytest-peftbench"
        )
    if schema < 1:
        raise InputError(f"{path}: schema {schema} is unknown; the first one is 1")


def _checked_environment(path: Path, environment: dict[str, Any]) -> dict[str, str]:
    return {key: typed(path, environment, key, str, "environment.") for key in environment}


def _checked_metrics(path: Path, place: str, values: dict[str, Any], metrics: Mapping[str, Metric]) -> dict[str, Value]:
    # an unknown name is no error here: comparing reports it, and an update drops it
    for name, value in values.items():
        if reason := problem(value, _kind_of(name, metrics)):
            raise InputError(f"{path}: {place}.{name} {reason}")
    return values


def _checked_seeds(path: Path, entries: list[Any], metrics: Mapping[str, Metric]) -> list[SeedRun]:
    runs = [_checked_seed(path, f"seeds[{index}]", entry, metrics) for index, entry in enumerate(entries)]
    seeds = [run.seed for run in runs]
    if seeds != sorted(set(seeds)):
        raise InputError(f"{path}: seeds must be ascending and differ, found {', '.join(map(str, seeds))}")
    return runs


def _checked_seed(path: Path, place: str, entry: Any, metrics: Mapping[str, Metric]) -> SeedRun:
    if not isinstance(entry, dict):
        raise InputError(f"{path}: {place} holds {TYPES[type(entry)]}, expected an object")
    samples = typed(path, entry, "samples", dict, f"{place}.")
    for name, sample in samples.items():
        if _kind(sample) not in ("text", "list"):
            raise InputError(f"{path}: {place}.samples.{name} must be text or a list of numbers")
        if reason := problem(sample):
            raise InputError(f"{path}: {place}.samples.{name} {reason}")
    return SeedRun(
        seed=typed(path, entry, "seed", int, f"{place}."),
        metrics=_checked_metrics(path, f"{place}.metrics", typed(path, entry, "metrics", dict, f"{place}."), metrics),
        samples=samples,
    )


def _checked_import(path: Path, imported: Any, seeds: list[SeedRun]) -> dict[str, Any]:
    if not isinstance(imported, dict):
        raise InputError(f"{path}: imported holds {TYPES[type(imported)]}, expected an object")
    if imported:
        run_info = typed(path, imported, "run_info", dict, "imported.")
        typed(path, run_info, "train_config", dict, "imported.run_info.")
        if not isinstance(run_info.get("peft_config"), (dict, type(None))):
            raise InputError(f"{path}: imported.run_info.peft_config must be an object or null")
        if not seeds:
            raise InputError(f"{path}: seeds is empty; an imported baseline holds the one that PEFT trained")
    return imported


def _checked_base(path: Path, base: Any) -> BaseReference | None:
    if base is None:
        return None
    if not isinstance(base, dict):
        raise InputError(f"{path}: base holds {TYPES[type(base)]}, expected an object")
    losses = typed(path, base, "losses", list, "base.")
    if reason := problem(losses, "list"):
        raise InputError(f"{path}: base.losses {reason}")
    operators = _checked_rows(path, typed(path, base, "operators", dict, "base."), "base.operators", "calls and FLOPs")
    empty = [phase for phase, rows in operators.items() if not rows]
    if empty or not operators:
        place = ".".join(["base.operators", *empty[:1]])
        raise InputError(f"{path}: {place} is empty, so it cannot tell what the environment changed")
    metrics = _checked_metrics(path, "base.metrics", typed(path, base, "metrics", dict, "base."), METRICS)
    return BaseReference(losses, metrics, operators)


def _checked_noise(path: Path, noise: Any) -> dict[str, Noise]:
    if noise is None:
        return {}
    if not isinstance(noise, dict):
        raise InputError(f"{path}: noise holds {TYPES[type(noise)]}, expected an object")
    checked = {}
    for name in noise:
        entry, place = typed(path, noise, name, dict, "noise."), f"noise.{name}."
        for key in ("sd", "detectable"):
            if reason := problem(entry.get(key), "number") or ("is negative" if entry[key] < 0 else ""):
                raise InputError(f"{path}: {place}{key} {reason}")
        seeds = typed(path, entry, "seeds", int, place)
        if not 2 <= seeds <= MOST_SEEDS:
            raise InputError(f"{path}: {place}seeds must be from 2 to {MOST_SEEDS:,}")
        checked[name] = Noise(entry["sd"], seeds, entry["detectable"])
    return checked


def _checked_rows(path: Path, phases: dict[str, Any], place: str, meaning: str) -> dict[str, dict[str, list[int]]]:
    """The counts by row, `aten.mm @ Linear.forward`, of a file that holds them by owner. meaning: of the two counts."""
    checked: dict[str, dict[str, list[int]]] = {}
    for phase in phases:
        owners = typed(path, phases, phase, dict, f"{place}.")
        rows = checked[phase] = {}
        for owner in owners:
            for what, counts in typed(path, owners, owner, dict, f"{place}.{phase}.").items():
                if not (isinstance(counts, list) and len(counts) == 2 and all(type(count) is int for count in counts)):
                    raise InputError(f"{path}: {place}.{phase}.{owner}.{what} must be two integers, {meaning}")
                if reason := problem(counts):
                    raise InputError(f"{path}: {place}.{phase}.{owner}.{what} {reason}")
                rows[f"{what}{_AT}{owner}"] = counts
        checked[phase] = dict(sorted(rows.items()))
    return checked
