"""How much unchanged code moves: the noise that a baseline records, and what an update leaves as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pytest_peftbench.compare.stats import RARE, detectable, noise_floor, paired_spread, seeds_needed, spread
from pytest_peftbench.results.baseline import DIGITS, Baseline, Noise, problem, rounded, within_margin
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import Metric, Value
from pytest_peftbench.results.result import SeedRun, mean


def with_noise(baseline: Baseline, moved: Iterable[SeedRun], metrics: Mapping[str, Metric]) -> Baseline:
    """The baseline with the noise of its quality metrics; needs two seeds.

    moved: the same seeds, trained on base weights moved by their last digit; none where pairs were not measured.
    """
    again = list(moved)
    noise: dict[str, Noise] = {}
    for metric in metrics.values():
        values = _by_seed(baseline.seeds, metric)
        if metric.lane == "quality" and len(values) >= 2 and len(values) == len(baseline.seeds):
            others = _by_seed(again, metric)
            paired_sd = paired_spread([others[seed] - values[seed] for seed in values]) if others else None
            noise[metric.name] = _noise(metric, list(values.values()), paired_sd)
    return replace(baseline, noise=noise)


def _by_seed(runs: Iterable[SeedRun], metric: Metric) -> dict[int, float]:
    """The values that can be compared."""
    found = {run.seed: run.metrics.get(metric.name) for run in runs}
    return {seed: float(v) for seed, v in found.items() if isinstance(v, (int, float)) and not problem(v)}


def _noise(metric: Metric, values: list[float], paired_sd: float | None) -> Noise:
    """The noise of a metric that has these values, and what as many seeds can tell."""
    noise = Noise(spread(values), len(values), 0.0, paired_sd)
    size = _detectable(noise, metric.margin(mean(values)))
    return Noise(rounded(noise.sd), noise.seeds, rounded(size), None if paired_sd is None else rounded(paired_sd))


def _detectable(noise: Noise, margin: float) -> float:
    """The smallest regression that seeds of this noise can tell, where differences up to `margin` pass."""
    paired = noise.paired_sd is not None
    sd = noise.sd if noise.paired_sd is None else noise.paired_sd
    allowed = max(margin, floor_of(noise, noise.seeds, paired))
    return detectable(allowed, sd, noise.seeds, noise.seeds, paired=paired)


def disagreement(baseline: Baseline) -> str:
    """The noise of a baseline that excuses more than it says it can tell, in words; empty without one.

    What margins a suite had when it was recorded nobody knows, so noise may tell less than it could.
    """
    for name, noise in baseline.noise.items():
        least = _detectable(noise, margin=0.0)
        if noise.detectable < least * (1 - 2 * 10.0 ** (1 - DIGITS)):  # all its figures are rounded
            return f"noise.{name}.detectable is {noise.detectable:g}; such noise tells no less than {least:g}"
    return ""


def floor_of(noise: Noise, seeds: int, paired: bool, level: float = RARE) -> float:
    """Largest difference of means of `seeds` seeds that unchanged code gives: of pairs, where theirs was measured."""
    if paired and noise.paired_sd is not None:
        return noise_floor(noise.paired_sd, noise.seeds, seeds, paired=True, level=level)
    return noise_floor(noise.sd, noise.seeds, seeds, level=level)


def refreshed(old: Baseline | None, new: Baseline, metrics: Mapping[str, Metric]) -> Baseline:
    """What an update writes: `new`, with the recorded value of all that did not move.

    A noisy metric within its margin did not move; keeping its value also keeps many updates, each within the margin,
    from adding up to a slow-down nobody sees. The noise of more seeds stays, and that of pairs where the update
    measured none and has as many seeds. Another case version is another case, of which nothing is kept. Returns `old`
    itself where nothing moved.
    """
    if old is None:
        return new
    if old.case_version != new.case_version:
        return replace(new, noise=_of_most_seeds({}, new, metrics))
    noisy = {
        name: metric
        for name, metric in metrics.items()
        if metric.lane == "noisy" and all(old.environment.get(key) == new.environment.get(key) for key in metric.needs)
    }
    recorded = {run.seed: run.metrics for run in old.seeds}
    kept = replace(
        new,
        metrics=_without_noise(old.metrics, new.metrics, noisy),
        seeds=[
            replace(run, metrics=_without_noise(recorded.get(run.seed, {}), run.metrics, noisy)) for run in new.seeds
        ],
        noise=_of_most_seeds(old.noise, new, metrics),
    )
    return old if kept == old else kept


def _of_most_seeds(known: Mapping[str, Noise], new: Baseline, metrics: Mapping[str, Metric]) -> dict[str, Noise]:
    """The noise of `new` and what is known of its metrics, of each the one of more seeds."""
    held = {name for run in new.seeds for name in run.metrics}
    found = {name: [side[name] for side in (new.noise, known) if name in side] for name in metrics if name in held}
    return {name: _merged(*noise, metric=metrics[name], runs=new.seeds) for name, noise in found.items() if noise}


def _merged(noise: Noise, known: Noise | None = None, *, metric: Metric, runs: list[SeedRun]) -> Noise:
    """The one of more seeds; of as many, that of these runs, with what is known of pairs where they tell nothing."""
    if known is None or noise.seeds > known.seeds:
        return noise
    if noise.seeds < known.seeds:
        return known
    paired_sd = known.paired_sd if noise.paired_sd is None else noise.paired_sd
    return _noise(metric, list(_by_seed(runs, metric).values()), paired_sd)


def check_pairs(baseline: Baseline, moved: Iterable[SeedRun], metrics: Mapping[str, Metric]) -> None:
    """Raise InputError, naming seed and metric, where these runs do not pair up with the baseline's seeds."""
    if len(baseline.seeds) == 1:
        raise InputError(f"{baseline.case}: not calibrated: one seed has no spread; record more with --peft-seeds")
    again = {run.seed: run for run in moved}
    for run in baseline.seeds:
        if run.seed not in again:
            raise InputError(
                f"{baseline.case}: not calibrated: seed {run.seed} was not trained on moved base weights; pass "
                "second_stage=peft_baseline.second_stage to run_experiment"
            )
        found = again[run.seed].metrics
        for name in (name for name in run.metrics if name in metrics and metrics[name].lane == "quality"):
            if reason := problem(found[name], "number") if name in found else "is missing":
                raise InputError(
                    f"{baseline.case}: not calibrated: seed {run.seed} on moved base weights: {name} {reason}"
                )


