"""Two measurements of a case, whatever wrote them: by the lanes' rules where both sides allow, by size where not.

By size means: the difference of two figures against the metric's margin, and nothing about how sure that is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from pytest_peftbench.compare import SEVERITY, CaseVerdict, Finding, Verdict, compare, corrected, values_of
from pytest_peftbench.compare.comparable import another_case
from pytest_peftbench.compare.comparison import Comparison, names_of, ordered
from pytest_peftbench.compare.imported import MARK
from pytest_peftbench.compare.lanes import equal
from pytest_peftbench.results import words
from pytest_peftbench.results.baseline import Baseline, from_result, within_margin
from pytest_peftbench.results.metrics import Metric, Value, by_lane
from pytest_peftbench.results.result import Result

# Of the old value, for a figure that another torch moves and whose margin the catalogue does not tell.
SIZE_MARGIN = 0.05
# What says that two sides could not be held against each other, and not that one is worse.
UNCOMPARED: frozenset[Verdict] = frozenset({"not comparable", "unknown metric"})
# Of a machine's own figures nothing follows for those of another.
_OF_A_MACHINE = "accelerator"


@dataclass(frozen=True)
class Change:
    """What became of a case between two sides.

    why: why the lanes' rules do not hold for the whole case, so that it is by size alone; empty where they do. by_size:
    the metrics that were compared by size. untold: the metrics that both sides hold and that have no size, or are of
    another machine, and why. sizes: how far each figure is, as a share of the old one.
    """

    verdict: CaseVerdict
    why: str = ""
    by_size: frozenset[str] = frozenset()
    untold: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)

    @property
    def compared(self) -> bool:
        """Whether all of the case could be that is no evidence alone."""
        return not any(finding.verdict in UNCOMPARED for finding in self.verdict.findings)

    def rank(self) -> tuple[int, bool, float, str]:
        """Sorts the worst first: by verdict, by rule before by size, then by how far its figures are."""
        worst = self.verdict.verdict
        names = [finding.metric for finding in self.verdict.findings if finding.verdict == worst]
        largest = max((self.sizes.get(name, 0.0) for name in names), default=0.0)
        return -SEVERITY.index(worst), self.by_size.issuperset(names), -largest, str(self.verdict.case)


def between(
    old: Baseline,
    new: Result,
    metrics: Mapping[str, Metric],
    tests: int,
    others: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {}),
) -> Change:
    """Hold `new` against `old`, both of one case and of runs that succeeded.

    metrics: the catalogue, with the metrics of `others`, figures of both sides that are compared by size alone. tests:
    how many quality tests are made in all, see `compare`.
    """
    sizes = _Sizes(old, from_result(new, metrics), others, metrics)
    verdict, why = CaseVerdict(new.case, ()), ""
    if sizes.of_one_kind:
        verdict = compare(new, old, metrics, tests)
        why = next((item.reason for item in verdict.findings if item.about == "case" and _is_open(item)), "")
    else:
        why = "PEFT's published result on one side, ours on the other"
    findings = sizes.of_all(_short(why)) if why else [sizes.settled(finding) for finding in verdict.findings]
    findings += [sizes.of(name, "") for name in others[0] if name in others[1]]
    told = tuple(finding for finding in findings if finding)
    if not told:
        told = (Finding.of("case", "not comparable", why or "no figure in common"),)
    shares = sizes.shares()
    return Change(replace(verdict, findings=told), why, frozenset(sizes.compared), sizes.untold, shares)


def settled(changes: Mapping[str, Change]) -> list[Change]:
    """The changes after Holm's correction over all tests of quality, the worst first."""
    after = corrected({key: change.verdict for key, change in changes.items()})
    return sorted((replace(change, verdict=after[key]) for key, change in changes.items()), key=Change.rank)


def quality_tests(sides: Collection[Baseline], metrics: Mapping[str, Metric]) -> int:
    """How many tests of quality these are held to, at least one."""
    quality = set(by_lane(metrics, "quality"))
    return max(1, sum(len(quality & names_of(side, metrics)) for side in sides))


def needs_more(old: Result, new: Result, metrics: Mapping[str, Metric]) -> bool:
    """Whether the first seeds of two results leave open what a change did: bits, or witnesses, of one case differ.

    Then a witness with its bound, and further seeds, must tell.
    """
    before, after = from_result(old, metrics), from_result(new, metrics)
    if another_case(after, before):
        return False
    witnesses = [side.witness.quantities if side.witness else None for side in (old, new)]
    return witnesses[0] != witnesses[1] or not Comparison.of(new, before, metrics, tests=1).same_bits()


