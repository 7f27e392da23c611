"""`peftbench tune`: the same budget of trials for every method, on the validation set alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pytest_peftbench.commands.command import Command, say, tell_progress
from pytest_peftbench.commands.tune import flow, plan, workers
from pytest_peftbench.commands.tune.outcome import Outcome, outcome_file, read
from pytest_peftbench.commands.tune.spaces import SPACES, read_spaces, require_known
from pytest_peftbench.commands.tune.study import Store, Work
from pytest_peftbench.results.files import InputError, positive, require_writable
from pytest_peftbench.results.words import folded, one_line, plural
from pytest_peftbench.suites import Experiment, find_suites

FOLDER = "tuning"
STORAGE = "trials.sqlite"
_WIDTH = 80


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", type=Path, help="folder with default_training_params.json and experiments/")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="the experiment <method>/<name>, or those that a pattern such as 'lora/*' matches; repeatable",
    )
    parser.add_argument("--trials", type=positive, default=16, metavar="N", help="of each experiment (default: 16)")
    parser.add_argument(
        "--search", type=_names, default=(), metavar="NAME,NAME", help="values to search (default: all)"
    )
    parser.add_argument("--space", type=Path, default=SPACES, metavar="FILE", help="other bounds than the package's")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the draws (default: 0)")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes at a time (default: 1)")
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="torch device (default: cpu)")
    parser.add_argument(
        "--still", action="store_true", help="choose the best that a base model moved by its last digit trains alike"
    )
    parser.add_argument(
        "--retrain", type=positive, default=0, metavar="K", help="train the best with K fresh seeds as well"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"outcomes and trials (default: {FOLDER} in the suite)")
    parser.add_argument("--storage", metavar="URL", help=f"of the trials (default: {STORAGE} in --out, by SQLite)")
    parser.add_argument("--write", action="store_true", help="put the best values into the experiments' files")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and about how long")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _seed(text: str) -> int:
    return 0 if text.strip() == "0" else positive(text)


def _run(options: argparse.Namespace) -> int:
    find_suites(options.suite)  # a folder, or a usage error
    out = options.out or options.suite / FOLDER
    require_writable(f"--out {out}", out)
    require_known(options.search, read_spaces(options.space))
    chosen = plan.selected(options.suite, options.only)
    hindered = {item.case.experiment: why for item in chosen if (why := plan.hindrance(item))}
    for name, why in hindered.items():
        _say(f"{name} is left out: {why}")
    works = _works(options, [item for item in chosen if item.case.experiment not in hindered])
    earlier = _earlier(out, works)
    store = _store(options, out)
    for line in plan.told(works, store, options.jobs, options.retrain):
        say(line)
    if options.dry_run:
        return 1 if hindered else 0
    found = _search(options, store or _opened(options, out), works)
    found = [_with_fresh_seeds(item, earlier.get(item.case.experiment)) for item in found]
    flow.write_outcomes(out, found)
    for work, outcome in zip(works, found, strict=True):
        _tell(outcome)
        for line in flow.write_best(work, outcome) if options.write else ():
            _say(f"  {line}")
    _say(f"outcomes: {out}; their curves: peftbench curve {out}")
    return 1 if hindered or any(outcome.best is None for outcome in found) else 0


def _works(options: argparse.Namespace, experiments: Sequence[Experiment]) -> list[Work]:
    if not experiments:
        raise InputError(f"{options.suite}: none of its experiments can be tuned here")
    how = plan.Search(options.space, options.search, options.trials, options.seed, options.device)
    works = [plan.work_of(experiment, how) for experiment in experiments]
    for work in works:
        outcome_file(Path(), work.experiment.case)
        if not work.space.dimensions:
            raise InputError(f"--search {','.join(options.search)}: {work.experiment.case.experiment} has none of them")
    return works


def _earlier(out: Path, works: Sequence[Work]) -> dict[str, Outcome]:
    """The outcomes that are there. Raises InputError for one that would lose trials, or is of another search."""
    found = {}
    for work in works:
        file = outcome_file(out, work.experiment.case)
        if not file.exists():
            continue
        outcome = found[work.experiment.case.experiment] = read(file)
        if (outcome.space_sha256, str(outcome.search_seed)) != (work.space.digest, work.identity["search seed"]):
            raise InputError(f"{file}: is of another space or --seed; give another --out, or remove it")
        if len(outcome.trials) > len(work.draws):
            raise InputError(
                f"{file}: holds {len(outcome.trials)} trials, --trials {len(work.draws)} would drop some; give as "
                "many, or another --out"
            )
    return found


def _with_fresh_seeds(outcome: Outcome, earlier: Outcome | None) -> Outcome:
    """With those that an earlier run trained, where this one did not and the best is the same."""
    if outcome.retrained or earlier is None or earlier.best != outcome.best:
        return outcome
    return replace(outcome, retrained=earlier.retrained)


def _store(options: argparse.Namespace, out: Path) -> Store | None:
    """The storage of earlier trials; None where there is none, and nothing is made of it."""
    if options.storage is None and not (out / STORAGE).exists():
        return None
    return _opened(options, out)


def _opened(options: argparse.Namespace, out: Path) -> Store:
    out.mkdir(parents=True, exist_ok=True)
    return Store(options.storage or f"sqlite:///{(out / STORAGE).resolve().as_posix()}")


def _search(options: argparse.Namespace, store: Store, works: Sequence[Work]) -> list[Outcome]:
    def run(wanted: Sequence[Work]) -> None:
        workers.train(store.url, wanted, options.jobs, tell_progress)

    try:
        return flow.search(store, works, run, still=options.still, retrain=options.retrain)
    except KeyboardInterrupt:
        raise InputError("stopped; the same command goes on where it was") from None


def _tell(outcome: Outcome) -> None:
    best = outcome.chosen()
    name = outcome.case.experiment
    failed = sum(trial.state == "failed" for trial in outcome.trials)
    if best is None:
        _say(f"{name}: all of {plural(failed, 'trial')} failed: {outcome.trials[0].error}")
        return
    _say(f"{name}: {outcome.metric} {outcome.score(best):.4g} by {workers.worded(best.values)}")
    for line in (
        *outcome.at_bounds,
        *([f"{failed} of {plural(len(outcome.trials), 'trial')} failed"] if failed else []),
        *(["no trial that learns keeps still; this one moves least"] if outcome.still is False else []),
    ):
        _say(f"  {line}")
    if outcome.retrained:
        _say(f"  {_retrained(outcome, best.figures)}")


def _retrained(outcome: Outcome, before: dict[str, float]) -> str:
    """What fresh seeds gave beside the trial that was chosen."""
    complete = [trial.figures for trial in outcome.retrained if trial.state == "complete"]
    told = f"with fresh seeds ({len(complete)} of {len(outcome.retrained)} trained)"
    for name in (outcome.metric, *outcome.tests):
        if complete:
            values = [figures[name] for figures in complete]
            told += f", {name} {sum(values) / len(values):.4g} ({min(values):.4g} to {max(values):.4g})"
            told += f" against {before[name]:.4g}"
    return told


def _say(text: str) -> None:
    for line in folded(one_line(text) if not text.startswith("  ") else "  " + one_line(text.strip()), _WIDTH):
        say(line)


COMMAND = Command(
    name="tune",
    help="search each method's values with the same budget of trials",
    description="Train each experiment with the same number of trials, whose values are drawn at random from its "
    "method's declared space, and choose the best by the validation set alone. A killed run goes on where it was, and "
    "several processes and machines share one. 1 when no trial of an experiment trained, or one could not be tuned.",
    add_arguments=_add_arguments,
    run=_run,
)
