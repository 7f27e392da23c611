"""How baselines went over the commits of their git repository: a slow creep shows in no single comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_peftbench.results.baseline import baseline_path
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS, Metric
from pytest_peftbench.results.result import CaseId, mean
from pytest_peftbench.results.revisions import blob_contents, git, json_blobs
from pytest_peftbench.results.words import change, plural

# Series that a page offers, those that moved furthest.
_MOST = 300


@dataclass(frozen=True)
class Commit:
    """One commit of the baselines: its hash, its author's day, its subject, and the blob of each file by its path."""

    sha: str
    date: str
    subject: str
    blobs: Mapping[str, str]


@dataclass(frozen=True)
class State:
    """What a baseline held in a commit: of which case version, under which PEFT, and its numbers, means over seeds."""

    version: str
    peft: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Point:
    """One figure in one commit."""

    commit: int
    value: float
    version: str


def history_of(baselines: Path, cases: Collection[CaseId], most: int) -> dict[str, Any]:
    """Commits, oldest first, and a series for each figure of these cases that moved, the furthest first; plain data.

    A figure moved where it did so within the case's last version: figures of different versions are not comparable.
    most: how many commits it goes back. Raises InputError where the folder is in no git repository, or no commit holds
    it.
    """
    commits = list(_commits(baselines, most))
    if not commits:
        raise InputError(f"--history: no commit holds {baselines}; commit the baselines first")
    pefts: list[set[str]] = [set() for _ in commits]
    series: list[dict[str, Any]] = []
    unread: set[str] = set()
    places = {case: dict(_blobs_of(case, commits)) for case in sorted(cases, key=str)}
    blobs = list(dict.fromkeys(blob for found in places.values() for blob in found.values()))
    contents = blob_contents(_about(baselines), blobs, baselines)
    known = {blob: _state(content) for blob, content in zip(blobs, contents, strict=True)}
    for case, found in places.items():
        states = {}
        for place, blob in found.items():
            if (state := known[blob]) is None:
                unread.add(blob)
                continue
            states[place] = state
            pefts[place].add(state.peft)
        series += _moved(case, states)
    series.sort(key=lambda item: (-item["size"], item["case"], item["metric"]["name"]))
    return {
        "notes": list(_notes(baselines, len(commits), len(series), len(unread))),
        "commits": [
            {"short": commit.sha[:8], "date": commit.date, "subject": commit.subject, "peft": ", ".join(sorted(peft))}
            for commit, peft in zip(commits, pefts, strict=True)
        ],
        "series": series[:_MOST],
    }


def _notes(baselines: Path, commits: int, moved: int, unread: int) -> Iterator[str]:
    yield f"{plural(commits, 'commit')} of {baselines}, {plural(moved, 'figure')} moved"
    if unread:
        yield f"{plural(unread, 'state')} of baselines could not be read: damaged, or of an unknown version"
    if moved > _MOST:
        yield f"the {_MOST} that moved furthest are shown"


def _blobs_of(case: CaseId, commits: Sequence[Commit]) -> Iterator[tuple[int, str]]:
    path = baseline_path(Path(), case).as_posix()
    return ((place, commit.blobs[path]) for place, commit in enumerate(commits) if path in commit.blobs)


def _state(content: bytes) -> State | None:
    """What a baseline of this or an earlier schema holds; None for what cannot be read.

    Not read as for a comparison: an earlier schema's figures are shown, too.
    """
    try:
        data = json.loads(content)
        per_seed = data.get("per_seed") or _by_name(data.get("seeds") or [])
        found = {**{name: [value] for name, value in data["metrics"].items()}, **per_seed}
        values = {name: mean(list(filter(_is_number, seeds))) for name, seeds in found.items()}
        peft = str(data["environment"].get("peft", ""))
        return State(data["case_version"], peft, {name: value for name, value in values.items() if _is_number(value)})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _by_name(seeds: list[Any]) -> dict[str, list[Any]]:
    """The values of each figure, from a row for each seed, as earlier schemas have it."""
    found: dict[str, list[Any]] = {}
    for row in seeds:
        for name, value in row["metrics"].items():
            found.setdefault(name, []).append(value)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _moved(case: CaseId, states: Mapping[int, State]) -> Iterator[dict[str, Any]]:
    """A series for each figure that moved within the last version of the case."""
    points: dict[str, list[Point]] = {}
    for place, state in states.items():
        for name, value in state.values.items():
            points.setdefault(name, []).append(Point(place, value, state.version))
    for name, found in points.items():
        metric = METRICS.get(name)
        last = [point.value for point in found if point.version == found[-1].version]
        if metric is not None and len(set(last)) > 1:
            yield {
                "case": str(case),
                "metric": {"name": name, "unit": metric.unit, "direction": metric.direction},
                "change": change(metric, last[-1], last[0]) if last[-1] != last[0] else "and back",
                "size": _size(metric, last),
                "points": [[point.commit, point.value, point.version] for point in found],
            }


def _size(metric: Metric, values: Sequence[float]) -> float:
    """How far a figure went: in margins where it is one of quality or a time, else as a share."""
    farthest = max(abs(value - values[0]) for value in values)
    scale = metric.margin(values[0]) or abs(values[0])
    return farthest / scale if scale else farthest


def _commits(folder: Path, most: int) -> Iterator[Commit]:
    """The last commits that touched the folder, oldest first, with the files that it held in each."""
    about = _about(folder)
    log = git(about, "log", f"--max-count={most}", "--format=%H%x09%as%x09%s", "--", ".", folder=folder)
    for line in reversed(log.splitlines()):
        sha, date, subject = line.split("\t", 2)
        # names are relative to the folder, which git is run in
        yield Commit(sha, date, subject, json_blobs(about, sha, ".", folder=folder))


def _about(folder: Path) -> str:
    return f"--history: {folder}"
