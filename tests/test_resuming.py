"""`--peft-resume`: what is taken from earlier results, what is run again, and that both are told."""

import json
import re

import pytest
from support import LOHA_CASE, LORA_CASE, assert_usage_error, output, table, write_json

from pytest_peftbench import commands

# Of the life cycle: its version needs no model. Which cases ran is noted in a file.
TEST = """
    from dataclasses import replace
    from pathlib import Path
    import pytest
    from support import make_result
    from pytest_peftbench.cases.life_cycle.run import case_version

    @pytest.mark.peft_life_cycle
    def test_structures(experiment, peft_baseline):
        with Path("ran.txt").open("a") as ran:
            ran.write(f"{experiment.case.experiment}\\n")
        result = make_result(experiment.case)
        if not Path("other.txt").exists():
            result = replace(result, case_version=case_version(experiment))
        peft_baseline.check(replace(result, seeds=[]))
        assert not Path("fail.txt").exists()
"""
NAMES = ["ia3/default", "loha/default", "lora/default"]
SELECTED = ("-k", "linear-ia3-default or linear-loha-default or linear-lora-default", "--peft-suite=structures")
RESUMED = (*SELECTED, "--peft-json=results", "--peft-resume")
LOHA_RESULT = "results/life-cycle/structures/linear/loha--default.json"
SLOWER = {"train_step.flops": 2_000_000_000}


def prepare(bench):
    bench.write("test_mini.py", TEST)
    write_json(bench.path / "structures" / "linear" / "default_training_params.json", {"model_id": "linear"})


@pytest.fixture
def measured(bench):
    """Three cases with baselines, and their results."""
    prepare(bench)
    bench.record(*SELECTED)
    bench.run(*SELECTED, "--peft-json=results").assert_outcomes(passed=3)
    assert sorted(ran(bench)) == sorted(NAMES * 2)
    return bench


def ran(bench):
    """The cases that have run since this was last asked."""
    file = bench.path / "ran.txt"
    names = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return names


def verdicts(result):
    return dict(re.findall(r"^life-cycle-structures-linear-(\S+)-default +((?:\w+ )*\w+)", output(result), re.M))


def test_a_case_whose_result_is_there_is_not_run_again_and_judged_the_same(measured):
    fresh = measured.run(*SELECTED, "--peft-json=results")
    ran(measured)

    resumed = measured.run(*RESUMED)

    resumed.assert_outcomes(passed=3)
    assert ran(measured) == []
    assert verdicts(resumed) == verdicts(fresh) == dict.fromkeys(("ia3", "loha", "lora"), "identical")
    assert "3 cases taken from results, not run again: life-cycle-structures-linear-ia3-default" in output(resumed)


def test_a_case_without_a_result_runs_and_is_there_the_next_time(measured):
    (measured.path / LOHA_RESULT).unlink()

    assert "2 cases taken from results" in output(measured.run(*RESUMED))
    assert ran(measured) == ["loha/default"]
    assert "3 cases taken from results" in output(measured.run(*RESUMED))
    assert ran(measured) == []


def test_workers_take_results_too(measured):
    resumed = measured.run(*RESUMED, "-n", "1")

    assert ran(measured) == []
    assert "3 cases taken from results" in output(resumed)


def test_a_stored_result_is_red_against_a_baseline_that_it_does_not_keep(measured):
    measured.measures("loha", SLOWER)
    measured.run(*SELECTED, "--peft-json=results").assert_outcomes(passed=2, failed=1)
    ran(measured)

    resumed = measured.run(*RESUMED)

    assert resumed.ret == 1
    assert ran(measured) == []
    assert verdicts(resumed)["loha"] == "regressed"
    assert "train_step.flops regressed: 1.204e9 -> 2.000e9" in output(resumed)

    measured.record(*SELECTED)  # another baseline, of which nothing more is asked
    ran(measured)
    assert measured.run(*RESUMED).ret == 0
    assert ran(measured) == []


def truncated(file):
    file.write_bytes(file.read_bytes()[:-200])


def of_another_case(file):
    file.write_bytes((file.parent / "lora--default.json").read_bytes())


def changed(key, value):
    def change(file):
        data = json.loads(file.read_text())
        place = data["peftbench"]["made_from"] if key in data["peftbench"]["made_from"] else data["peftbench"]
        place[key] = value
        file.write_text(json.dumps(data))

    return change


