"""Which cases' times are taken in turn, and what becomes of their verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_peftbench.commands.ab.measuring import Measured
from pytest_peftbench.commands.ab.peft_sources import PeftSource
from pytest_peftbench.commands.ab.sessions import Sessions
from pytest_peftbench.commands.ab.times import Timed, times
from pytest_peftbench.commands.command import tell_progress
from pytest_peftbench.compare import Finding
from pytest_peftbench.compare.between import Change
from pytest_peftbench.compare.in_turn import Ratio, judged, ratio_of
from pytest_peftbench.report.changes import Changes, moved
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.orders import CaseTold, Told
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.results.words import plural

# The metric of each kind of work.
_METRICS = {"step": "step_time_ratio", "decode": "decode_time_ratio"}
# Sets of processes that an interval takes at least.
_LEAST_ROUNDS = 2


def to_time(changes: Changes, sides: Sequence[Measured], found: Told, count: int) -> dict[str, CaseId]:
    """The cases to time, by node id, at most so many: those whose times are in question, then those that moved."""
    ranks = {change.verdict.case: _rank(change) for change in changes.cases}
    able = {
        nodeid: told.case
        for nodeid, told in found.cases.items()
        if told.trained and told.case in ranks and all(_measured(side.told.get(nodeid)) for side in sides)
    }
    chosen = sorted(able, key=lambda nodeid: ranks[able[nodeid]])[:count]
    return {nodeid: case for nodeid, case in able.items() if nodeid in chosen}


def _measured(told: CaseTold | None) -> bool:
    return told is not None and told.ran and not told.problem


def _rank(change: Change) -> int:
    """0 where a time is red, 1 where anything moved, else 2."""
    red = {item.metric for item in change.verdict.findings if item.verdict in ("regressed", "cannot tell")}
    return 0 if red & {*_METRICS.values()} else 1 if moved(change) else 2


def with_times(
    changes: Changes, sessions: Sessions, sources: tuple[PeftSource, PeftSource], cases: Mapping[str, CaseId]
) -> Changes:
    """The changes with the times of these cases taken in turn, in place of what two sessions measured apart.

    What regressed is timed once more, by processes of their own, and then these alone count.
    """
    if not cases:
        return changes
    found = times(sessions, *sources, [*cases], tell_progress)
    if slower := [nodeid for nodeid in cases if any(item.verdict == "regressed" for item in _findings(found[nodeid]))]:
        tell_progress(f"times: {plural(len(slower), 'case')} slower; once more, and then that alone counts")
        found |= times(sessions, *sources, slower, tell_progress)
    by_case = {case: found[nodeid] for nodeid, case in cases.items()}
    settled = [_settled(change, by_case.get(change.verdict.case)) for change in changes.cases]
    notes = [
        _note(by_case),
        *(f"not timed in turn: {case}: {it.problem}" for case, it in by_case.items() if it.problem),
    ]
    return replace(changes, cases=sorted(settled, key=Change.rank), notes=[*changes.notes, *filter(None, notes)])


def _settled(change: Change, timed: Timed | None) -> Change:
    findings = {finding.metric: finding for finding in _findings(timed)} if timed else {}
    if not findings:
        return change
    others = [finding for finding in change.verdict.findings if finding.metric not in findings]
    verdict = replace(change.verdict, findings=(*others, *findings.values()))
    return replace(
        change,
        verdict=verdict,
        by_size=change.by_size - findings.keys(),
        untold={name: why for name, why in change.untold.items() if name not in findings},
        sizes={**change.sizes, **{_METRICS[what]: abs(ratio.ratio - 1) for what, ratio in _ratios(timed).items()}},
    )


def _findings(timed: Timed | None) -> list[Finding]:
    found = (judged(METRICS[_METRICS[what]], ratio) for what, ratio in _ratios(timed).items())
    return [finding for finding in found if finding is not None]


def _ratios(timed: Timed | None) -> dict[str, Ratio]:
    rounds = timed.rounds if timed else {}
    return {what: ratio_of(found) for what, found in rounds.items() if len(found) >= _LEAST_ROUNDS}


def _note(by_case: Mapping[CaseId, Timed]) -> str:
    """What the machine could tell, by how far processes of one program lay apart."""
    ratios = [ratio for timed in by_case.values() for ratio in _ratios(timed).values()]
    if not ratios:
        return ""
    apart = max(abs(ratio.copy - 1) for ratio in ratios)
    tells = [ratio.tells for ratio in ratios]
    told = f"{min(tells):.1%} to {max(tells):.1%} and more is told" if len(tells) > 1 else f"{tells[0]:.1%} is told"
    return (
        f"times of {plural(len(by_case), 'case')} taken in turn: {told}; the old side to itself, at most "
        f"{apart:.1%} apart"
    ).replace("%", " %")
