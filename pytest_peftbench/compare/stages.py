"""What else must run before a case can be judged: fixed beforehand, so that nobody looks on the way."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_peftbench.compare.comparable import another_case
from pytest_peftbench.compare.comparison import Comparison, seeds_of
from pytest_peftbench.compare.lanes import compare_metric
from pytest_peftbench.results.baseline import Baseline, problem
from pytest_peftbench.results.metrics import Metric, by_lane
from pytest_peftbench.results.result import Result, SecondStage


def second_stage(result: Result, baseline: Baseline, metrics: Mapping[str, Metric]) -> SecondStage:
    """What else must run before the case can be judged, by what its first seed gave.

    Of the seeds none, where all that the first one tells is bit-identical to the baseline's, or cannot be compared
    with it; else all others of the baseline: their number is fixed, nobody looks on the way. Times that regressed are
    taken once more; those that cannot tell were, with the same number of blocks.
    """
    comparison = Comparison.of(result, baseline, metrics, tests=1)
    times = [metric.name for metric in metrics.values() if metric.interval]
    both = [name for name in times if name in result.metrics and name in baseline.metrics]
    retime = any(compare_metric(comparison, name).verdict == "regressed" for name in both)
    return SecondStage(_further_seeds(comparison), retime)


def _further_seeds(comparison: Comparison) -> tuple[int, ...]:
    obtained, recorded = comparison.obtained, {run.seed: run for run in comparison.expected.seeds}
    if another_case(obtained, comparison.expected) or not recorded.keys() >= set(seeds_of(obtained)):
        return ()
    if any(problem(value) for run in obtained.seeds for value in run.metrics.values()):
        return ()
    # what the baseline does not hold yet asks for no further seed: none could tell anything about it
    compared = {*by_lane(comparison.metrics, "numerics"), *by_lane(comparison.metrics, "quality")}
    same = comparison.same_samples() and all(
        run.metrics.get(name) == value
        for run in obtained.seeds
        for name, value in recorded[run.seed].metrics.items()
        if name in compared
    )
    return () if same else tuple(seed for seed in recorded if seed not in seeds_of(obtained))
