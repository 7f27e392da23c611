"""pytest's hooks and fixtures, in life-cycle order. Imports no torch: a run that collects only takes no seconds."""

from __future__ import annotations

import math
import os
import shlex
import sys
import warnings
from argparse import ArgumentTypeError
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_peftbench.compare import (
    CaseVerdict,
    Finding,
    compare,
    corrected,
    diff_lines,
    is_green,
    margin_problems,
    second_stage,
    with_margins,
)
from pytest_peftbench.compare.noise import check_noise, refreshed, with_noise
from pytest_peftbench.measure import environment
from pytest_peftbench.plugin.bisection import SKIP, Bisection
from pytest_peftbench.plugin.session import FOOTPRINT, SESSION, Progress, Session, Settings, positive, verdicts
from pytest_peftbench.report.terminal import QUALITY, drift_lines, row, summary
from pytest_peftbench.results.baseline import Baseline, baseline_path, from_result, read, write
from pytest_peftbench.results.files import InputError, write_file, write_json
from pytest_peftbench.results.metrics import by_lane
from pytest_peftbench.results.result import SecondStage
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.config import TRAIN_CONFIGS

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter
    from torch import nn

    from pytest_peftbench.measure.memory import MemoryTracker
    from pytest_peftbench.results.result import Result

T = TypeVar("T")

_VERDICT = pytest.StashKey[CaseVerdict]()
_RED = pytest.StashKey[bool]()
# Whether a test that has `peft_baseline` called its `check`.
_CHECKED = pytest.StashKey[bool]()
_CHANGES = pytest.StashKey[list[str]]()
_BISECTION = pytest.StashKey[Bisection]()
_USAGE_ERROR = "peftbench_usage_error"


# Options --------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every option has an ini twin of the same name with underscores."""
    group = parser.getgroup("peftbench", "benchmarks of parameter-efficient fine-tuning methods")

    def add(name: str, help: str, ini_type: Any = "string", **kwargs: Any) -> None:
        # default=None: an option that was not given must not shadow its ini twin
        group.addoption(name, default=None, help=help, **kwargs)
        parser.addini(name.removeprefix("--").replace("-", "_"), help, type=ini_type, default=None)

    add(
        "--peft-update-baselines",
        "write the selected cases' figures as their new baselines and print old -> new",
        "bool",
        action="store_true",
    )
    add("--peft-baselines", "folder of the baselines (default: baselines in the root directory)", metavar="DIR")
    add(
        "--peft-suite",
        "run the suites in this folder instead of those beside the tests; repeatable",
        "linelist",
        action="append",
        metavar="DIR",
    )
    add(
        "--peft-seeds",
        "training seeds per case, counted up from the experiment's own (default: 1, then the baseline's others where "
        "the first is not identical; 5 to record a baseline)",
        type=_option(positive),
        metavar="N",
    )
    add(
        "--peft-calibrate",
        "train N further seeds per case and record the noise between seeds in its baseline; with --peft-seeds only "
        "while recording",
        type=_option(positive),
        metavar="N",
    )
    add("--peft-json", "write each case's result here, in PEFT's schema plus our block", metavar="DIR")
    add("--peft-no-compare", "measure only: compare with no baseline", "bool", action="store_true")
    add(
        "--peft-strict-env",
        "fail where torch, transformers or the processor's arithmetic are not the baseline's",
        "bool",
        action="store_true",
    )
    add(
        "--peft-data",
        "folder of the data sets, each in a folder named like the last part of its id (default: the hub)",
        metavar="DIR",
    )
    add(
        "--peft-models",
        "folder of the base models, each in a folder named like the last part of its id (default: the hub)",
        metavar="DIR",
    )
    add("--peft-device", "torch device to run on (default: cpu)", metavar="DEVICE")
    add(
        "--peft-green",
        "verdicts that pass, separated by commas (default: identical,within noise,improved,environment drift,"
        "not recorded yet)",
        type=_option(verdicts),
        metavar="VERDICTS",
    )
    add(
        "--peft-bisect",
        "end with what `git bisect run` reads: 1 for a regression, 125 where a case could not be compared, else 0",
        "bool",
        action="store_true",
    )


