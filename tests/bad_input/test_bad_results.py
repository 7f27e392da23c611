"""`peftbench import`: results that cannot be read, and folders that would lose what was measured."""

import json
from dataclasses import replace

import pytest
from spoiling import at, broken, content, device, folder, loop, nested, pipe, rows, without
from support import make_result, write_json

from pytest_peftbench.commands import main
from pytest_peftbench.results.baseline import baseline_path, from_result, read, write
from pytest_peftbench.results.result import BaseReference, CaseId

CASE = CaseId("MetaMathQA", "tiny", "lora", "r4")
BASE = BaseReference([1.0], {"train_step.peak_bytes": 5}, {"train_step": {"aten.mm @ step": [1, 2]}})
# A result of PEFT's, as short as one can be.
OF_PEFT = {
    "run_info": {"experiment_name": "lora/r4", "train_config": {"model_id": "a/tiny", "seed": 0}, "peft_config": {}},
    "train_info": {
        "status": "success",
        "num_trainable_params": 8,
        "num_total_params": 80,
        "file_size": 800,
        "metrics": [{"test accuracy": 0.5, "train loss": 1.0}],
    },
    "meta_info": {"package_info": {}, "system_info": {"accelerator": "NVIDIA L40S"}},
}
OURS, PEFTS = "results/ours.json", "results/pefts.json"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A result of ours, or of PEFT's, in `results`."""
    monkeypatch.chdir(tmp_path)
    of_peft = {"run_info": {}, "train_info": {"status": "success"}, "meta_info": {}}
    ours = replace(make_result(CASE), base=BASE, peft=of_peft).to_json()

    def write_into(name):
        write_json(tmp_path / name, ours if name == OURS else OF_PEFT)
        return tmp_path

    return write_into


def refused(capsys, *arguments):
    """What a command says that ends with a usage error."""
    with pytest.raises(SystemExit) as stopped:
        main(["import", *map(str, arguments)])
    assert stopped.value.code == 2
    return capsys.readouterr().err


BLOCK = "peftbench"
ROWS = rows(
    *((file, change, words) for file in (OURS, PEFTS) for change, words in (
        (pipe, "is a pipe or a device, expected a file"),
        (device, "is a pipe or a device, expected a file"),
        (folder, "is a folder, expected a file"),
        (broken, "cannot be read"),
        (loop, "cannot be read"),
        (nested, "nested too deeply"),
        (content("["), "no valid JSON"),
        (content("[1]"), "expected a JSON object, found list"),
        (content(b"\xff"), "cannot be read"),
        (at("train_info", None), "train_info: expected `object`, found null"),
        (at("train_info", {}), "train_info: object missing required field `status`"),
        (at("train_info.status", 1), "train_info.status: expected `str`, found 1"),
        (at("run_info", {"a": "\ud800"}), "holds half a character"),
    )),
    (OURS, at(BLOCK, None), "peftbench: expected `object`, found null"),
    (OURS, at("peftbench.schema", None), "peftbench.schema: expected `int`, found null"),
    (OURS, at("peftbench.schema", 99), "peftbench.schema is 99, this version reads"),
    (OURS, at("peftbench.case", "lora"), 'peftbench.case: expected `object`, found "lora"'),
    (OURS, at("peftbench.case.task", 1), "peftbench.case.task: expected `str`, found 1"),
    (OURS, at("peftbench.case_version", None), "peftbench.case_version: expected `str`, found null"),
    (OURS, at("peftbench.status", "failed"), "peftbench.status is 'failed', not 'success'"),
    (OURS, at("peftbench.environment", [1]), "peftbench.environment: expected `object`"),
    (OURS, at("peftbench.environment.torch", 2), "peftbench.environment.torch: expected `str`, found 2"),
    (OURS, at("peftbench.metrics", None), "peftbench.metrics: expected `object`, found null"),
    (OURS, at("peftbench.seeds", {}), "peftbench.seeds: expected `array`"),
    (OURS, at("peftbench.seeds.0.seed", "0"), 'peftbench.seeds[0].seed: expected `int`, found "0"'),
    (OURS, at("peftbench.seeds.0.samples", [1]), "peftbench.seeds[0].samples: expected `object`"),
    (OURS, at("peftbench.operators", {"train_step": {"a": ["x", 1]}}), 'expected `int`, found "x"'),
    (OURS, at("peftbench.base.losses", "low"), 'peftbench.base.losses: expected `array`, found "low"'),
    (OURS, at("peftbench.base.operators", None), "peftbench.base.operators: expected `object`, found null"),
    (OURS, at("peftbench.witness", 1), "peftbench.witness: expected"),
    (OURS, at("peftbench.notes", "a"), 'peftbench.notes: expected `array`, found "a"'),
    (PEFTS, at("train_info.metrics", []), "train_info.metrics is empty"),
    (PEFTS, at("train_info.metrics.0", {}), "train_info.metrics[0]: holds none of"),
    (PEFTS, at("train_info.metrics.0.test accuracy", "1"), "metrics[0].test accuracy: expected `float`"),
    (PEFTS, at("train_info.metrics.0", {"test accuracy": 0.5}), "metrics[0] lacks 'train loss'"),
    (PEFTS, at("train_info.num_total_params", 1.5), "train_info.num_total_params: expected `int`, found 1.5"),
    (PEFTS, at("run_info.train_config.seed", "a"), 'run_info.train_config.seed: expected `int`, found "a"'),
    (PEFTS, at("meta_info.system_info.accelerator", " "), "accelerator is empty"),
    (PEFTS, at("meta_info.package_info", 1), "meta_info.package_info: expected `object`, found 1"),
)  # fmt: skip
# The name of a case, and not its file, is what such an error is about; so are values that no baseline may hold.
OF_THE_CASE = rows(
    *((OURS, at(f"peftbench.case.{part}", name), words) for part, name, words in (
        ("task", "..", "'..' cannot be part of a file name"),
        ("base_model", "", "'' cannot be part of a file name"),
        ("method", "/etc", "'/etc' cannot be part of a file name"),
        ("method", "a--b", "'--' separates method and name"),
        ("name", "../../x", "'../../x' cannot be part of a file name"),
        ("name", "a\\b", "cannot be part of a file name"),
        ("name", "a\x00", "cannot be part of a file name"),
        ("name", "n" * 300, "is too long for a file name; shorten it"),
        ("kind", "..", "'..' cannot be part of a file name"),
    )),
    (PEFTS, at("run_info.experiment_name", "lora"), "'' cannot be part of a file name"),
    (PEFTS, at("run_info.experiment_name", "../r4"), "'..' cannot be part of a file name"),
    (PEFTS, at("run_info.experiment_name", "lora/../r4"), "'../r4' cannot be part of a file name"),
    (PEFTS, at("run_info.train_config.model_id", ".."), "'..' cannot be part of a file name"),
    (OURS, at("peftbench.metrics", {"params.total": "many"}), "not written: metrics.params.total holds text"),
    (OURS, at("peftbench.seeds.1.seed", 0), "not written: seeds must be ascending and differ"),
    (OURS, at("peftbench.seeds.1.metrics", {}), "not written: seeds do not all hold"),
    (OURS, at("peftbench.operators", {"train_step": {"aten.mm @ a": [1]}}), "`array` of length >= 2"),
    (OURS, at("peftbench.peak_tensors", {"train_step": {"a @ b": [1, 2, 3]}}), "`array` of length <= 2"),
    (OURS, at("peftbench.base.losses", []), "not written: base.losses is empty"),
    (OURS, at("peftbench.base.operators", {}), "not written: base.operators is empty"),
)  # fmt: skip


