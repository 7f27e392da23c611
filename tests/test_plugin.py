"""The gate: recording, comparing, what is red and what is green, and how a run reports it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from support import (
    CASES,
    FULL,
    LOHA,
    LOHA_CASE,
    LORA,
    LORA_CASE,
    OWN_EXPERIMENT,
    PLUGINS,
    SYNTHETIC_TEST,
    assert_usage_error,
    make_suite,
    output,
    table,
    write_json,
)

from pytest_peftbench.cases.kinds import KINDS, Kind
from pytest_peftbench.plugin.options import documentation
from pytest_peftbench.results.baseline import read, write
from pytest_peftbench.results.metrics import Column

FASTER = {"train_step.flops": 1_000_000_000}
SLOWER = {"train_step.flops": 2_000_000_000}
OTHER_BITS = {"adapter_sha256": "1" * 64}
LOHA_ID = f"test_mini.py::test_mini[{LOHA_CASE}]"


def ini(bench, **settings):
    bench.write("pytest.ini", "[pytest]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))


def commands(result):
    """The pytest commands that a run offers, as arguments."""
    found = re.findall(r"^to (?:accept|record) .*:\n  pytest (.*)$", output(result), re.MULTILINE)
    return [shlex.split(command) for command in found]


# Recording


def test_without_a_baseline_a_case_is_red_and_says_how_to_record_one(bench):
    result = bench.run("-k", "loha")

    result.assert_outcomes(failed=1, deselected=2)
    assert "no baseline: nothing to compare with" in output(result)
    assert "Traceback" not in output(result)
    assert table(result) == {LOHA_CASE: "no baseline"}
    assert commands(result) == [[LOHA_ID, "--peft-update-baselines"]]


def test_the_command_that_a_red_case_offers_makes_it_green(bench):
    (command,) = commands(bench.run("-k", "loha"))

    bench.run(*command).assert_outcomes(passed=1)
    bench.run("-k", "loha").assert_outcomes(passed=1)


def test_the_offered_command_repeats_the_options_that_the_case_needs(bench, monkeypatch):
    make_suite(bench.path / "my suites" / "MetaMathQA" / "mini")
    bench.write("pytest.ini", "[pytest]")
    monkeypatch.chdir(bench.path / "my suites")
    options = ["--peft-suite", ".", "--peft-baselines", "../kept here", "--peft-seeds", "1", "--peft-device", "cpu"]

    result = bench.run("../test_mini.py", "-k", "loha", *options)
    (command,) = commands(result)
    bench.run(*command).assert_outcomes(passed=1)

    assert command == [f"../{LOHA_ID}", *options, "--peft-update-baselines"]
    assert (bench.path / "kept here/MetaMathQA/mini/loha--r4.json").exists()
    bench.run("../test_mini.py", "-k", "loha", *options).assert_outcomes(passed=1)


def test_update_writes_only_what_was_selected(bench):
    result = bench.run("-k", "loha", "--peft-update-baselines")

    result.assert_outcomes(passed=1, deselected=2)
    assert [path.name for path in (bench.path / "baselines").rglob("*") if path.is_file()] == ["loha--r4.json"]
    assert f"{LOHA_CASE}: baseline written" in output(result)
    assert table(result) == {LOHA_CASE: "recorded"}


def test_what_was_recorded_is_identical_in_the_next_run(bench):
    bench.record()

    result = bench.run()

    result.assert_outcomes(passed=3)
    assert table(result) == dict.fromkeys(CASES, "identical")
    assert "3 cases: 3 identical" in output(result)


def test_update_prints_old_and_new(bench):
    bench.record()
    bench.measures("loha", {**SLOWER, "test_accuracy": 0.25})

    result = bench.record()

    text = output(result)
    assert "train_step.flops: 1.204e9 -> 2.000e9 (+66.1 %)" in text
    assert "test_accuracy: 50 % -> 25 % (-25 points)" in text
    assert f"{LOHA_CASE}: baseline written" in text
    assert f"{LORA_CASE}: baseline written" not in text
    assert json.loads(bench.baseline("loha").read_text())["metrics"]["train_step.flops"] == 2_000_000_000


def test_update_leaves_a_baseline_that_says_the_same_untouched(bench):
    bench.record()
    before = bench.baseline("loha").stat().st_mtime_ns
    bench.measures("loha", {"step_time_ratio": 1.26})  # noise, within the margin

    result = bench.record()

    assert bench.baseline("loha").stat().st_mtime_ns == before
    assert "baseline written" not in output(result)


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        ({"metrics": {"test_accuracy": float("nan")}}, "test_accuracy is NaN"),
        ({"metrics": {"train_loss": float("inf")}}, "train_loss is infinite"),
        ({"metrics": {"train_step.flops": "many"}}, "train_step.flops holds text, expected a number"),
        ({"status": "failed", "error_msg": "CUDA out of memory"}, "CUDA out of memory"),
    ],
)
def test_update_refuses_a_result_that_failed_and_keeps_the_old_file(bench, measured, reason):
    bench.record()
    before = bench.baseline("loha").read_bytes()
    bench.measures("loha", **measured)

    result = bench.run("--peft-update-baselines")

    result.assert_outcomes(passed=2, failed=1)
    assert bench.baseline("loha").read_bytes() == before
    assert len(list((bench.path / "baselines").rglob("*.*"))) == 3
    assert table(result) == {FULL: "recorded", LOHA_CASE: "failed", LORA_CASE: "recorded"}
    assert reason in output(result)
    assert "Traceback" not in output(result)


# As `run_experiment` trains: the seeds that are named, or the first and those that the second stage asks for.
TRAINS_SEEDS = """
    import json
    from dataclasses import replace
    from pathlib import Path

    import pytest
    from support import make_result

    from pytest_peftbench.results.result import SeedRun

    @pytest.mark.peft_task("MetaMathQA")
    def test_mini(experiment, peft_baseline):
        result = make_result(experiment.case)
        known = {run.seed: run for run in result.seeds}

        def run(seed):
            return SeedRun(seed, known[seed % 3].metrics)

        def moved(seed):
            # a seed's accuracy moves by 0.001, up and down in turn
            metrics = {**known[seed].metrics, **json.loads(Path("moved.json").read_text())}
            metrics["test_accuracy"] += (-1) ** seed / 1000
            return SeedRun(seed, {name: value for name, value in metrics.items() if value is not None})

        first, *others = experiment.seeds
        result = replace(result, seeds=[run(first)])
        stage = peft_baseline.second_stage(result)
        seeds = [run(seed) for seed in (first, *(others or stage.seeds))]
        print("further", *stage.seeds, "moved", *stage.moved)
        peft_baseline.check(replace(result, seeds=seeds, moved=[moved(seed) for seed in stage.moved]))
