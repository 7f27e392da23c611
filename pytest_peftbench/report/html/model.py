"""The data of a page, plain JSON: what its template and its scripts read, and nothing else."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_peftbench.compare import GREEN_BY_DEFAULT, SEVERITY, CaseVerdict, Verdict
from pytest_peftbench.report.advice import Advice
from pytest_peftbench.report.html.pictures import Album
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.laws import LAW, group_of, standing
from pytest_peftbench.results.metrics import METRICS, PEAK_PARTS, Column, Metric
from pytest_peftbench.results.result import CaseId

# Why a law is broken, in words, and whether PEFT means it so; None where nobody shares the cause.
Explain = Callable[[CaseId, str, str], tuple[str, bool] | None]
# Red, and yet nothing is known to be worse: these say that the two sides could not be held against each other.
UNJUDGED: frozenset[Verdict] = frozenset({"cannot tell", "not comparable", "no baseline"})
# What says that something is other than it was.
MOVED: frozenset[Verdict] = frozenset(
    {"improved", "numerics changed", "missing metric", "unknown metric", "regressed", "failed"}
)
# Versions of cases, which differ where the reason is one.
_HASHES = re.compile(r"\b[0-9a-f]{12,}\b")
# GiB of the cards that footprints are held against.
CARDS = (8, 12, 16, 24, 48, 80)
# What a reader must know of where the cases ran.
_VERSIONS = ("peft", "torch", "transformers", "device", "accelerator")
# Columns that each table begins with behind those of its task, and what a reader calls them.
_COMMON = {
    "params.trainable": "trainable",
    "checkpoint.bytes": "checkpoint",
    "train_step.flops": "step FLOP",
    "train_step.peak_bytes": "peak",
    "step_time_ratio": "time",
}
_PUBLISHED = {
    "published.forgetting": "forgetting",
    "published.memory_max_bytes": "memory",
    "published.train_time_s": "train time",
}
# Those of cases that are not trained.
_UNTRAINED = {name: header for name, header in _COMMON.items() if name != "step_time_ratio"}


@dataclass(frozen=True)
class Page:
    """What a page is made of.

    title: what was run or read. outcomes: of its cases, with their details. columns: of each table, by task or kind of
    case. metrics: the catalogue, with what only PEFT publishes. explain: why a law is broken. problems: what could not
    be read or measured, a line each. notes: what else a reader must know. advice: what to do next, in
    the words of the terminal. history: see `history`; None where none was asked for.
    """

    title: str
    outcomes: Sequence[CaseOutcome]
    columns: Mapping[str, Sequence[Column]]
    metrics: Mapping[str, Metric] = field(default_factory=lambda: METRICS)
    explain: Explain = lambda case, law, word: None
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    advice: Sequence[Advice] = ()
    history: Mapping[str, Any] | None = None


class Interned:
    """Values that many cases share, each kept once and named by its place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """Where the value stands among `values`."""
        key = repr(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def page_data(page: Page) -> dict[str, Any]:
    """The data of a page; every text in it is as it came, and is escaped where it is shown."""
    return _Builder(page).data()


class _Builder:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.album = Album()
        self.metrics, self.groups, self.environments = Interned(), Interned(), Interned()
        self.laws, self.words, self.causes = Interned(), Interned(), Interned()
        self.problems = list(page.problems)

    def data(self) -> dict[str, Any]:
        judged = sorted((item for item in self.page.outcomes if item.verdict), key=_worst_first)
        cases = [self._case(outcome) for outcome in judged]
        names = _unique([case["name_shown"] for case in cases])
        for case, name in zip(cases, names, strict=True):
            case["id"] = name
        unmeasured = [{"test": item.nodeid, "why": item.unmeasured} for item in self.page.outcomes if not item.verdict]
        return {
            "title": self.page.title,
            "versions": _versions(self.environments.values),
            "advice": [{"words": item.words, "command": item.command} for item in self.page.advice],
            "problems": self.problems,
            "notes": list(self.page.notes),
            "counts": self._counts(cases),
            "red": sum(case["red"] for case in cases),
            "look": _tally(case["look"] for case in cases if case["look"]),
            "unjudged": _tally(case["verdict"] for case in cases if case["red"] and not case["look"]),
            "alike": _alike(cases),
            "unmeasured": unmeasured,
            "groups": [self._group(*key) for key in self.groups.values],
            "cases": cases,
            "metrics": [self._metric(name) for name in self.metrics.values],
            "environments": self.environments.values,
            "laws": [self._law(name) for name in self.laws.values],
            "law_words": [{"word": word, "standing": standing(word) or "broken"} for word in self.words.values],
            "causes": [{"why": why, "by_design": by_design} for why, by_design in self.causes.values],
            "images": self.album.sources,
            "cards": list(CARDS),
            "parts": [f"train_step.{part}" for part in PEAK_PARTS],
            "history": self.page.history,
        }

    def _counts(self, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        found = Counter(case["verdict"] for case in cases)
        return [
            {"verdict": verdict, "count": found[verdict], "green": verdict in GREEN_BY_DEFAULT}
            for verdict in reversed(SEVERITY)
            if found[verdict]
        ]

    def _case(self, outcome: CaseOutcome) -> dict[str, Any]:
        verdict, details = outcome.verdict, outcome.details
        assert verdict is not None  # those without one are told apart
        case, origin = verdict.case, details.get("origin", "result")
        words = details.get("words", {})
        values = {name: value for name, value in verdict.values.items() if math.isfinite(value)}
        values |= details.get("others", {})
        return {
            "name_shown": f"{case} ({_OF[origin]})" if _OF.get(origin) else str(case),
            "group": self.groups.place((case.kind, case.task, case.base_model, origin == "published")),
            "method": case.method,
            "name": case.name,
            "verdict": verdict.verdict,
            "red": outcome.red,
            "look": _needs_look(verdict) if outcome.red else "",
            "cause": _cause(verdict) if outcome.red else "",
            "moved": verdict.moved(),
            "shifts": _shifts(verdict),
            "text": verdict.text() if outcome.red else "",
            "findings": [item.text() for item in verdict.findings if item.verdict != "identical"],
            "baseline": verdict.baseline,
            "against": verdict.environment_note,
            "nodeid": outcome.nodeid,
            "wall_s": round(outcome.wall_s, 2),
            "values": {self.metrics.place(name): value for name, value in values.items()},
            "plus_minus": {self.metrics.place(name): value for name, value in verdict.detectable.items()},
            "spread": {self.metrics.place(name): value for name, value in details.get("spread", {}).items()},
            "words": {name: word for name, word in words.items() if not name.startswith(LAW)},
            "laws": self._laws(case, words),
            "environment": self.environments.place(details["environment"]) if "environment" in details else None,
            "pictures": self._pictures(str(case), details.get("pictures", ())),
            **{name: details[name] for name in ("losses", "course", "witness", "tensors", "notes") if name in details},
        }

    def _laws(self, case: CaseId, words: Mapping[str, str]) -> list[list[int]]:
        """Law, word and cause of each, by their places; -1 for no cause."""
        rows = []
        for name, word in words.items():
            if name.startswith(LAW):
                law = name.removeprefix(LAW)
                cause = self.page.explain(case, law, word) if standing(word) == "broken" else None
                found = -1 if cause is None else self.causes.place(cause)
                rows.append([self.laws.place(law), self.words.place(word), found])
        return rows

    def _pictures(self, case: str, pictures: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        found = []
        for picture in pictures:
            try:
                found.append(self.album.add(picture))
            except ValueError as error:
                self.problems.append(f"{case}: {picture['name']}: {error}")
        return found

    def _group(self, kind: str, task: str, base_model: str, published: bool) -> dict[str, Any]:
        """One table: what it is called, its columns, and which of them tell what is won and what is lost."""
        quality = [column for column in self.page.columns.get(kind or task, ()) if column.metric in self.page.metrics]
        common = _UNTRAINED if kind else {**(_PUBLISHED if published else {}), **_COMMON}
        headers = {**{column.metric: column.header for column in quality}, **common}
        known = self.metrics.values
        label = " · ".join(part for part in (kind, task, base_model) if part)
        return {
            "label": f"{label} (published by PEFT)" if published else label,
            "kind": kind,
            "task": task,
            "base_model": base_model,
            "columns": [known.index(name) for name in headers if name in known],
            "headers": {known.index(name): header for name, header in headers.items() if name in known},
            "gain": self._first(quality, "higher"),
            "loss": self._first(quality, "lower", also=("published.forgetting",) if published else ()),
        }

    def _first(self, columns: Sequence[Column], direction: str, also: Sequence[str] = ()) -> int | None:
        """The first column of quality with this direction, as far as some case holds it."""
        names = [*(column.metric for column in columns if self._is_quality(column.metric, direction)), *also]
        return next((self.metrics.values.index(name) for name in names if name in self.metrics.values), None)

    def _is_quality(self, name: str, direction: str) -> bool:
        metric = self.page.metrics[name]
        return metric.lane == "quality" and metric.direction == direction

    def _metric(self, name: str) -> dict[str, Any]:
        metric = self.page.metrics.get(name)
        if metric is None:
            return {"name": name, "unit": "", "direction": "equal", "what": "not in the catalogue"}
        return {
            "name": name,
            "unit": metric.unit,
            "direction": metric.direction,
            "what": metric.description,
            "margin": [metric.absolute_margin, metric.relative_margin],
        }

    def _law(self, name: str) -> dict[str, str]:
        metric = self.page.metrics.get(f"{LAW}{name}")
        return {"name": name, "group": group_of(name), "what": metric.description if metric else ""}


# What is said behind a case's name where it is not a result of ours.
_OF = {"published": "published by PEFT", "baseline": "baseline"}


def _versions(environments: Sequence[Mapping[str, str]]) -> str:
    """`peft 0.21.2, torch 2.12.0 and 2.13.0, device cpu`: each value that some case ran with."""
    found = {
        name: sorted({known[name] for known in environments if name in known} - {"none", "meta"}) for name in _VERSIONS
    }
    return ", ".join(f"{name} {' and '.join(values)}" for name, values in found.items() if values)


def _tally(verdicts: Iterable[str]) -> dict[str, Any]:
    """How many there are, and of which verdicts: `1 failed, 2 regressed`, the worst first."""
    found = Counter(verdicts)
    words = (f"{found[verdict]:,} {verdict}" for verdict in reversed(SEVERITY) if found[verdict])
    return {"count": found.total(), "words": ", ".join(words)}


def _needs_look(verdict: CaseVerdict) -> str:
    """The worst verdict of a red case that says what is wrong with it; empty where it only could not be judged."""
    known = {item.verdict for item in verdict.findings} - UNJUDGED - GREEN_BY_DEFAULT
    if known:
        return max(known, key=SEVERITY.index)
    return "" if verdict.verdict in UNJUDGED else verdict.verdict


def _shifts(verdict: CaseVerdict) -> str:
    """What moved beyond rounding and noise, the worst first, and nothing of what could not be compared."""
    found = [item for item in verdict.findings if item.verdict in MOVED]
    found.sort(key=lambda item: -SEVERITY.index(item.verdict))
    return ", ".join(dict.fromkeys(item.short() for item in found))


def _cause(verdict: CaseVerdict) -> str:
    """Why a case is red, in words that cases with the same trouble share."""
    told = verdict.moved()
    if verdict.verdict in UNJUDGED:
        told = next((item.reason for item in verdict.findings if item.verdict == verdict.verdict and item.reason), told)
    return _HASHES.sub("…", told)


def _alike(cases: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The red cases by verdict and cause, what needs a look first: the places of each among the cases."""
    found: dict[tuple[bool, str, str], list[int]] = {}
    for place, case in enumerate(cases):
        if case["red"]:
            found.setdefault((not case["look"], case["verdict"], case["cause"]), []).append(place)
    rows = sorted(found.items(), key=lambda row: row[0][0])
    return [{"verdict": verdict, "cause": cause, "cases": places} for (_, verdict, cause), places in rows]


def _worst_first(outcome: CaseOutcome) -> tuple[bool, int, str]:
    verdict = outcome.verdict
    assert verdict is not None
    return not outcome.red, -SEVERITY.index(verdict.verdict), str(verdict.case)


def _unique(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that came before: two tests may check one case."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
