"""Words of a self-test: a table of faults, what is wrong, and the counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pytest_peftbench.commands.selftest.runner import Outcome, false_alarm_bound
from pytest_peftbench.compare import Finding
from pytest_peftbench.results.words import aligned, plural

LANES = ("exact", "numerics", "quality", "noisy")
_HEADER = ("fault", "case", "size", "lane", "caught by", "verdict", "")


def text(outcomes: Sequence[Outcome]) -> str:
    """The table of faults, then all that did not go as it should, then the counts."""
    faults = [outcome for outcome in outcomes if outcome.trial.fault]
    lines = [*aligned([_HEADER, *map(_row, faults)], left=range(len(_HEADER))), ""] if faults else []
    lines += [line for outcome in outcomes if not outcome.passed for line in _problem(outcome)]
    return "\n".join([*lines, *_counts(outcomes)])


def to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All outcomes and their findings, as plain data."""
    unchanged, red, bound = false_alarm_bound(outcomes)
    return {
        "faults": [_outcome(outcome) for outcome in outcomes if outcome.trial.fault],
        "unchanged": [_outcome(outcome) for outcome in outcomes if not outcome.trial.fault],
        "false_alarms": {"runs": unchanged, "red": red, "bound_95": bound},
    }


def _row(outcome: Outcome) -> tuple[str, ...]:
    fault = outcome.trial.fault
    assert fault is not None
    first, *others = [_words(outcome, finding) for finding in outcome.caught_by] or [outcome.status]
    caught_by = f"{first} and {len(others)} more" if others else first
    what = outcome.verdict.verdict if outcome.verdict else "failed"
    return fault.name, fault.case, fault.size, fault.lane, caught_by, what, f"{outcome.seconds:.1f} s"


def _words(outcome: Outcome, finding: Finding) -> str:
    """`forgetting +0.41 (detectable 0.05)`: the smallest regression that the baseline's seeds can tell, if known."""
    detectable = outcome.verdict.detectable.get(finding.metric) if outcome.verdict else None
    known = "" if detectable is None else f" (detectable {detectable:.2g})"
    return f"{finding.subject} {finding.change}".strip() + known


def _problem(outcome: Outcome) -> list[str]:
    fault = outcome.trial.fault
    what = f"{fault.name} ({fault.size})" if fault else "unchanged"
    lines = [f"{outcome.status}: {outcome.trial.case}: {what}"]
    if fault:
        lines.append(f"  expected: {fault.verdict}, by {' or '.join(fault.metrics)}")
    told = [outcome.error] if outcome.error else (outcome.verdict.text() if outcome.verdict else "").splitlines()
    return [*lines, *(f"  {line}" for line in told), ""]


def _counts(outcomes: Sequence[Outcome]) -> Iterable[str]:
    faults = [outcome for outcome in outcomes if outcome.trial.fault]
    if faults:
        yield f"{plural(len(faults), 'fault')}: {_caught(faults)} caught ({_by_group(faults)})"
    unchanged, red, bound = false_alarm_bound(outcomes)
    if unchanged:
        yield (
            f"{plural(unchanged, 'unchanged run')}: {red} red; at most {bound:.2%} false alarms (95 %, exact binomial)"
        )


def _caught(outcomes: Iterable[Outcome]) -> int:
    return sum(outcome.passed for outcome in outcomes)


def _by_group(faults: Sequence[Outcome]) -> str:
    """Of trained cases by lane; those of the life cycle together, whatever tells them."""
    groups: dict[str, list[Outcome]] = {name: [] for name in (*LANES, "life cycle")}
    for item in faults:
        assert item.trial.fault is not None
        groups["life cycle" if item.trial.fault.structure else item.trial.fault.lane].append(item)
    return ", ".join(f"{name} {_caught(group)} of {len(group)}" for name, group in groups.items() if group)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    fault = outcome.trial.fault
    keys = ("name", "size", "lane", "metrics") if fault else ()
    return {
        **{key: getattr(fault, key) for key in keys},
        "experiment": outcome.trial.case,
        "status": outcome.status,
        "caught_by": [finding.subject for finding in outcome.caught_by],
        "verdict": outcome.verdict.to_json() if outcome.verdict else None,
        "error": outcome.error,
        "seconds": round(outcome.seconds, 1),
    }
