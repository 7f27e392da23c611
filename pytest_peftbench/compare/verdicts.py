"""What comparing gave, and how it is told: a finding for each metric, and the worst of them as the case's verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

from pytest_peftbench.results import words
from pytest_peftbench.results.laws import says_fault
from pytest_peftbench.results.metrics import METRICS, WORDED, Metric, Value
from pytest_peftbench.results.result import CaseId

Verdict = Literal[
    "identical",
    "environment drift",
    "within noise",
    "same to rounding",
    "recorded",
    "not compared",
    "improved",
    "not recorded yet",
    "cannot tell",
    "numerics changed",
    "not comparable",
    "no baseline",
    "missing metric",
    "unknown metric",
    "regressed",
    "failed",
]
# From best to worst. A case that failed comes last: it measured nothing, so nothing else about it can be trusted.
SEVERITY: tuple[Verdict, ...] = get_args(Verdict)
GREEN_BY_DEFAULT: frozenset[Verdict] = frozenset(
    {"identical", "environment drift", "within noise", "same to rounding", "improved", "not recorded yet"}
)

About = Literal["metric", "case", "environment", "base model", "witness"]

_MOST_FAULTS = 3
# Alike findings of one cause (another torch moves every counter) are told once.
_TOLD_TOGETHER: frozenset[Verdict] = frozenset(
    {"environment drift", "same to rounding", "not recorded yet", "not comparable", "missing metric"}
)


@dataclass(frozen=True)
class Finding:
    """What comparing one metric gave, in words; or one of the whole case, its environment or its base model.

    metric: its name, empty where the finding is about something else. obtained, expected: the two values as shown,
    empty where there is none. change: their difference as shown. reason: the rule, or why there is nothing to compare.
    details: lines that name the cause. p: probability of a difference of quality under the hypothesis that nothing
    became worse; None where none was tested.
    """

    metric: str
    verdict: Verdict
    obtained: str = ""
    expected: str = ""
    change: str = ""
    reason: str = ""
    details: tuple[str, ...] = ()
    p: float | None = None
    about: About = "metric"

    def __post_init__(self) -> None:
        if bool(self.metric) != (self.about == "metric"):
            raise ValueError(f"a finding about the {self.about} cannot have the metric {self.metric!r}")

    @classmethod
    def of(cls, about: About, verdict: Verdict, reason: str, details: Iterable[str] = ()) -> Finding:
        """The finding about something else than a metric."""
        return cls("", verdict, reason=reason, details=tuple(details), about=about)

    @classmethod
    def between(
        cls,
        metric: Metric,
        verdict: Verdict,
        obtained: Value,
        expected: Value,
        reason: str = "",
        p: float | None = None,
    ) -> Finding:
        """The finding about two values of a metric: both as shown, and how far they are apart where they are numbers.

        In the numerics lane differences are of the last digits, so they are told as they are, never as a share.
        """
        change = ""
        if verdict != "identical" and isinstance(obtained, (int, float)) and isinstance(expected, (int, float)):
            last_digits = metric.lane == "numerics"
            change = f"{obtained - expected:+.2g}" if last_digits else words.change(metric, obtained, expected)
        return cls(metric.name, verdict, *words.figures(metric, obtained, expected), change, reason, p=p)

    @property
    def subject(self) -> str:
        """What the finding is about: the metric by its name, or `case`, `environment`, `base model`."""
        return self.metric or self.about

    def arrow(self) -> str:
        """`expected -> obtained`, or the one of them that there is."""
        return " -> ".join(value for value in (self.expected, self.obtained) if value)

    def text(self) -> str:
        """`train_step.flops regressed: 1.204e9 -> 1.806e9 (+50.0 %, must be equal)`, and the details below it."""
        arrow, why = self.arrow(), ", ".join(part for part in (self.change, self.reason) if part)
        told = f"{arrow} ({why})" if arrow and why else arrow or why
        head = f"{self.subject} {self.verdict}"
        return "\n".join([f"{head}: {told}" if told else head, *(f"  {line}" for line in self.details)])

    def short(self) -> str:
        """The same in a few words, for a table: `train_step.flops +50.0 %`."""
        if self.about == "case" or self.verdict == "not comparable":
            return self.reason
        vanished = self.verdict == "missing metric" and self.reason
        return f"{self.subject} {vanished or self.change or self.arrow() or self.reason}".rstrip()

    @property
    def names_fault(self) -> bool:
        """Whether what was obtained is the word of a law that does not hold, or of a check that fails."""
        return self.metric in METRICS and METRICS[self.metric].unit in WORDED and says_fault(self.obtained)

    def named(self) -> str:
        """The metric's name, and the word that it was obtained as where that tells of a fault."""
        return f"{self.subject} ({self.obtained})" if self.names_fault else self.subject


