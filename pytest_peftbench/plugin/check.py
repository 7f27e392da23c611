"""`peft_baseline`: compares a case's result with its baseline, or updates that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import pytest

from pytest_peftbench.compare import (
    CaseVerdict,
    Finding,
    compare,
    diff_lines,
    is_green,
    margin_problems,
    second_stage,
    with_margins,
)
from pytest_peftbench.compare.noise import check_pairs, refreshed, with_noise
from pytest_peftbench.compare.witness import bounded, next_rate
from pytest_peftbench.plugin.accepting import recording_command
from pytest_peftbench.plugin.options import SETTINGS, Settings, short_path
from pytest_peftbench.plugin.outcome import COLLECTOR, OUTCOME, RED, forget
from pytest_peftbench.plugin.selection import SELECTION, experiment_of
from pytest_peftbench.report.html import details
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.baseline import (
    Baseline,
    baseline_path,
    from_result,
    read,
    read_if_current,
    require_usable,
    write,
)
from pytest_peftbench.results.files import InputError, format_json, require_name, stands, write_files
from pytest_peftbench.results.kept import kept_path
from pytest_peftbench.results.metrics import by_lane
from pytest_peftbench.results.raised import raised_in
from pytest_peftbench.results.result import CaseId, Result, SecondStage
from pytest_peftbench.results.words import error_line, plural
from pytest_peftbench.suites import Experiment

# Of a test that has checked a case whose baseline is to be written.
PENDING = pytest.StashKey[Baseline]()
# Of the same, the files of an adapter that is to be kept beside it.
KEPT = pytest.StashKey[Mapping[Path, bytes]]()
# The file of a test's result, once `--peft-json` has had it written.
WRITTEN = pytest.StashKey[Path]()


class BaselineCheck:
    """Compares one case's result with its baseline, or updates that, as the options say.

    stored: whether the result is one that an earlier session wrote.
    """

    def __init__(self, item: pytest.Item, stored: bool = False) -> None:
        self._item = item
        self._stored = stored
        self._settings = item.config.stash[SETTINGS]
        self._tests = item.config.stash[SELECTION].quality_tests
        experiment = experiment_of(item)
        self._margins = experiment.margins if experiment else {}
        self._metrics = with_margins(self._margins)
        self._baselines: dict[CaseId, Baseline | None] = {}
        item.stash[OUTCOME] = CaseOutcome()

    def second_stage(self, result: Result) -> SecondStage:
        """What else the case must run: the baseline's other seeds where the first is not identical to it.

        To calibrate, the baseline's seeds once more where it is, or those that are recorded.
        """
        settings, baseline = self._settings, self._baseline(result.case)
        if settings.update_baselines:
            experiment = experiment_of(self._item)
            moved = experiment.seeds if experiment and settings.calibrate else ()
            return SecondStage(witness=next_rate(result.witness, result.disturbed), disturb=True, moved=moved)
        if baseline is None or settings.no_compare:
            return SecondStage()
        stage = second_stage(result, baseline, self._metrics)
        if settings.seeds is not None:  # so many were asked for, and no more
            stage = replace(stage, seeds=())
        if settings.calibrate and self._reproduces(result, baseline):
            stage = replace(stage, moved=tuple(run.seed for run in baseline.seeds))
        return stage

    def _baseline(self, case: CaseId) -> Baseline | None:
        """The case's baseline, which is read once a test. Raises InputError for one that cannot be read."""
        if case not in self._baselines:
            self._baselines[case] = baseline_of(case, self._settings)
        return self._baselines[case]

    def _reproduces(self, result: Result, baseline: Baseline) -> bool:
        """Whether the case is the baseline's by what it has measured: its checks are yet to come."""
        unlike = self._unlike(compare(result, baseline, self._metrics, self._tests))
        measured = {"case", *result.metrics, *(name for run in result.seeds for name in run.metrics)}
        return not any(finding.subject in measured for finding in unlike)

    def check(self, result: Result) -> None:
        """Fail unless the result's verdict passes; with `--peft-update-baselines` record it once the test has passed.

        A test checks one result, once, of the case that it runs; raises InputError otherwise. A failure stands, even
        where the test catches it.
        """
        try:
            self._require_own(result.case)
            self._check(result)
        except BaseException as error:
            found = self._item.stash[OUTCOME]
            if not found.red:
                failed = Finding.of("case", "failed", error_line(error) + raised_in(error))
                found = replace(found, red=True, verdict=CaseVerdict(result.case, (failed,)))
            self._item.stash[RED] = found
            raise

    def _require_own(self, case: CaseId) -> None:
        if self._item.stash[OUTCOME].checked:
            raise InputError(
                f"{case}: this test has checked a result; a test checks one, so give each a test of its own"
            )
        held = getattr(self._item, "funcargs", {}).get("experiment")
        if isinstance(held, Experiment) and held.case != case:
            raise InputError(f"{case}: is the result's case, but the test runs {held.case}; check the result of that")
        other = self._item.config.stash[COLLECTOR].test_of(case)
        if other not in ("", self._item.nodeid):
            raise InputError(f"{case}: {other} has checked this case; a session compares or records each case once")

    def _check(self, result: Result) -> None:
        settings = self._settings
        self._note(checked=True)
        if settings.json is not None and not self._stored:
            self._item.stash[WRITTEN] = _write_result(result, settings.json)
        if settings.html is not None or settings.shard is not None:  # whoever merges shards may want a page
            self._note(details=self._details(result))
        for text in result.warnings:
            self._item.add_report_section("call", "peftbench", text)
        if result.status != "success":
            self._compare(result)  # red, whatever was asked for
        elif settings.update_baselines:
            self._update(result)
        elif settings.no_compare:
            self._settle(result, None, Finding.of("case", "not compared", "--peft-no-compare"))
        elif settings.calibrate:
            self._calibrate(result)
        else:
            self._compare(result)

    def _details(self, result: Result) -> dict[str, Any]:
        """What a page shows of the result, beside what it is compared with."""
        compares = not (self._settings.no_compare or self._settings.update_baselines)
        expected = self._baseline(result.case) if compares else None
        return details(result, expected, result.pictures, self._metrics)

    def _compare(self, result: Result) -> CaseVerdict:
        found = compare(result, self._baseline(result.case), self._metrics, self._tests)
        path = baseline_path(self._settings.baselines, result.case)
        verdict = replace(found, baseline=short_path(path, self._item.config))
        settled = _without_drift(verdict) if self._settings.strict_env else verdict
        red, verdict = settled != verdict or not is_green(settled, self._settings.green), settled
        self._note(verdict=verdict, red=red)
        if red:
            pytest.fail(verdict.message(), pytrace=False)
        return verdict

    def _update(self, result: Result) -> None:
        old, measured = self._baseline(result.case), from_result(result)
        if result.witness is not None:
            measured = replace(measured, witness=bounded(result.case, result.witness, result.disturbed))
        new = refreshed(old, self._with_noise(measured, result), self._metrics)
        if problems := margin_problems(new, self._margins):
            raise InputError("\n".join(f"{result.case}: not recorded: {problem}" for problem in problems))
        self._record(result, old, new)

    def _calibrate(self, result: Result) -> None:
        """Add the noise of pairs to the baseline, which must be that of this program: the noise would be of two."""
        old = self._baseline(result.case)
        for finding in self._unlike(self._compare(result)):
            command = recording_command(self._item.config, [self._item.nodeid])
            raise InputError(
                f"{result.case}: not calibrated: {finding.subject} is {finding.verdict}, not identical to the "
                f"baseline, whose noise is asked for; record it first: {command}"
            )
        assert old is not None  # or the comparison had failed
        self._record(result, old, self._with_noise(old, result))

    def _unlike(self, verdict: CaseVerdict) -> list[Finding]:
        """Why a case is not the baseline's: the whole case, or what of its numerics and quality differs."""
        names = ["case", *by_lane(self._metrics, "numerics"), *by_lane(self._metrics, "quality")]
        same = ("identical", "same to rounding")
        return [finding for finding in verdict.findings if finding.subject in names and finding.verdict not in same]

    def _with_noise(self, baseline: Baseline, result: Result) -> Baseline:
        """The baseline with the noise between its seeds and, to calibrate, that of pairs."""
        if not self._settings.calibrate:
            return with_noise(baseline, (), self._metrics)
        moved = from_result(replace(result, seeds=result.moved)).seeds
        check_pairs(baseline, moved, self._metrics)
        return with_noise(baseline, moved, self._metrics)

    def _record(self, result: Result, old: Baseline | None, new: Baseline) -> None:
        changes = diff_lines(old, new, self._metrics)
        if new != old:
            require_usable(new, baseline_path(self._settings.baselines, result.case))
            self._item.stash[PENDING] = new
        if result.kept:
            folder = kept_path(self._settings.baselines, result.case)
            self._item.stash[KEPT] = {folder / name: content for name, content in result.kept.items()}
            changes += [f"adapter for later versions of PEFT: kept in {short_path(folder, self._item.config)}"]
        self._note(changes=tuple(changes))
        count = plural(len(changes), "change")
        reason = "new" if old is None else count if changes else "unchanged"
        self._settle(result, new, Finding.of("case", "recorded", reason))

    def _settle(self, result: Result, baseline: Baseline | None, finding: Finding) -> None:
        """Note a verdict that no comparison gave; its figures are the result's."""
        verdict = compare(result, baseline, self._metrics, self._tests)
        self._note(verdict=replace(verdict, findings=(finding,), environment_drift=()))

    def _note(self, **fields: Any) -> None:
        self._item.stash[OUTCOME] = replace(self._item.stash[OUTCOME], **fields)