"""


@pytest.fixture
def recorded(bench):
    """Three seeds recorded, which `--peft-calibrate` trains again."""
    bench.write("test_mini.py", TRAINS_SEEDS)
    write_json(bench.path / "moved.json", {})
    bench.record("--peft-seeds", "3")
    return bench


def noise(bench, name="test_accuracy"):
    return json.loads(bench.baseline("loha").read_text())["noise"][name]


def test_as_many_seeds_run_as_were_asked_for_and_without_a_number_all_where_the_first_differs(recorded):
    recorded.measures("loha", OTHER_BITS)

    assert "further 1 2 moved\n" in output(recorded.run("-s", "-k", "loha"))
    assert "further moved\n" in output(recorded.run("-s", "-k", "loha", "--peft-seeds", "1"))


def test_calibrating_writes_the_noise_of_pairs_and_tells_it(recorded):
    before = noise(recorded)

    result = recorded.run("-s", "-k", "loha", "--peft-calibrate")

    result.assert_outcomes(passed=1, deselected=2)
    assert "further moved 0 1 2\n" in output(result)
    after = noise(recorded)
    assert "paired_sd" not in before
    assert after == {**before, "paired_sd": 0.001, "detectable": after["detectable"]}
    assert "noise of test_accuracy: sd of pairs not measured -> 0.001" in output(result)
    assert table(result) == {LOHA_CASE: "recorded"}
    assert table(recorded.run("-k", "loha")) == {LOHA_CASE: "identical"}
    assert "unchanged" in output(recorded.run("-k", "loha", "--peft-calibrate"))


@pytest.mark.parametrize("in_ini", [False, True])
def test_recording_and_calibrating_go_together_for_as_many_seeds(recorded, in_ini):
    recorded.baseline("loha").unlink()
    if in_ini:
        ini(recorded, peft_calibrate="true")
    arguments = [] if in_ini else ["--peft-calibrate"]

    result = recorded.record("-s", "-k", "loha", "--peft-seeds", "2", *arguments)

    assert "further moved 0 1\n" in output(result)
    assert (noise(recorded)["seeds"], noise(recorded)["paired_sd"]) == (2, 0.001)


def test_the_noise_of_pairs_stays_when_a_case_is_recorded_anew(recorded):
    recorded.run("--peft-calibrate").assert_outcomes(passed=3)
    before = noise(recorded)

    recorded.measures("loha", FASTER)
    recorded.record("-k", "loha", "--peft-seeds", "3")
    recorded.record("-k", "loha", "--peft-seeds", "1")

    assert noise(recorded) == before


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        ({"forgetting": float("nan")}, "seed 0 on moved base weights: forgetting is NaN"),
        ({"train_loss": None}, "seed 0 on moved base weights: train_loss is missing"),
    ],
)
@pytest.mark.parametrize("recording", [(), ("--peft-update-baselines", "--peft-seeds", "3")])
def test_a_seed_that_measured_no_quality_calibrates_nothing(recorded, moved, words, recording):
    before = recorded.baseline("loha").read_bytes()
    write_json(recorded.path / "moved.json", moved)

    result = recorded.run("-k", "loha", "--peft-calibrate", *recording)

    result.assert_outcomes(failed=1, deselected=2)
    assert f"{LOHA_CASE}: not calibrated: {words}" in output(result)
    assert recorded.baseline("loha").read_bytes() == before


def test_another_program_than_the_baselines_is_not_calibrated_and_trains_no_moved_weights(recorded):
    before = recorded.baseline("loha").read_bytes()
    recorded.measures("loha", {"test_accuracy": 0.51})

    result = recorded.run("-s", "-k", "loha", "--peft-calibrate")

    result.assert_outcomes(failed=1, deselected=2)
    assert "further 1 2 moved\n" in output(result)
    words = f"{LOHA_CASE}: not calibrated: test_accuracy is within noise, not identical to the baseline"
    assert words in output(result)
    assert "record it first: pytest " in output(result)
    assert recorded.baseline("loha").read_bytes() == before


@pytest.mark.parametrize("recording", [(), ("--peft-update-baselines",)])
def test_calibrating_without_a_second_stage_says_so(bench, recording):
    bench.record()

    result = bench.run("-k", "loha", "--peft-calibrate", *recording)

    result.assert_outcomes(failed=1, deselected=2)
    words = "seed 0 was not trained on moved base weights; pass second_stage=peft_baseline.second_stage"
    assert f"not calibrated: {words}" in output(result)


def test_a_program_that_is_the_baselines_but_for_rounding_is_calibrated(recorded):
    told = "{'untrained output': [1.0], 'gradient: a': [2.0]}"
    witnessed = f"seeds=[run(first)], witness=Witness({told}), disturbed=[{told}])"
    test = TRAINS_SEEDS.replace("seeds=[run(first)])", witnessed).replace("import SeedRun", "import SeedRun, Witness")
    recorded.write("test_mini.py", test)
    recorded.record("--peft-seeds", "3")
    recorded.measures("loha", OTHER_BITS)

    result = recorded.run("-s", "-k", "loha", "--peft-calibrate")

    result.assert_outcomes(passed=1, deselected=2)
    assert "further moved 0 1 2\n" in output(result)
    assert noise(recorded)["paired_sd"] == 0.001


def test_another_case_version_is_not_calibrated_and_trains_no_moved_weights(recorded):
    recorded.measures("loha", case_version="2")

    result = recorded.run("-s", "-k", "loha", "--peft-calibrate", "--peft-green", "not comparable")

    result.assert_outcomes(failed=1, deselected=2)
    assert "further moved\n" in output(result)
    assert "not calibrated: case is not comparable, not identical to the baseline" in output(result)


def test_a_case_that_trains_is_calibrated_while_it_is_recorded_or_later(bench):
    bench.trains()
    bench.record("-k", "loha", "--peft-seeds", "2", "--peft-calibrate")
    at_once = noise(bench, "forgetting")
    bench.baseline("loha").unlink()
    bench.record("-k", "loha", "--peft-seeds", "2")
    apart = noise(bench, "forgetting")

    later = bench.run("-k", "loha", "--peft-calibrate")

    later.assert_outcomes(passed=1, deselected=2)
    assert noise(bench, "forgetting") == at_once
    assert at_once["paired_sd"] < 0.01 * apart["sd"]
    assert at_once["sd"] == apart["sd"]
    assert table(bench.run("-k", "loha")) == {LOHA_CASE: "identical"}


def test_a_single_seed_is_not_calibrated(recorded):
    recorded.baseline("loha").unlink()

    result = recorded.run("-k", "loha", "--peft-update-baselines", "--peft-seeds", "1", "--peft-calibrate")

    assert "not calibrated: one seed has no spread; record more with --peft-seeds" in output(result)


def test_a_baseline_without_any_seed_misses_them_and_raises_nothing(recorded):
    file = recorded.baseline("loha")
    write(replace(read(file), seeds=[], noise={}), file)

    result = recorded.run("-k", "loha", "--peft-calibrate")

    assert table(result) == {LOHA_CASE: "missing metric"}
    assert "Traceback" not in output(result)


def test_a_time_beyond_the_suites_own_margin_is_accepted(bench):
    write_json(bench.suite / "margins.json", {"step_time_ratio": 0.05})
    bench.record()
    bench.measures("loha", {"step_time_ratio": 1.4})  # within the plugin's margin

    red = bench.run("-k", "loha")
    bench.record("-k", "loha")

    assert table(red) == {LOHA_CASE: "regressed"}
    assert table(bench.run("-k", "loha")) == {LOHA_CASE: "identical"}


# Comparing


def test_a_regression_is_red_and_says_what_moved_against_which_baseline(bench):
    bench.record()
    bench.measures(
        "loha",
        {**SLOWER, "train_step.calls": 3_054},
        operators={"train_step": {"aten.mm @ LoHaLayer.forward": [96, 797_000_000]}},
    )

    result = bench.run()

    result.assert_outcomes(passed=2, failed=1)
    text = output(result)
    assert "train_step.flops regressed: 1.204e9 -> 2.000e9 (+66.1 %, must be equal)" in text
    assert "aten.mm  48 -> 96 calls" in text
    assert "baselines/MetaMathQA/mini/loha--r4.json (torch 2.13.0, same environment)" in text
    assert commands(result) == [[LOHA_ID, "--peft-update-baselines"]]
    assert "Traceback" not in text
    assert table(result) == {FULL: "identical", LOHA_CASE: "regressed", LORA_CASE: "identical"}
    assert "3 cases: 2 identical, 1 regressed" in text


def test_an_improvement_is_green_and_says_how_to_record_it(bench):
    bench.record()
    bench.measures("loha", FASTER)

    result = bench.run("-k", "loha")
    (command,) = commands(result)

    result.assert_outcomes(passed=1, deselected=2)
    assert table(result) == {LOHA_CASE: "improved"}
    assert command == [LOHA_ID, "--peft-update-baselines"]
    bench.run(*command).assert_outcomes(passed=1)
    assert table(bench.run("-k", "loha")) == {LOHA_CASE: "identical"}


def test_a_difference_within_the_margin_is_green(bench):
    bench.record()
    bench.measures("loha", {"test_accuracy": 0.53})
    bench.measures("lora", {"step_time_ratio": 1.3})  # times always differ a little

    result = bench.run()

    result.assert_outcomes(passed=3)
    assert table(result) == {FULL: "identical", LOHA_CASE: "within noise", LORA_CASE: "identical"}


def test_other_bits_are_red_unless_numerics_changed_is_declared_green(bench):
    bench.record()
    bench.measures("loha", OTHER_BITS)

    red = bench.run("-k", "loha")
    green = bench.run("-k", "loha", "--peft-green", "identical,within noise,improved,numerics changed")

    red.assert_outcomes(failed=1, deselected=2)
    green.assert_outcomes(passed=1, deselected=2)
    assert table(red) == table(green) == {LOHA_CASE: "numerics changed"}


def test_an_improvement_can_be_declared_red(bench):
    bench.record()
    bench.measures("loha", FASTER)

    bench.run("--peft-green", "identical").assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize(
    ("measured", "verdict", "words"),
    [
        ({"metrics": {"forgetting": None}}, "missing metric", "forgetting"),
        ({"metrics": {"train_step.flops": None}}, "missing metric", "train_step.flops"),
        ({"metrics": {"speed": 3}}, "unknown metric", "speed"),
        ({"case_version": "2"}, "not comparable", "version 1 -> 2"),
        ({"metrics": {"test_accuracy": float("nan")}}, "failed", "test_accuracy failed: is NaN"),
        ({"status": "failed", "error_msg": "out of memory"}, "failed", "out of memory"),
    ],
)
def test_what_cannot_be_compared_is_red(bench, measured, verdict, words):
    bench.record()
    bench.measures("loha", **measured)

    result = bench.run()

    result.assert_outcomes(passed=2, failed=1)
    assert table(result) == {FULL: "identical", LOHA_CASE: verdict, LORA_CASE: "identical"}
    assert words in output(result)
    assert "Traceback" not in output(result)


def test_a_metric_that_is_new_since_the_baseline_is_shown_counted_and_green(bench):
    bench.record()
    bench.measures("loha", {"train_step.peak_bytes": 1_000_000})

    result = bench.run("-k", "loha")
    red = bench.run("-k", "loha", "--peft-green", "identical,within noise")

    result.assert_outcomes(passed=1, deselected=2)
    assert table(result) == {LOHA_CASE: "not recorded yet"}
    assert "1 case: 1 not recorded yet\nto record what is better, or not recorded yet, in 1 case:\n" in output(result)
    red.assert_outcomes(failed=1, deselected=2)
    assert "train_step.peak_bytes not recorded yet: 976.56 KiB (the baseline does not hold it)" in output(red)
    assert commands(result) == commands(red) == [[LOHA_ID, "--peft-update-baselines"]]


def test_a_new_metric_cannot_be_calibrated_before_it_is_recorded(bench):
    bench.measures("loha", {"train_loss": None})
    bench.record()
    bench.measures("loha", {"train_loss": 1.5})

    result = bench.run("-k", "loha", "--peft-calibrate")

    assert "not calibrated: train_loss is not recorded yet, not identical to the baseline" in output(result)
    assert "Traceback" not in output(result)


def test_measuring_only_compares_with_nothing_and_is_green(bench):
    result = bench.run("--peft-no-compare")

    result.assert_outcomes(passed=3)
    assert table(result) == dict.fromkeys(CASES, "not compared")
    assert "3 cases: 3 not compared" in output(result)


# What else may happen in a case


def test_an_exception_in_a_case_is_a_failed_row(bench):
    bench.record()
    bench.write(
        "test_mini.py",
        """
        from support import make_result

        def test_mini(experiment, peft_baseline):
            if experiment.case.method == "loha":
                raise RuntimeError("out of memory\\nin layer 3")
            peft_baseline.check(make_result(experiment.case))
        """,
    )

    result = bench.run()

    result.assert_outcomes(passed=2, failed=1)
    assert table(result) == {FULL: "identical", LOHA_CASE: "failed", LORA_CASE: "identical"}
    assert re.search(f"^{LOHA_CASE} .*RuntimeError: out of", output(result), re.MULTILINE)


def test_a_fixture_that_fails_is_a_failed_row(bench):
    bench.write("conftest.py", "import pytest\n@pytest.fixture\ndef peft_baseline():\n    raise OSError('no disk')")

    result = bench.run("-k", "loha")

    result.assert_outcomes(errors=1, deselected=2)
    assert table(result) == {LOHA_CASE: "failed"}


def test_a_case_that_fails_after_its_comparison_is_a_failed_row_and_not_identical(bench):
    bench.record()
    bench.write(
        "test_mini.py",
        """
        from support import make_result

        def test_mini(experiment, peft_baseline):
            peft_baseline.check(make_result(experiment.case))
            assert experiment.case.method != "loha"
        """,
    )

    assert table(bench.run()) == {FULL: "identical", LOHA_CASE: "failed", LORA_CASE: "identical"}


def test_a_case_that_is_never_compared_fails(bench):
    bench.record()
    bench.write(
        "test_mini.py",
        """
        from support import make_result

        def test_mini(experiment, peft_baseline):
            if experiment.case.method != "loha":
                peft_baseline.check(make_result(experiment.case))
        """,
    )

    result = bench.run()

    result.assert_outcomes(passed=2, failed=1)
    assert table(result) == {FULL: "identical", LOHA_CASE: "failed", LORA_CASE: "identical"}
    words = f"{LOHA_CASE}: never compared: the test passed without calling peft_baseline.check(result)"
    assert words in output(result)


def test_a_case_of_the_user_s_own_has_a_row_and_must_be_compared(bench):
    bench.write("test_mini.py", OWN_EXPERIMENT)
    bench.record()
    assert table(bench.run()) == {"MetaMathQA-mini-own-r4": "identical"}

    bench.write("test_mini.py", OWN_EXPERIMENT.replace("peft_baseline.check(", "("))
    result = bench.run()

    result.assert_outcomes(failed=1)
    assert "test_mini[own]: never compared" in output(result)


# Accuracies of five seeds: with LOST, p is 0.024, enough for one test but not for all that the session may run.
FIVE_SEEDS = """
    from dataclasses import replace

    import pytest
    from support import make_result

    from pytest_peftbench.results.result import SeedRun

    @pytest.mark.peft_task("MetaMathQA")
    def test_mini(experiment, peft_baseline):
        result = make_result(experiment.case)
        lost = LOST and experiment.case.method == "loha"
        mean, step = (0.4, 0.05) if lost else (0.5, 0.002)
        metrics = result.seeds[0].metrics
        runs = [SeedRun(seed, {**metrics, "test_accuracy": mean + step * (seed - 2)}) for seed in range(5)]
        peft_baseline.check(replace(result, seeds=runs))
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("--peft-bisect",)])
def test_a_case_that_turns_out_to_have_regressed_fails_the_run(bench, arguments):
    if "-n" in arguments:
        pytest.importorskip("xdist")
    bench.write("test_mini.py", FIVE_SEEDS.replace("LOST", "False"))
    bench.record()
    bench.write("test_mini.py", FIVE_SEEDS.replace("LOST", "True"))
    green = "identical,within noise,improved,environment drift,cannot tell"

    result = bench.run("--peft-green", green, *arguments)

    assert table(result) == {FULL: "identical", LOHA_CASE: "regressed", LORA_CASE: "identical"}
    assert result.ret == 1
    assert f"(Holm's correction) regressed what passed as cannot tell: {LOHA_CASE}" in output(result)


