"""`git bisect run pytest benchmarks --peft-bisect` finds the commit that made a case worse."""

import os
import subprocess
import sys

import pytest
from support import OWN_EXPERIMENT, PLUGINS, Bench, output, table

from pytest_peftbench.compare import SEVERITY
from pytest_peftbench.plugin.bisection import exit_code

BAD_FLOPS = {"train_step.flops": 2_000_000_000}
FAILED = {"status": "failed", "error_msg": "RuntimeError: shapes do not fit"}


@pytest.fixture
def bench(pytester):
    return Bench(pytester.path, pytester)


@pytest.fixture
def recorded(bench):
    bench.record()
    return bench


def test_only_a_regression_is_bad_and_only_what_was_compared_is_good():
    codes = {verdict: exit_code([verdict], ["regressed"]) for verdict in SEVERITY}

    assert [verdict for verdict, code in codes.items() if code == 1] == ["regressed"]
    assert [verdict for verdict, code in codes.items() if code == 0] == [
        "identical",
        "environment drift",
        "within noise",
        "same to rounding",
        "improved",
        "not recorded yet",
        "numerics changed",
    ]
    assert set(codes.values()) == {0, 1, 125}


def test_a_regression_outweighs_a_case_that_cannot_be_compared_and_that_a_good_one():
    assert exit_code(["failed", "regressed", "identical"], ["regressed"]) == 1
    assert exit_code(["identical", "cannot tell"], ["regressed"]) == 125
    assert exit_code([], ["regressed"]) == 125


def test_what_is_bad_can_be_chosen(recorded):
    recorded.measures("loha", {"adapter_sha256": "1" * 64, "forgetting": None})

    assert recorded.run("--peft-bisect").ret == 125
    assert recorded.run("--peft-bisect", "--peft-bisect-bad=regressed,numerics changed").ret == 1


def test_a_crash_is_bad_where_that_is_asked_for_and_a_skip_never(recorded):
    recorded.measures("loha", metrics=None, **FAILED)
    assert recorded.run("--peft-bisect", "--peft-bisect-bad=failed").ret == 1
    assert recorded.run("--peft-bisect", "--peft-bisect-bad=failed", "-k", "not loha").ret == 0

    body = "import pytest\n\n@pytest.mark.peft_task('MetaMathQA')\ndef test_other(experiment):\n    {}\n"
    recorded.write("test_other.py", body.format("pytest.skip('no GPU')"))
    assert recorded.run("--peft-bisect", "--peft-bisect-bad=failed", "-k", "not loha").ret == 125


def test_a_bad_verdict_that_there_is_not_is_a_usage_error(recorded):
    result = recorded.spawn("--peft-bisect", "--peft-bisect-bad=worse")

    assert result.returncode == 4
    assert "'worse' is no verdict; there are identical" in output(result)


def test_an_unchanged_tree_is_good(recorded):
    assert recorded.run("--peft-bisect").ret == 0


def test_a_regression_is_bad(recorded):
    recorded.measures("loha", BAD_FLOPS)

    result = recorded.run("--peft-bisect")

    assert result.ret == 1
    result.stdout.fnmatch_lines(["train_step.flops regressed: *", "3 cases: 2 identical, 1 regressed"])


def test_other_bits_are_red_but_no_regression(recorded):
    recorded.measures("loha", {"adapter_sha256": "1" * 64})

    assert recorded.run().ret == 1
    assert recorded.run("--peft-bisect").ret == 0


def test_a_regression_that_is_green_by_choice_is_still_bad(recorded):
    recorded.measures("loha", BAD_FLOPS)

    assert recorded.run("--peft-green=identical,regressed").ret == 0
    assert recorded.run("--peft-green=identical,regressed", "--peft-bisect").ret == 1


@pytest.mark.parametrize(
    "unmeasured",
    [
        {"metrics": None, **FAILED},
        {"metrics": {"forgetting": None}},
        {"metrics": None, "case_version": "2"},
        {"metrics": {"step_time_interval": [0.5, 3.0]}},
    ],
)
def test_a_case_that_failed_or_cannot_be_compared_skips_the_commit(recorded, unmeasured):
    recorded.measures("loha", **unmeasured)

    assert recorded.run("--peft-bisect").ret == 125


def test_a_case_without_a_baseline_skips_the_commit(bench):
    assert bench.run("--peft-bisect").ret == 125


def test_not_comparing_skips_the_commit(recorded):
    assert recorded.run("--peft-bisect", "--peft-no-compare").ret == 125
    assert recorded.run("--peft-bisect", "--peft-update-baselines").ret == 125


def test_nothing_selected_skips_the_commit(recorded):
    assert recorded.run("--peft-bisect", "-k", "nothing").ret == 125