def _without_noise(old: Mapping[str, Value], new: Mapping[str, Value], noisy: Mapping[str, Metric]) -> dict[str, Value]:
    """`new`, with the old value of each noisy metric that moved within its margin."""
    return {
        name: old[name] if name in noisy and _is_within(noisy[name], value, old.get(name)) else value
        for name, value in new.items()
    }


def _is_within(metric: Metric, obtained: Value, expected: Value | None) -> bool:
    if not isinstance(obtained, (int, float)) or not isinstance(expected, (int, float)):
        return False
    return within_margin(metric, obtained, expected)


def margin_problems(baseline: Baseline, margins: Mapping[str, float]) -> list[str]:
    """Why some of a suite's own margins cannot be held with the baseline's seeds, a line each."""
    lines = []
    for name in sorted(margins.keys() & baseline.noise.keys()):
        noise, seeds = baseline.noise[name], len(baseline.seeds)
        paired = noise.paired_sd is not None
        floor = floor_of(noise, seeds, paired)
        if margins[name] < floor:
            needed = seeds_needed(
                margins[name], noise.sd if noise.paired_sd is None else noise.paired_sd, paired=paired
            )
            lines.append(
                f"{name}: margin {margins[name]:g} is finer than {seeds} seeds can support: unchanged code moves by up "
                f"to {floor:.3g}; it takes {needed} seeds (--peft-seeds)"
            )
    return lines
