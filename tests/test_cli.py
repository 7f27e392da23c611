"""`peftbench …`, as a user types it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import IMAGE_SUITE

import pytest_peftbench
from pytest_peftbench import commands as cli
from pytest_peftbench.commands import importing
from pytest_peftbench.tasks.registry import spec_of


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
        (["build-tiny", "MetaMathQA", "--steps", "0"], "'0': expected an integer of at least 1"),
        (["build-tiny", "MetaMathQA", "--steps", "few"], "'few': expected an integer of at least 1"),
        (["build-tiny", "MetaMathQA", "--out", __file__], "test_cli.py: cannot be written: Not a directory"),
        (
            ["build-tiny", "MetaMathQA", "--out", __file__ + "/below"],
            "test_cli.py/below: cannot be written: Not a directory",
        ),
        (["build-tiny", "MetaMathQA", "--out", "/proc"], "--out /proc: cannot be written: No such file or directory"),
        (["import", ".", "--out", __file__], "test_cli.py: cannot be written: Not a directory"),
        (["import", ".", "--out", "/proc/x"], "--out /proc/x: cannot be written: No such file or directory"),
        (["selftest", "--suite", str(IMAGE_SUITE), "--json", "/proc/x.json"], "--json /proc/x.json: cannot be written"),
        (["tune", "/proc/sys"], "--out /proc/sys/tuning: cannot be written"),
        (["build-tiny", "MetaMathQA", "--fast"], "--fast"),
    ],
)
def test_bad_arguments_end_with_code_2_and_a_message(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)

    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert words in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "baselines/x.json"), "baselines/x.json: Permission denied"),
        (IsADirectoryError(21, "Is a directory", "results/.x.tmp", None, "results/x"), "results/x: Is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_after_all_is_told_by_its_name(error, words, tmp_path, monkeypatch, capsys):
    def fail(*args):
        raise error

    monkeypatch.setattr(importing, "import_results", fail)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["import", str(tmp_path), "--out", str(tmp_path / "new")])

    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_not_about_a_file_is_not_worded(tmp_path, monkeypatch):
    def fail(*args):
        raise ConnectionError("no network")

    monkeypatch.setattr(importing, "import_results", fail)
    with pytest.raises(ConnectionError, match="no network"):
        cli.main(["import", str(tmp_path), "--out", str(tmp_path)])


def test_two_short_builds_of_the_embedded_model_give_the_same_bytes(tmp_path, capsys, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pytest_peftbench.tasks.math_reasoning import build

    # of a twelfth of the texts; one in a fresh process and one in this, which has done other things before
    few = {"TOKENIZER_DOCUMENTS": 2_000, "HELD_OUT_STORIES": 8}
    for name, count in few.items():
        monkeypatch.setattr(build, name, count)
    command = f"""
from pytest_peftbench import commands
from pytest_peftbench.measure import environment
environment.pin()
from pytest_peftbench.tasks.math_reasoning import build
vars(build).update({few})
commands.main(["build-tiny", "MetaMathQA", "--out", {str(tmp_path / "a")!r}, "--steps", "2"])
"""
    first = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=240)
    code = cli.main(["build-tiny", "MetaMathQA", "--out", str(tmp_path / "b"), "--steps", "2"])

    assert first.returncode == code == 0, first.stderr
    assert "step " in first.stderr
    lines = [line.split("  ") for line in first.stdout.splitlines()]
    assert [digest for digest, _ in lines] == [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert any(path.endswith("model.safetensors") for _, path in lines)
    for digest, path in lines:
        assert sha256(Path(path)) == digest
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a" / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "model")
    assert model(**tokenizer("1 + 1 = 2", return_tensors="pt")).logits.isfinite().all()


def test_the_embedded_model_and_data_are_those_that_the_build_recorded():
    folder = spec_of("MetaMathQA").embedded.parent
    recorded = json.loads((folder / "build.json").read_text())["sha256"]

    assert "model/model.safetensors" in recorded
    assert {name: sha256(folder / name) for name in recorded} == recorded
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl")} <= set(recorded)
