"""No silent pass: a run is green only when all that was asked for was measured and compared, and all of it passed."""

import os
import re
import shutil
import sys
import textwrap
from pathlib import Path

import pytest
from support import (
    CASES,
    FULL,
    LOHA,
    LOHA_CASE,
    LORA_CASE,
    OWN_EXPERIMENT,
    PLUGINS,
    SYNTHETIC_TEST,
    assert_usage_error,
    make_suite,
    output,
    small_llama,
    table,
)

from pytest_peftbench import run_experiment
from pytest_peftbench.measure import environment
from pytest_peftbench.plugin.surroundings import problem_of_torch
from pytest_peftbench.results import baseline as baselines
from pytest_peftbench.results.files import InputError
from pytest_peftbench.suites import read_suite

SLOWER = {"train_step.flops": 2_000_000_000}


@pytest.fixture
def recorded(bench):
    bench.record()
    return bench


@pytest.fixture
def red(recorded):
    """Three cases with baselines, one of which has regressed."""
    recorded.measures("loha", SLOWER)
    return recorded


def case_test(*lines):
    """A test like that of the bench, with these lines instead of its check."""
    head = ["import contextlib, threading, pytest", "from support import make_result", ""]
    body = ["result = make_result(experiment.case)", *lines]
    return "\n".join([*head, "def test_mini(experiment, peft_baseline):", *(f"    {line}" for line in body)])


def problems(result):
    return re.findall(r"^the run fails: (.*)$", output(result), re.MULTILINE)


# A verdict thrown away ------------------------------------------------------------------------------------------------

