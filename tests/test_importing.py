"""PEFT's results in, and ours out: the baselines they become, what they may be compared with, and the dashboard."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from support import DEFAULTS, LORA, REPOSITORY, write_json

from pytest_peftbench.cases import loading
from pytest_peftbench.cases import trained as engine
from pytest_peftbench.commands import main
from pytest_peftbench.commands.published import read_published
from pytest_peftbench.compare import compare, is_green
from pytest_peftbench.measure import timing
from pytest_peftbench.results.baseline import baseline_path, from_result, read, write
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId, Result, Witness
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.math_reasoning.spec import MathTrainConfig

REFERENCE = REPOSITORY.parent / "shared" / "peft-reference"
CASE = CaseId("MetaMathQA", "tiny", "lora", "r4")
EXPERIMENT = Experiment(CASE, Path("suite/experiments/lora/r4"), MathTrainConfig(**DEFAULTS), LORA)


@pytest.fixture(scope="module")
def measured():
    """A measured result, as `--peft-json` writes it."""
    data = loading.cached_task_data()(EXPERIMENT)
    few = replace(data, train=data.train[:20], valid=data.valid[:2], test=data.test[:4], documents=data.documents[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))
        return engine.run_experiment(EXPERIMENT, loading.cached_base_models(), lambda experiment: few)


def plain(result):
    return json.loads(json.dumps(result.to_json()))


def of_peft(result, **changes):
    """The file that PEFT would have written about the same run, of another PEFT's time."""
    data = plain(result)
    del data["peftbench"]
    config = data["run_info"]["peft_config"]
    config["peft_version"] = "0.19.2.dev0@UNKNOWN"
    config["of_an_old_version"] = None
    config["target_modules"] = config["target_modules"][::-1]
    del data["run_info"]["train_config"]["init_kv_cache_prefix"]
    for path, value in changes.items():
        *keys, last = path.split("__")
        block = data
        for key in keys:
            block = block[key]
        block[last] = value
    return data


@pytest.fixture
def peft_import(tmp_path, measured):
    """Imports the file that PEFT would have written, changed or not, and reads the baseline."""

    def run(**changes):
        write_json(tmp_path / "results" / "lora--r4.json", of_peft(measured, **changes))
        assert main(["import", str(tmp_path / "results"), "--out", str(tmp_path / "baselines")]) == 0
        return read(baseline_path(tmp_path / "baselines", CASE))

    return run


# In


def test_a_result_of_peft_becomes_a_baseline_that_the_same_run_is_green_against(peft_import, measured):
    baseline = peft_import()
    verdict = compare(measured, baseline, METRICS, tests=1)

    assert is_green(verdict), verdict.text()
    assert {finding.metric for finding in verdict.findings} == {
        *("params.trainable", "params.total", "checkpoint.bytes", "test_accuracy", "train_loss")
    }
    assert baseline.case_version.startswith("imported-")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"meta_info__system_info__accelerator": "NVIDIA L40S"}, "measured on NVIDIA L40S, not on none"),
        ({"run_info__train_config__max_steps": 5000}, "training parameter max_steps: 5000 -> 3"),
        ({"run_info__train_config__new_parameter": True}, "training parameter new_parameter: True -> None"),
        ({"run_info__peft_config__r": 32}, "adapter config r: 32 -> 4"),
        ({"run_info__peft_config__of_a_new_version": "on"}, "adapter config of_a_new_version: 'on' -> None"),
        ({"run_info__train_config__seed": 7}, "with seed 7, which did not run"),
    ],
)
def test_what_differs_is_not_comparable_with_the_reason(peft_import, measured, changes, words):
    verdict = compare(measured, peft_import(**changes), METRICS, tests=1)

    assert verdict.verdict == "not comparable"
    assert words in verdict.text()
    assert not is_green(verdict)