# By method: what happens to its result, and how it is told.
CHANGES = {
    "adalora": (truncated, "no valid JSON"),
    "delora": (lambda file: file.write_text("{}"), "is no result of this benchmark"),
    "glora": (of_another_case, "is a result of life-cycle-structures-linear-lora-default, not of"),
    "gralora": (changed("status", "out of memory"), "it is out of memory"),
    "ia3": (changed("case_version", "0"), "case version differs: 0 -> "),
    "loha": (changed("PEFT's source", "0"), "PEFT's source differs: 0 -> "),
    "randlora": (changed("torch", "2.0"), "torch differs: 2.0 -> "),
    "tinylora": (changed("seeds", "7"), "seeds differs: 7 -> 0"),
    "unilora": (changed("made_from", {}), "nothing in it tells that its test came to its end"),
}


def test_anything_else_is_run_again_and_told(bench):
    prepare(bench)
    selected = ("-k", " or ".join(f"linear-{name}-default" for name in [*CHANGES, "lora"]), *RESUMED[2:])
    bench.run(*selected, "--peft-no-compare")
    ran(bench)
    for method, (change, _) in CHANGES.items():
        change(bench.path / f"results/life-cycle/structures/linear/{method}--default.json")

    text = " ".join(output(bench.run(*selected, "--peft-no-compare")).split())

    assert sorted(ran(bench)) == sorted(f"{method}/default" for method in CHANGES)
    assert "1 case taken from results, not run again: life-cycle-structures-linear-lora-default" in text
    assert "9 cases run again, whose result in results was not taken: " in text
    for method, (_, words) in CHANGES.items():
        assert re.search(rf"linear-{method}-default \([^)]*{re.escape(words)}", text), words
    assert "10 cases taken from results" in output(bench.run(*selected, "--peft-no-compare"))
    assert ran(bench) == []


def test_a_changed_test_is_run_again(measured):
    measured.write("conftest.py", "# another one")

    assert "tests differs" in output(measured.run(*RESUMED))
    assert sorted(ran(measured)) == NAMES


def test_a_test_that_failed_after_its_comparison_is_run_again(measured):
    (measured.path / "fail.txt").touch()
    measured.run(*SELECTED, "--peft-json=results").assert_outcomes(failed=3)
    ran(measured)

    resumed = measured.run(*RESUMED)

    resumed.assert_outcomes(failed=3)
    assert sorted(ran(measured)) == NAMES
    assert "nothing in it tells that its test came to its end" in output(resumed)


def test_a_case_whose_version_cannot_be_asked_is_run_again(bench):
    bench.record("-k", "loha")
    bench.run("-k", "loha", "--peft-json=results")

    resumed = bench.run("-k", "loha", "--peft-json=results", "--peft-resume")

    assert table(resumed) == {LOHA_CASE: "identical"}
    assert "its test does not take base_model and task_data, so its version is not known" in output(resumed)


def test_a_trained_case_is_taken_with_its_base_model_and_data_asked_anew(bench):
    bench.trains()
    bench.record("-k", "r4 and lora", "--peft-seeds=1")
    arguments = ("-k", "r4 and lora", "--peft-json=results", "--peft-resume")

    first, again = bench.run(*arguments), bench.run(*arguments)

    assert table(first) == table(again) == {LORA_CASE: "identical"}
    assert "taken from" not in output(first)
    assert f"1 case taken from results, not run again: {LORA_CASE}" in output(again)


def test_shards_that_are_merged_tell_what_they_took(measured, capsys):
    measured.run(*RESUMED, "--peft-shard=1/1")
    capsys.readouterr()

    assert commands.main(["merge", str(measured.path / "results"), "--into", str(measured.path / "merged")]) == 0

    assert "3 cases taken from earlier results, not run again" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--peft-resume",), "peft_resume: takes results from the folder that peft_json names"),
        (("--peft-json=results", "--peft-resume", "--peft-update-baselines"), "peft_resume: a baseline needs more"),
    ],
)
def test_what_cannot_be_resumed_is_a_usage_error(bench, arguments, words):
    assert_usage_error(bench.run(*arguments), words)
