"""`perf/against_peft.py`: the same experiment by PEFT's script, here one that only writes a result, and by ours."""

import subprocess
import sys

import pytest
from support import LORA, REPOSITORY, make_suite

PARAMS = {"max_steps": 1, "eval_steps": 1, "batch_size": 2, "generation_kwargs": {"max_new_tokens": 1}}
# What PEFT's script leaves behind, as far as it is read: a million seconds make the ratio known.
SCRIPT = """
import json, pathlib, sys

name = sys.argv[1].removeprefix("experiments/").replace("/", "--")
folder = pathlib.Path("temporary_results")
folder.mkdir(exist_ok=True)
info = {"status": STATUS, "accelerator_memory_max": 2**31}
result = {"run_info": {"total_time": 1e6, "error_msg": "stopped"}, "train_info": info}
(folder / f"{name}.json").write_text(json.dumps(result))
"""


def checkout(folder, status="success"):
    suite = folder / "method_comparison" / "MetaMathQA"
    make_suite(suite, {"lora/r4": (LORA, None), "lora/r4-other": (LORA, None)}, **PARAMS)
    (suite / "run.py").write_text(SCRIPT.replace("STATUS", repr(status)))
    return folder


def against_peft(*arguments):
    command = [sys.executable, str(REPOSITORY / "perf" / "against_peft.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_both_run_the_experiment_and_the_ratio_is_told(tmp_path):
    done = against_peft(checkout(tmp_path), "--only", "lora/r4-other", "--", "-p", "no:cacheprovider")

    assert done.returncode == 0, done.stdout + done.stderr
    header, row = done.stdout.splitlines()
    assert header.split()[:3] == ["experiment", "PEFT", "s"]
    name, theirs, ours, ratio, their_peak, our_peak = row.split()
    assert (name, theirs, their_peak, our_peak) == ("lora/r4-other", "1000000.0", "2.00", "0.00")
    assert float(ours) > 0
    assert float(ratio) < 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "vera"], "--only vera: no experiment of"),
        (["--task", "image-gen"], "run.py: no such file; give the folder of a checkout of PEFT"),
        (["--only", "lora/r4-other"], "cancelled: stopped"),
    ],
)
def test_what_cannot_be_compared_is_told(tmp_path, arguments, words):
    done = against_peft(checkout(tmp_path, "cancelled"), *arguments)

    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