@pytest.mark.parametrize(
    ("metric", "value", "verdict"), [("params.trainable", 9000, "regressed"), ("test_accuracy", None, "missing metric")]
)
def test_an_imported_baseline_is_a_gate(peft_import, measured, metric, value, verdict):
    seeds = [replace(run, metrics={k: v for k, v in run.metrics.items() if k != metric}) for run in measured.seeds]
    changed = {**measured.metrics, metric: value} if value else measured.metrics

    assert compare(replace(measured, metrics=changed, seeds=seeds), peft_import(), METRICS, tests=1).verdict == verdict


@pytest.mark.parametrize("metric", ["forgetting", "test_accuracy"])
def test_nan_fails_though_the_imported_baseline_does_not_hold_it(peft_import, measured, metric):
    seeds = [replace(run, metrics={**run.metrics, metric: math.nan}) for run in measured.seeds]
    verdict = compare(replace(measured, seeds=seeds), peft_import(), METRICS, tests=1)

    assert [finding.metric for finding in verdict.findings if finding.verdict == "failed"] == [metric]
    assert not is_green(verdict)


def test_a_result_without_pefts_fields_is_not_comparable_with_an_imported_baseline(peft_import, measured):
    assert compare(replace(measured, peft={}), peft_import(), METRICS, tests=1).verdict == "not comparable"


def test_an_update_replaces_an_imported_baseline(peft_import, measured, tmp_path):
    old = peft_import()

    write(from_result(measured), old.path)

    assert not read(old.path).imported
    assert compare(measured, read(old.path), METRICS, tests=1).verdict == "identical"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_info__metrics": [{"step": 3}]}, "train_info.metrics[0]: holds none of test accuracy"),
        ({"train_info__metrics": [{"test accuracy": "high", "train loss": 1}]}, "accuracy: expected `float`, found"),
        ({"train_info__metrics": [{"test accuracy": 10**400, "train loss": 1}]}, "accuracy is NaN or infinite"),
        ({"train_info__metrics": []}, "train_info.metrics is empty; its last entry holds the figures of the test"),
        ({"train_info__metrics": [1]}, "train_info.metrics[0]: expected `object`, found 1"),
        ({"train_info__metrics": None}, "train_info.metrics: expected `array`, found null"),
        ({"train_info__num_total_params": True}, "train_info.num_total_params: expected `int`, found true"),
        ({"train_info__file_size": 10**400}, "train_info.file_size is NaN or infinite"),
        ({"run_info__train_config": None}, "run_info.train_config: expected `object`, found null"),
        ({"run_info__train_config__seed": None}, "run_info.train_config.seed: expected `int`, found null"),
        ({"run_info__experiment_name": None}, "run_info.experiment_name: expected `str`, found null"),
        ({"run_info__experiment_name": 3}, "run_info.experiment_name: expected `str`, found 3"),
        ({"meta_info__package_info": None}, "meta_info.package_info: expected `object`, found null"),
        ({"meta_info__system_info": "Linux"}, 'meta_info.system_info: expected `object`, found "Linux"'),
        ({"meta_info__system_info__accelerator": ""}, "meta_info.system_info.accelerator is empty, so nobody knows"),
        ({"run_info": {"experiment_name": "lora/r4"}}, "run_info: object missing required field `train_config`"),
        ({"train_info__status": "failed"}, "holds no result that succeeded"),
    ],
)
def test_a_damaged_or_failed_result_is_refused_by_file_and_key(tmp_path, measured, capsys, changes, words):
    write_json(tmp_path / "lora--r4.json", of_peft(measured, **changes))

    with pytest.raises(SystemExit) as stopped:
        main(["import", str(tmp_path), "--out", str(tmp_path / "baselines")])

    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "baselines").exists()


def test_a_failed_result_is_named_and_passed_over_beside_one_that_succeeded(tmp_path, measured, capsys):
    write_json(tmp_path / "a.json", of_peft(measured, run_info__error_msg="CUDA error", train_info__status="failed"))
    write_json(tmp_path / "b.json", of_peft(measured))
    write_json(tmp_path / "c.json", {"model": "no result"})

    assert main(["import", str(tmp_path), "--out", str(tmp_path / "out")]) == 0

    text = capsys.readouterr().out
    assert "a.json: passed over: status failed: CUDA error" in text
    assert "1 JSON files passed over" in text
    assert "1 baseline written" in text


