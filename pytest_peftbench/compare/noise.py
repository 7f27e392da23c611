"""How much unchanged code moves: the noise that a baseline records, and what an update leaves as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pytest_peftbench.compare.stats import detectable, noise_floor, seeds_needed, spread
from pytest_peftbench.results.baseline import Baseline, Noise, problem, rounded, within_margin
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS, Metric, Value
from pytest_peftbench.results.result import SeedRun


def with_noise(baseline: Baseline, others: Iterable[SeedRun], metrics: Mapping[str, Metric]) -> Baseline:
    """The baseline with the noise of its quality metrics, from its own seeds and from further ones; needs two."""
    runs = [*baseline.seeds, *others]
    noise: dict[str, Noise] = {}
    for metric in metrics.values():
        found = [run.metrics.get(metric.name) for run in runs]
        values = [float(v) for v in found if isinstance(v, (int, float)) and not problem(v)]
        if metric.lane != "quality" or not baseline.seeds or len(values) < 2 or len(values) < len(runs):
            continue
        sd, count = spread(values), len(baseline.seeds)
        expected = sum(values[:count]) / count
        allowed = max(metric.margin(expected), noise_floor(sd, len(values), count))
        size = detectable(allowed, sd, len(values), count)
        noise[metric.name] = Noise(rounded(sd), len(values), rounded(size))
    return replace(baseline, noise=noise)


def refreshed(old: Baseline | None, new: Baseline, metrics: Mapping[str, Metric] = METRICS) -> Baseline:
    """What an update writes: `new`, with the recorded value of all that did not move.

    A noisy metric within its margin did not move; keeping its value also keeps many updates, each within the margin,
    from adding up to a slow-down nobody sees. The noise of a calibration with more seeds stays, too. Another case
    version is another case, of which nothing is kept. Returns `old` itself where nothing moved.
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
    return {name: max(noise, key=lambda noise: noise.seeds) for name, noise in found.items() if noise}


def check_noise(baseline: Baseline, others: Iterable[SeedRun], metrics: Mapping[str, Metric]) -> None:
    """Raise InputError, naming seed and metric, where the noise cannot be computed from these seeds too."""
    others = list(others)
    held = {name for run in (*baseline.seeds, *others) for name in run.metrics}
    for run in others:
        for name in (metric.name for metric in metrics.values() if metric.lane == "quality" and metric.name in held):
            reason = problem(run.metrics[name], "number") if name in run.metrics else "is missing"
            if reason:
                raise InputError(f"{baseline.case}: not calibrated: seed {run.seed}: {name} {reason}")


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
        floor = noise_floor(noise.sd, noise.seeds, seeds)
        if margins[name] < floor:
            lines.append(
                f"{name}: margin {margins[name]:g} is finer than {seeds} seeds can support: unchanged code moves by up "
                f"to {floor:.3g}; it takes {seeds_needed(margins[name], noise.sd)} seeds (--peft-seeds)"
            )
    return lines
