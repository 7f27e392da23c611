"""`peftbench …`, as a user types it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_peftbench
from pytest_peftbench import cli
from pytest_peftbench.tiny import TINY_DIR


def peftbench(*arguments):
    command = Path(sys.executable).with_name("peftbench")
    return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, timeout=240)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_command_tells_its_version():
    result = peftbench("--version")

    assert (result.returncode, result.stdout) == (0, f"peftbench {pytest_peftbench.__version__}\n")


def test_help_lists_each_command_with_a_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])

    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "build-tiny" in text
    assert "build an embedded base model" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["bild-tiny"], "'bild-tiny'"),
        (["build-tiny"], "task"),
        (["build-tiny", "poetry"], "'poetry'"),
        (["build-tiny", "math", "--steps", "0"], "'0': expected an integer of at least 1"),
        (["build-tiny", "math", "--steps", "few"], "'few': expected an integer of at least 1"),
        (["build-tiny", "math", "--out", __file__], "test_cli.py: File exists"),
        (["build-tiny", "math", "--out", __file__ + "/below"], "test_cli.py/below: Not a directory"),
        (["build-tiny", "math", "--fast"], "--fast"),
    ],
)
def test_bad_arguments_end_with_code_2_and_a_message(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)

    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_two_short_builds_of_the_embedded_model_give_the_same_bytes(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first, second = (peftbench("build-tiny", "math", "--out", tmp_path / name, "--steps", "2") for name in "ab")

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "step " in first.stderr
    lines = [line.split("  ") for line in first.stdout.splitlines()]
    assert [digest for digest, _ in lines] == [line.split("  ")[0] for line in second.stdout.splitlines()]
    assert any(path.endswith("model.safetensors") for _, path in lines)
    for digest, path in lines:
        assert sha256(Path(path)) == digest
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a" / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "model")
    assert model(**tokenizer("1 + 1 = 2", return_tensors="pt")).logits.isfinite().all()


def test_the_embedded_model_and_data_are_those_that_the_build_recorded():
    folder = TINY_DIR / "math"
    recorded = json.loads((folder / "build.json").read_text())["sha256"]

    assert "model/model.safetensors" in recorded
    assert {name: sha256(folder / name) for name in recorded} == recorded
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl")} <= set(recorded)