def test_two_results_of_one_case_are_refused(tmp_path, measured, capsys):
    for name in "ab":
        write_json(tmp_path / f"{name}.json", of_peft(measured))

    with pytest.raises(SystemExit):
        main(["import", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "is case MetaMathQA-tiny-lora-r4 too" in capsys.readouterr().err


@pytest.mark.skipif(not REFERENCE.exists(), reason="PEFT's method_comparison is not beside the repository")
def test_pefts_published_results_are_imported_with_each_figure(tmp_path, capsys):
    assert main(["import", str(REFERENCE), "--out", str(tmp_path)]) == 0

    text = capsys.readouterr().out
    assert "PEFT's 1 - cosine became (1 - cosine) / 2" in text
    files = sorted(REFERENCE.glob("*/results/*.json"))
    for file in files:
        data = json.loads(file.read_text())
        baseline = read_published(file, data)
        last, (run,) = data["train_info"]["metrics"][-1], baseline.seeds
        assert read(baseline_path(tmp_path, baseline.case)) == baseline
        assert baseline.imported["file"] == file.name
        assert (baseline.imported["run_info"], baseline.imported["train_info"]) == (
            data["run_info"],
            data["train_info"],
        )
        assert baseline.imported["meta_info"] == {"package_info": data["meta_info"]["package_info"]}
        assert baseline.metrics["params.trainable"] == data["train_info"]["num_trainable_params"]
        assert baseline.metrics["checkpoint.bytes"] == data["train_info"]["file_size"]
        assert baseline.environment["accelerator"] == "NVIDIA L40S"
        assert baseline.environment["device"] == "cuda"
        expected = {
            "test_accuracy": last.get("test accuracy"),
            "test_dino_similarity": last.get("test dino_similarity"),
            "drift": last["drift"] / 2 if "drift" in last else None,
            "train_loss": last["train loss"],
        }
        known = {name: value for name, value in expected.items() if value is not None}
        assert run.metrics == pytest.approx(known, rel=1e-5)
    written = list(tmp_path.rglob("*.json"))
    assert len(written) == len(files) == 7
    assert max(len(line) for path in written for line in path.read_text().splitlines()) <= 120


# Out and back


def test_our_own_result_with_a_witness_is_imported_without_it(tmp_path, measured):
    """Its bound is measured where a baseline is recorded, and a result has none."""
    told = replace(measured, witness=Witness({"losses": [1.0]}))
    write_json(tmp_path / "results" / "lora--r4.json", plain(told))

    assert main(["import", str(tmp_path / "results"), "--out", str(tmp_path / "baselines")]) == 0
    assert read(baseline_path(tmp_path / "baselines", CASE)) == from_result(measured)


def test_our_own_result_comes_back_without_loss(tmp_path, measured):
    write_json(tmp_path / "results" / "lora--r4.json", plain(measured))

    assert main(["import", str(tmp_path / "results"), "--out", str(tmp_path / "baselines")]) == 0

    assert replace(Result.from_json(plain(measured), "a"), pictures=measured.pictures) == measured
    assert read(baseline_path(tmp_path / "baselines", CASE)) == from_result(measured)
    assert compare(measured, read(baseline_path(tmp_path / "baselines", CASE)), METRICS, tests=1).verdict == "identical"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 99}, "peftbench.schema is 99, this version reads 3"),
        ({"schema": 2}, "peftbench.schema is 2, this version reads 3"),
        ({"schema": "3"}, 'peftbench.schema: expected `int`, found "3"'),
        ({"case": {"task": "a"}}, "peftbench.case: object missing required field `base_model`"),
        ({"metrics": {"params.total": None}}, "peftbench.metrics.params.total: expected .*, found null"),
        ({"seeds": [{"seed": 0}]}, r"peftbench.seeds\[0\]: object missing required field `metrics`"),
    ],
)
def test_a_block_of_ours_that_cannot_be_read_is_refused(measured, change, words):
    data = plain(measured)
    data["peftbench"].update(change)

    with pytest.raises(InputError, match=f"a.json: {words}"):
        Result.from_json(data, "a.json")