CATCHES = {
    "raises": ["with pytest.raises(BaseException):", "    peft_baseline.check(result)", "    raise ValueError"],
    "suppress": ["with contextlib.suppress(BaseException):", "    peft_baseline.check(result)"],
    "except and skip": [
        "try:",
        "    peft_baseline.check(result)",
        "except BaseException:",
        "    pytest.skip('flaky')",
    ],
    "thread": [
        "thread = threading.Thread(target=peft_baseline.check, args=[result])",
        "thread.start()",
        "thread.join()",
    ],
    "second check": [
        "with contextlib.suppress(BaseException):",
        "    peft_baseline.check(result)",
        "with contextlib.suppress(BaseException):",
        "    result.metrics['train_step.flops'] = 1_204_000_000",
        "    peft_baseline.check(result)",
    ],
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("arguments", [(), ("--peft-bisect",)])
@pytest.mark.parametrize("catch", CATCHES)
def test_a_red_verdict_stands_whoever_catches_it(red, catch, arguments):
    red.write("test_mini.py", case_test(*CATCHES[catch]))

    result = red.run("-k", "loha", *arguments)

    assert result.ret == 1
    assert table(result)[LOHA_CASE] in ("regressed", "failed")
    assert "train_step.flops regressed" in output(result) or catch == "second check"


def test_a_failure_of_the_check_itself_stands_too(recorded):
    recorded.write(
        "test_mini.py",
        case_test("result.metrics['nobody'] = 1", *CATCHES["suppress"]),
    )

    result = recorded.run("-k", "loha", "--peft-update-baselines", "--peft-calibrate")

    result.assert_outcomes(failed=1, deselected=2)
    assert table(result) == {LOHA_CASE: "failed"}


def test_a_second_check_in_one_test_is_red(recorded):
    recorded.write("test_mini.py", case_test(*["peft_baseline.check(result)"] * 2))

    result = recorded.run("-k", "loha")

    result.assert_outcomes(failed=1, deselected=2)
    assert "this test has checked a result" in output(result)
    assert "Traceback" not in output(result)


# As rerun plugins do it: what failed and is run again is told as `rerun`, which pytest counts as no failure.
RERUNS = """
    from _pytest.runner import runtestprotocol

    def pytest_runtest_protocol(item, nextitem):
        for attempt in range(3):
            item.attempt = attempt
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            again = attempt < 2 and any(report.failed for report in reports)
            for report in reports:
                if report.failed and again:
                    report.outcome = "rerun"
                item.ihook.pytest_runtest_logreport(report=report)
            if not again:
                break
            item._initrequest()
        return True
"""
RERUN_TEST = """
    import pytest
    from support import make_result

    @pytest.fixture(autouse=True)
    def meddles(request):
        if request.node.attempt and "EARLY":
            EARLY

    def test_mini(experiment, peft_baseline, request):
        result = make_result(experiment.case)
        if request.node.attempt:
            LATER
            result.metrics["train_step.flops"] = 1_204_000_000
        peft_baseline.check(result)
"""


@pytest.mark.parametrize(
    ("early", "later", "verdict", "bisected"),
    [
        ("pass", "pass", "regressed", 1),
        ("pass", "raise OSError('no disk')", "failed", 125),
        ("raise OSError('no disk')", "pass", "failed", 125),
        ("pytest.skip('not again')", "pass", "regressed", 1),
    ],
)
def test_a_red_verdict_stands_when_the_test_is_run_again(red, early, later, verdict, bisected):
    red.write("conftest.py", RERUNS)
    red.write("test_mini.py", RERUN_TEST.replace("EARLY", early.replace('"', "'")).replace("LATER", later))

    result = red.run("-k", "loha")

    assert result.ret == 1
    assert table(result) == {LOHA_CASE: verdict}
    assert red.run("-k", "loha", "--peft-bisect").ret == bisected


def test_a_case_that_failed_before_it_was_measured_may_be_run_again(recorded):
    recorded.write("conftest.py", RERUNS)
    recorded.write(
        "test_mini.py",
        """
        from support import make_result

        def test_mini(experiment, peft_baseline, request):
            if not request.node.attempt:
                raise OSError("the hub does not answer")
            peft_baseline.check(make_result(experiment.case))
        """,
    )

    result = recorded.run()

    assert result.ret == 0
    assert table(result) == dict.fromkeys(CASES, "identical")


def test_a_hook_that_calls_a_red_case_passed_leaves_the_run_red(red):
    red.write(
        "conftest.py",
        """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            report.outcome = "passed"
            return report
        """,
    )

    result = red.run("-k", "loha")

    assert result.ret == 1
    assert table(result) == {LOHA_CASE: "regressed"}


def test_a_red_case_that_is_marked_xfail_passes_and_is_told(red):
    red.write("test_mini.py", SYNTHETIC_TEST.replace("@pytest.mark.peft", "@pytest.mark.xfail\n    @pytest.mark.peft"))

    result = red.run("-k", "loha")

    assert result.ret == 0
    assert table(result) == {LOHA_CASE: "regressed"}
    assert f"1 red case passed as expected (xfail): {LOHA_CASE}" in output(result)
    assert red.run("-k", "loha", "--peft-bisect").ret == 125


# The wrong thing compared ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", [(), ("--peft-update-baselines",)])
def test_the_result_of_another_case_is_refused(recorded, update):
    recorded.write(
        "test_mini.py",
        case_test(
            "from dataclasses import replace",
            "other = replace(experiment.case, method='lora', name='r4')",
            "peft_baseline.check(make_result(other))",
        ),
    )
    before = recorded.baseline("lora").stat().st_mtime_ns

    result = recorded.run("-k", "loha", *update)

    result.assert_outcomes(failed=1, deselected=2)
    assert f"{LORA_CASE}: is the result's case, but the test runs {LOHA_CASE}" in output(result)
    assert recorded.baseline("lora").stat().st_mtime_ns == before


def test_a_test_that_takes_an_experiment_and_never_checks_is_red(recorded):
    recorded.write("test_mini.py", "def test_mini(experiment):\n    pass")

    result = recorded.run("-k", "loha")

    result.assert_outcomes(failed=1, deselected=2)
    assert f"{LOHA_CASE}: never compared" in output(result)
    assert table(result) == {LOHA_CASE: "failed"}


@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("--peft-update-baselines",)])
def test_two_tests_of_one_case_are_refused(recorded, arguments):
    if "-n" in arguments:
        pytest.importorskip("xdist")
    recorded.write("test_other.py", SYNTHETIC_TEST)

    result = recorded.run(*arguments)

    assert_usage_error(result, "test_other.py::test_mini", LOHA_CASE, "run one at a time")
    recorded.run("test_other.py").assert_outcomes(passed=3)


def test_two_folders_with_one_case_are_refused(recorded):
    (recorded.path / "other").mkdir()
    make_suite(recorded.path / "other" / "MetaMathQA" / "mini")
    shutil.move(recorded.path / "test_mini.py", recorded.path / "other" / "test_there.py")
    (recorded.path / "here").mkdir()
    make_suite(recorded.path / "here" / "MetaMathQA" / "mini")
    recorded.write("here/test_here.py", SYNTHETIC_TEST)

    assert_usage_error(recorded.run(), "here/test_here.py", "other/test_there.py", LOHA_CASE)
    recorded.run("here").assert_outcomes(passed=3)