def _option(convert: Callable[[str], T]) -> Callable[[str], T]:
    """`convert` for argparse, which words the usage error."""

    def converted(text: str) -> T:
        try:
            return convert(text)
        except InputError as error:
            raise ArgumentTypeError(str(error)) from error

    return converted


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int | None, int | None]:
    """Under `--peft-bisect`, replace pytest's exit code; an xdist worker has none that anybody reads."""
    try:
        status = yield
    except pytest.UsageError as error:
        if not _bisects(config):
            raise
        sys.stderr.write(f"ERROR: {error}\n")
        return SKIP
    bisection = config.stash.get(_BISECTION, None)
    return bisection.exit_code(status or 0) if bisection is not None and _bisects(config) else status


def _bisects(config: pytest.Config) -> bool:
    if hasattr(config, "workerinput"):
        return False
    return config.stash[SESSION].settings.bisect if SESSION in config.stash else bool(config.getoption("peft_bisect"))


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings and describe the markers."""
    try:
        config.stash[SESSION] = Session(Settings.from_pytest_config(config))
    except InputError as error:
        raise pytest.UsageError(f"peftbench: {error}") from error
    config.addinivalue_line("markers", "peft_task(name): the test takes the experiments of this task only")
    config.addinivalue_line(
        "markers", "peft_footprint: the test takes the experiments on real base models, to count and not to train"
    )
    config.addinivalue_line("markers", "peft_<method>: set on each case of the method, as peft_lora; select with -m")
    config.pluginmanager.register(_Table(config), "peftbench-table")
    config.stash[_BISECTION] = Bisection()
    config.pluginmanager.register(config.stash[_BISECTION], "peftbench-bisection")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_XdistHooks(), "peftbench-xdist")


def pytest_report_header(config: pytest.Config) -> str:
    """Versions and device that figures depend on."""
    versions = ", ".join(f"{name} {environment.installed(name)}" for name in ("peft", "torch", "transformers"))
    return f"peftbench: {versions}; device {config.stash[SESSION].settings.device}"


# Collection -----------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each experiment is a case of each test that takes one."""
    if not _takes_our_experiment(metafunc):
        return
    config = metafunc.config
    session = config.stash[SESSION]
    task = None
    if marker := metafunc.definition.get_closest_marker("peft_task"):
        task = marker.args[0] if len(marker.args) == 1 and not marker.kwargs else None
        if task not in tuple(TRAIN_CONFIGS):
            session.add_problem(
                f"{metafunc.definition.nodeid}: marker peft_task takes the name of a task: {', '.join(TRAIN_CONFIGS)}"
            )
    kind = FOOTPRINT if metafunc.definition.get_closest_marker("peft_footprint") else ""
    experiments = session.experiments(metafunc.definition.path.parent, task, kind)
    for name in sorted({experiment.marker for experiment in experiments}):
        config.addinivalue_line("markers", f"{name}: cases of this method")
    metafunc.parametrize(
        "experiment",
        [pytest.param(case, id=str(case.case), marks=getattr(pytest.mark, case.marker)) for case in experiments],
        indirect=True,
        scope="function",
    )


