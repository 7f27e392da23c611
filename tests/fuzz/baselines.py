"""A committed baseline with one change, against the result that reproduces it."""

import json
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path

from fuzz import Slipped
from fuzz.mutate import damaged
from pytest_peftbench.compare import CaseVerdict, compare, diff_lines, is_green, second_stage
from pytest_peftbench.compare.noise import refreshed
from pytest_peftbench.results.baseline import Baseline, read, write
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId, Measured, Result, mean

BASELINES = Path(__file__).parents[2] / "baselines"
# What a witness may lack: a method that learns to do it has changed nothing.
CAPABILITIES = {"disabled output", "reloaded output", "merged output", "unmerged output"}


@dataclass(frozen=True)
class Known:
    """A committed baseline, and the result that reproduces it."""

    text: str
    baseline: Baseline
    result: Result

    @cached_property
    def worse(self):
        """Results that are red against the baseline, by the metric in which each is worse."""
        found = {name: result for name, result in _worse(self.result, self.baseline) if _is_red(result, self.baseline)}
        assert found, self.baseline.path
        return found


def attempt(rng, folder):
    """Damage one baseline; the outcome in a word, and what was damaged. Raises `Slipped` for what must not happen."""
    file = rng.choice(_files())
    known = _known(file)
    content, words = damaged(rng, known.text)
    words = f"{file.relative_to(BASELINES).as_posix()}: {words}"
    path = folder / "damaged.json"
    path.write_bytes(content)
    return (lambda: _outcome(known, path, folder / "again.json")), words


def _outcome(known, path, again):
    try:
        damaged_one = read(path)
    except InputError as error:
        if str(path) not in str(error):
            raise Slipped(f"the error does not name the file: {error}") from error
        return "refused"
    _written_and_read_back(damaged_one, again)
    verdict = compare(known.result, damaged_one, METRICS, tests=1)
    _told(known, damaged_one, verdict)
    if not is_green(verdict):
        return "red"
    before, after = json.loads(known.text), json.loads(path.read_text(encoding="utf-8"))
    for what in passed_silently(before, after, verdict):
        raise Slipped(f"green, though {what}")
    held, recorded = _figures(after), _figures(before)
    # of another environment less can be told, and a run says so
    for name, result in known.worse.items() if before["environment"] == after["environment"] else ():
        if held.get(name) == recorded.get(name) and is_green(compare(result, damaged_one, METRICS, tests=1)):
            raise Slipped(f"it hides a result that is worse in {name}")
    return "same" if before == after else "green by its lane's rule" if verdict.verdict != "identical" else "identical"


def _written_and_read_back(baseline, path):
    try:
        write(baseline, path)
    except InputError:
        return
    if read(path) != baseline:
        raise Slipped("written again, it is another baseline")


def _told(known, damaged_one, verdict):
    """All that a run says and decides with such a baseline; an InputError is a worded end of it."""
    if CaseVerdict.from_json(json.loads(json.dumps(verdict.to_json()))) != verdict:
        raise Slipped("the verdict does not survive its way through xdist")
    verdict.text()
    diff_lines(damaged_one, known.baseline, METRICS)
    try:
        second_stage(known.result, damaged_one, METRICS)
        refreshed(damaged_one, known.baseline, METRICS)
    except InputError:
        return


# The rules of the lanes once more, as simple as can be ----------------------------------------------------------------


def passed_silently(before, after, verdict):
    """What differs between two baselines' files beyond its lane's rule, though the result of the first is green."""
    if before["case_version"] != after["case_version"]:
        yield "case_version is another"
    for item in fields(CaseId):
        if before["case"].get(item.name, "") != after["case"].get(item.name, ""):
            yield f"case.{item.name} is another"
    told = {finding.metric: finding.verdict for finding in verdict.findings}
    old, new = _figures(before), _figures(after)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and (reason := _beyond(before, name, old.get(name), new.get(name), told)):
            yield f"{name} {reason}"
    yield from _moved_quantities(before["evidence"].get("witness"), after["evidence"].get("witness"))


def _figures(data):
    """All figures of a file by name: by seed, or one alone."""
    evidence, seeds = data["evidence"], data.get("seeds", [])
    per_seed = {**data.get("per_seed", {}), **evidence.get("per_seed", {})}
    by_seed = {name: dict(zip(seeds, column, strict=True)) for name, column in per_seed.items()}
    laws = {(group, name): word for group, words in data.get("laws", {}).items() for name, word in words.items()}
    words = {f"law.{group}" if group == name else f"law.{group}.{name}": word for (group, name), word in laws.items()}
    alone = {name: {None: value} for name, value in {**data["metrics"], **words, **evidence["metrics"]}.items()}
    return {**alone, **by_seed}