@pytest.mark.parametrize(
    "arguments", [(), ("-n", "2", "--dist", "loadfile"), ("--peft-update-baselines",)], ids=" ".join
)
def test_two_tests_that_check_one_case_of_the_user_s_own_are_red(bench, arguments):
    if "-n" in arguments:
        pytest.importorskip("xdist")
    bench.write("test_mini.py", OWN_EXPERIMENT)
    bench.record()
    before = bench.baseline("own").read_bytes()
    second = OWN_EXPERIMENT.replace("make_result(experiment)", "replace(make_result(experiment), case_version='2')")
    bench.write("test_other.py", f"from dataclasses import replace\n{textwrap.dedent(second)}")

    result = bench.run(*arguments)

    assert result.ret == 1
    assert bench.baseline("own").read_bytes() == before  # each is written once
    assert problems(result) == ["two tests checked one case, one of them is lost: MetaMathQA-mini-own-r4"] or (
        "has checked this case" in output(result)
    )


@pytest.fixture
def loha_experiment(tmp_path):
    make_suite(tmp_path / "MetaMathQA" / "mini", {"loha/r4": (LOHA, None)})
    (experiment,) = read_suite(tmp_path / "MetaMathQA" / "mini")
    return experiment


def adapted(experiment):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(small_llama(vocab_size=512), LoraConfig(target_modules=["q_proj"])).base_model.model


class Drifting:
    """Other weights at each call."""

    calls = 0

    def __call__(self, experiment):
        self.calls += 1
        return small_llama(seed=self.calls, vocab_size=512)


@pytest.mark.parametrize(
    ("base_model", "words"),
    [(adapted, "has an adapter already"), (Drifting(), "gave other weights than at an earlier call with seed 0")],
)
def test_a_base_model_that_is_not_what_the_case_starts_from_is_refused(loha_experiment, base_model, words):
    from pytest_peftbench.cases.loading import cached_task_data

    with pytest.raises(InputError, match=f"{LOHA_CASE}: base_model gave.*{words}|{LOHA_CASE}: base_model {words}"):
        run_experiment(loha_experiment, base_model, cached_task_data())


# What is no longer there ----------------------------------------------------------------------------------------------


def test_a_baseline_without_an_experiment_is_told_and_red_where_it_is_asked_for(recorded):
    shutil.rmtree(recorded.suite / "experiments" / "loha")
    told = f"1 baseline without an experiment: {Path('baselines/MetaMathQA/mini/loha--r4.json')}"

    everything = recorded.run()
    asked = recorded.run("-k", "loha or lora")
    not_asked = recorded.run("-k", "not full")

    assert [everything.ret, asked.ret, not_asked.ret] == [0, 1, 0]
    assert all(told in output(result) for result in (everything, asked, not_asked))
    assert problems(everything) == problems(not_asked) == []
    (problem,) = problems(asked)
    assert problem.startswith("-k names the case of a baseline whose experiment is not there: ")
    assert recorded.run("-k", "loha").ret == 5


def test_so_it_is_with_workers(recorded):
    pytest.importorskip("xdist")
    shutil.rmtree(recorded.suite / "experiments" / "loha")

    asked = recorded.run("-k", "loha or lora", "-n", "2")

    assert asked.ret == 1
    (problem,) = problems(asked)
    assert problem.startswith("-k names the case of a baseline whose experiment is not there: ")


def test_an_update_of_everything_offers_to_remove_what_has_no_experiment(recorded):
    shutil.rmtree(recorded.suite / "experiments" / "loha")
    offer = "to remove them: git rm -r "

    assert offer + str(Path("baselines/MetaMathQA/mini/loha--r4.json")) in output(
        recorded.run("--peft-update-baselines")
    )
    for part in (("-k", "lora"), ("--deselect", f"test_mini.py::test_mini[{LORA_CASE}]"), ("test_mini.py",)):
        assert offer not in output(recorded.run("--peft-update-baselines", *part))
    assert offer not in output(recorded.run())
    assert recorded.baseline("loha").exists()


def test_the_baseline_of_a_case_of_the_user_s_own_is_not_taken_for_left_over(recorded):
    recorded.write("test_own.py", OWN_EXPERIMENT.replace("test_mini", "test_own"))

    result = recorded.run("--peft-update-baselines")

    assert result.ret == 0
    assert "without an experiment" not in output(recorded.run())


