"""Obtained and expected measurements in, verdicts out. Pure functions; nothing here knows pytest, torch or files.

Each metric of either side gives one `Finding`, by the rule of its lane; the worst of them is the case's verdict.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_peftbench.compare import imported
from pytest_peftbench.compare.comparable import another_case, no_reference, nothing_compared, unusable
from pytest_peftbench.compare.comparison import Comparison, ordered, with_margins
from pytest_peftbench.compare.diff import diff_lines
from pytest_peftbench.compare.environment import drifted, environment_drift, environment_note
from pytest_peftbench.compare.lanes import compare_metric
from pytest_peftbench.compare.noise import disagreement, margin_problems
from pytest_peftbench.compare.quality import corrected
from pytest_peftbench.compare.stages import second_stage
from pytest_peftbench.compare.verdicts import GREEN_BY_DEFAULT, SEVERITY, CaseVerdict, Finding, Verdict, is_green
from pytest_peftbench.compare.witness import witnessed
from pytest_peftbench.results.baseline import Baseline, from_result, problem
from pytest_peftbench.results.metrics import METRICS, Metric
from pytest_peftbench.results.result import Measured, Result, mean

__all__ = [
    "GREEN_BY_DEFAULT",
    "SEVERITY",
    "CaseVerdict",
    "Finding",
    "Verdict",
    "compare",
    "corrected",
    "diff_lines",
    "is_green",
    "margin_problems",
    "second_stage",
    "values_of",
    "with_margins",
]


def compare(result: Result, baseline: Baseline | None, metrics: Mapping[str, Metric], tests: int) -> CaseVerdict:
    """Hold what a case measured against its baseline.

    metrics: the catalogue, with the margins of the case's suite. tests: how many quality tests the session may run in
    all; the more, the more certain each must be.
    """
    findings, drift = _findings(result, baseline, metrics, tests)
    return CaseVerdict(
        case=result.case,
        findings=tuple(findings),
        baseline=baseline.path.as_posix() if baseline and baseline.path else "",
        environment_note=environment_note(result.environment, baseline.environment) if baseline else "",
        values=values_of(result, metrics),
        environment_drift=tuple(drift),
        detectable={name: noise.detectable for name, noise in baseline.noise.items()} if baseline else {},
    )


def _findings(
    result: Result, baseline: Baseline | None, metrics: Mapping[str, Metric], tests: int
) -> tuple[list[Finding], list[str]]:
    """What comparing gives, the whole case and its environment first, and how the environment drifted."""
    if result.status != "success":
        first, *rest = result.error_msg.strip().splitlines() or ["no error message"]
        status = "" if result.status == "failed" else f"{result.status}: "
        return [Finding.of("case", "failed", status + first, rest)], []
    obtained = from_result(result, metrics)
    bad = unusable(obtained, metrics)
    if baseline is None:
        return [*bad.values(), Finding.of("case", "no baseline", "nothing to compare with")], []
    if reason := imported.why_not(result, baseline) if baseline.imported else _why_not(obtained, baseline):
        return [*bad.values(), Finding.of("case", "not comparable", reason)], []
    comparison = Comparison.of(*imported.matched(result, baseline), metrics, tests)
    names = ordered({*comparison.names(), *bad}, metrics)
    findings = [bad.get(name) or compare_metric(comparison, name) for name in names]
    # an imported baseline holds neither counters nor bits, the figures that drift
    drift = [] if baseline.imported else environment_drift(comparison)
    told = [] if baseline.imported else witnessed(comparison)
    moved = [drifted(comparison, drift)] if drift else []
    whole = [*nothing_compared(findings), *told, *no_reference(comparison), *moved]
    return [*whole, *findings], drift


def _why_not(obtained: Baseline, baseline: Baseline) -> str:
    """Why a result cannot be held against a baseline at all; empty where it can be."""
    if reason := another_case(obtained, baseline):
        return reason
    told = disagreement(baseline)
    return f"the baseline contradicts itself: {told}; restore it, or record it anew" if told else ""


def values_of(measured: Measured, metrics: Mapping[str, Metric] = METRICS) -> dict[str, float]:
    """The finite numbers of a case, means over the seeds; those never compared are among them."""
    found: dict[str, list[float]] = {}
    for values in (measured.metrics, *(run.metrics for run in measured.seeds)):
        for name, value in values.items():
            if isinstance(value, (int, float)) and not problem(value):
                found.setdefault(name, []).append(value)
    return {name: mean(found[name]) for name in ordered(found, metrics)}
