"""Reads results for commands: ours, PEFT's published ones and baselines, in any mixture. Imports no torch.

What cannot be read is told by file, and the rest is read all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pytest_peftbench.commands import published
from pytest_peftbench.compare import values_of
from pytest_peftbench.results import baseline as baselines
from pytest_peftbench.results.baseline import Baseline, from_result
from pytest_peftbench.results.durations import DURATIONS_FILE
from pytest_peftbench.results.files import InputError, read_json, resolved, stands
from pytest_peftbench.results.metrics import METRICS, Metric
from pytest_peftbench.results.result import CaseId, Measured, Picture, Result
from pytest_peftbench.results.stored import pictures_of
from pytest_peftbench.results.words import first, plural

# What wrote a file: `--peft-json`, PEFT's own scripts, or `--peft-update-baselines`.
Origin = Literal["result", "published", "baseline"]
# Problems that an error tells in full.
_MOST = 10
# What stands beside the JSON files of an adapter, such as those that baselines keep.
_ADAPTER = "adapter_model.safetensors"
_BASELINE_KEYS = frozenset({"schema", "case"})


@dataclass(frozen=True)
class Entry:
    """One case, as one file holds it.

    measured: a `Result` of ours, or of a run of PEFT's that failed; a `Baseline` of a baseline, and of a published
    result as far as its figures are the same measure as ours. others: figures that PEFT publishes and that are no
    measure of ours, by their names in `published.PUBLISHED`. created: when the run began, as PEFT's schema has it;
    empty where the file does not say. pictures: where each lies and what it is of, without its content.
    """

    file: Path
    origin: Origin
    measured: Result | Baseline
    others: dict[str, float] = field(default_factory=dict)
    created: str = ""
    pictures: tuple[tuple[Path, Picture], ...] = ()

    @property
    def case(self) -> CaseId:
        """Which case it is."""
        return self.measured.case

    @property
    def error(self) -> str:
        """Why the case did not get to its end; empty where it did."""
        if isinstance(self.measured, Baseline) or self.measured.status == "success":
            return ""
        return f"{self.measured.status}: {self.measured.error_msg}".rstrip(": ")

    @property
    def baseline(self) -> Baseline:
        """What is compared of it. Raises InputError where the case did not get to its end."""
        return self.measured if isinstance(self.measured, Baseline) else from_result(self.measured)

    @property
    def result(self) -> Result:
        """The same as a result, which can be held against a baseline."""
        return self.measured if isinstance(self.measured, Result) else _as_result(self.measured)

    def values(self) -> dict[str, float]:
        """All figures that are numbers, means over the seeds, in the catalogue's order; PEFT's other ones last."""
        return {**values_of(self.measured), **self.others}


@dataclass
class Reading:
    """What files and folders held.

    entries: in the order of the arguments, and of the files' paths in each. problems: what could not be read and why,
    a line each that begins with the file. passed_over: likewise, failed runs of cases that have a run that succeeded.
    others: how many JSON files are no results at all, such as configs; those of an adapter are not counted.
    """

    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    others: int = 0

    def notes(self) -> Iterator[str]:
        """What a command tells beside its own work: what could not be read, and what was passed over."""
        yield from self.problems
        yield from self.passed_over
        yield from self.others_note()

    def others_note(self) -> Iterator[str]:
        """How many files were passed over for what they are; nothing for none."""
        if self.others:
            yield f"{plural(self.others, 'JSON file')} passed over: neither results nor baselines"


def catalogue() -> dict[str, Metric]:
    """The metrics that an entry may hold: the catalogue, then what only PEFT publishes."""
    return {**METRICS, **published.PUBLISHED}


def read_results(paths: Sequence[Path]) -> Reading:
    """The results and baselines in files and folders, at any depth.

    Of two files of one case and origin the first counts, and the other is a problem. Raises InputError where a path is
    not there, and where nothing could be read.
    """
    reading = Reading()
    known: dict[tuple[CaseId, Origin], Entry] = {}
    for file, named in _files(paths):
        try:
            entry = read_entry(file, read_json(file))
            if entry is None and named:
                raise InputError(f"{file}: is neither a result, of ours or of PEFT's, nor a baseline")
        except InputError as error:
            reading.problems.append(str(error))
            continue
        if entry is None:
            reading.others += not (file.parent / _ADAPTER).exists()
        else:
            _add(entry, known, reading)
    reading.entries = list(known.values())
    if not reading.entries:
        raise InputError(_nothing(paths, reading))
    return reading


def _add(entry: Entry, known: dict[tuple[CaseId, Origin], Entry], reading: Reading) -> None:
    """Keep the first file of a case, but for a failed run beside one that succeeded."""
    key = entry.case, entry.origin
    there = known.setdefault(key, entry)
    if there is entry:
        return
    if bool(there.error) == bool(entry.error):
        reading.problems.append(f"{entry.file}: {there.file} is case {entry.case} too; the first one counts")
        return
    known[key], failed = (entry, there) if there.error else (there, entry)
    reading.passed_over.append(f"{failed.file}: passed over: status {failed.error}")


def read_entry(file: Path, data: dict[str, Any]) -> Entry | None:
    """The case that a file's content stands for; None for a file of another kind.

    file: names it in errors, and need not be there. Raises InputError for one that is damaged, or of another version.
    """
    is_pefts = data.keys() >= published.KEYS
    if is_pefts:
        published.status_of(file, data)  # what PEFT's own dashboard would stumble over
    if "peftbench" in data:
        result = Result.from_json(data, str(file))
        return Entry(file, "result", result, created=_created(data), pictures=pictures_of(file, data))
    if is_pefts:
        measured = published.read_published(file, data)
        return Entry(file, "published", measured, published.other_figures(data), _created(data))
    if data.keys() >= _BASELINE_KEYS:
        return Entry(file, "baseline", baselines.from_json(data, file))
    return None


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Each JSON file once, and whether it was named itself."""
    seen: set[Path] = set()
    for path in paths:
        if not stands(path):
            raise InputError(f"{path}: no such file or folder")
        found = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        for file in (file for file in found if file.name != DURATIONS_FILE or file == path):
            real = file if file.is_symlink() else resolved(file)
            if real not in seen:
                seen.add(real)
                yield file, file == path


def _nothing(paths: Sequence[Path], reading: Reading) -> str:
    names = ", ".join(map(str, paths))
    if reading.problems:
        return "\n".join([f"{names}: nothing could be read", *first(reading.problems, _MOST)])
    if reading.others:
        return f"{names}: holds no result; {plural(reading.others, 'JSON file')} found, neither results nor baselines"
    if any(_files(paths)):
        return f"{names}: holds adapters alone, neither results nor baselines"
    return f"{names}: holds no JSON file; expected results of --peft-json or of PEFT, or baselines"


def _created(data: dict[str, Any]) -> str:
    run = data.get("run_info")
    return str(run.get("created_at", "")) if isinstance(run, dict) else ""


def _as_result(baseline: Baseline) -> Result:
    shared = {name: getattr(baseline, name) for name in Measured.__dataclass_fields__}
    peft = {key: value for key, value in baseline.imported.items() if key in published.KEYS}
    return Result(**shared, peft=peft)
