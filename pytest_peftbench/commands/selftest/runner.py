"""Runs faults and unchanged cases, each in a process of its own, and holds them against the baselines."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from pytest_peftbench.cases.kinds import LIFE_CYCLE
from pytest_peftbench.commands.selftest.faults import FAULTS
from pytest_peftbench.commands.selftest.faults.fault import Fault, case_name
from pytest_peftbench.commands.selftest.patching import patched
from pytest_peftbench.compare import (
    GREEN_BY_DEFAULT,
    CaseVerdict,
    Finding,
    compare,
    corrected,
    is_green,
    second_stage,
    with_margins,
)
from pytest_peftbench.results import baseline as baselines
from pytest_peftbench.results.baseline import Baseline, baseline_path
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.kept import kept_path
from pytest_peftbench.results.metrics import Lane
from pytest_peftbench.results.result import Result, SecondStage
from pytest_peftbench.results.words import error_line
from pytest_peftbench.suites import Experiment, read_suite

# Imported once, by the process that all others are forked from: what is not, each of them imports again.
_PRELOAD = [
    "peft",
    "transformers",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "opt", "gpt2", "gemma", "bert")),
    "torch._dynamo",
    "datasets",
    "pytest_peftbench.cases.trained",
    "pytest_peftbench.cases.life_cycle.run",
    "pytest_peftbench.tasks.math_reasoning.task",
    "pytest_peftbench.commands.selftest.runner",
]

Status = Literal["caught", "MISSED", "red otherwise", "green", "RED"]


@dataclass(frozen=True)
class Trial:
    """One run: an experiment with a fault, or unchanged. suite, baselines: folders. structure: as a fault has it."""

    experiment: str
    suite: Path
    baselines: Path
    fault: Fault | None = None
    structure: str = ""

    @property
    def case(self) -> str:
        """Its name, as it is shown."""
        return case_name(self.structure, self.experiment)


@dataclass(frozen=True)
class Outcome:
    """What a trial gave. verdict: None when its process raised or died, and `error` says how."""

    trial: Trial
    verdict: CaseVerdict | None
    seconds: float
    error: str = ""

    @property
    def red(self) -> list[Finding]:
        """The findings that make the case red."""
        findings = self.verdict.findings if self.verdict else ()
        return [finding for finding in findings if finding.verdict not in GREEN_BY_DEFAULT]

    @property
    def caught_by(self) -> list[Finding]:
        """The findings that tell the fault: of its metrics, with the verdict that its lane asks for."""
        fault = self.trial.fault
        return [item for item in self.red if fault and item.subject in fault.metrics and item.verdict == fault.verdict]

    @property
    def status(self) -> Status:
        """Whether the gate did right. Red for another reason than the fault's own is not caught."""
        green = self.verdict is not None and is_green(self.verdict)
        if self.trial.fault is None:
            return "green" if green else "RED"
        if self.caught_by:
            return "caught"
        return "MISSED" if green else "red otherwise"

    @property
    def passed(self) -> bool:
        """Whether the gate did right."""
        return self.status in ("caught", "green")


def judge(experiment: Experiment, baseline: Baseline, lane: Lane | None, tests: int) -> CaseVerdict:
    """Run one case as the plugin does and compare it, in a session of `tests` quality tests where all else is green.

    lane: that of the fault; further seeds are trained only where quality must tell it. None: unchanged.
    """
    metrics = with_margins(experiment.margins)

    def stage(result: Result) -> SecondStage:
        found = second_stage(result, baseline, metrics)
        return found if lane in (None, "quality") else replace(found, seeds=())

    verdict = compare(_run(experiment, stage), baseline, metrics, tests)
    return corrected({"": verdict})[""]


def _run(experiment: Experiment, stage: Callable[[Result], SecondStage]) -> Result:
    if experiment.case.kind == LIFE_CYCLE.name:
        from pytest_peftbench.cases.life_cycle.run import live_through

        return live_through(experiment, stage)
    from pytest_peftbench.cases.loading import cached_base_models, cached_task_data
    from pytest_peftbench.cases.trained import run_experiment

    return run_experiment(experiment, cached_base_models(), cached_task_data(), second_stage=stage)


