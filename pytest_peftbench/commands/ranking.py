"""`peftbench rank`: where a method stands among the others, from results, baselines and PEFT's published figures."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pytest_peftbench.cases.kinds import FOOTPRINT, TRAINED
from pytest_peftbench.commands.command import Command, say
from pytest_peftbench.commands.reading import Entry, Reading, catalogue, read_results
from pytest_peftbench.compare.ranking import Contender, Place, contender, ranking
from pytest_peftbench.report.terminal import WIDTH
from pytest_peftbench.results import words
from pytest_peftbench.results.files import InputError, require_writable_file, write_json
from pytest_peftbench.results.metrics import Column, Metric
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.results.words import aligned, first, folded, one_line, plural
from pytest_peftbench.tasks.registry import specs

# What a method costs, beside what its task is about.
_COSTS = ("params.trainable", "checkpoint.bytes", "train_step.flops", "train_step.peak_bytes", "step_time_ratio")
# A structure of a life cycle is no comparison of methods.
_KINDS = (TRAINED.name, FOOTPRINT.name)
_OF_A_MACHINE = "accelerator"
_MOST_TIES, _MOST_KNOWN = 3, 8


@dataclass(frozen=True)
class Field:
    """All cases of one task, base model and kind that hold a metric, and of one machine where that decides it."""

    name: str
    metric: Metric
    contenders: Mapping[str, Contender]
    methods: Mapping[str, str]

    def places(self, method: str | None) -> list[Place]:
        """Of a method's experiments, or of all."""
        wanted = [name for name in self.contenders if method in (None, self.methods[name])]
        return ranking(self.contenders, self.metric, wanted)


def fields(entries: Sequence[Entry], metrics: Sequence[Metric]) -> Iterator[Field]:
    """The fields of at least two contenders, by name and then in the order of the metrics."""
    for name, group in _grouped(entries, _group_of):
        for metric in metrics:
            for machine, rivals in _grouped(group, partial(_machine_of, metric)):
                found = {entry.case.experiment: _contender(entry, metric) for entry in rivals}
                held = {experiment: value for experiment, value in found.items() if value is not None}
                if len(held) > 1:
                    methods = {entry.case.experiment: entry.case.method for entry in rivals}
                    yield Field(f"{name} on {machine}" if machine else name, metric, held, methods)


