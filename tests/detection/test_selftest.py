"""`peftbench selftest`: what counts as caught, processes that raise or die, the table, the exit code."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from support import LORA, REPOSITORY, make_suite, skip_under_an_older_peft, unmeasured

from pytest_peftbench import commands as cli
from pytest_peftbench.commands import selftest
from pytest_peftbench.commands.selftest import report, runner
from pytest_peftbench.commands.selftest.faults import FAULTS
from pytest_peftbench.commands.selftest.faults.fault import Fault
from pytest_peftbench.commands.selftest.patching import Edit
from pytest_peftbench.commands.selftest.runner import Outcome, Trial
from pytest_peftbench.compare import CaseVerdict, Finding
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.result import CaseId

CASE = CaseId("MetaMathQA", "mini", "lora", "rank8")
FAULT = Fault("a slip", "lora/rank8", "x2", "exact", ("train_step.flops", "train_step.calls"), (Edit("a:b", "c", "d"),))
NUMERICS = replace(FAULT, lane="numerics", metrics=("first_losses",))


def outcome(fault=None, error="", **findings):
    """The outcome of a trial whose metrics had these verdicts."""
    found = tuple(Finding(name.replace("__", "."), verdict) for name, verdict in findings.items())
    verdict = None if error else CaseVerdict(CASE, found)
    return Outcome(Trial("lora/rank8", None, None, fault), verdict, 1.5, error)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (outcome(FAULT, train_step__flops="regressed"), "caught"),
        (outcome(FAULT, train_step__calls="regressed", first_losses="numerics changed"), "caught"),
        (outcome(FAULT, train_step__flops="identical"), "MISSED"),
        (outcome(FAULT, train_step__flops="improved"), "MISSED"),
        (outcome(FAULT, train_step__flops="improved", first_losses="numerics changed"), "red otherwise"),
        (outcome(FAULT, train_step__flops="not comparable"), "red otherwise"),
        (outcome(FAULT, step_time_ratio="regressed"), "red otherwise"),
        (outcome(FAULT, error="RuntimeError: shapes"), "red otherwise"),
        (outcome(NUMERICS, first_losses="numerics changed"), "caught"),
        (outcome(NUMERICS, first_losses="not comparable"), "red otherwise"),
        (outcome(train_step__flops="identical"), "green"),
        (outcome(step_time_ratio="within noise"), "green"),
        (outcome(first_losses="numerics changed"), "RED"),
        (outcome(error="RuntimeError: shapes"), "RED"),
    ],
)
def test_a_fault_is_caught_by_its_own_metric_alone_and_unchanged_must_be_green(found, status):
    assert found.status == status
    assert found.passed == (status in ("caught", "green"))


def answer(trial):
    """Stands for a case: what it does is the name of its experiment."""
    if trial.experiment == "dies":
        os._exit(3)
    if trial.experiment == "raises":
        raise ZeroDivisionError("no\nsuch thing")
    return CaseVerdict(replace(CASE, name=f"{os.getpid()}"), (Finding.of("case", "identical", ""),))


def test_each_trial_runs_in_a_process_of_its_own_and_one_that_dies_is_red(monkeypatch):
    monkeypatch.setattr(runner, "_PRELOAD", [])
    told = []
    todo = [Trial(name, None, None) for name in ("fine", "dies", "raises", "fine")]

    first, died, raised, last = runner.run(todo, 2, told.append, answer)

    assert [item.status for item in (first, died, raised, last)] == ["green", "RED", "RED", "green"]
    assert died.error == "the process ended with code 3"
    assert raised.error == "ZeroDivisionError: no"
    assert len({first.verdict.case.name, last.verdict.case.name, str(os.getpid())}) == 3
    assert len(told) == 4
    assert told[-1].startswith("4/4  ")


@pytest.mark.parametrize(
    ("runs", "red", "bound"), [(0, 0, 1.0), (1, 0, 0.95), (200, 0, 1 - 0.05 ** (1 / 200)), (20, 20, 1.0)]
)
def test_the_bound_on_false_alarms_is_the_exact_one(runs, red, bound):
    outcomes = [outcome(first_losses="numerics changed")] * red + [outcome(first_losses="identical")] * (runs - red)

    assert runner.false_alarm_bound([*outcomes, outcome(FAULT)]) == (runs, red, pytest.approx(bound))


def test_one_red_run_in_twenty_leaves_a_bound_above_it():
    outcomes = [outcome(first_losses="numerics changed"), *[outcome(first_losses="identical")] * 19]

    # the share at which at most one red run of 20 has a probability of 5 %
    _, _, bound = runner.false_alarm_bound(outcomes)
    assert (1 - bound) ** 20 + 20 * bound * (1 - bound) ** 19 == pytest.approx(0.05)


def test_the_report_tells_what_was_caught_what_was_not_and_how_many():
    text = report.text(
        [
            outcome(FAULT, train_step__flops="regressed", train_step__calls="regressed"),
            outcome(NUMERICS, first_losses="identical"),
            outcome(first_losses="identical"),
            outcome(first_losses="numerics changed"),
        ]
    )

    assert "a slip  lora/rank8  x2    exact     train_step.flops and 1 more  regressed  1.5 s\n" in text
    assert "a slip  lora/rank8  x2    numerics  MISSED                       identical  1.5 s\n" in text
    assert "MISSED: lora/rank8: a slip (x2)\n  expected: numerics changed, by first_losses\n" in text
    assert "RED: lora/rank8: unchanged\n  first_losses numerics changed" in text
    assert "2 faults: 1 caught (exact 1 of 1, numerics 0 of 1)\n" in text
    assert text.endswith("2 unchanged runs: 1 red; at most 97.47% false alarms (95 %, exact binomial)")


def test_the_report_tells_how_large_a_regression_of_quality_could_be_told():
    found = outcome(replace(FAULT, lane="quality", metrics=("forgetting",)), forgetting="regressed")
    verdict = replace(found.verdict, detectable={"forgetting": 0.0512})

    assert "  forgetting (detectable 0.051)  regressed" in report.text([replace(found, verdict=verdict)])


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([outcome(FAULT, train_step__flops="regressed"), outcome(first_losses="identical")], 0),
        ([outcome(FAULT, train_step__flops="identical"), outcome(first_losses="identical")], 1),
        ([outcome(FAULT, train_step__flops="regressed"), outcome(first_losses="numerics changed")], 1),
        ([outcome(FAULT, error="RuntimeError: shapes")], 1),
    ],
)
def test_a_fault_that_is_missed_or_a_false_alarm_ends_with_code_1(outcomes, code, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(runner, "trials", lambda *_: [])
    monkeypatch.setattr(runner, "run", lambda *_: outcomes)
    file = tmp_path / "outcomes.json"

    assert cli.main(["selftest", "--suite", str(tmp_path), "--json", str(file)]) == code

    written = json.loads(file.read_text())
    assert [item["status"] for item in written["faults"] + written["unchanged"]] == [item.status for item in outcomes]
    assert "1 fault: " in capsys.readouterr().out


def test_a_self_test_that_would_try_nothing_is_a_usage_error(tmp_path):
    suite = tmp_path / "MetaMathQA" / "mini"
    make_suite(suite, {"lora/rank8": (LORA, None)})

    with pytest.raises(InputError, match="--only poetry: no fault's lane, case or name contains it"):
        runner.trials(suite, tmp_path, tmp_path, "poetry", 1)
    with pytest.raises(InputError, match="holds no experiment loha/rank8, on which a fault is tried"):
        runner.trials(suite, tmp_path, tmp_path, "loha/rank8", 1)
    with pytest.raises(InputError, match=r"lora--rank8\.json: no such baseline; record it"):
        runner.trials(suite, tmp_path, tmp_path, "first factor multiplied twice", 1)


@pytest.fixture(scope="module")
def lived():
    """The outcomes of a fault that a law tells, of one that the witness tells, and of their cases unchanged."""
    skip_under_an_older_peft()
    benchmarks = REPOSITORY / "benchmarks"
    folders = (benchmarks / "MetaMathQA" / "tiny", benchmarks / "structures", REPOSITORY / "baselines")
    among = [fault for fault in FAULTS if fault.name in ("merging subtracts", "a scaling is counted twice")]
    todo = runner.trials(*folders, "", 1, among)
    return [Outcome(trial, runner.run_trial(trial), 1.0) for trial in todo]


def test_faults_of_the_life_cycle_are_caught_by_what_must_tell_them(lived):
    assert [(item.trial.case, item.status) for item in lived] == [
        ("life-cycle linear/waveft/default", "caught"),
        ("life-cycle linear/fourierft/default", "caught"),
        ("life-cycle linear/waveft/default", "green"),
        ("life-cycle linear/fourierft/default", "green"),
    ]
    law, witness = (item.caught_by[0] for item in lived[:2])
    assert (law.metric, law.expected, law.obtained.partition(":")[0]) == ("law.merge", "holds", "broken")
    assert witness.subject == "witness"


def test_the_report_counts_faults_of_the_life_cycle_together(lived):
    text = report.text([*lived, outcome(FAULT, train_step__flops="regressed")])

    assert f"{'merging subtracts':26}  life-cycle linear/waveft/default " in text
    assert "3 faults: 3 caught (exact 1 of 1, life cycle 2 of 2)\n" in text


def test_under_another_arithmetic_faults_of_the_life_cycle_run_and_counters_do_not(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(selftest, "_compute_otherwise", lambda: None)
    monkeypatch.setattr(runner, "trials", lambda *arguments: asked.append(arguments[-1]) or [])
    monkeypatch.setattr(runner, "run", lambda *_: [])

    assert cli.main(["selftest", "--suite", str(tmp_path), "--arithmetic", "other"]) == 0
    assert {fault.lane for fault in asked[0] if not fault.structure} == {"numerics", "quality"}
    assert {fault for fault in asked[0] if fault.structure} == {fault for fault in FAULTS if fault.structure}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "nowhere"], "nowhere: no such folder"),
        (["--jobs", "0"], "'0': expected an integer of at least 1"),
        (["--unchanged", "-1"], "'-1': expected an integer of at least 1"),
    ],
)
def test_bad_arguments_are_usage_errors(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["selftest", *arguments])

    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_the_whole_command_catches_a_fault_and_leaves_the_unchanged_case_green(tmp_path):
    skip_under_an_older_peft()
    command = [sys.executable, "-m", "pytest_peftbench.commands", "selftest"]
    chosen = ["--only", "merging subtracts", "--json", str(tmp_path / "outcomes.json")]
    done = subprocess.run(
        [*command, *chosen], cwd=REPOSITORY, env=unmeasured(), capture_output=True, text=True, timeout=240
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 fault: 1 caught (life cycle 1 of 1)" in done.stdout
    assert "2/2  life-cycle linear/waveft/default: " in done.stderr
    fault, unchanged = (json.loads((tmp_path / "outcomes.json").read_text())[key] for key in ("faults", "unchanged"))
    assert "law.merge" in fault[0]["caught_by"]
    assert unchanged[0]["status"] == "green"