SKIPS = """
    import pytest

    @pytest.fixture
    def peft_baseline(experiment, peft_baseline):
        if experiment.case.method in METHODS:
            pytest.skip("no GPU")
        return peft_baseline
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_a_run_whose_cases_are_all_skipped_is_red(recorded, arguments):
    if "-n" in arguments:
        pytest.importorskip("xdist")
    recorded.write("conftest.py", SKIPS.replace("METHODS", "('lora', 'loha', 'full-finetuning')"))
    recorded.write("test_other.py", "def test_other():\n    pass")

    result = recorded.run(*arguments)

    assert result.ret == 1
    assert problems(result) == ["none of 3 selected cases was measured, so nothing was compared"]
    assert "3 cases skipped: " in output(result)


@pytest.mark.parametrize("option", ["--benchmark-skip", "--benchmark-only"])
def test_options_of_other_plugins_that_skip_every_case_make_a_run_red(recorded, option):
    takes = "benchmark, " if option == "--benchmark-skip" else ""
    recorded.write(
        "test_mini.py", case_test("peft_baseline.check(result)").replace("(experiment", f"({takes}experiment")
    )

    result = recorded.run(option)

    assert result.ret == 1
    assert problems(result) == ["none of 3 selected cases was measured, so nothing was compared"]


def test_some_skipped_cases_are_told_and_the_run_is_green(recorded):
    recorded.write("conftest.py", SKIPS.replace("METHODS", "('loha',)"))

    result = recorded.run()

    assert result.ret == 0
    assert f"1 case skipped: {LOHA_CASE}" in output(result)
    assert table(result) == {FULL: "identical", LORA_CASE: "identical"}
    assert recorded.run("-k", "loha").ret == 1


def test_a_run_that_selects_no_case_says_so(recorded):
    recorded.write("test_other.py", "def test_other():\n    pass")

    result = recorded.run("-k", "other")

    nothing = recorded.run("-k", "nothing")

    assert [result.ret, nothing.ret] == [0, 5]
    for text in map(output, (result, nothing)):
        assert "peftbench: none of 3 cases is selected, so none is compared" in text
        assert "compared with" not in text


@pytest.mark.parametrize("arguments", [(), ("--peft-bisect",)])
def test_a_session_that_ends_early_with_exit_code_0_is_red(recorded, arguments):
    recorded.write(
        "test_mini.py",
        case_test(
            "peft_baseline.check(result)",
            "if experiment.case.method == 'loha':",
            "    pytest.exit('enough', returncode=0)",
        ),
    )

    result = recorded.run(*arguments)

    assert result.ret == (125 if arguments else 1)
    assert problems(result) == [f"2 selected cases never ran: {LOHA_CASE}, {LORA_CASE}"]


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--setup-only"])
def test_what_pytest_is_asked_to_show_and_not_to_run_is_no_failure(recorded, option):
    result = recorded.run(option)

    assert result.ret == 0
    assert "PEFT benchmark" not in output(result)


def test_cases_that_the_last_run_passed_are_not_missed_with_lf(red):
    plugins = [word for word in PLUGINS if word != "no:cacheprovider"]
    plugins.remove("-p")
    red.pytester.runpytest_inprocess(*plugins)

    result = red.pytester.runpytest_inprocess(*plugins, "--lf")

    result.assert_outcomes(failed=1)
    assert problems(result) == []


def test_a_suite_that_no_test_takes_is_told_and_refused_where_it_is_named(recorded):
    shutil.copytree(
        Path(__file__).parent.parent / "benchmarks" / "image-gen" / "tiny", recorded.path / "image-gen" / "tiny"
    )

    told = recorded.run()
    named = recorded.run("--peft-suite", "MetaMathQA", "--peft-suite", "image-gen")

    assert told.ret == 0
    assert "1 suite that no test takes: image-gen/tiny" in output(told)
    assert "no test takes" not in output(recorded.run("test_mini.py"))
    assert_usage_error(named, "image-gen: no collected test takes a case", "--peft-suite")


def test_a_suite_that_is_named_where_no_test_takes_a_case_is_refused(recorded):
    recorded.write("test_other.py", "def test_other():\n    pass")

    assert_usage_error(recorded.run("test_other.py", "--peft-suite", "MetaMathQA"), "no collected test takes a case")
    recorded.write("pytest.ini", "[pytest]\npeft_suite = MetaMathQA\n")
    recorded.run("test_other.py").assert_outcomes(passed=1)


# An update that should not have been ----------------------------------------------------------------------------------

CLOSES_BADLY = """
    import pytest

    @pytest.fixture(autouse=True)
    def resource():
        yield
        raise OSError("cannot be closed")