def _takes_our_experiment(metafunc: pytest.Metafunc) -> bool:
    """Whether the test takes this plugin's `experiment`, and no parameter or fixture of its own with that name."""
    for fixture in reversed(metafunc._arg2fixturedefs.get("experiment", ())):
        if fixture.func.__module__ == __name__:
            return True
        if "experiment" not in fixture.argnames:
            return False
    return False


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Refuse, before anything runs, what cannot be read: suites, and the baselines of the selected cases."""
    yield
    session = config.stash[SESSION]
    session.cases = sum(map(_is_case, items))
    problems = [*session.problems, *_unreadable_baselines(session.settings, items)]
    if not problems and (problem := session.problem_of_suites()):
        problems = [problem]
    if not problems:
        return
    text = "\n".join(problems)
    if hasattr(config, "workeroutput"):  # an exception would be a crashed worker; the controller raises it instead
        config.workeroutput[_USAGE_ERROR] = text
        items.clear()
    else:
        raise pytest.UsageError(text)


def _unreadable_baselines(settings: Settings, items: list[pytest.Item]) -> list[str]:
    if not settings.compare and not settings.update:
        return []
    problems = []
    for item in items:
        experiment = _experiment_of(item)
        if experiment is None:
            continue
        try:
            path = baseline_path(settings.baselines, experiment.case)
            if path.exists():
                read(path)
        except InputError as error:
            problems.append(str(error))
    return problems


def _experiment_of(item: pytest.Item) -> Experiment | None:
    value = item.callspec.params.get("experiment") if hasattr(item, "callspec") else None
    # without our marker it is a parameter of the test's own
    return value if isinstance(value, Experiment) and item.get_closest_marker(value.marker) else None


def _is_case(item: pytest.Item) -> bool:
    """Whether the test measures a case: one of ours, or of an `experiment` that the user's own fixture gives."""
    return _experiment_of(item) is not None or "peft_baseline" in getattr(item, "fixturenames", ())


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Where the cases come from and what they are compared with."""
    cases = [experiment for item in items if (experiment := _experiment_of(item))]
    if not cases:
        return []
    settings = config.stash[SESSION].settings
    suites = sorted({_short_path(case.suite, config) for case in cases})
    against = f"compared with {_short_path(settings.baselines, config)}"
    mode = "baselines will be rewritten" if settings.update else against if settings.compare else "not compared"
    return [f"peftbench: {len(cases)} case{'s' * (len(cases) != 1)} of {', '.join(suites)}; {mode}"]


def _short_path(path: Path, config: pytest.Config) -> str:
    """`path` as seen from the root directory, if it lies there."""
    path = path.resolve()
    return path.relative_to(config.rootpath).as_posix() if path.is_relative_to(config.rootpath) else str(path)


# Fixtures -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> Experiment:
    """The PEFT config, training parameters, device and seeds of this case, from the suite's files."""
    environment.pin()  # before torch is imported
    case: Experiment = request.param
    case.require()
    environment.check_device(case.device)
    return case


@pytest.fixture(scope="session")
def base_model() -> Callable[[Experiment], nn.Module]:
    """Function that gives an experiment's base model with fresh weights; loaded once per session.

    Override it in your conftest.py to benchmark another model: it is seeded before each call.
    """
    environment.pin()
    from pytest_peftbench.cases.trained import cached_base_models

    return cached_base_models()


@pytest.fixture(scope="session")
def task_data() -> Callable[[Experiment], Any]:
    """Function that gives an experiment's data, tokenised once per session.

    Override it in your conftest.py to train and test on other data.
    """
    environment.pin()
    from pytest_peftbench.cases.trained import cached_task_data

    return cached_task_data()


@pytest.fixture
def gpu_memory(experiment: Experiment) -> MemoryTracker:
    """Tracker of the device's memory; without a GPU it reads the host's and says so."""
    from pytest_peftbench.measure.memory import MemoryTracker

    tracker = MemoryTracker(experiment.device)
    if tracker.busy:
        warnings.warn(f"{experiment.case}: {tracker.busy}", UserWarning, stacklevel=1)
    return tracker


@pytest.fixture
def peft_progress(request: pytest.FixtureRequest, experiment: Experiment) -> Iterator[Progress]:
    """Function that shows a few words about the case on the terminal; silent under -q and without a terminal."""
    progress = Progress(request.config, str(experiment.case))
    yield progress
    progress.clear()


@pytest.fixture
def peft_baseline(request: pytest.FixtureRequest) -> BaselineCheck:
    """`peft_baseline.check(result)` compares a result with its baseline, or updates that, and fails when it must.

    `peft_baseline.second_stage` tells `run_experiment` what must run for that beside the first seed.
    """
    return BaselineCheck(request.node, request.config)


