"""`peftbench fit`: which experiments there are, what their steps need, table and JSON, errors."""

import json
import os
import sys

import pytest
import torch
from support import LOHA, LORA, REPOSITORY, make_suite

from pytest_peftbench.commands import fit as fit_command
from pytest_peftbench.commands import main
from pytest_peftbench.commands.fit import Need, Sizes, find_experiments, memory, predict, table, to_json
from pytest_peftbench.results.files import InputError

ROWS = [
    Need("lora/r4", 3 * 2**30, 2**30, 0, 2**20, 2**31 - 2**20, 0, 2e10, 40_000, 8_192),
    Need("loha/r4", 5 * 2**30, 2**30, 0, 2**20, 2**32 - 2**20, 0, 3e10, 80_000, 16_384, ("a note",)),
    Need("frod/r4", error="InputError: no meta kernel for aten::_coalesce"),
]


@pytest.fixture
def suite(tmp_path):
    folder = tmp_path / "benchmarks" / "MetaMathQA" / "mini"
    make_suite(
        folder, {"lora/r4": (LORA, None), "loha/r4": (LOHA, None), "full-finetuning/default": (None, {"seed": 1})}
    )
    return folder


def test_the_methods_that_fit_come_with_their_figures_lowest_peak_first(suite, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "fit.json"
    sizes = ("--base-model", "mini", "--batch-size", "2", "--seq-len", "16", "--dtype", "float32")

    assert main(["fit", *sizes, "--vram", "64MiB", "--json", str(file)]) == 0

    said = capsys.readouterr()
    report = json.loads(file.read_text())
    assert (report["base_model"], report["batch_size"], report["seq_len"]) == ("mini", 2, 16)
    methods = report["methods"]
    assert sorted(row["method"] for row in methods) == ["full-finetuning/default", "loha/r4", "lora/r4"]
    assert [row["error"] for row in methods] == [""] * 3
    assert [row["peak_bytes"] for row in methods] == sorted(row["peak_bytes"] for row in methods)
    parts = ("weights", "gradients", "optimizer", "activations", "temporary")
    assert all(sum(row[f"{part}_bytes"] for part in parts) == row["peak_bytes"] for row in methods)
    assert all(row["fits"] for row in methods)
    assert [line.split()[0] for line in said.err.splitlines()] == ["1/3", "2/3", "3/3"]
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines] == ["method", *(row["method"] for row in methods)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--vram", "much"), "24GiB"),
        (("--base-model", "nothing"), "mini"),
        (("--batch-size", "0"), "at least 1"),
        (("nowhere",), "nowhere"),
        (
            ("--base-model", "mini", "--json", "/proc/fit.json"),
            "--json /proc/fit.json: cannot be written: No such file",
        ),
        (("--base-model", "mini", "--json", "benchmarks"), "--json benchmarks: cannot be written: is a folder"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(suite, tmp_path, arguments, words, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *arguments])

    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_amounts_of_memory_have_a_unit():
    assert (memory("24GiB"), memory("80 GB"), memory("1.5MiB")) == (24 * 2**30, 80 * 10**9, 3 * 2**19)
    for wrong in ("24", "GiB", "0GiB", "-1GiB", "24 potatoes"):
        with pytest.raises(InputError, match="24GiB"):
            memory(wrong)


def test_experiments_are_those_of_a_suite_of_a_folder_or_of_one_experiment(suite):
    def names(*folders):
        return [experiment.case.name for experiment in find_experiments(None, folders)]

    assert names(suite) == ["default", "r4", "r4"]
    assert names(suite / "experiments" / "lora") == ["r4"]
    assert names(suite / "experiments" / "lora" / "r4", suite / "experiments" / "full-finetuning") == ["r4", "default"]
    with pytest.raises(InputError, match="no experiment"):
        names(suite / "experiments" / "lora" / "r4" / "deeper")


def test_the_default_suite_of_the_real_base_model_is_found():
    experiments = find_experiments("llama-3.2-3B", [REPOSITORY / "benchmarks"])

    assert len(experiments) > 50
    assert {experiment.train.model_id for experiment in experiments} == {"meta-llama/Llama-3.2-3B"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotImplementedError(), "InputError: no meta kernel: NotImplementedError"),
        (NotImplementedError("\nnot here\nbut there"), "InputError: no meta kernel: not here"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_is_the_row_s_outcome_with_or_without_a_message(suite, monkeypatch, error, words):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch.Tensor, "backward", fail)
    (need,) = predict(find_experiments(None, [suite / "experiments" / "lora"]), Sizes(1, 8, "float32"), print)

    assert (need.method, need.error, need.fits(2**40)) == ("lora/r4", words, None)


@pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere, which would be the test's own")
def test_a_process_that_dies_is_its_row_s_outcome_and_the_others_are_counted(suite, monkeypatch):
    counted = fit_command._counted
    monkeypatch.setattr(fit_command.os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(
        fit_command,
        "_counted",
        lambda item, sizes: os._exit(11) if item.case.method == "loha" else counted(item, sizes),
    )

    needs = predict(find_experiments(None, [suite]), Sizes(1, 8, "float32"), lambda line: None)

    assert {need.method: need.error for need in needs} == {
        "full-finetuning/default": "",
        "lora/r4": "",
        "loha/r4": "its process died; the system may have run out of memory",
    }


def test_the_table_says_yes_or_no_and_why_a_method_is_not_in_it():
    head, lora, loha, frod = table(ROWS, 4 * 2**30)

    assert head.split()[:3] == ["method", "fits", "peak"]
    assert lora.split()[:2] == ["lora/r4", "yes"]
    assert loha.split()[:2] == ["loha/r4", "no"]
    assert frod == "frod/r4: cannot be counted: InputError: no meta kernel for aten::_coalesce"


def test_where_nothing_can_be_counted_there_is_no_table():
    assert table(ROWS[2:], None) == ["frod/r4: cannot be counted: InputError: no meta kernel for aten::_coalesce"]


@pytest.mark.parametrize(("needs", "code"), [(ROWS, 0), (ROWS[2:], 1)])
def test_the_exit_code_says_whether_anything_could_be_counted(suite, monkeypatch, needs, code):
    monkeypatch.setattr("pytest_peftbench.commands.fit.predict", lambda *_: needs)

    assert main(["fit", str(suite)]) == code


def test_without_a_card_there_is_no_column_for_it():
    assert "fits" not in table(ROWS, None)[0]


def test_what_is_not_known_is_null_in_json():
    report = to_json(ROWS, "mini", Sizes(4, 768, "bfloat16"), 4 * 2**30)

    assert [row["fits"] for row in report["methods"]] == [True, False, None]
    assert report["methods"][1]["notes"] == ["a note"]