def write_recorded(item: pytest.Item, report: pytest.TestReport) -> None:
    """Write what a test that has passed, its teardown too, has recorded; forget that of one that has not.

    Not at the session's end: a crash there would lose hours of recording.
    """
    if report.when == "setup" or not report.passed:
        forget(item.stash, PENDING)
        forget(item.stash, KEPT)
    elif report.when == "teardown":
        try:
            write_files(item.stash.get(KEPT, {}))
            if PENDING in item.stash:
                _write(item.stash[PENDING], item.config.stash[SETTINGS])
        except InputError as error:
            reason = f"baseline not written: {error}"
            report.outcome, report.longrepr = "failed", reason
            settled = item.stash[OUTCOME].verdict
            verdict = CaseVerdict(settled.case, (Finding.of("case", "failed", reason),)) if settled else None
            report.peftbench = CaseOutcome(verdict, checked=True, red=True).to_json()  # type: ignore[attr-defined]


def _write(baseline: Baseline, settings: Settings) -> None:
    write(baseline, baseline_path(settings.baselines, baseline.case))


def _without_drift(verdict: CaseVerdict) -> CaseVerdict:
    """The verdict where an environment must be the baseline's: what drifted with another one is not comparable."""
    findings = [
        replace(finding, verdict="not comparable", reason=f"{finding.reason} (--peft-strict-env)")
        if finding.verdict == "environment drift"
        else finding
        for finding in verdict.findings
    ]
    return replace(verdict, findings=tuple(findings))