class BaselineCheck:
    """Compares one case's result with its baseline, as the options say."""

    def __init__(self, item: pytest.Item, config: pytest.Config) -> None:
        self._item = item
        self._settings = config.stash[SESSION].settings
        self._tests = config.stash[SESSION].quality_tests
        item.stash[_CHECKED] = False
        experiment = _experiment_of(item)
        self._margins = experiment.margins if experiment else {}
        self._metrics = with_margins(self._margins)

    def second_stage(self, result: Result) -> SecondStage:
        """What else the case must run: the baseline's other seeds where the first is not identical to it."""
        baseline = self._read(baseline_path(self._settings.baselines, result.case))
        if baseline is None or self._settings.update or not self._settings.compare:
            return SecondStage()
        stage = second_stage(result, baseline, self._metrics)
        last = max((run.seed for run in (*baseline.seeds, *result.seeds)), default=-1)
        further = range(last + 1, last + 1 + self._settings.calibrate)
        return replace(stage, seeds=(*stage.seeds, *further))

    def check(self, result: Result) -> None:
        """Fail unless the result's verdict is green; with `--peft-update-baselines` write the baseline instead."""
        settings = self._settings
        self._item.stash[_CHECKED] = True
        if settings.results is not None:
            folder = result.case.folder(settings.results)
            for picture in result.pictures:
                write_file(folder / picture.name, picture.png)
            write_json(folder / _file_name(result), _finite(result.to_json()))
        path = baseline_path(settings.baselines, result.case)
        for text in result.warnings:
            self._item.add_report_section("call", "peftbench", text)
        if result.status != "success":
            self._compare(result, path)  # red, whatever was asked for
        elif settings.update:
            self._update(result, path)
        elif settings.compare and settings.calibrate:
            self._calibrate(result, path)
        elif settings.compare:
            self._compare(result, path)
        else:
            self._item.stash[_VERDICT] = replace(
                compare(result, None, self._metrics, self._tests),
                findings=(Finding.of("case", "not compared", "--peft-no-compare"),),
            )

    def _compare(self, result: Result, path: Path) -> None:
        found = compare(result, self._read(path), self._metrics, self._tests)
        verdict = replace(found, baseline=_short_path(path, self._item.config))
        self._item.stash[_VERDICT] = verdict
        if not is_green(verdict, self._settings.green):
            self._item.stash[_RED] = True
            pytest.fail(verdict.text(self._update_command()), pytrace=False)

    def _update_command(self) -> str:
        """The command that records this case, with the options that it was found and measured with."""
        config = self._item.config
        options: list[str] = []
        names = ("suite", "baselines", "seeds", "data", "models", "device")
        for name in (f"--peft-{name}" for name in names):
            given = config.getoption(name)
            for value in given if isinstance(given, list) else [] if given is None else [given]:
                options += [name, str(value)]
        file = os.path.relpath(self._item.path, config.invocation_params.dir)
        test = self._item.nodeid.partition("::")[2]
        return shlex.join(["pytest", f"{file}::{test}", *options, "--peft-update-baselines"])

    def _update(self, result: Result, path: Path) -> None:
        old, measured = self._read(path), from_result(result)
        count = len(measured.seeds) - self._settings.calibrate
        kept, others = replace(measured, seeds=measured.seeds[:count]), measured.seeds[count:]
        check_noise(kept, others, self._metrics)
        new = refreshed(old, with_noise(kept, others, self._metrics), self._metrics)
        if problems := margin_problems(new, self._margins):
            raise InputError("\n".join(f"{result.case}: not recorded: {problem}" for problem in problems))
        self._write(old, new, path, result)

    def _calibrate(self, result: Result, path: Path) -> None:
        """Add the noise of the seeds that the baseline does not have; its own must be as they were."""
        old = self._read(path)
        known = {run.seed for run in old.seeds} if old else set()
        self._compare(replace(result, seeds=[run for run in result.seeds if not known or run.seed in known]), path)
        assert old is not None  # or the comparison had failed
        self._require_identical()
        others = [run for run in from_result(result).seeds if run.seed not in known]
        if known and not others:
            raise InputError(
                f"{result.case}: not calibrated: no further seed ran; pass second_stage=peft_baseline.second_stage to "
                "run_experiment"
            )
        check_noise(old, others, self._metrics)
        self._write(old, refreshed(old, with_noise(old, others, self._metrics), self._metrics), path, result)

    def _require_identical(self) -> None:
        """Refuse to calibrate another program than the baseline's: the noise would be of two."""
        verdict = self._item.stash[_VERDICT]
        names = [*by_lane(self._metrics, "numerics"), *by_lane(self._metrics, "quality")]
        for finding in verdict.findings:
            if finding.metric in names and finding.verdict != "identical":
                raise InputError(
                    f"{verdict.case}: not calibrated: {finding.metric} is {finding.verdict}, not identical to the "
                    f"baseline, whose noise is asked for; record it first: {self._update_command()}"
                )

    def _write(self, old: Baseline | None, new: Baseline, path: Path, result: Result) -> None:
        changes = diff_lines(old, new, self._metrics)
        if new != old:
            write(new, path)
        self._item.stash[_CHANGES] = changes
        count = f"{len(changes)} change{'s' * (len(changes) != 1)}"
        finding = Finding.of("case", "recorded", "new" if old is None else count if changes else "unchanged")
        found = compare(result, new, self._metrics, self._tests)
        self._item.stash[_VERDICT] = replace(found, findings=(finding,), environment_drift=())

    def _read(self, path: Path) -> Baseline | None:
        return read(path) if path.exists() else None