@dataclass(frozen=True)
class CaseVerdict:
    """What comparing one case gave.

    findings: one per metric of either side, in the order in which metrics are declared. baseline: the file, empty
    without one. environment_note: the baseline's torch and what differs from it. values: the obtained numbers,
    means over the seeds, for tables. environment_drift: how the environment, or the base model without adapter,
    differs from the baseline's. detectable: the smallest regression of each quality metric that the baseline's seeds
    can tell.
    """

    case: CaseId
    findings: tuple[Finding, ...]
    baseline: str = ""
    environment_note: str = ""
    values: dict[str, float] = field(default_factory=dict)
    environment_drift: tuple[str, ...] = ()
    detectable: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings. Times within their margin always differ a little, so they say nothing."""
        told = [item for item in self.findings if not (item.verdict == "within noise" and _is_noisy(item.metric))]
        return next((finding.verdict for finding in _worst_first(told)), "identical")

    def message(self) -> str:
        """What fails the case: what it came to in one line that can stand alone, then `text`."""
        told, text = _worst_first(self.findings), self.text()
        if not told or told[0].about == "case":
            return f"{self.case} {text.removeprefix('case ')}"
        more = len({finding.subject for finding in told if finding.verdict not in GREEN_BY_DEFAULT}) - 1
        rest = f", and {more} more" if more > 0 else ""
        return f"{self.case} {told[0].verdict}: {told[0].short()}{rest}\n{text}"

    def text(self) -> str:
        """All findings but the identical ones, worst first, then the baseline."""
        lines = _told(self.findings) or ["all metrics identical"]
        if self.baseline:
            held = f"{self.baseline} ({self.environment_note})" if self.environment_note else f"none at {self.baseline}"
            lines.append(f"baseline: {held}")
        return "\n".join(lines)

    def moved(self) -> str:
        """What moved, worst first, in one line for a table, and how much is not recorded; empty when nothing did.

        Not what moved by rounding or noise; how the environment drifted is told once for all cases.
        """
        told = _worst_first(self.findings)
        untold = ("environment drift", "within noise", "same to rounding", "not recorded yet")
        shown = [item.short() for item in told if item.verdict not in untold]
        if new := [finding for finding in told if finding.verdict == "not recorded yet"]:
            faults = [finding.named() for finding in new if finding.names_fault]
            among = f", among them {', '.join(words.first(faults, _MOST_FAULTS))}" if faults else ""
            shown.append(f"{words.plural(len(new), 'metric')} not recorded yet{among}")
        return ", ".join(dict.fromkeys(shown))

    def to_json(self) -> dict[str, Any]:
        """Plain data: a verdict travels from xdist's workers to the controller."""
        return {**msgspec.to_builtins(self), "verdict": self.verdict}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CaseVerdict:
        """The verdict that `to_json` wrote."""
        return msgspec.convert(data, cls)


def is_green(verdict: CaseVerdict, allowed: Collection[Verdict] = GREEN_BY_DEFAULT) -> bool:
    """Whether the case passes: every finding is allowed, since the worst one may hide another."""
    return all(finding.verdict in allowed for finding in verdict.findings)


def _is_noisy(metric: str) -> bool:
    return metric in METRICS and METRICS[metric].lane == "noisy"


def _worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """What is not identical: red before green, then what is incidental behind the rest, then by severity."""
    told = [finding for finding in findings if finding.verdict != "identical"]
    return sorted(told, key=_rank)


def _rank(finding: Finding) -> tuple[bool, bool, int]:
    incidental = finding.metric in METRICS and METRICS[finding.metric].incidental
    return finding.verdict in GREEN_BY_DEFAULT, incidental, -SEVERITY.index(finding.verdict)


def _told(findings: Iterable[Finding]) -> list[str]:
    """A text for each finding, and one for all those of one cause."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in _worst_first(findings):
        cause = finding.reason if finding.verdict in _TOLD_TOGETHER else finding.subject
        groups.setdefault((finding.verdict, cause), []).append(finding)
    texts = []
    for (verdict, cause), group in groups.items():
        names = textwrap.wrap(", ".join(finding.named() for finding in group), 116, break_long_words=False)
        head = f"{len(group)} metrics {verdict}: {cause}"
        texts.append(group[0].text() if len(group) == 1 else "\n".join([head, *(f"  {line}" for line in names)]))
    return texts
