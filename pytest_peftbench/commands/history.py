"""How baselines went over the commits of their git repository: a slow creep shows in no single comparison."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_peftbench.compare import values_of
from pytest_peftbench.results.baseline import Baseline, baseline_path, from_json
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.results.words import change, plural

# Series that a page offers, those that moved furthest.
_MOST = 300


@dataclass(frozen=True)
class Commit:
    """One commit of the baselines: its hash, day (of its author), subject, and blobs by the path of their baseline."""

    sha: str
    date: str
    subject: str
    blobs: Mapping[str, str]


@dataclass
class _Past:
    """Baselines by blob, each read once; `unread` counts those that another version wrote or that are damaged."""

    folder: Path
    read: dict[str, Baseline | None] = field(default_factory=dict)
    unread: int = 0

    def baseline(self, blob: str, path: str) -> Baseline | None:
        if blob not in self.read:
            try:
                text = git(self.folder, "cat-file", "blob", blob)
                self.read[blob] = from_json(json.loads(text), Path(path))
            except (InputError, ValueError):
                self.read[blob] = None
                self.unread += 1
        return self.read[blob]


def history_of(baselines: Path, cases: Collection[CaseId], most: int) -> dict[str, Any]:
    """Commits, oldest first, and a series for each figure of these cases that moved, the furthest first; plain data.

    most: how many commits it goes back. Raises InputError where the folder is in no git repository, or no commit holds
    it.
    """
    commits = list(_commits(baselines, most))
    if not commits:
        raise InputError(f"--history: no commit holds {baselines}; commit the baselines first")
    past = _Past(baselines)
    pefts = [""] * len(commits)
    series: list[dict[str, Any]] = []
    for case in sorted(cases, key=str):
        path = baseline_path(Path(), case).as_posix()
        points: dict[str, list[tuple[int, float]]] = {}
        for place, commit in enumerate(commits):
            blob = commit.blobs.get(path)
            found = past.baseline(blob, path) if blob else None
            if found is None:
                continue
            pefts[place] = max(pefts[place], found.environment.get("peft", ""))
            for name, value in values_of(found).items():
                points.setdefault(name, []).append((place, value))
        series += _moved(case, points)
    series.sort(key=lambda item: (-item["size"], item["case"], item["metric"]["name"]))
    notes = [f"{plural(len(commits), 'commit')} of {baselines}, {plural(len(series), 'figure')} moved"]
    if past.unread:
        notes.append(f"{plural(past.unread, 'state')} of baselines could not be read: of an older version, or damaged")
    if len(series) > _MOST:
        notes.append(f"the {_MOST} that moved furthest are shown")
    return {
        "notes": notes,
        "commits": [
            {"short": commit.sha[:8], "date": commit.date, "subject": commit.subject, "peft": peft}
            for commit, peft in zip(commits, pefts, strict=True)
        ],
        "series": series[:_MOST],
    }


def _moved(case: CaseId, points: Mapping[str, list[tuple[int, float]]]) -> Iterator[dict[str, Any]]:
    for name, values in points.items():
        metric = METRICS.get(name)
        first, last = values[0][1], values[-1][1]
        if metric is None or len({value for _, value in values}) < 2:
            continue
        size = max(abs(value - first) for _, value in values)
        scale = metric.margin(first) if metric.lane == "quality" else abs(first)
        yield {
            "case": str(case),
            "metric": {"name": name, "unit": metric.unit, "direction": metric.direction},
            "change": change(metric, last, first) if last != first else "and back",
            "size": size / scale if scale else size,
            "points": values,
        }


def _commits(folder: Path, most: int) -> Iterator[Commit]:
    """The last commits that touched the folder, oldest first, with the baselines that each holds."""
    log = git(folder, "log", f"--max-count={most}", "--format=%H%x09%as%x09%s", "--", ".")
    for line in reversed(log.splitlines()):
        sha, date, subject = line.split("\t", 2)
        # names relative to the folder, which git is run in
        rows = git(folder, "ls-tree", "-r", "-z", sha, ".").split("\0")
        parted = (row.partition("\t") for row in rows if row)
        yield Commit(sha, date, subject, {name: head.split()[2] for head, _, name in parted if name.endswith(".json")})


def git(folder: Path, *arguments: str) -> str:
    """What git answers about the folder. Raises InputError, in git's words, where it does not."""
    try:
        answer = subprocess.run(
            ["git", "-c", "core.quotePath=false", *arguments],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
        )
    except FileNotFoundError as error:
        raise InputError("--history: git is not installed") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().splitlines() or ["git failed"]
        raise InputError(f"--history: {folder}: {words[0]}") from error
    return answer.stdout