"""


@pytest.mark.parametrize("where", ["test", "teardown"])
def test_a_test_that_fails_after_its_check_records_nothing(recorded, where):
    before = recorded.baseline("loha").read_bytes()
    recorded.measures("loha", SLOWER)
    if where == "test":
        recorded.write("test_mini.py", case_test("peft_baseline.check(result)", "assert False"))
    else:
        recorded.write("conftest.py", CLOSES_BADLY)

    result = recorded.run("-k", "loha", "--peft-update-baselines")

    assert result.ret == 1
    assert table(result) == {LOHA_CASE: "failed"}
    assert "baseline written" not in output(result)
    assert recorded.baseline("loha").read_bytes() == before


@pytest.mark.parametrize("arguments", [(), ("-n", "1")])
def test_a_killed_session_has_recorded_every_case_that_had_passed(bench, arguments):
    if arguments:
        pytest.importorskip("xdist")
    lines = ["if experiment.case.method == 'lora':", "    import os", "    os._exit(9)", "peft_baseline.check(result)"]
    bench.write("test_mini.py", case_test(*lines))

    process = bench.spawn("--peft-update-baselines", *arguments)

    assert process.returncode != 0
    files = sorted(path.name for path in (bench.path / "baselines").rglob("*.json"))
    assert files == ["full-finetuning--default.json", "loha--r4.json"]


def test_a_baseline_that_cannot_be_written_is_a_failed_row(recorded, monkeypatch):
    recorded.measures("loha", SLOWER)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pytest_peftbench.results.files._temporary", full)
    result = recorded.run("-k", "loha", "--peft-update-baselines")

    assert result.ret == 1
    assert table(result) == {LOHA_CASE: "failed"}
    assert ": cannot be written: No space left on device" in output(result)
    assert baselines.read(recorded.baseline("loha")).metrics["train_step.flops"] == 1_204_000_000


# A killed worker ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("-n", "2"), ("-n", "1", "--max-worker-restart", "0")])
def test_a_case_whose_worker_was_killed_is_a_failed_row(recorded, arguments):
    pytest.importorskip("xdist")
    lines = ["if experiment.case.method == 'loha':", "    import os", "    os._exit(9)", "peft_baseline.check(result)"]
    recorded.write("test_mini.py", case_test(*lines))

    result = recorded.run(*arguments)

    assert result.ret == 1
    assert re.search(rf"^{LOHA_CASE} .*worker 'gw\d' crashed", output(result), re.MULTILINE)
    if "2" in arguments:
        assert table(result) == {FULL: "identical", LOHA_CASE: "failed", LORA_CASE: "identical"}
        assert "3 cases: 2 identical, 1 failed" in output(result)
    else:
        assert table(result) == {FULL: "identical", LOHA_CASE: "failed"}


# A lane switched off by its surroundings ------------------------------------------------------------------------------

x86 = pytest.mark.skipif(not environment.instruction_sets(), reason="no instruction sets to pin")


@pytest.fixture
def unpinned(bench, monkeypatch):
    for name in environment.instruction_sets():
        monkeypatch.delenv(name)
    return bench


@x86
@pytest.mark.parametrize(("importer", "arguments"), [("conftest", ()), ("conftest", ("-n", "1")), ("test_aaa", ())])
def test_torch_imported_by_a_conftest_or_another_collected_module_is_pinned(unpinned, importer, arguments):
    if arguments:
        pytest.importorskip("xdist")
    unpinned.write(f"{importer}.py", "import torch")
    unpinned.write("test_mini.py", case_test("import os", "os.environ['MKL_CBWR']", "peft_baseline.check(result)"))

    process = unpinned.spawn("-k", "loha", "--peft-no-compare", *arguments)

    assert process.returncode == 0, output(process)


@x86
def test_torch_imported_before_the_plugin_is_a_usage_error_and_fine_where_the_variables_are_set(unpinned):
    unpinned.write("early.py", "import torch")

    process = unpinned.spawn("-p", "early", "-k", "loha", PYTHONPATH=_path(unpinned.path))
    variables = environment.instruction_sets()
    pinned = unpinned.spawn(
        "-p", "early", "-k", "loha", "--peft-no-compare", PYTHONPATH=_path(unpinned.path), **variables
    )

    assert_usage_error(process, "torch was imported before", *(f"{name}={value}" for name, value in variables.items()))
    assert pinned.returncode == 0, output(pinned)


def _path(*folders):
    return os.pathsep.join(filter(None, [*map(str, folders), os.environ.get("PYTHONPATH")]))


def test_an_import_of_torch_that_cannot_be_relied_on_is_told_by_file_and_line(recorded, monkeypatch):
    monkeypatch.setattr(environment.WATCH, "culprit", "conftest.py:3")
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch", sys))

    assert_usage_error(recorded.run(), "conftest.py:3: torch was imported before its instruction sets could be fixed")
    recorded.write("test_other.py", "def test_other():\n    pass")
    recorded.run("test_other.py").assert_outcomes(passed=1)


def test_torch_that_was_looked_for_and_not_imported_is_no_problem(monkeypatch):
    monkeypatch.setattr(environment.WATCH, "culprit", "conftest.py:3")
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert problem_of_torch() != ""
    monkeypatch.delitem(sys.modules, "torch")
    assert problem_of_torch() == ""


def test_whether_a_session_may_measure_is_asked_once(bench, monkeypatch):
    asked = []
    monkeypatch.setattr("pytest_peftbench.plugin.may_measure", asked.append)
    monkeypatch.setattr(environment.WATCH, "wanted", None)
    bench.write("conftest.py", "from pytest_peftbench.measure.environment import WATCH\nWATCH.wanted(), WATCH.wanted()")

    bench.run("--collect-only")

    assert len(asked) == 1


@x86
def test_the_watch_names_who_imports_torch_and_pins_where_the_session_may_measure(unpinned, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    watch = environment.TorchWatch()

    watch.find_spec("torch")
    assert re.search(r"test_silent_pass\.py:\d+$", watch.culprit)

    watch.wanted = lambda: True
    watch.find_spec("torch")
    assert watch.culprit == ""
    assert environment.instruction_sets().items() <= os.environ.items()


@x86
def test_a_session_of_another_project_keeps_its_instruction_sets(unpinned):
    shutil.rmtree(unpinned.path / "MetaMathQA")
    unpinned.write("conftest.py", "import torch")
    unpinned.write("test_mini.py", "import os\n\ndef test_a():\n    assert 'ATEN_CPU_CAPABILITY' not in os.environ")

    assert unpinned.spawn().returncode == 0


def test_the_first_cpu_is_the_cpu(recorded):
    recorded.write("test_mini.py", case_test("assert experiment.device == 'cpu'", "peft_baseline.check(result)"))

    result = recorded.run("--peft-device", "cpu:0")

    assert table(result) == dict.fromkeys(CASES, "identical")
    assert "; device cpu\n" in output(result)


@pytest.mark.parametrize("with_ini", [True, False])
def test_an_option_s_folder_that_moves_the_root_directory_is_refused(bench, tmp_path, with_ini):
    if with_ini:
        bench.write("pytest.ini", "[pytest]\npeft_green = identical")
    else:
        (bench.path / "baselines").mkdir()
    results = tmp_path / "results"
    results.mkdir()

    moved = bench.run("--peft-json", results)

    assert_usage_error(moved, f"--peft-json {results}: in two words", f"write --peft-json={results}")
    if with_ini:
        assert f"{bench.path / 'pytest.ini'} is not read" in output(moved)
        assert bench.run("--collect-only", "test_mini.py", "--peft-json", results).ret == 0
    assert bench.run("--collect-only", f"--peft-json={results}").ret == 0


def test_the_header_says_which_settings_decide_and_where_each_comes_from(recorded):
    recorded.write("pytest.ini", "[pytest]\npeft_green = identical\npeft_seeds = 2\naddopts = --peft-strict-env\n")
    (recorded.path / "baselines/MetaMathQA/mini/loha--r4.json").unlink()

    text = output(recorded.run("--peft-seeds", "3"))

    assert (
        "peftbench: --peft-seeds 3 (command line); peft_green = identical (pytest.ini); --peft-strict-env (addopts)"
        in text
    )
    assert "peftbench: 3 cases of MetaMathQA/mini; compared with baselines, which holds 2 of them" in text
