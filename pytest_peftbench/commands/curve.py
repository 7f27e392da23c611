"""`peftbench curve`: what each method's best is expected to be at each budget, and how sure their order is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_peftbench.commands.command import Command, say, tell_progress
from pytest_peftbench.commands.tune.outcome import Outcome, read
from pytest_peftbench.compare.budget import Curve, Expected, Order, Search, Standing, budgets_up_to, curves
from pytest_peftbench.report.html import curves_page
from pytest_peftbench.results.files import InputError, require_writable_file, resolved, write_json, write_text
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.words import aligned, folded, one_line, plural

_WIDTH = 80


@dataclass(frozen=True)
class Field:
    """All outcomes of one task and base model, by experiment. trials: of each, as many as all have."""

    name: str
    metric: str
    outcomes: Mapping[str, Outcome]
    trials: int

    @cached_property
    def searches(self) -> dict[str, Search]:
        """The trials of each experiment."""
        return {name: outcome.search(self.trials) for name, outcome in self.outcomes.items()}

    @property
    def budgets(self) -> tuple[int, ...]:
        """Those that the trials tell something about."""
        return budgets_up_to(self.trials)

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Of each experiment."""
        return {curve.name: curve for curve in curves(self.searches, self.budgets)}

    @cached_property
    def order(self) -> Order:
        """The methods' order at each budget."""
        return Order(self.searches, self.budgets, higher=next(iter(self.outcomes.values())).higher)

    @cached_property
    def standings(self) -> dict[int, list[Standing]]:
        """The same, with how sure it is."""
        return {each: self.order.standings(each) for each in self.budgets}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("outcomes", nargs="+", type=Path, metavar="OUTCOMES", help="folders or files of `tune`'s")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as a page that opens offline, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it for other programs, too")


def _run(options: argparse.Namespace) -> int:
    for option, file in (("--html", options.html), ("--json", options.json)):
        if file:
            require_writable_file(f"{option} {file}", file)
    outcomes, problems = _read(options.outcomes)
    for problem in problems:
        tell_progress(problem)
    if not outcomes:
        raise InputError(f"{', '.join(map(str, options.outcomes))}: no outcome of `peftbench tune` could be read")
    found = fields(outcomes)
    for line in _lines(found):
        say(line)
    if options.html:
        write_text(options.html, curves_page(to_json(found, problems)))
    if options.json:
        write_json(options.json, to_json(found, problems), spread=5)
    return 1 if problems else 0


def _read(places: Sequence[Path]) -> tuple[list[Outcome], list[str]]:
    """The outcomes, and why other files hold none. Raises InputError for a place that is not there."""
    outcomes: dict[tuple[str, str], Outcome] = {}
    problems = []
    for place in places:
        if not resolved(place).exists():
            raise InputError(f"{place}: no such file or folder")
        for file in sorted(place.glob("*.json")) if place.is_dir() else [place]:
            try:
                outcome = read(file)
                key = (outcome.metric, str(outcome.case))
                if key in outcomes:
                    raise InputError(f"{file}: {outcome.case} stands in another file, too; give one of them")
                outcomes[key] = outcome
            except InputError as error:
                problems.append(one_line(str(error)))
    return list(outcomes.values()), problems