def test_a_case_whose_teardown_fails_has_one_row_and_it_is_failed(bench):
    bench.record()
    bench.write(
        "test_mini.py",
        """
        import pytest
        from support import make_result

        @pytest.fixture
        def resource():
            yield
            raise OSError("cannot be closed")

        def test_mini(experiment, peft_baseline, resource):
            peft_baseline.check(make_result(experiment.case))
        """,
    )

    result = bench.run("-k", "loha")

    result.assert_outcomes(passed=1, errors=1, deselected=2)
    assert table(result) == {LOHA_CASE: "failed"}


def test_bad_input_found_while_a_case_runs_shows_its_message_and_no_traceback(bench):
    bench.write(
        "test_mini.py",
        """
        from pytest_peftbench.results.files import InputError

        def test_mini(experiment):
            raise InputError(f"{experiment.path}: key 'rank' is unknown")
        """,
    )

    result = bench.run("-k", "loha")

    result.assert_outcomes(failed=1, deselected=2)
    assert table(result) == {LOHA_CASE: "failed"}
    assert "loha/r4: key 'rank' is unknown" in output(result)
    assert "raise InputError" not in output(result)
    assert "Traceback" not in output(result)


def test_a_skipped_case_has_no_row(bench):
    bench.record()
    bench.write(
        "conftest.py",
        """
        import pytest

        @pytest.fixture
        def peft_baseline(experiment, peft_baseline):
            if experiment.case.method == "loha":
                pytest.skip("takes too long")
            return peft_baseline
        """,
    )

    result = bench.run()

    result.assert_outcomes(passed=2, skipped=1)
    assert list(table(result)) == [FULL, LORA_CASE]