def trials(
    suite: Path, structures: Path, root: Path, chosen: str, unchanged: int, among: Sequence[Fault] = FAULTS
) -> list[Trial]:
    """The faults whose lane, case or name contains `chosen`, then each of their cases unchanged.

    suite: of trained cases. structures: the folder of the structures' suites. root: of the baselines. Raises InputError
    when there are none, or when a suite lacks a case or the root folder its baseline.
    """
    faults = [fault for fault in among if chosen in f"{fault.lane} {fault.case} {fault.name}"]
    if not faults:
        raise InputError(f"--only {chosen}: no fault's lane, case or name contains it, of those that can run")
    tried = [
        Trial(item.experiment, structures / item.structure if item.structure else suite, root, item, item.structure)
        for item in faults
    ]
    cases = list(dict.fromkeys(replace(trial, fault=None) for trial in tried))
    suites = {folder: read_suite(folder) for folder in dict.fromkeys(case.suite for case in cases)}
    for case in cases:
        _require_baseline(case, suites[case.suite])
    return [*tried, *(case for _ in range(unchanged) for case in cases)]


def _require_baseline(trial: Trial, suite: Sequence[Experiment]) -> None:
    path = baseline_path(trial.baselines, _experiment(trial, suite).case)
    if not path.exists():
        raise InputError(f"{path}: no such baseline; record it with --peft-update-baselines, or give --baselines")
    baselines.read(path)


def _experiment(trial: Trial, suite: Sequence[Experiment]) -> Experiment:
    """The one that a trial runs, as a case of its kind. Raises InputError where the suite has no such."""
    for experiment in suite:
        if experiment.case.experiment == trial.experiment:
            if not trial.structure:
                return experiment
            case = replace(experiment.case, kind=LIFE_CYCLE.name)
            return replace(experiment, case=case, kept=kept_path(trial.baselines, case))
    raise InputError(f"{trial.suite}: holds no experiment {trial.experiment}, on which a fault is tried")


def run(
    todo: Sequence[Trial],
    jobs: int,
    progress: Callable[[str], None],
    attempt: Callable[[Trial], CaseVerdict] | None = None,
) -> list[Outcome]:
    """Run all trials, `jobs` at a time, each in a fresh process; the outcomes in the order of the trials.

    attempt: what a process does, `run_trial` unless given; a function at the top of a module.
    """
    context = _context()
    work = partial(_in_process, context, attempt or run_trial)
    outcomes: dict[int, Outcome] = {}
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {pool.submit(work, trial): index for index, trial in enumerate(todo)}
        for future in as_completed(futures):
            outcome = outcomes[futures[future]] = future.result()
            progress(f"{len(outcomes)}/{len(todo)}  {_told(outcome)}")
    finally:
        pool.shutdown(cancel_futures=True)  # stopped by hand, what has not started never does
    return [outcomes[index] for index in range(len(todo))]


def run_trial(trial: Trial) -> CaseVerdict:
    """One trial, in this process."""
    suite = read_suite(trial.suite)
    experiment = _experiment(trial, suite)
    baseline = baselines.read(baseline_path(trial.baselines, experiment.case))
    tests = len(suite) * experiment.spec.quality_metrics
    with patched(trial.fault.edits if trial.fault else ()):
        return judge(experiment, baseline, trial.fault.lane if trial.fault else None, tests)


def false_alarm_bound(outcomes: Iterable[Outcome]) -> tuple[int, int, float]:
    """Unchanged runs, how many of them are red, and what share of them may be red at most, with 95 % confidence."""
    from scipy.stats import binomtest

    unchanged = [outcome for outcome in outcomes if outcome.trial.fault is None]
    red = sum(not outcome.passed for outcome in unchanged)
    if not unchanged:
        return 0, 0, 1.0
    # "less": all 5 % lie above the bound
    interval = binomtest(red, len(unchanged), alternative="less").proportion_ci(0.95, method="exact")
    return len(unchanged), red, float(interval.high)


def _told(outcome: Outcome) -> str:
    what = outcome.trial.fault.name if outcome.trial.fault else "unchanged"
    return f"{outcome.trial.case}: {what}: {outcome.status} ({outcome.seconds:.1f} s)"


def _context() -> Any:
    """How processes start: forked from one that imported everything and ran nothing, where there is such a thing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def _in_process(context: Any, attempt: Callable[[Trial], CaseVerdict], trial: Trial) -> Outcome:
    started = time.monotonic()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, attempt, trial), daemon=True)
    process.start()
    sender.close()
    verdict, error = None, ""
    try:
        verdict, error = receiver.recv()
    except EOFError:
        process.join()
        error = f"the process ended with code {process.exitcode}"
    process.join()
    return Outcome(trial, verdict, time.monotonic() - started, error)


def _child(sender: Connection[Any, Any], attempt: Callable[[Trial], CaseVerdict], trial: Trial) -> None:
    """Send the verdict, or what was raised: a fault may break the case altogether, and that is red as well."""
    warnings.simplefilter("ignore")
    try:
        sender.send((attempt(trial), ""))
    except Exception as error:
        sender.send((None, error_line(error)))
