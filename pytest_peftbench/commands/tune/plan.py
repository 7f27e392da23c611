"""What is tuned: experiments by their exact names, the same number of trials for each, and what that will take."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_peftbench.commands.tune.outcome import VALIDATION, Trial
from pytest_peftbench.commands.tune.spaces import Space, draws, space_of
from pytest_peftbench.commands.tune.study import Draw, Store, Work
from pytest_peftbench.measure.environment import installed, lacking
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.words import aligned, folded, one_line, plural
from pytest_peftbench.suites import Experiment, read_suite

# Seconds that a trial of an embedded base model takes on one core where none has been measured yet, about.
USUAL_S = {"MetaMathQA": 11.0}
_LIBRARIES = ("peft", "torch", "transformers", "diffusers")
_WIDTH = 80


@dataclass(frozen=True)
class Search:
    """How each experiment is searched. file: of the spaces. searched: the values that are; all if empty."""

    file: Path
    searched: tuple[str, ...]
    trials: int
    seed: int
    device: str


def selected(suite: Path, patterns: Sequence[str]) -> list[Experiment]:
    """The experiments whose `<method>/<name>` is one of the patterns, or matches one; all without a pattern.

    `lora/rank8` is that one alone, `lora/*` all of LoRA. Raises InputError for a pattern that none matches.
    """
    experiments = read_suite(suite)
    names = [experiment.case.experiment for experiment in experiments]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            meant = difflib.get_close_matches(pattern, names, n=3)
            hint = f"; {', '.join(meant)}?" if meant else f"; it holds {', '.join(names[:5])}, …"
            raise InputError(f"--only {pattern}: {suite} has no experiment <method>/<name> of that name{hint}")
    chosen = {name for pattern in patterns for name in fnmatch.filter(names, pattern)} or names
    return [experiment for experiment in experiments if experiment.case.experiment in chosen]


def hindrance(experiment: Experiment) -> str:
    """Why an experiment cannot be tuned here; empty where it can."""
    if experiment.problem:
        return experiment.problem
    if not experiment.spec.task:
        return "its task trains nothing"
    return lacking(experiment.train.package)


def work_of(experiment: Experiment, search: Search) -> Work:
    """The search of one experiment. Raises InputError where there is no space for its method."""
    experiment = replace(experiment, device=search.device)
    space = space_of(experiment, search.file, search.searched)
    seed = experiment.train.seed
    found = draws(space, search.trials, search.seed)
    return Work(
        study=str(experiment.case),
        experiment=experiment,
        metric=metric_of(experiment),
        space=space,
        draws=tuple(Draw(number, values, seed) for number, values in enumerate(found)),
        identity=_identity(experiment, space, search.seed),
    )


def metric_of(experiment: Experiment) -> str:
    """The name of the metric that is read on the validation set. Raises InputError for a task without one."""
    for metric in experiment.spec.metrics:
        if metric.name.startswith(VALIDATION):
            return metric.name
    raise InputError(f"{experiment.path}: its task {experiment.case.task} has no metric {VALIDATION}… to choose by")


def _identity(experiment: Experiment, space: Space, seed: int) -> dict[str, str]:
    """What trials must agree in: all that is not searched, the space, the draws, the libraries."""
    fixed = json.dumps(_without(experiment.definition(), space), sort_keys=True)
    libraries = {name: installed(name) for name in _LIBRARIES}
    digest = hashlib.sha256(fixed.encode()).hexdigest()[:16]
    return {"experiment": digest, "space": space.digest, "search seed": str(seed), **libraries}


def _without(definition: dict[str, object], space: Space) -> dict[str, object]:
    """An experiment's definition without what is searched: its best values may have been written to its files."""
    found = json.loads(json.dumps(definition))
    for part in (found["train"]["optimizer_kwargs"], found["adapter"] or {}):
        for name in space.dimensions:
            part.pop(name, None)
    return dict(found)


def fresh(work: Work, best: Trial, count: int) -> Work:
    """The best values once more, with `count` seeds that no trial had."""
    seeds = range(best.seed + 1, best.seed + 1 + count)
    again = tuple(Draw(number, best.values, seed) for number, seed in enumerate(seeds))
    return replace(work, study=f"{work.study}, fresh seeds of {best.number}", draws=again, kind="fresh")


def moved(work: Work, candidates: Sequence[Trial]) -> Work:
    """Trials once more, on base weights moved by their last digit."""
    again = tuple(Draw(trial.number, trial.values, trial.seed) for trial in candidates)
    return replace(work, study=f"{work.study}, moved", draws=again, kind="moved")


def told(works: Sequence[Work], store: Store | None, jobs: int, retrain: int) -> list[str]:
    """What will run, a line for each experiment, and about how long that takes. store: of earlier trials."""
    done = {work.study: [trial for trial, _ in store.done(work)] if store else [] for work in works}
    rows = [["experiment", "trials", "done", "searched"]]
    for work in works:
        trials, finished = len(work.draws), len(done[work.study])
        rows.append(
            [one_line(work.experiment.case.experiment), str(trials), str(finished), ", ".join(work.space.dimensions)]
        )
    left = sum(len(work.draws) - len(done[work.study]) for work in works)
    again = retrain * len(works)
    each, source = _usual_s(works, [trial.duration_s for trials in done.values() for trial in trials])
    count = f"{plural(left, 'trial')} of {plural(len(works), 'experiment')}"
    count += f" and {again} trainings with fresh seeds" if again else ""
    if each is None:
        time = "how long they take is told after the first"
    else:
        time = f"{duration((left + again) * each / jobs)} in {_processes(jobs)} at {each:.1f} s each, {source}"
    return [row for line in aligned(rows, left=(0, 3)) for row in folded(line, _WIDTH)] + folded(
        f"{count}: {time}", _WIDTH
    )


def _usual_s(works: Sequence[Work], measured: Sequence[float]) -> tuple[float | None, str]:
    measured = [seconds for seconds in measured if seconds]
    if measured:
        return sum(measured) / len(measured), "as those that are done"
    known = [USUAL_S.get(work.experiment.case.task) for work in works if work.experiment.is_embedded]
    times = [seconds for seconds in known if seconds]
    return (sum(times) / len(times), "as on another machine") if len(times) == len(works) and times else (None, "")


def _processes(jobs: int) -> str:
    return "1 process" if jobs == 1 else f"{jobs} processes"


def duration(seconds: float) -> str:
    """`about 40 s`, `about 12 min`, `about 3.5 h`."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