SHOWS_OUTCOMES = """
    from pytest_peftbench.plugin.outcome import COLLECTOR

    def pytest_terminal_summary(config):
        for found in sorted(config.stash[COLLECTOR].outcomes, key=lambda found: found.nodeid):
            verdict = found.verdict.verdict if found.verdict else "no verdict"
            print("outcome:", found.nodeid.partition("[")[2], verdict, found.red, found.wall_s > 0, found.unmeasured)
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_a_report_finds_what_every_case_came_to_in_one_place(bench, arguments):
    if arguments:
        pytest.importorskip("xdist")
    bench.record()
    bench.measures("lora", SLOWER)
    bench.write("conftest.py", SHOWS_OUTCOMES)
    bench.write(
        "test_mini.py",
        """
        import pytest
        from support import make_result

        def test_mini(experiment, peft_baseline):
            if experiment.case.method == "full-finetuning":
                pytest.skip("takes too long")
            peft_baseline.check(make_result(experiment.case))
        """,
    )

    text = output(bench.run(*arguments))

    assert re.findall("^outcome: (.*)$", text, re.MULTILINE) == [
        f"{FULL}] no verdict False True Skipped: takes too long",
        f"{LOHA_CASE}] identical False True ",
        f"{LORA_CASE}] regressed True True ",
    ]


def test_a_case_of_the_user_s_own_that_raises_is_an_outcome_without_a_verdict(bench):
    bench.write("conftest.py", SHOWS_OUTCOMES)
    bench.write("test_mini.py", OWN_EXPERIMENT.replace("peft_baseline.check(", "raise OSError('no disk') or ("))

    result = bench.run()

    assert "outcome: own] no verdict False True OSError: no disk" in output(result)
    assert "PEFT benchmark" not in output(result)


def test_the_level_of_each_test_follows_from_the_metrics_of_the_selected_cases(bench):
    bench.write(
        "test_mini.py",
        """
        from pytest_peftbench.plugin.selection import SELECTION

        def test_mini(experiment, request):
            print("tests of quality:", request.config.stash[SELECTION].quality_tests)
        """,
    )

    # accuracy, forgetting and training loss of each
    assert "tests of quality: 9\n" in output(bench.run("-s"))
    assert "tests of quality: 3\n" in output(bench.run("-s", "-k", "loha"))


# Kinds of case


@pytest.fixture
def glance(monkeypatch):
    """A third kind, as its row declares it."""
    kind = Kind(
        name="glance",
        marker="peft_glance",
        description="the test takes LoRA, to look at",
        takes=lambda experiment, named: experiment.case.method == "lora",
        lacking="with LoRA",
        run="support:make_result",
        columns=(Column("size", "params.total", ",.0f"),),
    )
    monkeypatch.setitem(KINDS, kind.name, kind)
    return kind


GLANCE_TEST = SYNTHETIC_TEST.replace("@pytest.mark.peft_task", "@pytest.mark.peft_glance\n    @pytest.mark.peft_task")


def test_a_kind_of_case_is_one_row(bench, glance):
    bench.write("test_mini.py", GLANCE_TEST)

    bench.record()
    result = bench.run("--strict-markers")

    assert bench.collected() == [f"glance-{LORA_CASE}"]
    assert (bench.path / "baselines/glance/MetaMathQA/mini/lora--r4.json").exists()
    result.stdout.fnmatch_lines(["case *size *", f"glance-{LORA_CASE}  identical *671,872 *"])
    assert "@pytest.mark.peft_glance: the test takes LoRA, to look at" in output(bench.run("--markers"))


def test_a_kind_without_a_case_is_refused_in_its_own_words(bench, glance):
    shutil.rmtree(bench.suite / "experiments" / "lora")
    bench.write("test_mini.py", GLANCE_TEST)

    assert_usage_error(bench.run(), "no suite below holds one of MetaMathQA with LoRA")


def test_a_test_of_two_kinds_is_refused(bench, glance):
    bench.write(
        "test_mini.py",
        GLANCE_TEST.replace("@pytest.mark.peft_task", "@pytest.mark.peft_footprint\n    @pytest.mark.peft_task"),
    )

    assert_usage_error(bench.run(), "test_mini.py::test_mini", "peft_footprint and peft_glance", "keep one marker")


# Options and their twins in the ini file


def test_each_option_is_told_by_pytest_s_help_as_in_the_documentation(bench, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    text = output(bench.run("--help"))

    rows = documentation()
    assert len(rows) >= 13
    for row in rows:
        told = f"{row.help} (default: {row.default})" if row.default else row.help
        assert re.search(rf"^ +{re.escape(row.option.replace(' ', '='))}\s+{re.escape(told)}$", text, re.MULTILINE)
        assert re.search(rf"^ +{row.ini} \(.*\):\s+{re.escape(told)}$", text, re.MULTILINE)


def test_an_empty_value_in_the_ini_file_is_none(bench):
    ini(bench, peft_seeds="", peft_green="", peft_baselines="", peft_suite="", peft_json="")
    bench.record()

    assert table(bench.run()) == dict.fromkeys(CASES, "identical")
    assert bench.baseline("loha").is_relative_to(bench.path / "baselines")


@pytest.mark.parametrize("in_ini", [False, True])
def test_baselines_may_lie_elsewhere(bench, in_ini):
    if in_ini:
        ini(bench, peft_baselines="kept/here")
    arguments = [] if in_ini else ["--peft-baselines", "kept/here"]

    bench.record(*arguments)

    assert sorted(path.name for path in (bench.path / "kept/here/MetaMathQA/mini").iterdir()) == [
        "full-finetuning--default.json",
        "loha--r4.json",
        "lora--r4.json",
    ]
    bench.run(*arguments).assert_outcomes(passed=3)


def test_update_in_the_ini_file(bench):
    ini(bench, peft_update_baselines="true")

    bench.run().assert_outcomes(passed=3)

    assert bench.baseline("loha").exists()


def test_no_compare_in_the_ini_file(bench):
    ini(bench, peft_no_compare="true")

    assert table(bench.run()) == dict.fromkeys(CASES, "not compared")


@pytest.mark.parametrize("name", ["peft_update_baselines", "peft_no_compare"])
def test_a_flag_on_the_command_line_wins_over_the_ini_file(bench, name):
    ini(bench, **{name: "false"})
    option = "--" + name.replace("_", "-")

    bench.run().assert_outcomes(failed=3)
    bench.run(option).assert_outcomes(passed=3)


def test_green_verdicts_in_the_ini_file_and_the_command_line_wins(bench):
    bench.record()
    bench.measures("loha", OTHER_BITS)
    ini(bench, peft_green="identical, numerics changed")

    bench.run().assert_outcomes(passed=3)
    bench.run("--peft-green", "identical").assert_outcomes(passed=2, failed=1)


SHOWS_SETTINGS = """
    def test_mini(experiment):
        print("device", experiment.device, "seeds", *experiment.seeds)
