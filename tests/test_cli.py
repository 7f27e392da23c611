"""`peftbench …`, as a user types it."""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
from support import IMAGE_SUITE, LORA, make_suite, write_json

import pytest_peftbench
from pytest_peftbench import commands as cli
from pytest_peftbench.cases import trained
from pytest_peftbench.commands import importing
from pytest_peftbench.commands.sweep import sweep
from pytest_peftbench.results.metrics import METRICS, Metric
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
        (["sweep", "/proc/sys"], "/proc/sys: cannot be written"),
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


def test_a_sweep_tries_each_rate_keeps_the_best_and_records_all(tmp_path, capsys):
    suite = tmp_path / "image-gen" / "mini"
    defaults = json.loads((IMAGE_SUITE / "default_training_params.json").read_text())
    few = {"max_steps": 2, "eval_steps": 2, "num_inference_steps": 1, "seed": 3}
    write_json(suite / "default_training_params.json", {**defaults, **few})
    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["to_q"]}
    write_json(suite / "experiments/lora/r2/adapter_config.json", adapter)
    write_json(suite / "experiments/lora/r2/training_params.json", {"grad_norm_clip": 2.0})
    write_json(suite / "experiments/lora/other/adapter_config.json", adapter)

    assert cli.main(["sweep", str(suite), "--only", "lora/r2", "--rates", "0.001,0.1"]) == 0

    captured = capsys.readouterr()
    tried = [line.partition("{")[0] for line in captured.err.splitlines() if line.startswith("lora/")]
    assert tried[:2] == ["lora/r2: lr 0.001: ", "lora/r2: lr 0.1: "]
    assert set(tried[2:]) <= {"lora/r2: lr 0.001 moves by ", "lora/r2: lr 0.1 moves by "}
    (outcome,) = (suite / "learning_rates").iterdir()
    recorded = json.loads(outcome.read_text())
    trials = {float(rate): trial for rate, trial in recorded["trials"].items()}
    assert (outcome.name, recorded["seed"], set(trials)) == ("lora--r2.json", 3, {0.001, 0.1})
    moved = trials[recorded["chosen"]]["moved"]
    assert moved.keys() == {"valid_dino_similarity", "train_loss"}
    assert moved["train_loss"] != 0
    assert captured.out == f"lora/r2  {recorded['chosen']:g}\n"
    written = json.loads((suite / "experiments/lora/r2/training_params.json").read_text())
    assert written == {"grad_norm_clip": 2.0, "optimizer_kwargs": {"weight_decay": 0.0, "lr": recorded["chosen"]}}


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """Sweeps over given outcomes by rate: an error, or figures and those on the moved base model."""

    def sweep_over(outcomes, untrained=MappingProxyType({"valid_accuracy": 0.0})):
        tries = {rate: iter(pair) for rate, pair in outcomes.items() if not isinstance(pair, Exception)}

        def attempt(experiment, *_):
            rate = experiment.train.optimizer_kwargs["lr"]
            if rate not in tries:
                raise outcomes[rate]
            return next(tries[rate])

        monkeypatch.setattr(trained, "try_out", attempt)
        monkeypatch.setattr(trained, "validate_base_model", lambda *_: untrained)
        suite = tmp_path / "MetaMathQA" / "mini"
        make_suite(suite, {"lora/r4": (LORA, None)})
        said = []
        best = sweep(suite, list(outcomes), "", said.append)
        return best["lora/r4"], json.loads((suite / "learning_rates/lora--r4.json").read_text()), said

    return sweep_over


def figures(valid_accuracy, train_loss=1.0):
    return {"valid_accuracy": valid_accuracy, "train_loss": train_loss}


def test_a_rate_that_fails_is_told_with_or_without_a_message_and_not_chosen(swept):
    chosen, recorded, _ = swept(
        {
            1.0: RuntimeError(),
            0.1: ValueError("\nsingular\nmatrix"),
            0.03: [figures(0.9), figures(0.9, math.nan)],
            0.01: [figures(0.5), figures(0.52)],
        }
    )

    assert chosen == 0.01
    assert recorded["trials"] == {
        "1": {"error": "RuntimeError"},
        "0.1": {"error": "ValueError: singular"},
        "0.03": {
            "valid_accuracy": 0.9,
            "train_loss": 1.0,
            "error": "on the moved base model: train_loss is not finite",
        },
        "0.01": {"valid_accuracy": 0.5, "train_loss": 1.0, "moved": {"valid_accuracy": 0.52 - 0.5, "train_loss": 0.0}},
    }


def test_where_less_is_better_the_rate_with_the_least_is_the_best(swept, monkeypatch):
    monkeypatch.setitem(METRICS, "valid_loss", Metric("valid_loss", "loss", "lower", "info", "validation loss"))
    losses = {rate: [{"valid_loss": loss, "train_loss": 1.0}] * 2 for rate, loss in {1.0: 9.0, 0.1: 0.5}.items()}

    assert swept(losses, {"valid_loss": 10.0})[0] == 0.1


def test_of_rates_that_solve_as_much_the_one_that_learns_more_is_the_best(swept):
    assert swept({rate: [figures(0.0, loss)] * 2 for rate, loss in {0.1: 2.0, 0.3: 1.0, 1.0: 3.0}.items()})[0] == 0.3


@pytest.mark.parametrize("moved", [figures(0.87), figures(0.9, 1.0006), figures(0.93)])
def test_a_better_rate_that_does_not_keep_still_is_not_chosen(moved, swept):
    chosen, recorded, said = swept({0.1: [figures(0.9), moved], 0.01: [figures(0.5), figures(0.5, 1.0004)]})

    assert (chosen, recorded["still"]) == (0.01, True)
    assert recorded["trials"]["0.1"]["moved"] != {}
    assert not [line for line in said if "keeps still" in line]


def test_whether_a_rate_keeps_still_is_asked_of_the_best_alone_where_that_does(swept):
    chosen, recorded, _ = swept({0.1: [figures(0.9), figures(0.9)], 0.01: [figures(0.5)]})

    assert chosen == 0.1
    assert recorded["trials"]["0.01"] == figures(0.5)


def test_where_no_rate_keeps_still_the_stillest_is_chosen_and_told(swept):
    chosen, recorded, said = swept({0.1: [figures(0.9), figures(0.5)], 0.01: [figures(0.5), figures(0.4)]})

    assert (chosen, recorded["still"]) == (0.01, False)
    assert said[-1] == "lora/r4: no learning rate learns and keeps still; 0.01 moves least"


def test_a_rate_that_keeps_still_because_it_learns_nothing_is_passed_over(swept):
    outcomes = {0.1: [figures(0.9), figures(0.5)], 0.01: [figures(0.0), figures(0.0)], 0.001: [figures(0.03125)]}

    assert swept(outcomes)[0] == 0.1
    assert swept({0.01: [figures(0.0), figures(0.0)]})[:1] == (0.01,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        ([IMAGE_SUITE, "--only", "nothing"], "contains 'nothing'"),
        ([IMAGE_SUITE, "--rates", "0.1,fast"], "expected learning rates greater than 0"),
        ([IMAGE_SUITE, "--rates", "-1"], "expected learning rates greater than 0"),
    ],
)
def test_a_sweep_of_nothing_is_a_usage_error(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["sweep", *map(str, arguments)])

    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