@pytest.mark.parametrize("row", [*ROWS, *OF_THE_CASE])
def test_a_bad_result_is_refused_by_file_and_key(results, capsys, row):
    folder = results(row.file)
    row.change(folder / row.file)

    error = refused(capsys, "results", "--out", "out")

    assert row.file in error
    assert row.words in error
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["results", "--out", "results"], "--out results: is the folder of the results"),
        (["results", "--out", "results/../results"], "is the folder of the results"),
        (["nowhere"], "nowhere: no such folder"),
        ([OURS], "ours.json: no such folder"),
        (["x" * 300], "File name too long"),
        (["results", "--out", OURS], "cannot be written: Not a directory"),
        (["results", "--out", "x" * 300], "cannot be written: File name too long"),
        (["loop"], "loop"),
        (["results", "--out", "loop"], "loop"),
    ],
)
def test_bad_folders_are_refused(results, capsys, arguments, words):
    folder = results(OURS)
    loop(folder / "loop")

    assert words in refused(capsys, *arguments)
    assert not (folder / "baselines").exists()


# What was measured is not lost


@pytest.fixture
def measured(results):
    """A result beside another baseline of its case: measured, with three seeds."""
    folder = results(OURS)
    path = baseline_path(folder / "baselines", CASE)
    write(replace(from_result(make_result(CASE)), base=BASE, case_version="2"), path)
    return path


def test_a_measured_baseline_is_replaced_only_where_that_is_asked_for(measured, capsys):
    before = measured.read_bytes()

    error = refused(capsys, "results")

    assert "lora--r4.json: is a baseline that was measured, with 3 seeds, and" in error
    assert "--replace it" in error
    assert measured.read_bytes() == before
    assert main(["import", "results", "--replace"]) == 0
    assert read(measured).case_version == "1"
    assert main(["import", "results"]) == 0  # the same again


def test_an_imported_baseline_is_replaced_unasked(results):
    folder = results(PEFTS)
    assert main(["import", "results"]) == 0
    at("train_info.file_size", 900)(folder / PEFTS)

    assert main(["import", "results"]) == 0
    assert read(baseline_path(folder / "baselines", CASE)).metrics["checkpoint.bytes"] == 900


@pytest.mark.parametrize("change", [without("schema"), content("{"), pipe, loop, folder])
def test_a_baseline_that_cannot_be_read_is_replaced_only_where_that_is_asked_for(measured, capsys, change):
    change(measured)

    assert "--replace puts results/ours.json in its place" in refused(capsys, "results")


@pytest.mark.parametrize("change", [at("peftbench.metrics", {"params.total": "many"}), at("peftbench.seeds.0", 1)])
def test_baselines_are_written_all_or_none(results, capsys, change):
    folder = results(OURS)
    data = json.loads((folder / OURS).read_text())
    data["peftbench"]["case"]["name"] = "second"
    content(data)(folder / "results/second.json")
    change(folder / "results/second.json")

    refused(capsys, "results")

    assert not (folder / "baselines").exists()


def test_a_file_that_cannot_be_written_leaves_the_others_as_they_were(measured, capsys):
    folder = measured.parents[3]
    data = json.loads((folder / OURS).read_text())
    data["peftbench"]["case"]["method"] = "zz"
    content(data)(folder / "results/second.json")
    measured.with_name("zz--r4.json").mkdir()
    before = measured.read_bytes()

    assert "zz--r4.json: is a folder, expected a file" in refused(capsys, "results", "--replace")
    assert measured.read_bytes() == before
    assert sorted(path.name for path in measured.parent.iterdir()) == ["lora--r4.json", "zz--r4.json"]