"""


def test_seeds_count_up_from_the_experiments_own(bench):
    bench.write("test_mini.py", SHOWS_SETTINGS)
    write_json(bench.suite / "experiments/loha/r4/training_params.json", {"seed": 7})

    assert "seeds 7\n" in output(bench.run("-s", "-k", "loha"))
    assert "seeds 7 8 9\n" in output(bench.run("-s", "-k", "loha", "--peft-seeds", "3"))


@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_seeds_and_device_in_the_ini_file_and_the_command_line_wins(bench, arguments):
    bench.write("test_mini.py", SHOWS_SETTINGS + "        assert 0\n")
    ini(bench, peft_seeds="2", peft_device="meta")

    from_ini = output(bench.run("-k", "loha", *arguments))
    from_command_line = output(bench.run("-k", "loha", "--peft-seeds", "3", "--peft-device", "cpu", *arguments))

    assert "device meta seeds 0 1\n" in from_ini
    assert "device cpu seeds 0 1 2\n" in from_command_line


def test_a_suite_in_the_ini_file_and_the_command_line_wins(bench):
    make_suite(bench.path / "a" / "MetaMathQA" / "one")
    make_suite(bench.path / "b" / "MetaMathQA" / "two")
    ini(bench, peft_suite="a")

    assert bench.collected("-k", "loha") == ["MetaMathQA-one-loha-r4"]
    assert bench.collected("-k", "loha", "--peft-suite", "b") == ["MetaMathQA-two-loha-r4"]


def test_results_folder_in_the_ini_file_and_the_command_line_wins(bench):
    ini(bench, peft_json="a")

    bench.run("-k", "loha", "--peft-no-compare")
    bench.run("-k", "lora", "--peft-no-compare", "--peft-json", "b")

    assert (bench.path / "a/MetaMathQA/mini/loha--r4.json").exists()
    assert (bench.path / "b/MetaMathQA/mini/lora--r4.json").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--peft-seeds", "0", ["'0'", "at least 1"]),
        ("--peft-seeds", "x", ["'x'", "at least 1"]),
        ("--peft-seeds", "-1", ["'-1'", "at least 1"]),
        ("--peft-green", "identical,great", ["'great'", "within noise"]),
        ("--peft-green", "identical,", ["''", "within noise"]),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_option_and_by_ini_name(bench, option, value, words):
    name = option.removeprefix("--").replace("-", "_")

    assert_usage_error(bench.run(f"{option}={value}"), option, *words)
    ini(bench, **{name: value})
    assert_usage_error(bench.run(), name, *words)


@pytest.mark.parametrize("name", ["peft_update_baselines", "peft_no_compare"])
def test_a_flag_that_is_neither_true_nor_false_is_refused(bench, name):
    ini(bench, **{name: "perhaps"})

    assert_usage_error(bench.run(), name, "'perhaps'")


def newer_schema(data):
    data["schema"] = 99


def nan(data):
    data["metrics"]["step_time_ratio"] = float("nan")


def text_for_a_number(data):
    data["metrics"]["train_step.flops"] = "many"


def no_seeds(data):
    del data["seeds"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (newer_schema, "schema 99 is newer"),
        (nan, "metrics.step_time_ratio is NaN"),
        (text_for_a_number, "metrics.train_step.flops holds text"),
        (no_seeds, "object missing required field `seeds`"),
    ],
)
def test_a_baseline_that_cannot_be_read_is_refused_before_anything_runs(bench, spoil, words):
    bench.record()
    data = json.loads(bench.baseline("loha").read_text())
    spoil(data)
    write_json(bench.baseline("loha"), data)

    assert_usage_error(bench.run(), "baselines/MetaMathQA/mini/loha--r4.json", words)
    bench.run("-k", "lora").assert_outcomes(passed=1, deselected=2)  # another case is not concerned


def test_an_update_does_not_overwrite_a_baseline_that_it_cannot_read(bench):
    bench.record()
    data = json.loads(bench.baseline("loha").read_text())
    newer_schema(data)
    write_json(bench.baseline("loha"), data)
    before = bench.baseline("loha").read_bytes()

    assert_usage_error(bench.run("--peft-update-baselines"), "loha--r4.json", "schema 99 is newer")
    assert bench.baseline("loha").read_bytes() == before


def test_a_benchmark_without_any_suite_is_refused_and_not_skipped(bench):
    shutil.rmtree(bench.suite)

    assert_usage_error(
        bench.run(), "takes `experiment`, but no suite below holds one of MetaMathQA", "--peft-suite DIR"
    )


# Several processes


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    """Whether xdist is installed; without it there is nothing to test."""
    return pytest.importorskip("xdist")


@pytest.mark.usefixtures("parallel")
def test_parallel_workers_give_one_table_with_the_same_rows(bench):
    bench.run("-n", "2", "--peft-update-baselines").assert_outcomes(passed=3)
    bench.measures("loha", SLOWER)
    bench.measures("lora", FASTER)

    alone = bench.run()
    together = bench.run("-n", "2")

    expected = {FULL: "identical", LOHA_CASE: "regressed", LORA_CASE: "improved"}
    together.assert_outcomes(passed=2, failed=1)
    assert table(alone) == table(together) == expected
    assert output(together).count(" PEFT benchmark ") == 1
    assert "3 cases: 1 identical, 1 improved, 1 regressed" in output(together)


@pytest.mark.usefixtures("parallel")
def test_options_reach_parallel_workers(bench):
    bench.record("--peft-baselines", "elsewhere")
    bench.measures("loha", OTHER_BITS)

    result = bench.run("-n", "2", "--peft-baselines", "elsewhere", "--peft-green", "identical,numerics changed")

    result.assert_outcomes(passed=3)


@pytest.mark.usefixtures("parallel")
def test_a_bad_baseline_ends_parallel_workers_with_the_same_message(bench):
    bench.record()
    bench.baseline("loha").write_text('{"schema": 99}')

    assert_usage_error(bench.run("-n", "2"), "loha--r4.json: schema 99 is newer")


# What a run shows


def test_the_header_says_versions_device_cases_and_what_they_are_compared_with(bench):
    text = output(bench.run())

    assert re.search(r"^peftbench: peft [\d.]+, torch [\d.]+, transformers [\d.]+; device cpu$", text, re.MULTILINE)
    assert "peftbench: 3 cases of MetaMathQA/mini; compared with baselines" in text


def test_without_the_plugins_for_workers_a_run_is_the_same(bench):
    bench.record("-p", "no:xdist")

    assert table(bench.run("-p", "no:xdist")) == dict.fromkeys(CASES, "identical")


@pytest.mark.parametrize(
    "name", ["experiment", "base_model", "task_data", "gpu_memory", "peft_progress", "peft_baseline"]
)
def test_each_fixture_is_explained(bench, name):
    text = output(bench.run("--fixtures", "test_mini.py"))

    entry = re.search(rf"^{name}\b.* -- .*plugin.__init__.py:\d+\n    (\S.*)", text, re.MULTILINE)
    assert entry is not None
    assert len(entry[1]) > 30


SHOWS_PROGRESS = """
    from support import make_result

    def test_mini(experiment, peft_progress, peft_baseline):
        peft_progress("seed 0, step 1/3")
        peft_baseline.check(make_result(experiment.case))
