"""What comparing gave, and how it is told: a finding for each metric, and the worst of them as the case's verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

from pytest_peftbench.results import words
from pytest_peftbench.results.metrics import METRICS, Metric, Value
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
        return "\n".join([f"{self.subject} {self.verdict}: {told}", *(f"  {line}" for line in self.details)])

    def short(self) -> str:
        """The same in a few words, for a table: `train_step.flops +50.0 %`."""
        if self.about == "case" or self.verdict == "not comparable":
            return self.reason
        return f"{self.subject} {self.change or self.arrow() or self.reason}"


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

    def text(self, accept_command: str = "") -> str:
        """All findings but the identical ones, worst first, then the baseline and how to accept the new values."""
        lines = _told(self.findings) or ["all metrics identical"]
        if self.baseline:
            lines.append(f"baseline: {self.baseline} ({self.environment_note})")
        # a case that failed is never written, so there is no way to accept it
        if accept_command and self.verdict not in ("identical", "within noise", "recorded", "failed"):
            verb = "record" if self.verdict in ("improved", "not recorded yet", "no baseline") else "accept"
            lines.append(f"to {verb}: {accept_command}")
        return "\n".join(lines)

    def moved(self) -> str:
        """What moved, worst first, in one line for a table, and how much is not recorded; empty when nothing did.

        Not what moved by rounding or noise; how the environment drifted is told once for all cases.
        """
        told = _worst_first(self.findings)
        untold = ("environment drift", "within noise", "same to rounding", "not recorded yet")
        shown = [item.short() for item in told if item.verdict not in untold]
        if new := sum(finding.verdict == "not recorded yet" for finding in told):
            shown.append(f"{words.plural(new, 'metric')} not recorded yet")
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
        names = textwrap.wrap(", ".join(finding.subject for finding in group), 116, break_long_words=False)
        head = f"{len(group)} metrics {verdict}: {cause}"
        texts.append(group[0].text() if len(group) == 1 else "\n".join([head, *(f"  {line}" for line in names)]))
    return texts
