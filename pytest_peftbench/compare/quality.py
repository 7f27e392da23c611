"""The quality lane: a difference counts when it is beyond its margin and significant, over seeds and over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pytest_peftbench.compare import stats
from pytest_peftbench.compare.comparison import BySeed, Comparison, averaged, for_seeds
from pytest_peftbench.compare.noise import floor_of
from pytest_peftbench.compare.verdicts import CaseVerdict, Finding, Verdict
from pytest_peftbench.compare.witness import same_start, says
from pytest_peftbench.results import words
from pytest_peftbench.results.baseline import Noise
from pytest_peftbench.results.metrics import Metric
from pytest_peftbench.results.result import mean

# Of each seed, what a metric is the mean of.
_Samples = Mapping[int, stats.Sample]
# A test over seeds: old and new values in, a probability out.
_SeedTest = Callable[[Sequence[float], Sequence[float]], float]


def quality(comparison: Comparison, metric: Metric) -> Finding:
    """Both a margin and significance: beyond the margin alone a difference is one that nobody can tell from noise.

    The margin allows for the noise between seeds, see `stats.noise_floor`. Where both sides start from the same
    adapter a seed's two values are a pair, and its noise is that of pairs.
    """
    ours, theirs = comparison.values(metric.name)
    before, after = _samples(comparison, metric)
    if before.keys() != after.keys():
        return _samples_missing(metric, before, after)
    if unlike := [seed for seed in before if len(before[seed]) != len(after[seed])]:
        return _samples_unlike(metric, before[unlike[0]], after[unlike[0]], unlike)
    old, new = _numbers(theirs), _numbers(ours)
    obtained, expected = mean(new), mean(old)
    if new and new == old and comparison.same_samples():
        return Finding.between(metric, "identical", obtained, expected)
    noise = comparison.expected.noise.get(metric.name)
    if len(new) == 1 and not comparison.same("numerics") and says(comparison) == "agrees":
        return _rounded(metric, obtained, expected, noise)
    if len(new) < 2 or noise is None:
        reason = "one seed cannot tell a change from noise; the second stage, or --peft-seeds, runs more"
        return Finding.between(metric, "cannot tell", obtained, expected, reason)
    sign = -1 if metric.direction == "higher" else 1
    worse = sign * (obtained - expected)
    paired = same_start(comparison)
    floor = floor_of(noise, len(new), paired)
    margin = max(metric.margin(expected), floor)
    by_seed = stats.worse_by_pair if paired else stats.worse_by_seed
    p = _probability(by_seed, sign, old, new, before, after)
    verdict: Verdict = "within noise"
    if worse > margin * (1 + 1e-9):
        verdict = "regressed" if p <= stats.ALPHA / comparison.tests else "cannot tell"
    elif worse < -margin * (1 + 1e-9):
        significant = _probability(by_seed, -sign, old, new, before, after) <= stats.ALPHA / comparison.tests
        verdict = "improved" if significant else "within noise"
    of_pairs = paired and noise.paired_sd is not None
    because = f", noise of {noise.seeds} {'pairs' if of_pairs else 'seeds'}" if floor >= metric.margin(expected) else ""
    how = "paired by seed" if paired else "unpaired"
    reason = f"margin {words.amount(metric, margin)}{because}{averaged(ours)}, {how}, p = {p:.2g}"
    return Finding.between(metric, verdict, obtained, expected, reason, p)


def _rounded(metric: Metric, obtained: float, expected: float, noise: Noise | None) -> Finding:
    """One seed where the witness agrees: it may differ by what rounding makes of a training, and by no more.

    What lies beyond is no regression yet: the other seeds run and tell.
    """
    floor = floor_of(noise, 1, paired=True, level=stats.ALARM) if noise else 0.0
    margin = max(metric.margin(expected), floor)
    if abs(obtained - expected) <= margin * (1 + 1e-9):
        return Finding.between(metric, "same to rounding", obtained, expected, "the witness agrees")
    why = f"more than rounding explains ({words.amount(metric, margin)}); the witness agrees, so all seeds must tell"
    return Finding.between(metric, "cannot tell", obtained, expected, why)


def _numbers(values: BySeed) -> list[float]:
    return [float(value) for seed, value in values.items() if seed is not None and isinstance(value, (int, float))]


def _samples(comparison: Comparison, metric: Metric) -> tuple[_Samples, _Samples]:
    """What the metric is the mean of, by seed, expected and obtained; of seeds that ran, where they hold any."""
    ran = {run.seed for run in comparison.obtained.seeds}
    before, after = (
        {
            run.seed: run.samples[metric.samples]
            for run in side.seeds
            if run.seed in ran and metric.samples in run.samples
        }
        for side in (comparison.expected, comparison.obtained)
    )
    return before, after


def _samples_missing(metric: Metric, before: _Samples, after: _Samples) -> Finding:
    """The samples that only one side holds; without them the test over seeds alone would decide."""
    reason = f"the baseline does not hold its samples, {metric.samples},{for_seeds(after.keys() - before.keys())}"
    if vanished := before.keys() - after.keys():
        reason = f"its samples, {metric.samples}, vanished{for_seeds(vanished)}"
    return Finding(metric.name, "missing metric", reason=reason if vanished else f"{reason}; update the baseline")


def _samples_unlike(metric: Metric, before: stats.Sample, after: stats.Sample, seeds: Sequence[int]) -> Finding:
    """Samples that do not pair up: of one case each seed has as many."""
    reason = f"its samples, {metric.samples}, are {len(after)}, not {len(before)},{for_seeds(seeds)}"
    return Finding(metric.name, "not comparable", reason=reason)


def _probability(
    by_seed: _SeedTest, sign: int, old: list[float], new: list[float], before: _Samples, after: _Samples
) -> float:
    """Of a difference like this when nothing became worse: the larger one of the tests over seeds and samples.

    by_seed: the test over seeds. sign: 1 where a larger value is worse, -1 where a smaller is.
    """
    p = by_seed([sign * value for value in old], [sign * value for value in new])
    if not before:
        return p
    pairs = [(before[seed], after[seed]) for seed in sorted(before)]
    try:
        return max(p, stats.worse_by_sample([old for old, _ in pairs], [new for _, new in pairs], sign))
    except ValueError:  # samples that do not pair up cannot show anything
        return 1.0


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

    def settled(key: str, index: int, finding: Finding) -> Finding:
        turned = finding.verdict == "cannot tell" and (key, index) in significant
        return replace(finding, verdict="regressed") if turned else finding

    return {
        key: replace(verdict, findings=tuple(settled(key, *place) for place in enumerate(verdict.findings)))
        for key, verdict in verdicts.items()
    }