"""


def test_progress_is_silent_without_a_terminal(bench):
    bench.write("test_mini.py", SHOWS_PROGRESS)

    text = output(bench.run())

    assert "\r" not in text
    assert "step 1/3" not in text


def on_a_terminal(bench, *arguments):
    """What pytest writes to a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *PLUGINS, "--color=no", *arguments],
        cwd=bench.path,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    chunks = []
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # the terminal is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(ours)
    assert process.wait(60) == 0
    return b"".join(chunks).decode()


def test_progress_is_shown_on_a_terminal_and_removed_at_the_end(bench):
    bench.write("test_mini.py", SHOWS_PROGRESS)

    shown = on_a_terminal(bench, "-k", "loha", "--peft-no-compare")
    quiet = on_a_terminal(bench, "-k", "loha", "--peft-no-compare", "-q")

    line = f"{LOHA_CASE}: seed 0, step 1/3"
    assert f"\r{line}" in shown
    assert "\r" + " " * len(line) + "\r" in shown
    assert "step 1/3" not in quiet


# Results in PEFT's schema


def test_a_diverged_case_still_writes_its_result_with_null_for_nan(bench):
    bench.record()
    bench.measures("loha", {"train_loss": float("nan")})

    result = bench.run("-k", "loha", "--peft-json", "results")

    result.assert_outcomes(failed=1, deselected=2)
    assert "train_loss failed: is NaN" in output(result)
    block = json.loads((bench.path / "results/MetaMathQA/mini/loha--r4.json").read_text())["peftbench"]
    assert block["seeds"][0]["metrics"]["train_loss"] is None


def test_a_mistake_in_the_adapters_config_is_told_without_a_traceback(bench):
    make_suite(bench.suite, {"lora/r4": ({**LORA, "rank": 4}, None), "loha/r4": (LOHA, {"optimizer_type": "Adagard"})})
    bench.trains()

    result = bench.run("-k", "loha or lora")

    result.assert_outcomes(failed=2, deselected=1)
    text = output(result)
    assert "lora/r4/adapter_config.json: key 'rank' is unknown to LoraConfig" in text
    assert "optimizer_type: 'Adagard' is neither a class of torch.optim" in text
    assert "Traceback" not in text
    assert table(result) == {LOHA_CASE: "failed", LORA_CASE: "failed"}
