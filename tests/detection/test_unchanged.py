"""One small suite, trained again and again: the same bits each time, and results in PEFT's schema."""

import json
import shutil

import pytest
from support import FULL, LOHA_CASE, REPOSITORY, Bench, output, table

from pytest_peftbench.results.metrics import METRICS, by_lane

PEFT_RESULTS = REPOSITORY.parent / "shared" / "peft-reference" / "MetaMathQA" / "results"
CASES = [FULL, LOHA_CASE]
REVERSED = """
    def pytest_collection_modifyitems(items):
        items.reverse()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder and two runs in it: one records, one compares in a worker and in reverse order.

    Each has another hash seed and writes its results to a folder of its name.
    """
    bench = Bench(tmp_path_factory.mktemp("trained"))
    bench.trains()
    shutil.rmtree(bench.suite / "experiments" / "lora")
    bench.write("reversing.py", REVERSED)
    runs = {
        "recorded": bench.spawn(
            "--peft-update-baselines", "--peft-seeds", "1", "--peft-json", "recorded", PYTHONHASHSEED="1"
        ),
        "reversed": bench.spawn("-v", "-p", "reversing", "-n", "1", "--peft-json", "reversed", PYTHONHASHSEED="2"),
    }
    return bench.path, runs


def results(folder):
    """The results that a run wrote, by file name."""
    files = sorted((folder / "MetaMathQA" / "mini").iterdir())
    return {file.name: json.loads(file.read_text()) for file in files}


def bits(result):
    """All figures of a result that must be the same in each run."""
    block = result["peftbench"]
    lanes = ("exact", "numerics", "quality")
    kept = {name for lane in lanes for name in by_lane(METRICS, lane)}
    metrics = {name: value for name, value in block["metrics"].items() if name in kept}
    # only the run that records has a witness
    return {**block, "metrics": metrics, "witness": None}


def test_training_records_and_compares_green(trained):
    _, runs = trained

    for name, run in runs.items():
        assert run.returncode == 0, f"{name}: {output(run)}"
    assert table(runs["recorded"]) == dict.fromkeys(CASES, "recorded")
    assert table(runs["reversed"]) == dict.fromkeys(CASES, "identical")


def test_the_other_order_is_another_order(trained):
    _, runs = trained

    ran = [line for line in runs["reversed"].stdout.splitlines() if "PASSED" in line]

    assert [case for line in ran for case in CASES if f"[{case}]" in line] == CASES[::-1]
    assert "[gw" in ran[0]


def test_training_gives_the_same_bits_whatever_the_order_hash_seed_and_worker(trained):
    folder, _ = trained

    expected = results(folder / "recorded")
    obtained = results(folder / "reversed")

    assert list(obtained) == list(expected) == ["full-finetuning--default.json", "loha--r4.json"]
    for name in obtained:
        assert bits(obtained[name]) == bits(expected[name])
    seed = expected["loha--r4.json"]["peftbench"]["seeds"][0]
    assert len(seed["metrics"]["adapter_sha256"]) == 64
    assert len(seed["metrics"]["first_losses"]) == 3
    assert len(seed["samples"]["test_correct"]) == 6


def test_results_are_written_in_pefts_schema(trained):
    folder, _ = trained

    for name, result in results(folder / "recorded").items():
        assert list(result) == ["run_info", "train_info", "meta_info", "peftbench"]
        train_info = result["train_info"]
        for key, value in train_info.items():
            if key.startswith("accelerator_memory"):
                assert type(value) is int
        assert train_info["status"] == "success"
        assert {"test accuracy", "forgetting", "train loss"} <= set(train_info["metrics"][-1])
        packages = result["meta_info"]["package_info"]
        assert {"bitsandbytes-version", "diffusers-version", "peft-version", "torch-version"} <= set(packages)
        assert result["run_info"]["train_config"]["max_steps"] == 3
        assert (result["run_info"]["peft_config"] is None) == name.startswith("full-finetuning")


@pytest.mark.skipif(not PEFT_RESULTS.exists(), reason="PEFT's method_comparison is not beside the repository")
def test_results_hold_each_key_that_pefts_own_results_hold(trained):
    folder, _ = trained
    ours = results(folder / "recorded")["loha--r4.json"]

    for file in PEFT_RESULTS.glob("lora--*.json"):
        theirs = json.loads(file.read_text())
        for block in ("run_info", "train_info", "meta_info"):
            assert set(theirs[block]) <= set(ours[block])
        assert set(theirs["meta_info"]["package_info"]) <= set(ours["meta_info"]["package_info"])
        for key in ("train_config", "peft_config"):
            assert isinstance(ours["run_info"][key], type(theirs["run_info"][key]))
        for key, value in theirs["train_info"].items():
            assert type(ours["train_info"][key]) is type(value), key