def baseline_of(case: CaseId, settings: Settings) -> Baseline | None:
    """The case's baseline; None where there is none, or where an update replaces one of an older schema.

    Raises InputError for one that cannot be read.
    """
    path = baseline_path(settings.baselines, case)
    if settings.update_baselines:
        return read_if_current(path)
    return read(path) if stands(path) else None


def unreadable_baselines(cases: Iterable[CaseId], settings: Settings) -> list[str]:
    """Why baselines of these cases cannot be read, or are not there, where a run needs them."""
    problems = []
    for case in cases if settings.update_baselines or not settings.no_compare else ():
        try:
            found = baseline_of(case, settings)
        except InputError as error:
            problems.append(str(error))
            continue
        if found is None and settings.calibrate and not settings.update_baselines:
            problems.append(
                f"{case}: --peft-calibrate needs a baseline; add --peft-update-baselines, which records one"
            )
    return problems


def _write_result(result: Result, root: Path) -> Path:
    """Write the result below `root`, and its pictures beside it; gives its file."""
    file = result.case.file(root)
    contents = {file: (format_json(_finite(result.to_json())) + "\n").encode()}
    for picture in result.pictures:
        for part in PurePath(picture.name).parts:
            require_name(f"{result.case}: picture {picture.name!r}", part)
        contents[file.parent / picture.name] = picture.png
    write_files(contents)
    return file


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinities, which JSON does not have; the verdict tells which they were."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
