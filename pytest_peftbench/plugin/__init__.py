"""pytest's hooks, in life-cycle order, and the fixtures. Imports no torch: a run that only collects takes no time."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_peftbench.cases.kinds import KINDS, columns
from pytest_peftbench.measure import environment
from pytest_peftbench.plugin import bisection, devices, durations, resuming, sharding, timing
from pytest_peftbench.plugin.accepting import recording_command
from pytest_peftbench.plugin.affected import KEPT, Kept, ReachCheck, keep_affected
from pytest_peftbench.plugin.bisection import BISECTION, Bisection
from pytest_peftbench.plugin.check import WRITTEN, BaselineCheck, unreadable_baselines, write_recorded
from pytest_peftbench.plugin.ci import put_properties, tell_github
from pytest_peftbench.plugin.folders import problems_of_folders
from pytest_peftbench.plugin.inventory import Inventory, is_whole, orphans, runs_nothing
from pytest_peftbench.plugin.markers import problem_of_markers
from pytest_peftbench.plugin.options import OPTIONS, SETTINGS, Settings, add_options, short_path
from pytest_peftbench.plugin.outcome import COLLECTOR, OUTCOME, Collector, forget, put_on_report
from pytest_peftbench.plugin.page import PAGE, write_page
from pytest_peftbench.plugin.progress import Progress
from pytest_peftbench.plugin.selection import SELECTION, Selection, experiment_of, is_case, takes_our_experiment
from pytest_peftbench.plugin.surroundings import may_measure, problem_of_root, problem_of_torch
from pytest_peftbench.plugin.told import tell
from pytest_peftbench.report.advice import advice_lines
from pytest_peftbench.report.gaps import gap_lines
from pytest_peftbench.report.terminal import closing, fold
from pytest_peftbench.results.baseline import baseline_path
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.results.words import first, folded, plural
from pytest_peftbench.suites import Experiment

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter
    from torch import nn

    from pytest_peftbench.measure.memory import MemoryTracker

# Of xdist's `workeroutput`.
_USAGE_ERROR, _INVENTORY = "peftbench_usage_error", "peftbench_inventory"
# Who benchmarks a method can act on neither: PEFT asks transformers by a name that is deprecated, and a case that fails
# before its step is timed leaves pytest-benchmark's fixture unused.
_NO_NEWS = (
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:Benchmark fixture was not used at all",
)
# Of the header.
_MOST_SUITES = 4
# Whether the session may come to measure, asked once.
_MAY_MEASURE = pytest.StashKey[Callable[[], bool]]()
# How many tests were collected, before any was deselected.
_COLLECTED = pytest.StashKey[int]()


# Options --------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every option has an ini twin of the same name with underscores."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Have torch pinned should a conftest.py import it, where the session may come to measure."""
    wanted: Callable[[], bool] = cache(partial(may_measure, early_config))
    environment.WATCH.wanted = early_config.stash[_MAY_MEASURE] = wanted


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int | None, int | None]:
    """Under `--peft-bisect`, replace pytest's exit code."""
    try:
        status = yield
    except pytest.UsageError as error:
        if not bisection.is_asked_for(config):
            raise
        sys.stderr.write(f"ERROR: {error}\n")
        return bisection.SKIP
    if BISECTION in config.stash and bisection.is_asked_for(config):
        return config.stash[BISECTION].exit_code(status or 0)
    return status


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings, describe the markers, and start to gather what the cases come to."""
    try:
        settings = config.stash[SETTINGS] = Settings.from_pytest_config(config)
    except InputError as error:
        raise pytest.UsageError(f"peftbench: {error}") from error
    devices.use(config)
    if not hasattr(config, "workerinput") and (problem := problem_of_root(config)):
        raise pytest.UsageError(f"peftbench: {problem}")
    for line in _markers():
        config.addinivalue_line("markers", line)
    if _may_measure(config):
        timing.disable_under_xdist(config)
    config.stash[SELECTION] = Selection(settings)
    collector = config.stash[COLLECTOR] = Collector(
        settings.green, compares=not (settings.update_baselines or settings.no_compare)
    )
    config.stash[BISECTION] = Bisection(collector, settings.bisect_bad)
    if not config.pluginmanager.hasplugin("benchmark"):
        config.pluginmanager.register(_WithoutBenchmark(), "peftbench-without-benchmark")
    if settings.check_reach:
        config.pluginmanager.register(ReachCheck(), "peftbench-reach")
    config.pluginmanager.register(collector, "peftbench-collector")
    config.pluginmanager.register(config.stash[BISECTION], "peftbench-bisection")


class _WithoutBenchmark:
    """Stands in for pytest-benchmark under `-p no:benchmark`: a case is timed all the same, without its table."""

    @pytest.fixture
    def benchmark(self) -> None:
        """None: without pytest-benchmark."""


def _may_measure(config: pytest.Config) -> bool:
    # a conftest.py that names this plugin loads it too late to be asked before
    return config.stash.get(_MAY_MEASURE, partial(may_measure, config))()


def _markers() -> Iterator[str]:
    yield "peft_task(name): the test takes the experiments of this task only"
    yield from (f"{kind.marker}: {kind.description}" for kind in KINDS.values() if kind.marker)
    yield "peft_<method>: set on each case of the method, as peft_lora; select with -m"


@pytest.hookimpl(wrapper=True)
def pytest_report_header(config: pytest.Config) -> Generator[None, list[Any], list[Any]]:
    """Versions and device that figures depend on, and the settings that decide verdicts; all within the terminal."""
    others = yield
    settings = config.stash[SETTINGS]
    versions = ", ".join(f"{name} {environment.installed(name)}" for name in ("peft", "torch", "transformers"))
    given = "; ".join(filter(None, (option.origin(config) for option in OPTIONS)))
    ours = [f"peftbench: {versions}; device {settings.device}", *([f"peftbench: {given}"] if given else [])]
    if not _may_measure(config):
        return [*others, ours]
    return [_folded(config, [lines] if isinstance(lines, str) else lines) for lines in (*others, ours)]


def _folded(config: pytest.Config, lines: Sequence[str]) -> list[str]:
    width = config.get_terminal_writer().fullwidth
    return [part for line in lines for part in folded(line, width)]


# Collection -----------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each experiment is a case of each test that takes one."""
    if not takes_our_experiment(metafunc):
        return
    cases = metafunc.config.stash[SELECTION].cases(metafunc.definition)
    for marker in sorted({case.marker for case in cases}):
        metafunc.config.addinivalue_line("markers", f"{marker}: cases of this method")
    metafunc.parametrize(
        "experiment",
        [pytest.param(case, id=str(case.case), marks=getattr(pytest.mark, case.marker)) for case in cases],
        indirect=True,
        scope="function",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Refuse, before anything runs, what cannot be read: suites, and the baselines of the selected cases."""
    config.stash[_COLLECTED] = len(items)
    selection = config.stash[SELECTION]
    if problem := problem_of_markers(config, [found for item in items if (found := experiment_of(item))]):
        selection.problems.append(problem)
        config.option.markexpr = ""  # under --strict-markers pytest would refuse it first, and name no other
    yield
    try:
        keep_affected(config, items)
    except InputError as error:
        selection.problems.append(str(error))
    selection.select(items)
    if any(map(is_case, items)):
        environment.pin()
        selection.problems += filter(None, [problem_of_torch()])
    for case in filter(is_case, items):
        case.add_marker(pytest.mark.filterwarnings(*_NO_NEWS))
    experiments = [experiment for item in items if (experiment := experiment_of(item))]
    cases, settings = [experiment.case for experiment in experiments], config.stash[SETTINGS]
    problems = [*selection.problems, *unreadable_baselines(cases, settings)]
    problems += problems_of_folders(experiments, settings, writes=not config.option.collectonly)
    if settings.shard is not None:
        problems += sharding.keep_shard(config, items)
    text = "\n".join(problems) or selection.problem_of_suites(typed=config.getoption("peft_suite") is not None)
    if not text:
        return
    items.clear()
    selection.known.clear()
    if not hasattr(config, "workeroutput"):
        raise pytest.UsageError(text)
    config.workeroutput[_USAGE_ERROR] = text  # an exception would be a crashed worker; the controller raises it


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take down what is to be compared: what never runs is missed in the end."""
    config = session.config
    settings, selection = config.stash[SETTINGS], config.stash[SELECTION]
    kept = config.stash.get(KEPT, Kept())
    found = Inventory(
        cases={item.nodeid: _case_of(item) for item in session.items if is_case(item)},
        whole=len(session.items) == config.stash.get(_COLLECTED, 0) and is_whole(config),
        orphans=tuple(
            orphans(settings.baselines, selection.known, config.option.keyword, config.invocation_params.dir)
        ),
        untaken=tuple(short_path(suite, config) for suite in selection.untaken()),
        shares=config.stash.get(sharding.SHARES, {}),
        affected=kept.lines,
        idle=kept.idle,
    )
    config.stash[COLLECTOR].inventory = found
    if hasattr(config, "workeroutput"):
        config.workeroutput[_INVENTORY] = found.to_json()


def _case_of(item: pytest.Item) -> CaseId | None:
    experiment = experiment_of(item)
    return experiment.case if experiment else None


@pytest.hookimpl(optionalhook=True)  # one of xdist's
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over on the controller what a worker collected, and raise what it could not."""
    devices.take_back(node)
    output = getattr(node, "workeroutput", {})
    if problem := output.get(_USAGE_ERROR):
        raise pytest.UsageError(problem)
    if found := output.get(_INVENTORY):
        node.config.stash[COLLECTOR].inventory = Inventory.from_json(found)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Where the cases come from and what they are compared with."""
    cases = [experiment for item in items if (experiment := experiment_of(item))]
    settings, known = config.stash[SETTINGS], len(config.stash[SELECTION].known)
    affected = [f"peftbench: {line}" if line[0] != " " else line for line in config.stash.get(KEPT, Kept()).lines]
    if not cases:
        none = f"peftbench: none of {plural(known, 'case')} is selected, so none is compared"
        return _folded(config, affected or ([none] if known else []))
    suites = ", ".join(first(sorted({short_path(case.suite, config) for case in cases}), _MOST_SUITES))
    folder = short_path(settings.baselines, config)
    if settings.update_baselines:
        mode = f"baselines will be rewritten in {folder}"
    elif settings.no_compare:
        mode = "not compared"
    else:
        there = sum(baseline_path(settings.baselines, case.case).exists() for case in cases)
        mode = f"compared with {folder}, which holds {there} of them"
    return _folded(config, [*affected, f"peftbench: {plural(len(cases), 'case')} of {suites}; {mode}"])


@pytest.hookimpl(optionalhook=True)  # one of xdist's
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Under `-n auto` a worker for each GPU, where cases run on GPUs."""
    return devices.workers(config)


@pytest.hookimpl(optionalhook=True)  # one of xdist's
def pytest_configure_node(node: Any) -> None:
    """Give a worker a GPU of its own, where there are several."""
    devices.give(node)


@pytest.hookimpl(optionalhook=True)  # one of xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand the longest cases out first, where durations are recorded, and xdist was not told otherwise."""
    return durations.scheduler(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """What an earlier session of this shard came to is no more."""
    sharding.forget_shard(session.config)


# Fixtures -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> Experiment:
    """The PEFT config, training parameters, device and seeds of this case, from the suite's files."""
    environment.pin()  # before torch is imported
    case: Experiment = request.param
    if reason := environment.lacking(case.train.package):
        pytest.skip(reason)
    case.require()
    environment.check_device(case.device)
    return case


@pytest.fixture(scope="session")
def base_model() -> Callable[[Experiment], nn.Module]:
    """Function that gives an experiment's base model with fresh weights; loaded once per session.

    Override it in your conftest.py to benchmark another model: it is seeded before each call.
    """
    environment.pin()
    from pytest_peftbench.cases.loading import cached_base_models

    return cached_base_models()


@pytest.fixture(scope="session")
def task_data() -> Callable[[Experiment], Any]:
    """Function that gives an experiment's data, tokenised once per session.

    Override it in your conftest.py to train and test on other data.
    """
    environment.pin()
    from pytest_peftbench.cases.loading import cached_task_data

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
    return BaselineCheck(request.node)


# Reporting ------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget what the test came to when it ran before: it may be run again."""
    forget(item.stash, OUTCOME)
    forget(item.stash, WRITTEN)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Under `--peft-resume`, compare a stored result anew in place of running its case."""
    return resuming.take(pyfuncitem) or None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put on a case's report what the case came to: under xdist, plain data there reaches the controller."""
    report = yield
    if is_case(item):
        put_on_report(item, call, report)
        write_recorded(item, report)
        resuming.mark_result(item, report)
        resuming.put_on_report(item, report)
        if not item.config.stash[SETTINGS].no_ci:
            put_properties(item, report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Have a case's failure shown once, whatever process it comes from."""
    tell(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run whose tests passed, but not all of its cases: some regressed over all of them, or are missing."""
    config = session.config
    if hasattr(config, "workerinput"):
        return
    collector = config.stash[COLLECTOR]
    collector.close()
    idle = sharding.is_empty(config) or collector.inventory.idle
    if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and idle:
        session.exitstatus = pytest.ExitCode.OK
    unwritten = filter(None, [sharding.write_manifest(config, session.exitstatus), durations.record(config)])
    collector.gaps = replace(collector.gaps, part=sharding.note(config), unwritten=tuple(unwritten))
    if not runs_nothing(config) and session.exitstatus != pytest.ExitCode.USAGE_ERROR:
        interrupted = session.exitstatus == pytest.ExitCode.INTERRUPTED
        if not write_page(config, interrupted) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if session.exitstatus != pytest.ExitCode.OK or runs_nothing(config):
        return
    if any(outcome.red for outcome in collector.outcomes) or any(collector.gaps.problems()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """What an update changed, the table, the count of every verdict, and what is missing."""
    collector, width = config.stash[COLLECTOR], terminalreporter._tw.fullwidth
    lines = closing(collector.outcomes, columns(), width)
    lines += advice_lines(collector.outcomes, partial(recording_command, config), width)
    came_to_its_end = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or sharding.is_empty(config)
    if came_to_its_end and not runs_nothing(config):
        lines += gap_lines(collector.gaps, config.stash[SETTINGS].update_baselines, width)
    lines += fold(((line, {}) for line in collector.inventory.affected[:1]), width)
    if lines:
        terminalreporter.section("PEFT benchmark")
    for line, markup in lines:
        terminalreporter.write_line(line, **markup)
    if PAGE in config.stash:
        terminalreporter.write_line(config.stash[PAGE])
    if not config.stash[SETTINGS].no_ci and not runs_nothing(config):
        tell_github(terminalreporter, collector)


@pytest.hookimpl(wrapper=True, optionalhook=True)  # one of pytest-benchmark's
def pytest_benchmark_group_stats(config: pytest.Config) -> Generator[None, Any, Any]:
    """Leave the steps of cases out of its table, unless it is asked for."""
    groups = yield
    return timing.without_cases(config, groups)
