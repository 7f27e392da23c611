"""`perf/against_peft.py`: the same experiment by PEFT's script, here one that only writes a result, and by ours."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support import LORA, REPOSITORY, make_suite, unmeasured, write_json

_spec = importlib.util.spec_from_file_location("against_peft", REPOSITORY / "perf" / "against_peft.py")
perf = importlib.util.module_from_spec(_spec)
sys.modules["against_peft"] = perf
_spec.loader.exec_module(perf)

PARAMS = {"max_steps": 1, "eval_steps": 1, "batch_size": 2, "generation_kwargs": {"max_new_tokens": 1}}
# What PEFT's script leaves behind, as far as it is read: a million seconds make the ratio known.
SCRIPT = """
import json, pathlib, sys, time

name = sys.argv[1].removeprefix("experiments/").replace("/", "--")
folder = pathlib.Path(FOLDER)
folder.mkdir(exist_ok=True)
stamp = "" if folder.name == "results" else f"--2025-06-19T15-04-{time.time_ns()}+00-00"
info = {"status": STATUS, "accelerator_memory_max": 2**31}
result = {"run_info": {"total_time": 1e6, "error_msg": "stopped"}, "train_info": info}
(folder / f"{name}{stamp}.json").write_text(json.dumps(result))
"""
RESULT = {"train_info": {"status": "success", "accelerator_memory_max": 7}, "run_info": {"total_time": 5.0}}
# Beside the one that runs: names and ids that hold its own.
EXPERIMENTS = {
    "lora/r4": (LORA, None),
    "lora/r4-other": (LORA, None),
    "adalora/r4": (LORA, None),
    "xlora/lora-r4": (LORA, None),
}


def checkout(folder, status="success", results="temporary_results"):
    suite = folder / "method_comparison" / "MetaMathQA"
    make_suite(suite, EXPERIMENTS, **PARAMS)
    (suite / "run.py").write_text(SCRIPT.replace("STATUS", repr(status)).replace("FOLDER", repr(results)))
    for older in ("results/lora--r4.json", "temporary_results/lora--r4--2025-06-18T11-02-44+00-00.json"):
        write_json(suite / older, {})
    return folder


def against_peft(*arguments):
    command = [sys.executable, str(REPOSITORY / "perf" / "against_peft.py"), *map(str, arguments)]
    return subprocess.run(command, env=unmeasured(), capture_output=True, text=True, timeout=300)


def test_both_run_the_experiment_and_the_ratio_is_told(tmp_path):
    done = against_peft(checkout(tmp_path), "--only", "lora/r4", "--", "-p", "no:cacheprovider")

    assert done.returncode == 0, done.stdout + done.stderr
    header, row = done.stdout.splitlines()
    assert header.split()[:3] == ["experiment", "PEFT", "s"]
    name, theirs, ours, ratio, their_peak, our_peak = row.split()
    assert (name, theirs, their_peak, our_peak) == ("lora/r4", "1000000.0", "2.00", "0.00")
    assert float(ours) > 0
    assert float(ratio) < 1


def test_rounds_run_both_in_turn_and_the_median_of_their_ratios_is_told(tmp_path, monkeypatch, capsys):
    ran, runs = [], iter([(10, 0), (20, 2**30), (10, 2**30), (50, 0), (10, 2**31), (10, 0)])

    def side(name):
        return lambda *_: ran.append(name) or perf.Side(*next(runs))

    monkeypatch.setattr(perf, "_test", lambda *_: "the test")
    monkeypatch.setattr(perf, "_theirs", side("theirs"))
    monkeypatch.setattr(perf, "_ours", side("ours"))
    monkeypatch.setattr(sys, "argv", ["against_peft.py", str(checkout(tmp_path)), "--only", "lora/r4", "--rounds", "3"])

    perf.main()

    assert ran == ["theirs", "ours"] * 3
    assert capsys.readouterr().out.splitlines()[1].split() == ["lora/r4", "10.0", "20.0", "2.00", "2.00", "1.00"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "vera"], "--only vera: no experiment of"),
        (["--task", "image-gen"], "run.py: no such file; give the folder of a checkout of PEFT"),
        (["--only", "lora/r4-other"], "+00-00.json: canceled: stopped"),
    ],
)
def test_what_cannot_be_compared_is_told(tmp_path, arguments, words):
    done = against_peft(checkout(tmp_path, "canceled", "cancelled_results"), *arguments)

    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_less_than_one_round_is_a_usage_error(tmp_path):
    done = against_peft(tmp_path, "--rounds", "0")

    assert done.returncode == 2
    assert "--rounds: '0': expected an integer of at least 1" in done.stderr


@pytest.mark.parametrize("results", perf.RESULTS)
def test_the_result_of_peft_s_script_is_the_one_that_its_run_wrote(tmp_path, results):
    suite = checkout(tmp_path, results=results) / "method_comparison" / "MetaMathQA"

    assert perf._theirs(suite, "lora/r4") == perf.Side(1e6, 2**31)


def test_an_experiment_s_name_means_it_alone_and_another_text_all_that_contain_it(tmp_path):
    suite = checkout(tmp_path) / "method_comparison" / "MetaMathQA"

    assert list(perf._experiments(suite, "lora/r4")) == ["lora/r4"]
    assert list(perf._experiments(suite, "adalora")) == ["adalora/r4"]
    assert list(perf._experiments(suite, "lora/r")) == ["adalora/r4", "lora/r4", "lora/r4-other"]


def test_ours_is_the_one_case_and_not_its_footprint(tmp_path, monkeypatch):
    suite = checkout(tmp_path) / "method_comparison" / "MetaMathQA"
    experiment = perf._experiments(suite, "lora/r4")["lora/r4"]

    test = perf._test(suite, experiment)

    assert test == "benchmarks/test_math_reasoning.py::test_math_reasoning[MetaMathQA-tiny-lora-r4]"

    def run(command, folder):
        assert command[3] == test
        json_folder = Path(next(part for part in command if part.startswith("--peft-json=")).partition("=")[2])
        write_json(json_folder / "footprint" / "MetaMathQA" / "tiny" / "lora--r4.json", {})
        write_json(json_folder / "MetaMathQA" / "tiny" / "lora--r4.json", RESULT)

    monkeypatch.setattr(perf, "_run", run)

    assert perf._ours(suite, experiment, test, []) == perf.Side(5.0, 7)


def test_a_case_that_no_test_of_ours_takes_is_told(tmp_path):
    suite = checkout(tmp_path) / "method_comparison" / "MetaMathQA"
    experiment = perf._experiments(suite, "lora/r4")["lora/r4"]
    other = replace(experiment, case=replace(experiment.case, name="r8"))

    with pytest.raises(SystemExit, match="benchmarks: 0 tests take MetaMathQA-tiny-lora-r8, expected one"):
        perf._test(suite, other)