def _grouped(entries: Sequence[Entry], key: Callable[[Entry], str]) -> list[tuple[str, list[Entry]]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return sorted(groups.items())


def _group_of(entry: Entry) -> str:
    return " ".join(filter(None, (entry.case.kind, entry.case.task, entry.case.base_model)))


def _machine_of(metric: Metric, entry: Entry) -> str:
    return entry.measured.environment.get(_OF_A_MACHINE, "") if _OF_A_MACHINE in metric.needs else ""


def _contender(entry: Entry, metric: Metric) -> Contender | None:
    if metric.name in entry.others:
        return Contender(entry.others[metric.name])
    return contender(entry.measured, metric)


def lines(found: Sequence[tuple[Field, list[Place]]]) -> list[str]:
    """A heading for each group of cases, and a line for each figure of each experiment."""
    groups: dict[str, list[list[str]]] = {}
    for field, places in found:
        groups.setdefault(one_line(field.name), []).extend(_row(field, place) for place in places)
    return [line for name, rows in groups.items() for line in (name, *_fitted(rows), "")][:-1]


def _row(field: Field, place: Place) -> list[str]:
    return [
        one_line(place.name),
        _name(field.metric),
        _figure(field.metric, place),
        _words(place, len(field.contenders)),
    ]


def _fitted(rows: list[list[str]]) -> list[str]:
    """Rows that do not fit stand below the name of their experiment, and what is too long even so is wrapped."""
    plain = [f"  {line}" for line in aligned(rows, left=(0, 1, 3))]
    if max(map(len, plain)) <= WIDTH:
        return plain
    told, shown = [], ""
    for (name, *_), line in zip(rows, aligned([row[1:] for row in rows], left=(0, 2)), strict=True):
        told += [*([f"  {name}"] if name != shown else []), *folded(f"    {line}", WIDTH)]
        shown = name
    return told


def _name(metric: Metric) -> str:
    """What the closing tables call it, where it has a column there."""
    return _columns()[metric.name].header if metric.name in _columns() else metric.name


def _figure(metric: Metric, place: Place) -> str:
    """As the closing tables show it; behind ± half of its 95 % interval."""
    column = _columns().get(metric.name)
    if column is None:
        figure, _ = words.figures(metric, place.value, place.value)
        return figure if place.half is None else f"{figure} ±{place.half:.3g}"
    figure = format(place.value, column.form)
    return figure if place.half is None else f"{figure} ±{format(place.half, column.form.lstrip('+'))}"


def _words(place: Place, count: int) -> str:
    """`7th to 15th of 65`, `tied 3rd of 65 with a/b, c/d`, `11th of 65`."""
    if place.best != place.worst:
        return f"{ordinal(place.best)} to {ordinal(place.worst)} of {count}"
    told = f"{ordinal(place.best)} of {count}"
    ties = ", ".join(first([*map(one_line, place.ties)], _MOST_TIES))
    return f"tied {told} with {ties}" if ties else told


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `11th`, `23rd`."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def to_json(found: Sequence[tuple[Field, list[Place]]], reading: Reading) -> dict[str, Any]:
    """The same for other programs."""
    rankings = [
        {
            "of": field.name,
            "metric": field.metric.name,
            "unit": field.metric.unit,
            "better": field.metric.direction,
            "contenders": len(field.contenders),
            "places": [{**asdict(place), "ties": list(place.ties)} for place in places],
        }
        for field, places in found
    ]
    return {"rankings": rankings, "unread": list(reading.problems)}


def _metrics(word: str | None, entries: Sequence[Entry]) -> list[Metric]:
    """The one that was asked for, or those that the tasks are about, then costs, then what only PEFT publishes."""
    known = catalogue()
    if word is not None:
        return [known[_aliases().get(word, word)]]
    published = [name for name in known if any(name in entry.others for entry in entries)]
    return [known[name] for name in dict.fromkeys([*_columns(), *_COSTS, *published])]


def _columns() -> dict[str, Column]:
    """The columns of the closing tables by metric."""
    return {column.metric: column for spec in specs().values() for column in spec.columns}


def _aliases() -> dict[str, str]:
    """Metrics by what the closing tables call them."""
    return {column.header: name for name, column in _columns().items()}


def _split(arguments: Sequence[str]) -> tuple[str | None, list[Path]]:
    """The metric, if the first word is one, and the paths. Raises InputError for a word that is neither."""
    first_word, *others = arguments
    known = catalogue()
    if first_word in known or first_word in _aliases():
        if not others:
            raise InputError(f"{first_word}: name the folder of results behind it")
        metric = known[_aliases().get(first_word, first_word)]
        if metric.direction == "equal" or metric.kind != "number":
            raise InputError(
                f"{first_word}: is no number that is better lower or higher, so nothing can be ranked by it"
            )
        return first_word, [Path(word) for word in others]
    if not Path(first_word).exists() and others:
        meant = difflib.get_close_matches(first_word, [*_aliases(), *known], n=1)
        raise InputError(f"{first_word}: is neither a metric nor a path" + (f"; {meant[0]}?" if meant else ""))
    return None, [Path(word) for word in arguments]


def _rivals(reading: Reading) -> list[Entry]:
    """Each case once, of what was given first, where it got to its end; what is passed over is noted."""
    found: dict[CaseId, Entry] = {}
    failed = [str(entry.case) for entry in reading.entries if entry.error]
    for entry in reading.entries:
        if not entry.error and entry.case.kind in _KINDS:
            found.setdefault(entry.case, entry)
    twice = len([entry for entry in reading.entries if entry.case in found and found[entry.case] is not entry])
    if twice:
        reading.passed_over.append(f"{plural(twice, 'case')} passed over: what was given before holds them, too")
    if failed:
        reading.passed_over.append(f"{plural(len(failed), 'case')} failed: {', '.join(first(failed, _MOST_KNOWN))}")
    return list(found.values())


def _require_method(method: str | None, word: str | None, entries: Sequence[Entry]) -> None:
    methods = sorted({entry.case.method for entry in entries})
    if method is None and word is None:
        raise InputError("give a METRIC, which ranks all methods, or --method NAME, which tells where one stands")
    if method is not None and method not in methods:
        meant = difflib.get_close_matches(method, methods, n=1)
        hint = f"; {meant[0]}?" if meant else f"; there are {', '.join(first(methods, _MOST_KNOWN))}"
        raise InputError(f"--method {method}: no case of it that could be ranked{hint}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[METRIC] RESULTS",
        help="a metric by name or by the header of its column, then folders or files of results or baselines",
    )
    parser.add_argument("--method", metavar="NAME", help="where this method stands, and not all of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it for other programs, too")


def _run(options: argparse.Namespace) -> int:
    if options.json is not None:
        require_writable_file(f"--json {options.json}", options.json)
    word, paths = _split(options.words)
    reading = read_results(paths)
    entries = _rivals(reading)
    _require_method(options.method, word, entries)
    ranked = [(field, field.places(options.method)) for field in fields(entries, _metrics(word, entries))]
    found = [(field, places) for field, places in ranked if places]
    if not found:
        raise InputError(
            f"{word or options.method}: no two cases of one task and base model hold it, so none is ranked"
        )
    for line in lines(found):
        say(line)
    notes = [*reading.notes()]
    if any(place.half is not None for _, places in found for place in places):
        notes.insert(
            0, "±: half of the 95 % interval; the places are those that a test of each pair at 5 % leaves open"
        )
    for line in (line for note in notes for line in folded(one_line(note), WIDTH)):
        say(line)
    if options.json is not None:
        write_json(options.json, to_json(found, reading))
    return 1 if reading.problems else 0


COMMAND = Command(
    name="rank",
    help="where a method stands among the others",
    description="Rank the cases of each task and base model by a metric, or tell where one method stands by all of "
    "them. A place is an interval where seeds or samples tell how sure a figure is. 1 when a file could not be read, "
    "2 when none could.",
    add_arguments=_add_arguments,
    run=_run,
)