def _beyond(before, name, old, new, told):
    """Why a change of a recorded metric is more than its rule allows. The result has the old value."""
    if old is None or new is None or name not in METRICS:
        return "is gone" if new is None else "is new"
    metric = METRICS[name]
    if metric.lane == "info":
        return ""
    if metric.lane == "exact":
        allowed = ("improved", "same to rounding") if metric.unit == "law" else ("improved",)
        return "" if told[name] in allowed and metric.direction != "equal" else "must be equal"
    if metric.lane == "numerics":
        return "" if told[name] == "same to rounding" and before["evidence"].get("witness") else "must have equal bits"
    obtained, expected = (mean([float(value) for value in side.values()]) for side in (old, new))
    worse = obtained - expected if metric.direction == "lower" else expected - obtained
    noise = before.get("noise", {}).get(name, {}).get("detectable", 0.0) if metric.lane == "quality" else 0.0
    return "" if worse <= max(metric.margin(expected), noise) * (1 + 1e-6) else f"is worse by {worse:g}"


def _moved_quantities(before, after):
    if not before or not after or before["version"] != after["version"] or before["rate"] != after["rate"]:
        return
    largest = max(abs(number) for numbers in before["quantities"].values() for number in numbers)
    for name, old in before["quantities"].items():
        new = after["quantities"].get(name)
        if new is None:
            if name not in CAPABILITIES:
                yield f"the witness lost {name}"
        elif len(old) != len(new):
            yield f"the witness has more or fewer numbers of {name}"
        elif max(abs(a - b) for a, b in zip(old, new, strict=True)) > 1e-6 * max(largest, *map(abs, new)):
            yield f"the witness moved in {name}"
    for name in after["quantities"].keys() - before["quantities"].keys():
        yield f"the witness has {name}, too"


# Results --------------------------------------------------------------------------------------------------------------


@cache
def _files():
    return sorted(BASELINES.rglob("*--*.json"))


@cache
def _known(file):
    baseline = read(file)
    result = result_of(baseline)
    assert not _is_red(result, baseline), file
    return Known(file.read_text(encoding="utf-8"), baseline, result)


def result_of(baseline):
    """The result that reproduces a baseline."""
    measured = {item.name: getattr(baseline, item.name) for item in fields(Measured)}
    ratios = [name for name in baseline.metrics if METRICS[name].interval]
    intervals = {METRICS[name].interval: [baseline.metrics[name]] * 2 for name in ratios}
    return Result(**{**measured, "metrics": {**baseline.metrics, **intervals}})


def _is_red(result, baseline):
    return not is_green(compare(result, baseline, METRICS, tests=1))


def _worse(result, baseline):
    """Results that differ from this one in a metric, for the worse."""
    for name, value in result.metrics.items():
        metric = METRICS[name]
        if metric.lane == "exact" and metric.kind == "number":
            yield name, replace(result, metrics={**result.metrics, name: value + max(1, value // 50)})
        elif metric.lane == "exact" and value == "ok":
            yield name, replace(result, metrics={**result.metrics, name: "RuntimeError"})
        elif metric.unit == "law":
            yield name, replace(result, metrics={**result.metrics, name: "broken: UnheardOfError"})
        elif metric.kind == "table":
            yield name, replace(result, metrics={**result.metrics, name: {**value, "one more": "1 x [8] F32"}})
        elif metric.interval:
            slow = {name: 3 * value, metric.interval: [2.9 * value, 3.1 * value]}
            yield name, replace(result, metrics={**result.metrics, **slow})
    for name in result.seeds[0].metrics if result.seeds else ():
        metric = METRICS[name]
        if metric.lane == "quality":
            sign = 1 if metric.direction == "lower" else -1
            by = 2 * sign * baseline.noise[name].detectable
            yield name, _with_seeds(result, lambda metrics, name=name, by=by: {name: metrics[name] + by})
        elif metric.lane == "numerics":
            yield name, _moved(_with_seeds(result, lambda metrics, name=name: {name: _otherwise(metrics[name])}))


def _with_seeds(result, change):
    runs = [replace(run, metrics={**run.metrics, **change(run.metrics)}) for run in result.seeds]
    return replace(result, seeds=runs)


def _otherwise(value):
    if isinstance(value, list):
        return [number * 1.5 for number in value]
    if isinstance(value, dict):
        return {key: told[::-1] + "0" for key, told in value.items()}
    return value[::-1] + "0" if isinstance(value, str) else value * 1.5 + 1


def _moved(result):
    """The result with another training in its witness."""
    if result.witness is None:
        return result
    quantities = {name: [number * 1.01 for number in told] for name, told in result.witness.quantities.items()}
    return replace(result, witness=replace(result.witness, quantities=quantities))
