"""Tuning from the first trial to the last: search, what keeps still, the best with fresh seeds, outcomes, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_peftbench.commands.tune import outcome as outcomes
from pytest_peftbench.commands.tune.outcome import SCHEMA, Outcome, Trial
from pytest_peftbench.commands.tune.plan import fresh, moved
from pytest_peftbench.commands.tune.spaces import RATE
from pytest_peftbench.commands.tune.still import candidates, settled
from pytest_peftbench.commands.tune.study import Store, Work
from pytest_peftbench.commands.tune.workers import UNTRAINED
from pytest_peftbench.results.files import read_json, write_json
from pytest_peftbench.suites import ADAPTER_FILE, PARAMS_FILE

# Does all trials that wait of these works.
Run = Callable[[Sequence[Work]], None]


def search(store: Store, works: Sequence[Work], run: Run, *, still: bool, retrain: int) -> list[Outcome]:
    """All trials of all works, and what comes after them; an outcome for each, in their order."""
    _do(store, works, run)
    found = [_outcome(store, work) for work in works]
    if still:
        found = _settle(store, works, found, run)
    return _retrain(store, works, found, run, retrain) if retrain else found


def _do(store: Store, works: Sequence[Work], run: Run) -> None:
    for work in works:
        store.prepare(work)
    run(works)


def _outcome(store: Store, work: Work) -> Outcome:
    done = store.done(work)
    environments: list[dict[str, str]] = []
    trials = [_placed(trial, where, environments) for trial, where in done]
    found = Outcome(
        schema=SCHEMA,
        case=work.experiment.case,
        space=work.space.to_json(),
        space_sha256=work.space.digest,
        search_seed=int(work.identity["search seed"]),
        metric=work.metric,
        untrained=store.noted(work, UNTRAINED) or {},
        best=None,
        at_bounds=[],
        still=None,
        environments=environments,
        trials=trials,
    )
    best = next(iter(found.ranked()), None)
    return found if best is None else _choosing(work, found, best.number)


def _choosing(work: Work, outcome: Outcome, number: int) -> Outcome:
    best = outcome.trials[number]
    return replace(outcome, best=number, at_bounds=list(work.space.at_bounds(best.values)))


def _placed(trial: Trial, where: dict[str, str], environments: list[dict[str, str]]) -> Trial:
    """The trial with the number of its environment, which is added to those that are known."""
    if where not in environments:
        environments.append(where)
    return replace(trial, environment=environments.index(where))


def _settle(store: Store, works: Sequence[Work], found: Sequence[Outcome], run: Run) -> list[Outcome]:
    """The outcomes whose best keeps still: each one's candidates are asked until one does, all experiments at once."""
    asked = {work.study: 1 for work in works}
    settled_ones: dict[str, Outcome] = {}
    while left := [(work, item) for work, item in zip(works, found, strict=True) if work.study not in settled_ones]:
        again = [moved(work, candidates(item)[: asked[work.study]]) for work, item in left]
        _do(store, again, run)
        for (work, item), other in zip(left, again, strict=True):
            gave = [trial for trial, _ in store.done(other)]
            if (verdict := settled(item, gave)) is None:
                asked[work.study] += 1
                continue
            best, still = verdict
            chosen = item if best is None else _choosing(work, item, best)
            settled_ones[work.study] = replace(chosen, still=still, moved=gave)
    return [settled_ones[work.study] for work in works]


def _retrain(store: Store, works: Sequence[Work], found: Sequence[Outcome], run: Run, count: int) -> list[Outcome]:
    again = {}
    for work, item in zip(works, found, strict=True):
        if (best := item.chosen()) is not None:
            again[work.study] = fresh(work, best, count)
    _do(store, [*again.values()], run)
    return [
        replace(item, retrained=_fresh_trials(store, again[work.study], item)) if work.study in again else item
        for work, item in zip(works, found, strict=True)
    ]


def _fresh_trials(store: Store, work: Work, outcome: Outcome) -> list[Trial]:
    return [_placed(trial, where, outcome.environments) for trial, where in store.done(work)]


def write_best(work: Work, outcome: Outcome) -> list[str]:
    """Put the best values into the experiment's files; a line for each that changed."""
    best = outcome.chosen()
    if best is None:
        return []
    experiment, lines = work.experiment, []
    kwargs = experiment.train.optimizer_kwargs
    followed = {name: value for name, value in best.values.items() if name == RATE or name in kwargs}
    lines += _changed(experiment.path / PARAMS_FILE, ("optimizer_kwargs",), followed, kwargs)
    adapter = {name: value for name, value in best.values.items() if name != RATE}
    if adapter:
        lines += _changed(experiment.path / ADAPTER_FILE, (), adapter, {})
    return lines


def _changed(file: Path, place: tuple[str, ...], values: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Write the values below `place` in a file. defaults: what stands there where the file does not say."""
    content = read_json(file) if file.exists() else {}
    before = {**defaults}
    inner = content
    for key in place:
        before = {**defaults, **content.get(key, {})}
        inner = content[key] = dict(before)
    lines = [
        f"{file}: {'.'.join((*place, name))}: {inner.get(name, 'not there')} -> {value}"
        for name, value in values.items()
        if inner.get(name) != value
    ]
    inner.update(values)
    if lines:
        write_json(file, content)
    return lines


def write_outcomes(folder: Path, found: Sequence[Outcome]) -> None:
    """A file for each."""
    for item in found:
        outcomes.write(folder, item)