def _file_name(result: Result) -> str:
    return f"{result.case.method}--{result.case.name}.json"


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinities, which JSON does not have; the verdict tells which they were."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Reporting ------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the case's verdict on its report: under xdist, plain data there reaches the controller."""
    report = yield
    if not _is_case(item):
        return report
    report.peftbench_case = True  # type: ignore[attr-defined]
    experiment, reason = _experiment_of(item), _reason(call)
    if report.failed and call.excinfo is not None and isinstance(call.excinfo.value, InputError):
        report.longrepr = str(call.excinfo.value)
    elif report.passed and report.when == "call" and not item.stash.get(_CHECKED, True):
        reason = "never compared: the test passed without calling peft_baseline.check(result)"
        report.outcome, report.longrepr = "failed", f"{experiment.case if experiment else item.name}: {reason}"
    verdict = item.stash.get(_VERDICT, None)
    if report.failed and (report.when != "call" or _RED not in item.stash):
        # of a user's own experiment nobody knows the case before its result is checked
        verdict = verdict or (CaseVerdict(experiment.case, ()) if experiment else None)
        verdict = verdict and replace(verdict, findings=(Finding.of("case", "failed", reason),))
    if verdict is not None and (report.when == "call" or report.failed):
        changes = item.stash.get(_CHANGES, [])
        report.peftbench = {"verdict": verdict.to_json(), "changes": changes}  # type: ignore[attr-defined]
    return report


def _reason(call: pytest.CallInfo[None]) -> str:
    """Why a test failed, in a line: `RuntimeError: out of memory`."""
    if call.excinfo is None:
        return "failed"
    words = str(call.excinfo.value).strip().splitlines()
    return f"{call.excinfo.typename}: {words[0]}" if words else call.excinfo.typename


class _Table:
    """Gathers the cases' reports, from this process or from all workers, and closes the session with a table."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        # by node id: of a test that reports twice, because its teardown fails or it is run again, the last counts
        self._verdicts: dict[str, CaseVerdict] = {}
        self._changes: dict[str, list[str]] = {}
        self._wall_s: dict[str, float] = {}
        self._turned: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the verdict of a case that has ended."""
        self._wall_s[report.nodeid] = self._wall_s.get(report.nodeid, 0.0) + report.duration
        data: dict[str, Any] | None = getattr(report, "peftbench", None)
        if data is not None:
            verdict = self._verdicts[report.nodeid] = CaseVerdict.from_json(data["verdict"])
            if data["changes"]:
                self._changes[str(verdict.case)] = data["changes"]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run in which a case that passed turns out to have regressed, once all tests are known."""
        if hasattr(self._config, "workerinput"):
            return
        green = self._config.stash[SESSION].settings.green
        self._turned = [
            str(verdict.case)
            for nodeid, verdict in corrected(self._verdicts).items()
            if is_green(self._verdicts[nodeid], green) and not is_green(verdict, green)
        ]
        if self._turned and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """What an update changed, the table, the count of every verdict."""
        if not self._verdicts:
            return
        verdicts = corrected(self._verdicts)
        rows = [row(verdict, self._wall_s[nodeid]) for nodeid, verdict in verdicts.items()]
        terminalreporter.section("PEFT benchmark")
        for case in sorted(self._changes):
            terminalreporter.write_line(f"{case}: baseline written", bold=True)
            for change in self._changes[case]:
                terminalreporter.write_line(f"  {change}")
        arguments = shlex.join(["pytest", *self._config.invocation_params.args, "--peft-update-baselines"])
        for line, markup in [*drift_lines(verdicts.values()), *summary(rows, QUALITY, arguments)]:
            terminalreporter.write_line(line, **markup)
        if self._turned:
            cases = ", ".join(self._turned)
            terminalreporter.write_line(
                f"the run fails: over all its tests (Holm's correction) regressed what passed as cannot tell: {cases}",
                red=True,
            )


class _XdistHooks:
    """Hooks that pytest knows only where xdist is installed."""

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Raise on the controller what a worker could not collect."""
        problem = getattr(node, "workeroutput", {}).get(_USAGE_ERROR)
        if problem:
            raise pytest.UsageError(problem)
