"""The two sides of one case, and their figures looked up by metric and by training seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from pytest_peftbench.compare.noise import with_noise
from pytest_peftbench.results import words
from pytest_peftbench.results.baseline import Baseline, from_result
from pytest_peftbench.results.metrics import METRICS, Lane, Metric, Value, by_lane
from pytest_peftbench.results.result import Result, mean

# Values of one metric by training seed, ascending; None for a metric that does not depend on the seed.
BySeed = dict[int | None, Value]


@dataclass(frozen=True)
class Comparison:
    """What a case measured, and what was expected of it.

    metrics: the catalogue, with the margins of the case's suite, see `with_margins`. tests: how many quality tests the
    session may run in all; the more, the more certain each must be.
    """

    obtained: Baseline
    expected: Baseline
    metrics: Mapping[str, Metric]
    tests: int

    @classmethod
    def of(cls, result: Result, baseline: Baseline, metrics: Mapping[str, Metric], tests: int) -> Comparison:
        """The result as a baseline would hold it, beside the baseline and the noise between its seeds."""
        expected = baseline if baseline.noise else with_noise(baseline, (), metrics)
        return cls(from_result(result, metrics), expected, metrics, tests)

    def names(self) -> list[str]:
        """Metrics that either side holds, in the order in which they are declared."""
        return ordered({*names_of(self.obtained, self.metrics), *names_of(self.expected, self.metrics)}, self.metrics)

    def values(self, name: str) -> tuple[BySeed, BySeed]:
        """What was obtained of a metric, and what was expected of it for the seeds that ran."""
        ran = {None, *seeds_of(self.obtained)}
        theirs = by_seed(self.expected, name)
        return by_seed(self.obtained, name), {seed: value for seed, value in theirs.items() if seed in ran}

    def same_bits(self) -> bool:
        """Whether the seeds that ran gave the same to the bit: losses, hashes, quality and samples."""
        return self.same_samples() and self.same("numerics") and self.same("quality")

    def same(self, lane: Lane) -> bool:
        """Whether all figures of a lane are the same for the seeds that ran.

        What the baseline does not hold yet does not count: no bit of it is known.
        """
        recorded = {run.seed: run.metrics for run in self.expected.seeds}
        names = by_lane(self.metrics, lane)
        return all(
            run.metrics.get(name) == value
            for run in self.obtained.seeds
            for name, value in recorded.get(run.seed, {}).items()
            if name in names
        )

    def same_samples(self) -> bool:
        """Whether the seeds that ran have all samples that the baseline holds of them; further ones may be new."""
        recorded = {run.seed: run.samples for run in self.expected.seeds}
        return all(
            run.samples.get(name) == sample
            for run in self.obtained.seeds
            for name, sample in recorded.get(run.seed, {}).items()
        )

    def base_figures(self, metric: Metric) -> tuple[object, object]:
        """What the base models' own figures, the baseline's first, tell about the metric; None for nothing."""
        before, after = self.expected.base, self.obtained.base
        if metric.lane == "numerics" or not metric.needs or before is None or after is None:
            return None, None
        if metric.name in before.metrics.keys() | after.metrics.keys():
            return before.metrics.get(metric.name), after.metrics.get(metric.name)
        phase = metric.name.partition(".")[0]
        return before.operators.get(phase) or None, after.operators.get(phase) or None


def with_margins(margins: Mapping[str, float]) -> dict[str, Metric]:
    """The metrics, with a suite's or an experiment's own margins."""
    return METRICS | {
        name: replace(METRICS[name], absolute_margin=margin, relative_margin=0.0) for name, margin in margins.items()
    }


def names_of(side: Baseline, metrics: Mapping[str, Metric]) -> set[str]:
    """Names of the metrics of one side, but for those that are never compared."""
    held = {*side.metrics, *(name for run in side.seeds for name in run.metrics)}
    return {name for name in held if name not in metrics or metrics[name].lane != "info"}


def ordered(found: Collection[str], metrics: Mapping[str, Metric]) -> list[str]:
    """Names in the order in which metrics are declared, others last by name."""
    return [*(name for name in metrics if name in found), *sorted(name for name in found if name not in metrics)]


def seeds_of(side: Baseline) -> list[int]:
    """The training seeds of one side."""
    return [run.seed for run in side.seeds]


def by_seed(side: Baseline, name: str) -> BySeed:
    """The values of a metric on one side."""
    runs = sorted(side.seeds, key=lambda run: run.seed)
    values: BySeed = {run.seed: run.metrics[name] for run in runs if name in run.metrics}
    return {None: side.metrics[name], **values} if name in side.metrics else values


def average(values: BySeed) -> float:
    """Mean over the seeds of a metric that is a number; NaN without one."""
    return mean([float(value) for value in values.values() if isinstance(value, (int, float))])


def for_seeds(found: Collection[int | None]) -> str:
    """` for seed 0, 1`; empty for what does not depend on the seed."""
    numbers = sorted(seed for seed in found if seed is not None)
    return f" for seed {words.listed(numbers)}" if numbers else ""


def averaged(found: Collection[int | None]) -> str:
    """`, mean of seeds 0, 1`, or `, seed 0`; empty for what does not depend on the seed."""
    numbers = sorted(seed for seed in found if seed is not None)
    if len(numbers) > 1:
        return f", mean of seeds {words.listed(numbers)}"
    return f", seed {numbers[0]}" if numbers else ""
