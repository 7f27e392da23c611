"""Obtained and expected measurements in, verdicts out. Pure functions; nothing here knows pytest, torch or files.

Each metric of either side gives one `Finding`, by the rule of its lane; the worst of them is the case's verdict.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from pytest_peftbench.compare import imported, stats
from pytest_peftbench.compare.noise import with_noise
from pytest_peftbench.results import words
from pytest_peftbench.results.baseline import Baseline, from_result, problem, within_margin
from pytest_peftbench.results.metrics import METRICS, Metric, Value, by_lane
from pytest_peftbench.results.result import BaseReference, CaseId, Result, SecondStage, SeedRun, mean

Verdict = Literal[
    "identical",
    "within noise",
    "recorded",
    "not compared",
    "improved",
    "environment drift",
    "numerics changed",
    "cannot tell",
    "not comparable",
    "no baseline",
    "missing metric",
    "unknown metric",
    "regressed",
    "failed",
]
# From best to worst. A case that failed comes last: it measured nothing, so nothing else about it can be trusted.
SEVERITY: tuple[Verdict, ...] = get_args(Verdict)
GREEN_BY_DEFAULT: frozenset[Verdict] = frozenset({"identical", "within noise", "improved", "environment drift"})

MAX_OPERATORS = 5
MAX_TENSORS = 10
# Alike findings of one cause (another torch moves every counter) are told once.
_TOLD_TOGETHER: frozenset[Verdict] = frozenset({"environment drift", "not comparable", "missing metric"})
# What a finding about the base model itself has in place of a metric.
BASE_MODEL = "base model"
# What cannot move a base model: it has no adapter, and Python computes none of its numbers.
_NO_CAUSE = frozenset({"peft", "python"})
# What software and processor decide; a metric that needs another key is not comparable where that differs.
_DRIFTING = ("torch", "transformers", "arithmetic")

# Values of one metric by training seed; None for a metric that does not depend on the seed.
_BySeed = dict[int | None, Value]


@dataclass(frozen=True)
class Finding:
    """What comparing one metric gave, in words.

    obtained, expected: the two values as shown, empty where there is none. change: their difference as shown.
    reason: the rule, or why there is nothing to compare. details: lines that name the cause. p: probability of a
    difference of quality under the hypothesis that nothing became worse; None where none was tested.
    """

    metric: str
    verdict: Verdict
    obtained: str = ""
    expected: str = ""
    change: str = ""
    reason: str = ""
    details: tuple[str, ...] = ()
    p: float | None = None

    def text(self) -> str:
        """`train_step.flops regressed: 1.204e9 -> 1.806e9 (+50.0 %, must be equal)`, and the details below it."""
        lines = [f"{self.metric} {self.verdict}: {self._body()}", *(f"  {line}" for line in self.details)]
        return "\n".join(lines)

    def short(self) -> str:
        """The same in a few words, for a table: `train_step.flops +50.0 %`."""
        return f"{self.metric} {self.change or self.arrow() or self.reason}"

    def _body(self) -> str:
        why = ", ".join(part for part in (self.change, self.reason) if part)
        return f"{self.arrow()} ({why})" if self.arrow() and why else self.arrow() or why

    def arrow(self) -> str:
        """`expected -> obtained`, or the one of them that there is."""
        return " -> ".join(value for value in (self.expected, self.obtained) if value)


@dataclass(frozen=True)
class CaseVerdict:
    """What comparing one case gave.

    findings: one per metric of either side, in the order in which metrics are declared. baseline: the file, empty
    without one. environment_note: the baseline's torch and what differs from it. values: the obtained numbers,
    means over the seeds, for tables. drift: how the environment, or the base model without adapter, differs from the
    baseline's. detectable: the smallest regression of each quality metric that the baseline's seeds can tell.
    """

    case: CaseId
    findings: tuple[Finding, ...]
    baseline: str = ""
    environment_note: str = ""
    values: dict[str, float] = field(default_factory=dict)
    drift: tuple[str, ...] = ()
    detectable: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings. Times within their margin always differ a little, so they say nothing."""
        told = (finding.verdict for finding in self.findings if not _is_usual_noise(finding))
        return max(told, key=SEVERITY.index, default="identical")

    def text(self, accept_command: str = "") -> str:
        """All findings but the identical ones, worst first, then the baseline and how to accept the new values."""
        lines = _told(self.findings) or ["all metrics identical"]
        if self.baseline:
            lines.append(f"baseline: {self.baseline} ({self.environment_note})")
        # a case that failed is never written, so there is no way to accept it
        if accept_command and self.verdict not in ("identical", "within noise", "recorded", "failed"):
            verb = "record" if self.verdict in ("improved", "no baseline") else "accept"
            lines.append(f"to {verb}: {accept_command}")
        return "\n".join(lines)

    def moved(self) -> str:
        """What moved, worst first, in one line for a table; empty when nothing did."""
        told = [finding for finding in _worst_first(self.findings) if finding.verdict != "within noise"]
        return ", ".join(dict.fromkeys(_short(finding) for finding in told))

    def to_json(self) -> dict[str, Any]:
        """Plain data: a verdict travels from xdist's workers to the controller."""
        return {
            "case": self.case.to_json(),
            "verdict": self.verdict,
            "findings": [{**asdict(finding), "details": list(finding.details)} for finding in self.findings],
            "baseline": self.baseline,
            "environment_note": self.environment_note,
            "values": dict(self.values),
            "drift": list(self.drift),
            "detectable": dict(self.detectable),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CaseVerdict:
        """The verdict that `to_json` wrote."""
        return cls(
            case=CaseId(**data["case"]),
            findings=tuple(
                Finding(**{**finding, "details": tuple(finding["details"])}) for finding in data["findings"]
            ),
            baseline=data["baseline"],
            environment_note=data["environment_note"],
            values=dict(data["values"]),
            drift=tuple(data["drift"]),
            detectable=dict(data["detectable"]),
        )


def _is_usual_noise(finding: Finding) -> bool:
    metric = METRICS.get(finding.metric)
    return finding.verdict == "within noise" and metric is not None and metric.lane == "noisy"


def is_green(verdict: CaseVerdict, allowed: Collection[Verdict] = GREEN_BY_DEFAULT) -> bool:
    """Whether the case passes: every finding is allowed, since the worst one may hide another."""
    return all(finding.verdict in allowed for finding in verdict.findings)


def compare(
    result: Result, baseline: Baseline | None, metrics: Mapping[str, Metric] = METRICS, tests: int = 1
) -> CaseVerdict:
    """Hold what a case measured against its baseline.

    tests: how many quality tests the session may run in all; the more, the more certain each must be.
    """
    drift: tuple[str, ...] = ()
    if result.status != "success":
        findings = [_did_not_succeed(result)]
    elif baseline is not None and baseline.imported and (reason := imported.why_not(result, baseline)):
        findings = [Finding("case", "not comparable", reason=reason)]
    elif baseline is not None and baseline.imported:
        findings = _findings_of_imported(result, baseline, metrics, tests)
    elif baseline is None:
        findings = _findings(from_result(result, metrics), None, metrics, tests)
    else:
        obtained, expected = (
            from_result(result, metrics),
            baseline if baseline.noise else with_noise(baseline, (), metrics),
        )
        drift = tuple(_drift(obtained, expected))
        findings = _findings(obtained, expected, metrics, tests)
        if drift and not any(finding.metric == "case" for finding in findings):
            findings = [_drifted(obtained, expected, drift), *findings]
    return CaseVerdict(
        case=result.case,
        findings=tuple(findings),
        baseline=baseline.path.as_posix() if baseline and baseline.path else "",
        environment_note=_environment_note(result.environment, baseline.environment) if baseline else "",
        values=_numbers(result, metrics),
        drift=drift,
        detectable={name: noise.detectable for name, noise in baseline.noise.items()} if baseline else {},
    )


def with_margins(margins: Mapping[str, float]) -> dict[str, Metric]:
    """The metrics, with a suite's or an experiment's own margins."""
    return METRICS | {
        name: replace(METRICS[name], absolute_margin=margin, relative_margin=0.0) for name, margin in margins.items()
    }


def second_stage(result: Result, baseline: Baseline, metrics: Mapping[str, Metric] = METRICS) -> SecondStage:
    """What else must run before the case can be judged, by what its first seed gave.

    Of the seeds none, where all that the first one tells is bit-identical to the baseline's, or cannot be compared
    with it; else all others of the baseline: their number is fixed, nobody looks on the way. Times that regressed are
    taken once more; those that cannot tell were, with the same number of blocks.
    """
    obtained = from_result(result, metrics)
    times = [metric for metric in metrics.values() if metric.interval and metric.name in result.metrics]
    both = [metric for metric in times if metric.name in baseline.metrics]
    findings = [_compare_metric(metric.name, metric, obtained, baseline, 1) for metric in both]
    retime = any(finding.verdict == "regressed" for finding in findings)
    return SecondStage(_further_seeds(result, baseline, metrics), retime)


def _further_seeds(result: Result, baseline: Baseline, metrics: Mapping[str, Metric]) -> tuple[int, ...]:
    if result.status != "success" or _another_case(obtained := from_result(result, metrics), baseline):
        return ()
    missing = tuple(seed for seed in _seeds(baseline) if seed not in _seeds(obtained))
    expected = {run.seed: run for run in baseline.seeds}
    names = [*by_lane(metrics, "numerics"), *by_lane(metrics, "quality")]
    for run in obtained.seeds:
        theirs = expected.get(run.seed)
        if theirs is None or any(problem(value) for value in run.metrics.values()):
            return ()
        if run.samples != theirs.samples or any(run.metrics.get(name) != theirs.metrics.get(name) for name in names):
            return missing
    return ()


def corrected(verdicts: Mapping[str, CaseVerdict]) -> dict[str, CaseVerdict]:
    """The verdicts of a whole session, after Holm's correction over all its quality tests.

    While a session runs nobody knows how many tests there will be, so each was held to the strictest level. What that
    left at `cannot tell`, red already, may now be a regression.
    """
    probabilities = {
        (key, index): finding.p
        for key, verdict in verdicts.items()
        for index, finding in enumerate(verdict.findings)
        if finding.p is not None
    }
    significant = {place for place, p in stats.holm(probabilities).items() if p <= stats.ALPHA}
    return {
        key: replace(
            verdict,
            findings=tuple(
                replace(finding, verdict="regressed")
                if finding.verdict == "cannot tell" and (key, index) in significant
                else finding
                for index, finding in enumerate(verdict.findings)
            ),
        )
        for key, verdict in verdicts.items()
    }


def margin_problems(baseline: Baseline, margins: Mapping[str, float]) -> list[str]:
    """Why some of a suite's own margins cannot be held with the baseline's seeds, a line each."""
    lines = []
    for name in margins.keys() & baseline.noise.keys():
        noise = baseline.noise[name]
        floor = stats.noise_floor(noise.sd, noise.seeds, len(baseline.seeds))
        if margins[name] < floor:
            lines.append(
                f"{name}: margin {margins[name]:g} is finer than {len(baseline.seeds)} seeds can support: unchanged "
                f"code moves by up to {floor:.3g}; it takes {stats.seeds_needed(margins[name], noise.sd)} seeds "
                f"(--peft-seeds)"
            )
    return sorted(lines)


def diff_lines(old: Baseline | None, new: Baseline, metrics: Mapping[str, Metric] = METRICS) -> list[str]:
    """What an update of the baseline changes, `old -> new` per line; empty when it changes nothing."""
    if old is None:
        return [f"new: {words.plural(len(_names(new, metrics)), 'metric')}, {words.plural(len(new.seeds), 'seed')}"]
    lines = []
    if old.case_version != new.case_version:
        lines.append(f"case version: {old.case_version} -> {new.case_version}")
    lines += [f"environment: {difference}" for difference in _differences(new.environment, old.environment)]
    if _seeds(old) != _seeds(new):
        lines.append(f"seeds: {words.listed(_seeds(old))} -> {words.listed(_seeds(new))}")
    for name in _ordered({*_names(old, metrics), *_names(new, metrics)}, metrics):
        lines += _diff_of_metric(metrics.get(name), _by_seed(old, name), _by_seed(new, name), name)
    lines += [*_diff_of_noise(old, new, metrics), *_diff_of_rest(old, new)]
    return lines or ["what is not compared: changed"] * (old != new)


# One case


def _did_not_succeed(result: Result) -> Finding:
    first, *rest = result.error_msg.strip().splitlines() or ["no error message"]
    return Finding("status", "failed", reason=f"{result.status}: {first}", details=tuple(rest))


def _findings(
    obtained: Baseline, expected: Baseline | None, metrics: Mapping[str, Metric], tests: int
) -> list[Finding]:
    unusable = _unusable(obtained, metrics)
    if expected is None:
        return [*unusable.values(), Finding("case", "no baseline", reason="nothing to compare with")]
    if reason := _another_case(obtained, expected):
        return [*unusable.values(), Finding("case", "not comparable", reason=reason)]
    names = _ordered({*_names(obtained, metrics), *_names(expected, metrics), *unusable}, metrics)
    if not names:
        return [Finding("case", "missing metric", reason="nothing was measured")]
    return [unusable.get(name) or _compare_metric(name, metrics.get(name), obtained, expected, tests) for name in names]


def _findings_of_imported(
    result: Result, baseline: Baseline, metrics: Mapping[str, Metric], tests: int
) -> list[Finding]:
    """The findings for what an imported baseline holds, and for NaN wherever it stands."""
    shared, expected = imported.matched(result, baseline)
    unusable = _unusable(from_result(result, metrics), metrics)
    findings = _findings(from_result(shared, metrics), expected, metrics, tests)
    return [*unusable.values(), *(finding for finding in findings if finding.metric not in unusable)]


def _another_case(obtained: Baseline, expected: Baseline) -> str:
    if obtained.case != expected.case:
        return f"the baseline is one of {expected.case}, not of {obtained.case}"
    if obtained.case_version != expected.case_version:
        return (
            "the definition of the case changed (experiment files, data, base model or recipe): "
            f"version {expected.case_version} -> {obtained.case_version}"
        )
    return ""


def _unusable(obtained: Baseline, metrics: Mapping[str, Metric]) -> dict[str, Finding]:
    """A failed finding for each obtained value, or list of samples, that is NaN, infinite or of a wrong type."""
    reasons: dict[str, str] = {}
    for name in _ordered(_names(obtained, metrics), metrics):
        metric = metrics.get(name)
        for seed, value in _by_seed(obtained, name).items():
            if reason := problem(value, metric.kind if metric else None):
                reasons.setdefault(name, reason + _of_seed(seed))
    for run in obtained.seeds:
        for name, sample in run.samples.items():
            if reason := problem(sample):
                reasons.setdefault(f"samples.{name}", reason + _of_seed(run.seed))
    return {name: Finding(name, "failed", reason=reason) for name, reason in reasons.items()}


def _environment_note(obtained: Mapping[str, str], expected: Mapping[str, str]) -> str:
    differences = _differences(obtained, expected)
    note = "; differs now: " + ", ".join(differences) if differences else ", same environment"
    return f"torch {expected.get('torch', 'unknown')}{note}"


def _differences(obtained: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    return [
        f"{key} {expected.get(key, 'unknown')} -> {obtained.get(key, 'unknown')}"
        for key in sorted({*obtained, *expected})
        if obtained.get(key) != expected.get(key)
    ]


def _drift(obtained: Baseline, expected: Baseline) -> list[str]:
    """How the environment differs, and what the base model without adapter shows of it."""
    ours, theirs = obtained.environment, expected.environment
    lines = [
        f"{key} {theirs[key]} -> {ours[key]}"
        for key in _DRIFTING
        if key in ours and key in theirs and ours[key] != theirs[key]
    ]
    before, after = expected.base, obtained.base
    if before is None or after is None:
        return lines
    for phase in sorted(before.operators.keys() & after.operators.keys()):
        for column, unit in enumerate(("calls", "flops")):
            new, old = (_total(side.operators[phase], column) for side in (after, before))
            if new != old:
                change = words.change(METRICS["train_step.calls"], new, old)
                lines.append(f"base model {phase}.{unit} {old:,} -> {new:,} ({change})")
    if before.losses and after.losses and before.losses != after.losses:
        step = next((n for n, pair in enumerate(zip(before.losses, after.losses, strict=False)) if len({*pair}) > 1), 0)
        lines.append(f"losses of the base model part at step {step + 1}")
    return lines


def _drifted(obtained: Baseline, expected: Baseline, drift: Iterable[str]) -> Finding:
    """The environment's doing where something of it differs; else something moved the base model that nobody knows."""
    ours, theirs = obtained.environment, expected.environment
    told = "; ".join(drift)
    if any(ours[key] != theirs[key] for key in ours.keys() & theirs.keys() - _NO_CAUSE):
        return Finding("environment", "environment drift", reason=told)
    cause = "in the same environment, so it is the benchmark's own code, its base model or another library"
    return Finding(BASE_MODEL, "numerics changed", reason=f"{told}; {cause}")


def _total(rows: Mapping[str, list[int]], column: int, left_out: Collection[str] = ()) -> int:
    return sum(counts[column] for row, counts in rows.items() if row not in left_out)


def _numbers(result: Result, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The finite numbers of a result, means over the seeds; those never compared are among them."""
    found: dict[str, list[float]] = {}
    for values in (result.metrics, *(run.metrics for run in result.seeds)):
        for name, value in values.items():
            if isinstance(value, (int, float)) and not problem(value):
                found.setdefault(name, []).append(value)
    return {name: mean(found[name]) for name in _ordered(found, metrics)}


# One metric


def _names(side: Baseline, metrics: Mapping[str, Metric]) -> set[str]:
    """Names of the metrics of one side, but for those that are never compared."""
    names = {*side.metrics, *(name for run in side.seeds for name in run.metrics)}
    return {name for name in names if name not in metrics or metrics[name].lane != "info"}


def _ordered(names: Collection[str], metrics: Mapping[str, Metric]) -> list[str]:
    """In the order in which metrics are declared, others last by name."""
    return [*(name for name in metrics if name in names), *sorted(name for name in names if name not in metrics)]


def _by_seed(side: Baseline, name: str) -> _BySeed:
    values: _BySeed = {run.seed: run.metrics[name] for run in side.seeds if name in run.metrics}
    return {None: side.metrics[name], **values} if name in side.metrics else values


def _seeds(side: Baseline) -> list[int]:
    return [run.seed for run in side.seeds]


def _compare_metric(name: str, metric: Metric | None, obtained: Baseline, expected: Baseline, tests: int) -> Finding:
    ours, theirs = _by_seed(obtained, name), _by_seed(expected, name)
    if metric is None:
        return Finding(name, "unknown metric", reason=_why_unknown(ours))
    if not ours or not theirs:
        return _missing(metric, ours, theirs)
    if reason := _why_not_comparable(metric, obtained, expected):
        return Finding(name, "not comparable", *_figures_of(metric, ours, theirs), reason=reason)
    if reason := _why_base_cannot_tell(metric, obtained, expected):
        return Finding(name, "not comparable", *_figures_of(metric, ours, theirs), reason=reason)
    if reason := _why_drifted(metric, obtained, expected):
        return _compare_under_drift(metric, obtained, expected, reason)
    theirs = {seed: value for seed, value in theirs.items() if seed is None or seed in _seeds(obtained)}
    if reason := _why_seeds_differ(ours, theirs, expected):
        return Finding(name, "not comparable", reason=reason)
    if ours.keys() != theirs.keys():
        return _missing_for_a_seed(name, ours, theirs)
    if reason := next((reason for value in theirs.values() if (reason := problem(value, metric.kind))), ""):
        return Finding(name, "not comparable", reason=f"the baseline's value {reason}")
    if metric.lane == "quality":
        return _judge_quality(metric, obtained, expected, tests)
    if name in obtained.intervals:
        finding = _judge_interval(metric, _mean(ours.values()), _mean(theirs.values()), obtained.intervals[name])
    elif metric.interval:
        reason = f"measured without its interval, {metric.interval}"
        return Finding(name, "cannot tell", *_figures_of(metric, ours, theirs), reason=reason)
    else:
        finding = _judge(metric, ours, theirs)
    if finding.verdict == "identical":
        return finding
    return replace(finding, details=finding.details or _causes(name, obtained, expected))


def _why_unknown(ours: _BySeed) -> str:
    if ours:
        return "measured, but not declared; declare its unit, direction and lane"
    return "the baseline holds it, but this version does not know it; update the baseline"


def _missing(metric: Metric, ours: _BySeed, theirs: _BySeed) -> Finding:
    obtained, expected = _figures_of(metric, ours, theirs)
    if not ours:
        return Finding(metric.name, "missing metric", expected=expected, reason="vanished; the baseline holds it")
    return Finding(
        metric.name, "missing metric", obtained=obtained, reason="the baseline does not hold it; update the baseline"
    )


def _missing_for_a_seed(name: str, ours: _BySeed, theirs: _BySeed) -> Finding:
    if vanished := theirs.keys() - ours.keys():
        return Finding(name, "missing metric", reason=f"vanished{_of_seeds(vanished)}")
    new = _of_seeds(ours.keys() - theirs.keys())
    return Finding(name, "missing metric", reason=f"the baseline does not hold it{new}; update the baseline")


def _why_not_comparable(metric: Metric, obtained: Baseline, expected: Baseline) -> str:
    """The environment keys that the metric needs equal and that differ or are unknown, but for those that drift."""
    ours = {key: obtained.environment.get(key, "unknown") for key in metric.needs}
    theirs = {key: expected.environment.get(key, "unknown") for key in metric.needs}
    fixed = [key for key in metric.needs if key not in _DRIFTING or "unknown" in (ours[key], theirs[key])]
    differing = [f"{key} {theirs[key]} -> {ours[key]}" for key in fixed if ours[key] != theirs[key]]
    unknown = [key for key in fixed if ours[key] == theirs[key] == "unknown"]
    if differing:
        return f"environment differs: {', '.join(differing)}"
    return f"environment unknown: {', '.join(unknown)}" if unknown else ""


def _why_seeds_differ(ours: _BySeed, theirs: _BySeed, expected: Baseline) -> str:
    extra = sorted(seed for seed in ours.keys() - {None} if seed is not None and seed not in _seeds(expected))
    if extra:
        return f"seed {words.listed(extra)} not in the baseline (seeds {words.listed(_seeds(expected)) or 'none'})"
    return "" if theirs else f"no seed in common (the baseline has {words.listed(_seeds(expected))})"


def _why_drifted(metric: Metric, obtained: Baseline, expected: Baseline) -> str:
    """What changed for the metric that is not the adapter's doing; empty when nothing did."""
    ours, theirs = obtained.environment, expected.environment
    differing = [key for key in metric.needs if key in _DRIFTING and ours[key] != theirs[key]]
    if differing:
        return "environment differs: " + ", ".join(f"{key} {theirs[key]} -> {ours[key]}" for key in differing)
    before, after = _base_figures(metric, obtained, expected)
    moved = before is not None and after is not None and before != after
    return "the base model's own figures moved" if moved else ""


def _why_base_cannot_tell(metric: Metric, obtained: Baseline, expected: Baseline) -> str:
    """Figures of the base model that one side lacks did not move: nobody knows."""
    before, after = _base_figures(metric, obtained, expected)
    if (before is None) == (after is None):
        return ""
    return f"only {'the result' if before is None else 'the baseline'} holds the base model's own figures for it"


def _base_figures(metric: Metric, obtained: Baseline, expected: Baseline) -> tuple[object, object]:
    """What the base models' own figures, the baseline's first, tell about the metric; None where they hold nothing."""
    before, after = expected.base, obtained.base
    if not metric.needs or before is None or after is None:
        return None, None
    if metric.lane == "numerics":
        return before.losses or None, after.losses or None
    if metric.name in before.metrics.keys() | after.metrics.keys():
        return before.metrics.get(metric.name), after.metrics.get(metric.name)
    phase = metric.name.partition(".")[0]
    return before.operators.get(phase) or None, after.operators.get(phase) or None


def _compare_under_drift(metric: Metric, obtained: Baseline, expected: Baseline, reason: str) -> Finding:
    """A counter by what it counts beside the operators that changed in the base model too.

    Bytes count as they are where the base model's own did not move. What is left cannot be told apart from the
    environment's own change; without the base model's figures nothing can, and that is no comparison.
    """
    ours, theirs = obtained.metrics.get(metric.name), expected.metrics.get(metric.name)
    phase, _, counter = metric.name.partition(".")
    before, after = expected.base, obtained.base
    if metric.lane != "exact":
        return Finding(metric.name, "environment drift", reason=reason)
    if before is None or after is None:
        reason = f"{reason}; the base model's own figures are not there to tell"
        return Finding(metric.name, "not comparable", reason=reason)
    if counter in ("calls", "flops") and phase in before.operators and phase in after.operators:
        if not obtained.operators.get(phase) or not expected.operators.get(phase):
            reason = f"{reason}; the operators of {phase} are not there to tell"
            return Finding(metric.name, "not comparable", reason=reason)
        moved = _moved_operators(phase, before, after)
        column = ("calls", "flops").index(counter)
        rows = [side.operators[phase] for side in (obtained, expected)]
        finding = _judge_exact(metric, *(_total(side, column, moved) for side in rows))
        if finding.verdict == "identical":
            return finding
        left, right = (
            replace(side, operators={phase: {row: counts for row, counts in found.items() if row not in moved}})
            for side, found in zip((obtained, expected), rows, strict=True)
        )
        rule = ", ".join(part for part in (finding.reason, "beside what changed in the base model") if part)
        return replace(finding, reason=rule, details=_causes(metric.name, left, right))
    unmoved = metric.name in before.metrics and before.metrics[metric.name] == after.metrics.get(metric.name)
    if unmoved and ours is not None and theirs is not None:
        return _judge_exact(metric, ours, theirs)
    return Finding(metric.name, "environment drift", reason=reason)


def _moved_operators(phase: str, before: BaseReference, after: BaseReference) -> set[str]:
    old, new = before.operators[phase], after.operators[phase]
    return {row for row in old.keys() | new.keys() if old.get(row) != new.get(row)}


def _judge_quality(metric: Metric, obtained: Baseline, expected: Baseline, tests: int) -> Finding:
    """Both a margin and significance: beyond the margin alone a difference is one that nobody can tell from noise.

    The margin allows for the noise between seeds, see `stats.noise_floor`.
    """
    ours = {run.seed: run for run in obtained.seeds if metric.name in run.metrics}
    theirs = {run.seed: run for run in expected.seeds if run.seed in ours}
    if reason := _why_samples_missing(metric, ours, theirs):
        return Finding(metric.name, "missing metric", reason=reason)
    new, old = ([_number(run, metric.name) for _, run in sorted(side.items())] for side in (ours, theirs))
    figures = words.figures(metric, mean(new), mean(old))
    if new and new == old and all(ours[seed].samples == theirs[seed].samples for seed in ours):
        return Finding(metric.name, "identical", *figures)
    noise = expected.noise.get(metric.name)
    if len(new) < 2 or noise is None:
        reason = "one seed cannot tell a change from noise; the second stage, or --peft-seeds, runs more"
        return Finding(metric.name, "cannot tell", *figures, words.change(metric, mean(new), mean(old)), reason)
    sign = -1 if metric.direction == "higher" else 1
    floor = stats.noise_floor(noise.sd, noise.seeds, len(new))
    margin = max(metric.margin(mean(old)), floor)
    worse, p = sign * (mean(new) - mean(old)), _probability(metric, sign, old, new, theirs, ours)
    if abs(worse) <= margin * (1 + 1e-9):
        verdict: Verdict = "within noise"
    elif worse > 0:
        verdict = "regressed" if p <= stats.ALPHA / tests else "cannot tell"
    else:
        significant = _probability(metric, -sign, old, new, theirs, ours) <= stats.ALPHA / tests
        verdict = "improved" if significant else "within noise"
    because = f", noise of {noise.seeds} seeds" if floor >= metric.margin(mean(old)) else ""
    reason = f"margin {words.amount(metric, margin)}{because}{_averaged(dict(ours))}, p = {p:.2g}"
    return Finding(metric.name, verdict, *figures, words.change(metric, mean(new), mean(old)), reason, p=p)


def _why_samples_missing(metric: Metric, ours: Mapping[int, SeedRun], theirs: Mapping[int, SeedRun]) -> str:
    """The samples that only one side holds; without them the test over seeds alone would decide."""
    vanished = [seed for seed in ours if metric.samples in theirs[seed].samples.keys() - ours[seed].samples.keys()]
    new = [seed for seed in ours if metric.samples in ours[seed].samples.keys() - theirs[seed].samples.keys()]
    if vanished:
        return f"its samples, {metric.samples}, vanished{_of_seeds(vanished)}"
    if new:
        return f"the baseline does not hold its samples, {metric.samples},{_of_seeds(new)}; update the baseline"
    return ""


def _number(run: SeedRun, name: str) -> float:
    value = run.metrics[name]
    assert isinstance(value, (int, float))
    return float(value)


def _probability(
    metric: Metric,
    sign: int,
    old: list[float],
    new: list[float],
    theirs: Mapping[int, SeedRun],
    ours: Mapping[int, SeedRun],
) -> float:
    """Of a difference like this when nothing became worse: the larger one of the tests over seeds and samples."""
    by_seed = stats.worse_by_seed([sign * value for value in old], [sign * value for value in new])
    # both sides hold samples of the same seeds, see `_why_samples_missing`
    seeds = [seed for seed in sorted(ours) if metric.samples in ours[seed].samples]
    if not seeds:
        return by_seed
    before, after = ([side[seed].samples[metric.samples] for seed in seeds] for side in (theirs, ours))
    try:
        return max(by_seed, stats.worse_by_sample(before, after, sign))
    except ValueError:  # samples that do not pair up cannot show anything
        return 1.0


def _judge(metric: Metric, ours: _BySeed, theirs: _BySeed) -> Finding:
    """The finding for values of the same seeds on both sides."""
    if metric.lane == "noisy":
        return _judge_mean(metric, ours, theirs)
    rule = _judge_exact if metric.lane == "exact" else _judge_numerics
    findings = [
        _with_seed(rule(metric, ours[seed], theirs[seed]), seed)
        for seed in sorted(ours, key=lambda seed: -1 if seed is None else seed)
    ]
    return max(findings, key=lambda finding: SEVERITY.index(finding.verdict))


def _with_seed(finding: Finding, seed: int | None) -> Finding:
    if seed is None or finding.verdict == "identical":
        return finding
    return replace(finding, reason=", ".join(part for part in (f"seed {seed}", finding.reason) if part))


def _judge_mean(metric: Metric, ours: _BySeed, theirs: _BySeed) -> Finding:
    """Noisy lane: the means over the seeds, a margin, and the direction beyond it."""
    obtained, expected = _mean(ours.values()), _mean(theirs.values())
    figures = words.figures(metric, obtained, expected)
    if ours == theirs:
        return Finding(metric.name, "identical", *figures)
    verdict: Verdict = (
        "within noise" if within_margin(metric, obtained, expected) else _side(metric, obtained, expected)
    )
    reason = f"margin {words.margin(metric, expected)}{_averaged(ours)}"
    return Finding(metric.name, verdict, *figures, words.change(metric, obtained, expected), reason)


def _judge_interval(metric: Metric, obtained: float, expected: float, interval: Value) -> Finding:
    """Noisy lane with an interval: a difference counts when the whole interval lies beyond the margin.

    An interval that reaches beyond it, and is wider than the margin itself, leaves open whether the metric regressed.
    """
    figures, change = words.figures(metric, obtained, expected), words.change(metric, obtained, expected)
    if interval == []:
        return Finding(metric.name, "cannot tell", *figures, change, "too few blocks without throttling")
    ends = interval if isinstance(interval, list) and not problem(interval, "list") else []
    if len(ends) != 2 or not ends[0] <= ends[1]:
        return Finding(metric.name, "failed", *figures, change, f"its interval is {interval}, expected [low, high]")
    best, worst = ends if metric.direction == "lower" else reversed(ends)
    beyond = {end: "" if within_margin(metric, end, expected) else _side(metric, end, expected) for end in ends}
    verdict: Verdict = "identical" if obtained == expected else "within noise"
    if beyond[best] == beyond[worst] != "":
        verdict = "regressed" if beyond[best] == "regressed" else "improved"
    elif beyond[worst] == "regressed" and ends[1] - ends[0] > metric.margin(expected):
        verdict = "cannot tell"
    reason = f"interval {ends[0]:.4g} to {ends[1]:.4g}, margin {words.margin(metric, expected)}"
    return Finding(metric.name, verdict, *figures, change, reason)


def _averaged(values: Mapping[int | None, object] | Mapping[int, object]) -> str:
    seeds = sorted(seed for seed in values if seed is not None)
    if len(seeds) > 1:
        return f", mean of seeds {words.listed(seeds)}"
    return f", seed {seeds[0]}" if seeds else ""


def _judge_exact(metric: Metric, obtained: Value, expected: Value) -> Finding:
    figures = words.figures(metric, obtained, expected)
    if obtained == expected:
        return Finding(metric.name, "identical", *figures)
    if metric.unit == "outcome":
        return _judge_outcome(metric.name, str(obtained), str(expected))
    if isinstance(obtained, dict) and isinstance(expected, dict):
        return _judge_table(metric.name, "regressed", obtained, expected)
    if not isinstance(obtained, (int, float)) or not isinstance(expected, (int, float)):
        return Finding(metric.name, "regressed", *figures, reason="must be equal")
    side = _side(metric, obtained, expected)
    reason = "must be equal" if side == "regressed" else ""
    return Finding(metric.name, side, *figures, words.change(metric, obtained, expected), reason)


def _judge_outcome(name: str, obtained: str, expected: str) -> Finding:
    if obtained == "ok":
        return Finding(name, "improved", obtained, expected, reason="capability gained")
    reason = "capability lost" if expected == "ok" else "fails in another way"
    return Finding(name, "regressed", obtained, expected, reason=reason)


def _judge_table(name: str, verdict: Verdict, obtained: Mapping[str, str], expected: Mapping[str, str]) -> Finding:
    added = [f"added    {key}: {obtained[key]}" for key in sorted(obtained.keys() - expected.keys())]
    removed = [f"removed  {key}: {expected[key]}" for key in sorted(expected.keys() - obtained.keys())]
    changed = [
        f"changed  {key}: {expected[key]} -> {obtained[key]}"
        for key in sorted(expected.keys() & obtained.keys())
        if expected[key] != obtained[key]
    ]
    counts = ((len(removed), "removed"), (len(changed), "changed"), (len(added), "added"))
    summary = ", ".join(f"{count} {what}" for count, what in counts if count)
    details = words.first([*removed, *changed, *added], MAX_TENSORS)
    reason = "must be equal" if verdict == "regressed" else ""
    return Finding(name, verdict, change=summary, reason=reason, details=details)


def _judge_numerics(metric: Metric, obtained: Value, expected: Value) -> Finding:
    if obtained == expected:
        return Finding(metric.name, "identical", *words.figures(metric, obtained, expected))
    if isinstance(obtained, list) and isinstance(expected, list):
        return _judge_steps(metric, obtained, expected)
    if isinstance(obtained, dict) and isinstance(expected, dict):
        return _judge_table(metric.name, "numerics changed", obtained, expected)
    change = ""
    if isinstance(obtained, (int, float)) and isinstance(expected, (int, float)):
        change = f"{obtained - expected:+.2g}"
    return Finding(metric.name, "numerics changed", *words.figures(metric, obtained, expected), change)


def _judge_steps(metric: Metric, obtained: list[float], expected: list[float]) -> Finding:
    """The first step at which two courses part."""
    for step, (ours, theirs) in enumerate(zip(obtained, expected, strict=False), start=1):
        if ours != theirs:
            figures, change = words.figures(metric, ours, theirs), f"{ours - theirs:+.2g}"
            return Finding(metric.name, "numerics changed", *figures, change, f"they part at step {step}")
    lengths = (f"{len(obtained)} steps", f"{len(expected)} steps")
    return Finding(metric.name, "numerics changed", *lengths, reason="equal as far as both go")


def _side(metric: Metric, obtained: float, expected: float) -> Literal["improved", "regressed"]:
    """The direction of a difference. A metric that knows no better can only get worse, and so can NaN."""
    better = obtained < expected if metric.direction == "lower" else obtained > expected
    return "improved" if better and metric.direction != "equal" else "regressed"


def _mean(values: Iterable[Value]) -> float:
    return mean([float(value) for value in values if isinstance(value, (int, float))])


def _causes(name: str, obtained: Baseline, expected: Baseline) -> tuple[str, ...]:
    """The operators, or tensors alive at the peak, behind a changed counter, largest change first."""
    phase, _, counter = name.partition(".")
    if counter in ("calls", "flops"):
        ours, theirs, word = obtained.operators.get(phase), expected.operators.get(phase), _operator_line
    elif counter == "peak_bytes":
        ours, theirs, word = obtained.peak_tensors.get(phase), expected.peak_tensors.get(phase), _tensor_line
    else:
        return ()
    if not ours or not theirs:
        return ()
    return words.first(_changed_rows(ours, theirs, 0 if counter == "calls" else 1, word), MAX_OPERATORS)


def _changed_rows(
    ours: Mapping[str, list[int]],
    theirs: Mapping[str, list[int]],
    column: int,
    word: Callable[[str, list[int], list[int]], str],
) -> list[str]:
    changes = []
    for row in ours.keys() | theirs.keys():
        after, before = ours.get(row, [0, 0]), theirs.get(row, [0, 0])
        if after[column] != before[column]:
            changes.append((-abs(after[column] - before[column]), row, word(row, after, before)))
    return [line for _, _, line in sorted(changes)]


def _operator_line(row: str, ours: list[int], theirs: list[int]) -> str:
    """`aten.mm  48 -> 96 calls (+602 MFLOP) in LoHaLayer.forward`."""
    operator, _, owner = row.partition(" @ ")
    calls = f"{ours[0]:,} calls" if ours[0] == theirs[0] else f"{theirs[0]:,} -> {ours[0]:,} calls"
    flops = f" ({words.flops_change(ours[1] - theirs[1])})" if ours[1] != theirs[1] else ""
    return f"{operator}  {calls}{flops}{f' in {owner}' if owner else ''}"


def _tensor_line(row: str, ours: list[int], theirs: list[int]) -> str:
    """`[128, 128] float32  4 -> 8 tensors (+256.00 KiB) of LoHaLayer.get_delta_weight`."""
    tensor, _, owner = row.partition(" @ ")
    count = words.plural(ours[0], "tensor") if ours[0] == theirs[0] else f"{theirs[0]:,} -> {ours[0]:,} tensors"
    return f"{tensor}  {count} ({words.bytes_change(ours[1] - theirs[1])}){f' of {owner}' if owner else ''}"


def _diff_of_metric(metric: Metric | None, old: _BySeed, new: _BySeed, name: str) -> list[str]:
    if old == new:
        return []
    if not old or not new:
        return [f"{name}: {'removed' if old else 'added'}"]
    common = old.keys() & new.keys()
    if metric is None or not common:
        return [f"{name}: changed"]
    if metric.kind == "number":
        obtained, expected = _mean(new.values()), _mean(old.values())
        after, before = words.figures(metric, obtained, expected)
        if after == before:
            return [f"{name}: {after} (by seed it changed)"]
        return [f"{name}: {before} -> {after} ({words.change(metric, obtained, expected)})"]
    finding = _judge(metric, {seed: new[seed] for seed in common}, {seed: old[seed] for seed in common})
    if finding.verdict == "identical":
        return [f"{name}: changed"]
    return [f"{name}: {finding.arrow() or finding.change}", *(f"  {line}" for line in finding.details)]


def _diff_of_noise(old: Baseline, new: Baseline, metrics: Mapping[str, Metric]) -> list[str]:
    lines = []
    for name in _ordered(old.noise.keys() | new.noise.keys(), metrics):
        before, after = old.noise.get(name), new.noise.get(name)
        if before is None or after is None:
            lines.append(f"noise of {name}: {'added' if before is None else 'removed'}")
        elif (before.sd, before.seeds) != (after.sd, after.seeds):
            change = f"sd {before.sd:.4g} of {before.seeds} seeds -> {after.sd:.4g} of {after.seeds}"
            lines.append(f"noise of {name}: {change}")
        elif before != after:
            lines.append(f"noise of {name}: detectable {before.detectable:.4g} -> {after.detectable:.4g}")
    return lines


def _diff_of_rest(old: Baseline, new: Baseline) -> list[str]:
    """What has no figure of its own: samples, operators, tensors, and where a baseline comes from."""
    lines = []
    before, after = ({run.seed: run.samples for run in side.seeds} for side in (old, new))
    if changed := [seed for seed in sorted(before.keys() & after.keys()) if before[seed] != after[seed]]:
        lines.append(f"samples of seed {words.listed(changed)}: changed")
    phases = sorted({*old.operators, *new.operators})
    if differing := [phase for phase in phases if old.operators.get(phase) != new.operators.get(phase)]:
        lines.append(f"operators of {', '.join(differing)}: changed")
    phases = sorted({*old.peak_tensors, *new.peak_tensors})
    if differing := [phase for phase in phases if old.peak_tensors.get(phase) != new.peak_tensors.get(phase)]:
        lines.append(f"tensors at the peak of {', '.join(differing)}: changed")
    lines += _diff_of_part("base model's figures", old.base, new.base)
    return lines + _diff_of_part("imported result", old.imported, new.imported)


def _diff_of_part(name: str, old: object, new: object) -> list[str]:
    if old == new:
        return []
    return [f"{name}: {'changed' if old and new else 'removed' if old else 'added'}"]


# Words


def _worst_first(findings: Iterable[Finding]) -> list[Finding]:
    told = [finding for finding in findings if finding.verdict != "identical"]
    return sorted(told, key=lambda finding: -SEVERITY.index(finding.verdict))


def _told(findings: Iterable[Finding]) -> list[str]:
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in _worst_first(findings):
        cause = finding.reason if finding.verdict in _TOLD_TOGETHER else finding.metric
        groups.setdefault((finding.verdict, cause), []).append(finding)
    return [group[0].text() if len(group) == 1 else _told_together(group) for group in groups.values()]


def _told_together(group: list[Finding]) -> str:
    names = textwrap.wrap(", ".join(finding.metric for finding in group), 116, break_long_words=False)
    head = f"{len(group)} metrics {group[0].verdict}: {group[0].reason}"
    return "\n".join([head, *(f"  {line}" for line in names)])


def _short(finding: Finding) -> str:
    of_the_case = finding.metric in ("", "case", "status") or finding.verdict == "not comparable"
    return finding.reason if of_the_case else finding.short()


def _of_seed(seed: int | None) -> str:
    return "" if seed is None else f" for seed {seed}"


def _of_seeds(seeds: Collection[int | None]) -> str:
    numbers = sorted(seed for seed in seeds if seed is not None)
    return f" for seed {words.listed(numbers)}" if numbers else ""


def _figures_of(metric: Metric, ours: _BySeed, theirs: _BySeed) -> tuple[str, str]:
    """Both sides as shown, where it is not known yet that they can be compared; an absent one is empty."""
    obtained, expected = words.figures(metric, _summary(metric, ours or theirs), _summary(metric, theirs or ours))
    return obtained if ours else "", expected if theirs else ""


def _summary(metric: Metric, values: _BySeed) -> Value:
    return _mean(values.values()) if metric.kind == "number" else next(iter(values.values()))