def test_a_case_that_raises_or_is_skipped_skips_the_commit(recorded):
    body = "import pytest\n\n@pytest.mark.peft_task('MetaMathQA')\ndef test_other(experiment):\n    {}\n"
    for line in ("raise RuntimeError", "pytest.skip('no GPU')"):
        recorded.write("test_other.py", body.format(line))

        assert recorded.run("--peft-bisect").ret == 125


def test_another_test_may_be_skipped_but_not_fail(recorded):
    recorded.write("test_other.py", "import pytest\n\ndef test_other():\n    pytest.skip('not today')\n")
    assert recorded.run("--peft-bisect").ret == 0

    recorded.write("test_other.py", "def test_other():\n    raise RuntimeError\n")
    assert recorded.run("--peft-bisect").ret == 125


def test_a_file_that_cannot_be_imported_skips_the_commit(recorded):
    recorded.write("test_other.py", "import nothing_of_that_name\n")

    assert recorded.run("--peft-bisect").ret == 125
    assert recorded.run("--peft-bisect", "--continue-on-collection-errors").ret == 125


def test_a_usage_error_skips_the_commit_and_is_told(recorded):
    (recorded.suite / "default_training_params.json").write_text("{}}")

    result = recorded.spawn("--peft-bisect")

    assert result.returncode == 125
    assert "default_training_params.json" in output(result)
    assert "Traceback" not in output(result)


@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
def test_a_session_that_stopped_early_is_not_good(recorded, option):
    recorded.measures("full-finetuning", {"adapter_sha256": "1" * 64})

    assert recorded.run("--peft-bisect").ret == 0
    assert recorded.run("--peft-bisect", option).ret == 125


def test_a_session_that_stopped_at_a_regression_is_bad(recorded):
    recorded.measures("full-finetuning", BAD_FLOPS)

    assert recorded.run("--peft-bisect", "-x").ret == 1


def test_an_experiment_of_the_user_s_own_counts(bench):
    bench.write("test_mini.py", OWN_EXPERIMENT)
    bench.record()
    assert bench.run("--peft-bisect").ret == 0

    bench.measures("own", BAD_FLOPS)
    result = bench.run("--peft-bisect")

    assert result.ret == 1
    assert table(result) == {"MetaMathQA-mini-own-r4": "regressed"}


def test_ctrl_c_ends_the_bisection(recorded):
    recorded.write("test_other.py", "def test_other():\n    raise KeyboardInterrupt\n")

    assert recorded.run("--peft-bisect").ret == 130


def test_it_can_be_asked_for_in_the_ini_file(recorded):
    recorded.write("pytest.ini", "[pytest]\npeft_bisect = true\n")

    assert recorded.run().ret == 0
    assert recorded.run("-k", "nothing").ret == 125


def test_verdicts_of_workers_count(recorded):
    pytest.importorskip("xdist")
    recorded.measures("loha", {"adapter_sha256": "1" * 64})
    good = recorded.spawn("--peft-bisect", "-n", "1")
    recorded.measures("loha", BAD_FLOPS)
    bad = recorded.spawn("--peft-bisect", "-n", "1")
    (recorded.suite / "default_training_params.json").write_text("{}}")
    skipped = recorded.spawn("--peft-bisect", "-n", "1")

    assert [run.returncode for run in (good, bad, skipped)] == [0, 1, 125], output(bad)


# A repository


def git(folder, *arguments):
    name = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    process = subprocess.run(
        ["git", *name, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_git_bisect_finds_the_commit_that_regressed_and_skips_one_that_cannot_be_measured(recorded):
    def commit(subject, *measured, **fields):
        recorded.measures("loha", *measured, **fields)
        git(recorded.path, "add", "--all")
        git(recorded.path, "commit", "--allow-empty", "--message", subject)

    git(recorded.path, "init", "--quiet")
    commit("start")
    commit("other bits", {"adapter_sha256": "1" * 64})
    commit("still other bits", {"adapter_sha256": "2" * 64})
    commit("does not train", **FAILED)
    commit("trains again", {"adapter_sha256": "3" * 64})
    commit("slower", BAD_FLOPS)
    commit("slower still", {"train_step.flops": 3_000_000_000})

    git(recorded.path, "bisect", "start", "HEAD", "HEAD~6")
    found = git(recorded.path, "bisect", "run", sys.executable, "-m", "pytest", *PLUGINS, "-k", "loha", "--peft-bisect")

    log = git(recorded.path, "bisect", "log")
    assert "is the first bad commit" in found
    assert git(recorded.path, "log", "-1", "--format=%s", "refs/bisect/bad").strip() == "slower"
    (skipped,) = (line for line in log.splitlines() if line.startswith("# skip"))
    assert skipped.endswith("does not train")
