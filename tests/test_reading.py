"""One reader of results for all commands: ours, PEFT's and baselines, in any mixture."""

import json
from pathlib import Path

import pytest
from support import REPOSITORY, make_result, write_json

from pytest_peftbench.commands.reading import catalogue, read_results
from pytest_peftbench.compare import compare
from pytest_peftbench.results.baseline import baseline_path, from_result, write
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId

CASE = CaseId("MetaMathQA", "tiny", "lora", "r4")
REFERENCE = REPOSITORY.parent / "shared" / "peft-reference"


def of_peft(name="lora/r4", status="success", **figures):
    """A result of PEFT's, as short as one can be, with the keys of an earlier time."""
    return {
        "run_info": {
            "created_at": "2025-06-01T00:00:00+00:00",
            "experiment_name": name,
            "train_config": {"model_id": "a/tiny", "seed": 0, "query_template": "{query}", "max_seq_length": 8},
            "peft_config": {},
            "error_msg": "" if status == "success" else "CUDA error",
        },
        "train_info": {
            "status": status,
            "num_trainable_params": 8,
            "num_total_params": 80,
            "file_size": 800,
            "cuda_memory_max": 2**30,
            "train_time": 12.5,
            "metrics": [{"test accuracy": 0.5, "train loss": 1.0, "forgetting": 0.25, **figures}],
        },
        "meta_info": {
            "package_info": {"torch-version": "2.7.0+cu126", "peft-version": "0.15.0"},
            "system_info": {"gpu": "NVIDIA L40S"},
        },
    }


@pytest.fixture
def folder(tmp_path):
    """The same case three times: a result of ours, one of PEFT's and a baseline."""
    write_json(tmp_path / "ours.json", make_result(CASE).to_json())
    write_json(tmp_path / "pefts.json", of_peft())
    write(from_result(make_result(CASE)), baseline_path(tmp_path / "baselines", CASE))
    return tmp_path


def test_results_of_ours_of_peft_and_baselines_are_read_side_by_side(folder):
    reading = read_results([folder])

    found = {entry.origin: entry for entry in reading.entries}
    assert list(reading.notes()) == []
    assert {entry.case for entry in reading.entries} == {CASE}
    assert found["result"].values()["test_accuracy"] == found["baseline"].values()["test_accuracy"] == 0.5
    assert found["published"].values() == {
        "params.trainable": 8.0,
        "params.total": 80.0,
        "checkpoint.bytes": 800.0,
        "test_accuracy": 0.5,
        "train_loss": 1.0,
        "published.forgetting": 0.25,
        "published.memory_max_bytes": float(2**30),
        "published.train_time_s": 12.5,
    }
    assert found["published"].values().keys() <= catalogue().keys()
    assert found["published"].baseline.environment["accelerator"] == "NVIDIA L40S"
    assert found["published"].created == "2025-06-01T00:00:00+00:00"


def test_what_was_read_can_be_held_against_what_was_read(folder):
    found = {entry.origin: entry for entry in read_results([folder]).entries}

    told = compare(found["baseline"].result, found["result"].baseline, METRICS, tests=1)
    # a baseline keeps no interval of a time, so that nobody can tell
    assert {item.subject for item in told.findings if item.verdict != "identical"} == {"step_time_ratio"}
    assert compare(found["published"].result, found["published"].baseline, METRICS, tests=1).verdict == "identical"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cut.json", '{"peftbench": {"schema": 3,', "cut.json: no valid JSON"),
        ("nan.json", json.dumps(of_peft(forgetting=float("nan"))), "forgetting is NaN or infinite"),
        ("old.json", json.dumps({"peftbench": {"schema": 2}}), "peftbench.schema is 2, this version reads 3"),
        ("base.json", json.dumps({"schema": 2, "case": {}}), "base.json: schema 2 is that of an older version"),
        ("zwice.json", json.dumps(of_peft()), "pefts.json is case MetaMathQA-tiny-lora-r4 too; the first one counts"),
        ("task.json", json.dumps(of_peft(**{"test accuracy": "high"})), "accuracy: expected `float`"),
    ],
)
def test_what_cannot_be_read_is_worded_and_the_rest_is_read(folder, name, content, words):
    (folder / name).write_text(content)

    reading = read_results([folder])

    assert len(reading.entries) == 3
    (problem,) = reading.problems
    assert words in problem
    assert problem.startswith(str(folder / name))


def test_files_of_another_kind_are_counted_and_a_folder_of_nothing_else_is_refused(folder, tmp_path):
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    write_json(tmp_path / "foreign" / "package.json", {"name": "x"})
    (tmp_path / "empty").mkdir()

    assert list(read_results([folder]).notes()) == ["2 JSON files passed over: neither results nor baselines"]
    with pytest.raises(InputError, match="foreign: holds no result; 1 JSON file found"):
        read_results([tmp_path / "foreign"])
    with pytest.raises(InputError, match="empty: holds no JSON file"):
        read_results([tmp_path / "empty"])
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        read_results([folder, tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"package\.json: is neither a result"):
        read_results([tmp_path / "foreign" / "package.json"])


def test_files_of_a_kept_adapter_are_not_counted(folder, tmp_path):
    for place in (folder, tmp_path / "alone"):
        for name in ("adapter_config.json", "kept.json"):
            write_json(place / "loha--rank8" / name, {"peft_type": "LOHA"})
        (place / "loha--rank8" / "adapter_model.safetensors").write_bytes(b"")

    assert list(read_results([folder]).notes()) == []
    with pytest.raises(InputError, match="alone: holds adapters alone, neither results nor baselines"):
        read_results([tmp_path / "alone"])


def test_a_failed_run_gives_way_to_one_that_succeeded(folder):
    write_json(folder / "again.json", of_peft(status="failed"))
    write_json(folder / "alone.json", of_peft("loha/r4", status="failed"))

    reading = read_results([folder])

    assert {str(entry.case): entry.error for entry in reading.entries if entry.error} == {
        "MetaMathQA-tiny-loha-r4": "failed: CUDA error"
    }
    assert len(reading.entries) == 4
    assert reading.passed_over == [f"{folder / 'again.json'}: passed over: status failed: CUDA error"]
    assert not reading.problems


def test_a_file_that_is_named_twice_is_read_once(folder):
    assert len(read_results([folder, folder / "ours.json", Path(folder)]).entries) == 3


@pytest.mark.skipif(not REFERENCE.exists(), reason="PEFT's method_comparison is not beside the repository")
def test_pefts_published_results_of_both_tasks_are_read():
    reading = read_results([REFERENCE])

    assert {entry.case.task for entry in reading.entries} == {"MetaMathQA", "image-gen"}
    assert len(reading.entries) == 7
    assert not reading.problems
    assert all("published.memory_max_bytes" in entry.values() for entry in reading.entries)
