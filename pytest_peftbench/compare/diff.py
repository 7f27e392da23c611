"""What an update changes in a baseline, a line per figure that moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_peftbench.compare.comparison import BySeed, average, by_seed, names_of, ordered, seeds_of
from pytest_peftbench.compare.environment import differences
from pytest_peftbench.compare.lanes import worst_of_seeds
from pytest_peftbench.results import words
from pytest_peftbench.results.baseline import Baseline
from pytest_peftbench.results.laws import says_fault
from pytest_peftbench.results.metrics import WORDED, Metric

_MOST_FAULTS = 10


def diff_lines(old: Baseline | None, new: Baseline, metrics: Mapping[str, Metric]) -> list[str]:
    """What an update of the baseline changes, `old -> new` per line; empty when it changes nothing."""
    if old is None:
        names = ordered(names_of(new, metrics), metrics)
        counts = words.plural(len(names), "metric"), words.plural(len(new.seeds), "seed")
        faults = [f"  {name}: {fault}" for name in names if (fault := _fault(metrics.get(name), by_seed(new, name)))]
        return [f"new: {', '.join(counts)}", *words.first(faults, _MOST_FAULTS)]
    lines = []
    if old.case_version != new.case_version:
        lines.append(f"case version: {old.case_version} -> {new.case_version}")
    keys = sorted({*old.environment, *new.environment})
    lines += [f"environment: {line}" for line in differences(new.environment, old.environment, keys)]
    if seeds_of(old) != seeds_of(new):
        lines.append(f"seeds: {words.listed(seeds_of(old))} -> {words.listed(seeds_of(new))}")
    for name in ordered({*names_of(old, metrics), *names_of(new, metrics)}, metrics):
        lines += _of_metric(name, metrics.get(name), by_seed(old, name), by_seed(new, name))
    lines += [*_of_noise(old, new, metrics), *_of_the_rest(old, new)]
    return lines or ["what is not compared: changed"] * (old != new)


def _of_metric(name: str, metric: Metric | None, old: BySeed, new: BySeed) -> list[str]:
    if old == new:
        return []
    if not old or not new:
        fault = _fault(metric, new)
        return [f"{name}: {'removed' if old else 'added'}{f', {fault}' if fault else ''}"]
    common = old.keys() & new.keys()
    if metric is None or not common:
        return [f"{name}: changed"]
    if metric.kind == "number":
        obtained, expected = average(new), average(old)
        after, before = words.figures(metric, obtained, expected)
        if after == before:
            return [f"{name}: {after} (by seed it changed)"]
        return [f"{name}: {before} -> {after} ({words.change(metric, obtained, expected)})"]
    finding = worst_of_seeds(metric, *({seed: side[seed] for seed in side if seed in common} for side in (new, old)))
    if finding.verdict == "identical":
        return [f"{name}: changed"]
    return [f"{name}: {finding.arrow() or finding.change}", *(f"  {line}" for line in finding.details)]


def _fault(metric: Metric | None, values: BySeed) -> str:
    """The word that tells of a law that does not hold, or of a check that fails; empty where there is none.

    It is recorded as it is, and compared from now on: who records it should know.
    """
    if metric is None or metric.unit not in WORDED:
        return ""
    return next((word for word in map(str, values.values()) if says_fault(word)), "")


def _of_noise(old: Baseline, new: Baseline, metrics: Mapping[str, Metric]) -> Iterator[str]:
    for name in ordered(old.noise.keys() | new.noise.keys(), metrics):
        before, after = old.noise.get(name), new.noise.get(name)
        if before is None or after is None:
            yield f"noise of {name}: {'added' if before is None else 'removed'}"
        elif (before.sd, before.seeds) != (after.sd, after.seeds):
            yield f"noise of {name}: sd {before.sd:.4g} of {before.seeds} seeds -> {after.sd:.4g} of {after.seeds}"
        elif before.paired_sd != after.paired_sd:
            yield f"noise of {name}: sd of pairs {_size(before.paired_sd)} -> {_size(after.paired_sd)}"
        elif before != after:
            yield f"noise of {name}: detectable {before.detectable:.4g} -> {after.detectable:.4g}"


def _size(sd: float | None) -> str:
    return "not measured" if sd is None else f"{sd:.4g}"


def _of_the_rest(old: Baseline, new: Baseline) -> Iterator[str]:
    """What has no figure of its own: samples, operators, tensors, and where a baseline comes from."""
    before, after = ({run.seed: run.samples for run in side.seeds} for side in (old, new))
    if changed := [seed for seed in sorted(before.keys() & after.keys()) if before[seed] != after[seed]]:
        yield f"samples of seed {words.listed(changed)}: changed"
    for what, ours, theirs in (
        ("operators of", new.operators, old.operators),
        ("tensors at the peak of", new.peak_tensors, old.peak_tensors),
    ):
        if phases := [phase for phase in sorted({*ours, *theirs}) if ours.get(phase) != theirs.get(phase)]:
            yield f"{what} {', '.join(phases)}: changed"
    for what, found, known in (
        ("base model's figures", new.base, old.base),
        ("imported result", new.imported, old.imported),
        ("witness", new.witness, old.witness),
    ):
        if found != known:
            yield f"{what}: {'changed' if found and known else 'removed' if known else 'added'}"
