"""What one shard of a run came to: a file beside its results, which `peftbench merge` reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.files import InputError, converted, read_json, write_json

SCHEMA = 1
_PREFIX = "peftbench-shard-"


@dataclass(frozen=True)
class Ended:
    """What a test came to. outcome: as `CaseOutcome.to_json` has it, before any correction over all cases.

    wall_s: how long it took. sha256: of the result's file; empty where none was written.
    """

    outcome: dict[str, Any]
    wall_s: float
    sha256: str

    def case_outcome(self) -> CaseOutcome:
        """The outcome. Raises msgspec.ValidationError, KeyError or TypeError for what is none."""
        return replace(CaseOutcome.from_json(self.outcome), wall_s=self.wall_s)


@dataclass(frozen=True)
class Shard:
    """One of `count` shards.

    tests: of all selected tests, the number of the shard that runs each, by node id. made_from, options: what all
    shards must agree in. passing: the verdicts that pass. ended: what the shard's own tests came to. broken: files that
    could not be collected, and tests of no case that failed. others: tests of no case that ran. taken,
    again: as in `report.gaps.Gaps`.
    """

    number: int
    count: int
    tests: dict[str, int]
    made_from: dict[str, str]
    options: dict[str, str]
    passing: list[str]
    ended: dict[str, Ended]
    broken: list[str]
    others: list[str]
    taken: list[str]
    again: list[str]
    schema: int = SCHEMA

    def __str__(self) -> str:
        return f"shard {self.number}/{self.count}"


def manifest_path(folder: Path, number: int, count: int) -> Path:
    """The file of a shard, in the folder of its results: several shards may share that."""
    return folder / f"{_PREFIX}{number}-of-{count}.json"


def write_shard(folder: Path, shard: Shard) -> None:
    """Write what a shard came to into the folder of its results."""
    write_json(manifest_path(folder, shard.number, shard.count), asdict(shard), spread=2)


def read_shards(folder: Path) -> dict[Path, Shard]:
    """The shards whose results lie in a folder, by their files. Raises InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    files = sorted(folder.glob(f"{_PREFIX}*.json"))
    if not files:
        raise InputError(
            f"{folder}: holds no {_PREFIX}*.json, which a run with --peft-shard I/N and --peft-json {folder} leaves "
            "when it comes to its end"
        )
    return {file: _read(file) for file in files}


def _read(file: Path) -> Shard:
    shard = converted(file, read_json(file), Shard)
    if shard.schema != SCHEMA:
        raise InputError(f"{file}: schema is {shard.schema}, this version reads {SCHEMA}")
    if file != manifest_path(file.parent, shard.number, shard.count):
        raise InputError(f"{file}: is of {shard}, whose file has another name; give each shard's own file")
    for nodeid, ended in shard.ended.items():
        try:
            ended.case_outcome()
        except (msgspec.ValidationError, KeyError, TypeError) as error:
            raise InputError(f"{file}: ended.{nodeid}.outcome: is no outcome of a case: {error}") from error
    return shard