def fields(outcomes: Sequence[Outcome]) -> list[Field]:
    """One for each task, base model and seed of the draws, each with as many trials as all of its outcomes have."""
    groups: dict[tuple[str, str], dict[str, Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda item: str(item.case)):
        name = f"{outcome.case.task} {outcome.case.base_model}, draws of seed {outcome.search_seed}"
        groups.setdefault((name, outcome.metric), {})[outcome.case.experiment] = outcome
    return [
        Field(name, metric, found, min(len(outcome.trials) for outcome in found.values()))
        for (name, metric), found in groups.items()
    ]


# Words ----------------------------------------------------------------------------------------------------------------


def _lines(found: Sequence[Field]) -> list[str]:
    return [line for field in found for line in (*_of(field), "")][:-1]


def _of(field: Field) -> Iterator[str]:
    yield from folded(one_line(f"{field.name}: {field.metric} of the best of n trials, {field.trials} each"), _WIDTH)
    yield from _folded_table(_expectations(field))
    if len(field.outcomes) > 1:
        yield from ("", *folded("place at each budget, and those that 95 % of the resamples hold", _WIDTH))
        yield from _folded_table(_places(field))
        yield from _turns(field)
    last = field.budgets[-1]
    yield from ("", *folded(f"at n = {last}: the choice's own figures, which nothing is chosen by", _WIDTH))
    yield from _folded_table(_choices(field))
    yield from _notes(field)


def _expectations(field: Field) -> list[list[str]]:
    rows = [["", *(f"n={each}" for each in field.budgets)]]
    for standing in field.standings[field.budgets[-1]]:
        scores = field.curves[standing.name].score
        rows.append([standing.name, *(_figure(field.metric, score.value) for score in scores)])
    return rows


def _places(field: Field) -> list[list[str]]:
    rows = [["", *(f"n={each}" for each in field.budgets), "first", "next better"]]
    order = field.standings[field.budgets[-1]]
    by_budget = [{standing.name: standing for standing in field.standings[each]} for each in field.budgets]
    for standing in order:
        swaps = "" if standing.swaps is None else f"{standing.swaps:.0%}"
        places = [_place(found[standing.name]) for found in by_budget]
        rows.append([standing.name, *places, f"{standing.first:.0%}", swaps])
    return rows


def _place(standing: Standing) -> str:
    """`3 (1-7)`."""
    return f"{standing.place} ({standing.best}-{standing.worst})"


def _turns(field: Field) -> Iterator[str]:
    first, last = field.budgets[0], field.budgets[-1]
    share = field.order.turned(first, last)
    yield from folded(
        f"first, next better: how often at n = {last} it is the best, and the one below it better; "
        f"{share:.0%} of the pairs stand the other way round at n = {first}",
        _WIDTH,
    )


def _choices(field: Field) -> list[list[str]]:
    order = [standing.name for standing in field.standings[field.budgets[-1]]]
    metrics = [
        field.metric,
        *(name for name in METRICS if all(name in curve.choice for curve in field.curves.values())),
    ]
    rows = [["", *metrics]]
    for name in order:
        curve = field.curves[name]
        expected = [curve.score[-1], *(curve.choice[metric][-1] for metric in metrics[1:])]
        rows.append([name, *(_interval(metric, item) for metric, item in zip(metrics, expected, strict=True))])
    return rows


def _interval(metric: str, expected: Expected) -> str:
    value, low, high = (_figure(metric, number) for number in (expected.value, expected.low, expected.high))
    return f"{value} ({low} to {high})"


def _figure(metric: str, number: float) -> str:
    return f"{number:.1%}" if METRICS[metric].unit == "fraction" else f"{number:.3f}"


def _notes(field: Field) -> Iterator[str]:
    """What is not in the figures: failed trials, trials that others do not have, values at a bound, fresh seeds."""
    for name, outcome in field.outcomes.items():
        failed = sum(trial.state == "failed" for trial in outcome.trials)
        notes = [f"{failed} of {plural(len(outcome.trials), 'trial')} failed"] if failed else []
        if left := len(outcome.trials) - field.trials:
            notes.append(f"its last {plural(left, 'trial')} left out, others have none")
        notes += outcome.at_bounds
        fresh = [trial.figures for trial in outcome.retrained if trial.state == "complete"]
        if fresh:
            means = (
                f"{metric} {_figure(metric, sum(figures[metric] for figures in fresh) / len(fresh))}"
                for metric in (outcome.metric, *outcome.tests)
            )
            notes.append(f"best with {plural(len(fresh), 'fresh seed')}: {', '.join(means)}")
        if notes:
            yield from folded(one_line(f"{name}: {'; '.join(notes)}"), _WIDTH)


def _folded_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table, whose names stand on lines of their own where the table would be too wide with them."""
    rows = [[*map(one_line, row)] for row in rows]
    plain = [f"  {line}" for line in aligned(rows)]
    if max(map(len, plain)) <= _WIDTH:
        return plain
    narrow = aligned([row[1:] for row in rows], left=())
    lines = [f"    {narrow[0]}"]
    for row, line in zip(rows[1:], narrow[1:], strict=True):
        lines += [f"  {row[0]}", f"    {line}"]
    return lines


def to_json(found: Sequence[Field], problems: Sequence[str]) -> dict[str, Any]:
    """The same for other programs, with how often each pair swaps."""
    return {"fields": [_field_json(field) for field in found], "problems": list(problems)}


def _field_json(field: Field) -> dict[str, Any]:
    last = field.budgets[-1]
    return {
        "of": field.name,
        "metric": field.metric,
        "trials": field.trials,
        "budgets": list(field.budgets),
        "curves": [asdict(curve) for curve in field.curves.values()],
        "standings": {str(each): [asdict(item) for item in order] for each, order in field.standings.items()},
        "swaps": {str(each): field.order.swaps(each) for each in field.budgets},
        "turned": {str(each): field.order.turned(each, last) for each in field.budgets},
    }


COMMAND = Command(
    name="curve",
    help="what each method's best is expected to be at each budget of trials",
    description="The expected best validation score of n trials (Dodge et al. 2019), with what its choice gives on the "
    "test set, for each outcome of `peftbench tune`, and the order of the methods at each budget, with how often two "
    "of them swap in a bootstrap over the trials. 1 when a file could not be read, 2 when none could.",
    add_arguments=_add_arguments,
    run=_run,
)