class _Sizes:
    """Compares figures by size, and takes down which ones, and which have none."""

    def __init__(
        self,
        old: Baseline,
        new: Baseline,
        others: tuple[Mapping[str, float], Mapping[str, float]],
        metrics: Mapping[str, Metric],
    ) -> None:
        self.compared: set[str] = set()
        self.untold: dict[str, str] = {}
        published = [side.case_version.startswith(MARK) for side in (old, new)]
        self.of_one_kind = published[0] == published[1]
        self._ours = not any(published)
        self._metrics = metrics
        self._names = ordered(names_of(old, metrics) | names_of(new, metrics), metrics)
        sides = zip(_same_seeds(old, new), others, strict=True)
        self._old, self._new = ({**_values(side), **more} for side, more in sides)
        self._same_machine = old.environment.get(_OF_A_MACHINE) == new.environment.get(_OF_A_MACHINE)

    def shares(self) -> dict[str, float]:
        """How far each number is, as a share of the old one."""
        pairs = {name: (value, self._new.get(name)) for name, value in self._old.items()}
        return {
            name: _share(old, new)
            for name, (old, new) in pairs.items()
            if isinstance(old, (int, float)) and isinstance(new, (int, float))
        }

    def of_all(self, why: str) -> list[Finding | None]:
        """What each metric of either side gives by size."""
        return [self.of(name, why) for name in self._names]

    def settled(self, finding: Finding) -> Finding | None:
        """The finding, by size where its lane could not tell; None for one that has no size."""
        if finding.about != "metric" or not _is_open(finding):
            return finding
        return self.of(finding.metric, _short(finding.reason))

    def of(self, name: str, why: str) -> Finding | None:
        """What a metric of either side gives by size; None where there is nothing to compare."""
        expected, obtained, metric = self._old.get(name), self._new.get(name), self._metrics.get(name)
        if metric is None:
            return Finding(name, "unknown metric", reason="nothing here declares it, so its task is not installed")
        if expected is None or obtained is None:
            return self._of_one_side(name, gone=obtained is None)
        if reason := self._why_untold(metric, expected, obtained):
            self.untold[name] = reason
            return None
        self.compared.add(name)
        return by_size(metric, obtained, expected, why)

    def _of_one_side(self, name: str, gone: bool) -> Finding | None:
        """Between two of ours a metric that is gone is red; PEFT's results hold few of our figures."""
        if not self._ours:
            return None
        if gone:
            return Finding(name, "missing metric", reason="vanished; the old side holds it")
        return Finding(name, "not recorded yet", reason="the old side does not hold it")

    def _why_untold(self, metric: Metric, expected: Value, obtained: Value) -> str:
        if _OF_A_MACHINE in metric.needs and not self._same_machine:
            return "of another machine"
        sized = all(isinstance(value, (int, float)) for value in (expected, obtained)) and metric.lane != "numerics"
        return "" if sized or metric.unit in ("outcome", "law") else "has no size"


def by_size(metric: Metric, obtained: Value, expected: Value, why: str) -> Finding:
    """The finding about two values by their difference alone. why: why no more is known; empty where that is plain."""
    if not isinstance(obtained, (int, float)) or not isinstance(expected, (int, float)):
        return equal(metric, obtained, expected)
    if obtained == expected:
        return Finding.between(metric, "identical", obtained, expected)
    sized = metric
    if not metric.absolute_margin and not metric.relative_margin and metric.needs:
        sized = replace(metric, relative_margin=SIZE_MARGIN)
    verdict: Verdict = "within noise"
    if not within_margin(sized, obtained, expected):
        verdict = "improved" if (obtained < expected) == (metric.direction == "lower") else "regressed"
    rule = f"margin {words.margin(sized, expected)}" if sized.margin(expected) else "must be equal"
    return Finding.between(metric, verdict, obtained, expected, "; ".join(filter(None, (f"by size, {rule}", why))))


def _share(old: float, new: float) -> float:
    return 0.0 if new == old else abs(new - old) / abs(old) if old else math.inf


def _is_open(finding: Finding) -> bool:
    return finding.verdict in ("cannot tell", "not comparable")


def _short(reason: str) -> str:
    return reason.partition(";")[0]


def _same_seeds(old: Baseline, new: Baseline) -> list[Baseline]:
    """Both sides with the seeds that they have in common, if there are any: one seed is not held against the mean."""
    common = {run.seed for run in old.seeds} & {run.seed for run in new.seeds}
    return [replace(side, seeds=[run for run in side.seeds if not common or run.seed in common]) for side in (old, new)]


def _values(side: Baseline) -> dict[str, Value]:
    """The values of a side: means over the seeds of numbers, of others those of the first seed."""
    return {**(side.seeds[0].metrics if side.seeds else {}), **side.metrics, **values_of(side)}
