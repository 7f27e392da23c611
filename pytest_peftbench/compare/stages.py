"""What else must run before a case can be judged: fixed beforehand, so that nobody looks on the way."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_peftbench.compare.comparable import another_case
from pytest_peftbench.compare.comparison import Comparison, seeds_of
from pytest_peftbench.compare.lanes import compare_metric
from pytest_peftbench.compare.verdicts import GREEN_BY_DEFAULT
from pytest_peftbench.compare.witness import says
from pytest_peftbench.results.baseline import Baseline, problem
from pytest_peftbench.results.metrics import Metric, by_lane
from pytest_peftbench.results.result import WITNESS_VERSION, Result, SecondStage


def second_stage(result: Result, baseline: Baseline, metrics: Mapping[str, Metric]) -> SecondStage:
    """What else must run before the case can be judged, by what its first seed gave, and its witness if it ran.

    Nothing, where all that the first seed tells is bit-identical to the baseline's, or cannot be compared with it.
    Else the witness: where it agrees and quality moved no more than by rounding, nothing else; where it does not, or
    there is none, all other seeds of the baseline: their number is fixed, nobody looks on the way. Times that
    regressed, or whose interval is too wide to tell, are taken once more, with more blocks.
    """
    comparison = Comparison.of(result, baseline, metrics, tests=1)
    times = [metric.name for metric in metrics.values() if metric.interval]
    both = [name for name in times if name in result.metrics and name in baseline.metrics]
    retime = any(_wants_more(comparison, name) for name in both)
    if not _comparable(comparison) or comparison.same_bits() or _only_rounded(comparison):
        return SecondStage(retime=retime)
    others = tuple(run.seed for run in comparison.expected.seeds if run.seed not in seeds_of(comparison.obtained))
    recorded = baseline.witness if baseline.witness and baseline.witness.version == WITNESS_VERSION else None
    asks = recorded.rate if recorded and result.witness is None else 0.0
    return SecondStage(others, retime, witness=asks)


def _wants_more(comparison: Comparison, name: str) -> bool:
    """Whether a time would be red, and more blocks may say otherwise: one without an interval was given up."""
    verdict = compare_metric(comparison, name).verdict
    return verdict == "regressed" or (verdict == "cannot tell" and bool(comparison.obtained.intervals.get(name)))


def _comparable(comparison: Comparison) -> bool:
    obtained, recorded = comparison.obtained, {run.seed for run in comparison.expected.seeds}
    if another_case(obtained, comparison.expected) or not recorded >= set(seeds_of(obtained)):
        return False
    return not any(problem(value) for run in obtained.seeds for value in run.metrics.values())


def _only_rounded(comparison: Comparison) -> bool:
    held = {name for run in comparison.expected.seeds for name in run.metrics}
    quality = [name for name in by_lane(comparison.metrics, "quality") if name in held]
    return says(comparison) == "agrees" and all(
        compare_metric(comparison, name).verdict in GREEN_BY_DEFAULT for name in quality
    )