def test_a_block_without_its_status_is_refused_and_not_taken_for_a_success(measured):
    data = plain(measured)
    del data["peftbench"]["status"]

    with pytest.raises(InputError, match=r"a\.json: peftbench\.status is missing"):
        Result.from_json(data, "a.json")


# The dashboard


def dashboard_row(data):
    """A row of PEFT's dashboard: the keys that its table takes from a result, in the types of its columns."""
    run, train, meta = data["run_info"], data["train_info"], data["meta_info"]
    last = train["metrics"][-1]
    numbers = {
        **{key: int(train[key]) for key in train if key.startswith("accelerator_memory")},
        **{key: int(train[key]) for key in ("file_size", "num_trainable_params", "num_total_params")},
        **{key: float(run.get(key, train.get(key))) for key in ("total_time", "train_time")},
        **{key: float(last[key]) for key in ("test accuracy", "forgetting", "train loss")},
        **{key: int(last[key]) for key in ("train samples", "train total tokens")},
    }
    packages = ("peft", "transformers", "datasets", "torch", "bitsandbytes")
    texts = {
        "experiment_name": run["experiment_name"],
        "model_id": run["train_config"]["model_id"],
        "peft_type": run["peft_config"]["peft_type"] if run["peft_config"] else "full-finetuning",
        "peft_branch": run["peft_branch"],
        "created_at": run["created_at"],
        "system_info": str(meta["system_info"]),
        **{name: meta["package_info"][f"{name}-version"] for name in packages},
    }
    assert train["status"] == "success"
    assert len([key for key in numbers if key.startswith("accelerator_memory")]) == 3
    return {**texts, **numbers}


def pareto_front(rows, higher, lower):
    """Names of the rows that no other row is as good as in both figures, and better in one."""

    def beaten(row):
        others = (other for other in rows if (other[higher], other[lower]) != (row[higher], row[lower]))
        return any(other[higher] >= row[higher] and other[lower] <= row[lower] for other in others)

    return {row["experiment_name"] for row in rows if not beaten(row)}


def test_a_written_result_is_a_row_of_pefts_dashboard(measured):
    data = plain(measured)
    row = dashboard_row(data)

    assert row["peft_type"] == "LORA"
    assert row["test accuracy"] == measured.seeds[0].metrics["test_accuracy"]
    assert row["num_trainable_params"] == 7168
    assert row["train total tokens"] > row["train samples"] == 12

    better = copy.deepcopy(data)
    better["run_info"]["experiment_name"] = "lora/better"
    better["train_info"]["metrics"][-1]["test accuracy"] = 2.0
    larger = copy.deepcopy(better)
    larger["run_info"]["experiment_name"] = "lora/larger"
    larger["train_info"]["file_size"] += 1
    rows = [dashboard_row(item) for item in (data, better, larger)]
    assert pareto_front(rows, "test accuracy", "file_size") == {"lora/better"}


@pytest.mark.skipif(not REFERENCE.exists(), reason="PEFT's method_comparison is not beside the repository")
def test_the_reader_of_these_tests_reads_pefts_own_results_and_ours_beside_them(measured):
    files = sorted((REFERENCE / "MetaMathQA" / "results").glob("*.json"))
    rows = [dashboard_row(json.loads(file.read_text())) for file in files]

    assert set(dashboard_row(plain(measured))) == set(rows[0])
    assert pareto_front(rows, "test accuracy", "num_trainable_params") == {
        "ia3/llama-3.2-3B-lr_0.001",
        "lora/llama-3.2-3B-rank32",
    }
