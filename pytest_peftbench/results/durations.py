"""How long each case took: one file beside the baselines, which spreads cases over workers, shards and machines.

Times of another machine serve as well, as far as all cases are slower or faster there alike. They decide where a case
runs and when, never what it comes to.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from pytest_peftbench.results.files import InputError, converted, read_json, stands, write_json

DURATIONS_FILE = "durations.json"
SCHEMA = 1
# Of a case that nobody has timed, where none was.
_UNKNOWN_S = 1.0
# A time that moved by less is noise, and leaves the file as it is.
_MOVED = 1.25
# No case is over sooner, as far as a scheduler cares.
_LEAST_S = 0.05


@dataclass(frozen=True)
class Durations:
    """Seconds of wall time by case id. A case that is not there takes as long as the median one."""

    seconds: Mapping[str, float] = field(default_factory=dict)

    def of(self, case: str) -> float:
        """Expected seconds of a case."""
        return self.seconds.get(case, self.usual)

    @cached_property
    def usual(self) -> float:
        """The median; a second where nothing was timed."""
        return statistics.median(self.seconds.values()) if self.seconds else _UNKNOWN_S

    def updated(self, found: Mapping[str, float], whole: bool) -> Durations:
        """With new times, to two digits, in place of those that moved. whole: whether cases without one are dropped."""
        kept = {} if whole else dict(self.seconds)
        for case, seconds in found.items():
            new, old = float(f"{max(seconds, _LEAST_S):.2g}"), self.seconds.get(case, 0.0)
            kept[case] = old if old and 1 / _MOVED <= new / old <= _MOVED else new
        return Durations(dict(sorted(kept.items())))


@dataclass(frozen=True)
class _File:
    schema: int
    seconds: dict[str, Annotated[float, Meta(gt=0)]]


def read_durations(baselines: Path) -> Durations:
    """What stands beside the baselines; nothing where no such file does. Raises InputError, naming file and key."""
    file = baselines / DURATIONS_FILE
    if not stands(file):
        return Durations()
    found = converted(file, read_json(file), _File)
    if found.schema != SCHEMA:
        raise InputError(f"{file}: schema is {found.schema}, this version reads {SCHEMA}; --peft-update-durations")
    return Durations(found.seconds)


def write_durations(baselines: Path, durations: Durations) -> None:
    """Write the file beside the baselines, atomically."""
    write_json(baselines / DURATIONS_FILE, {"schema": SCHEMA, "seconds": dict(durations.seconds)})
