"""Footprints: published figures, the peak's parts, what cannot be counted."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from own_functions import all_renamed, own_names, owners_of
from safetensors.torch import save_file
from support import IMAGE_SUITE, REPOSITORY, TINY_SUITE, make_suite, skip_under_an_older_peft

from pytest_peftbench.cases.footprint import count_footprint, shapes_of
from pytest_peftbench.meta.architectures import shipped
from pytest_peftbench.meta.safetensors_size import file_bytes
from pytest_peftbench.results.baseline import baseline_path, read
from pytest_peftbench.results.files import InputError
from pytest_peftbench.suites import read_suite
from pytest_peftbench.tasks import registry
from pytest_peftbench.tasks.shapes import Lengths

skip_under_an_older_peft()

REFERENCE = REPOSITORY.parent / "shared" / "peft-reference"
PUBLISHED = sorted(REFERENCE.glob("*/results/*.json"))
TINY = {f"{item.case.method}/{item.case.name}": item for item in read_suite(TINY_SUITE)}
IMAGE = {f"{item.case.method}/{item.case.name}": item for item in read_suite(IMAGE_SUITE)}
PARTS = ("weights", "gradients", "optimizer", "activations", "temporary")


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.skipif(not PUBLISHED, reason="PEFT's published results are not here")
@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_parameters_and_checkpoint_are_those_that_peft_published(file):
    published = json.loads(file.read_text())
    method, name = published["run_info"]["experiment_name"].split("/")
    suite = read_suite(file.parents[1])
    (experiment,) = (item for item in suite if (item.case.method, item.case.name) == (method, name))

    metrics = count_footprint(experiment, decode=False).metrics

    info = published["train_info"]
    expected = (info["num_trainable_params"], info["num_total_params"], info["file_size"])
    assert tuple(metrics[key] for key in ("params.trainable", "params.total", "checkpoint.bytes")) == expected


SPECIAL = ("boft/block8", "cpt/one-shot", "poly/rank8", "xlora/experts2", "cartridge/tokens16", "frod/default")
SPECIAL += ("lora/rank8-kasa", "lora/rank8-lora-fa", "lora/rank8-monteclora", "shira/rank8", "osf/rank32")


@cache
def counted(name):
    """The footprint of a case, counted once for all who ask."""
    return count_footprint(TINY[name], decode=False)


@pytest.mark.parametrize("name", SPECIAL)
def test_initialisations_without_numbers_keep_the_shapes_of_a_trained_case(name):
    trained = read(baseline_path(REPOSITORY / "baselines", TINY[name].case)).metrics

    metrics = counted(name).metrics

    for key in ("params.trainable", "params.total", "checkpoint.bytes"):
        assert metrics[key] == trained[key], key


@pytest.mark.parametrize("name", ["adamss/rank32-asa", "boft/block8", "shira/rank8", "xlora/experts2"])
def test_a_result_says_what_took_an_initialisations_place(name):
    assert counted(name).to_json()["peftbench"]["notes"]


@pytest.mark.parametrize("experiment", [TINY["loha/rank8"], IMAGE["lora/rank8"]], ids=["math", "image"])
def test_the_parts_of_the_peak_add_up_and_two_runs_are_equal(experiment):
    first, second = count_footprint(experiment), count_footprint(experiment)

    assert first == second
    parts = {name: first.metrics[f"train_step.peak_{name}_bytes"] for name in PARTS}
    assert sum(parts.values()) == first.metrics["train_step.peak_bytes"]
    assert parts["weights"] >= 4 * first.metrics["params.total"]
    assert parts["optimizer"] >= 2 * 4 * first.metrics["params.trainable"]
    assert parts["activations"] > 0
    assert first.metrics["decode_step.flops"] > 0


@pytest.mark.parametrize("experiment", [TINY["boft/block8"], IMAGE["lora/rank8"]], ids=["math", "image"])
def test_another_name_of_each_function_of_ours_changes_no_row_of_a_baseline(experiment):
    before = count_footprint(experiment)
    with all_renamed():
        after = count_footprint(experiment)

    assert after == before
    assert not owners_of(before.operators) & own_names()


def test_full_fine_tuning_of_a_short_text_holds_gradients_as_large_as_the_weights():
    short = Lengths(batch=1, tokens=8)

    metrics = count_footprint(TINY["full-finetuning/default"], short, decode=False).metrics

    assert metrics["train_step.peak_gradients_bytes"] == 4 * metrics["params.trainable"]


def test_gradient_checkpointing_costs_flops_and_saves_activations():
    plain = TINY["lora/rank8"]
    checkpointing = replace(plain, train=replace(plain.train, use_gc=True))

    with_all, with_few = (count_footprint(item, decode=False).metrics for item in (plain, checkpointing))

    assert with_few["train_step.saved_bytes"] < with_all["train_step.saved_bytes"]
    assert with_few["train_step.flops"] > with_all["train_step.flops"]


def test_an_operator_that_has_no_meta_kernel_is_the_outcome_and_parameters_are_counted():
    result = counted("shira/rank8")

    assert "_coalesce" in result.metrics["footprint.counted"]
    assert result.metrics["params.trainable"] > 0
    assert "train_step.flops" not in result.metrics


@pytest.mark.parametrize(
    ("change", "words"),
    [({"dtype": "int8"}, "dtype"), ({"use_amp": True}, "use_amp"), ({"compile": True}, "compile")],
)
def test_what_the_meta_device_cannot_run_is_refused_by_key(change, words):
    experiment = replace(TINY["lora/rank8"], train=replace(TINY["lora/rank8"].train, **change))

    with pytest.raises(InputError, match=words):
        count_footprint(experiment)


def test_a_task_without_shapes_is_refused_by_name(monkeypatch):
    experiment = TINY["lora/rank8"]
    monkeypatch.setitem(registry._specs, experiment.case.task, replace(experiment.spec, shapes=""))

    with pytest.raises(InputError, match=r"lora.rank8: task 'MetaMathQA' has no shapes"):
        count_footprint(experiment)


def test_a_base_model_without_figures_is_refused_by_name(monkeypatch):
    def offline(*_):
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    experiment = replace(TINY["lora/rank8"], train=replace(TINY["lora/rank8"].train, model_id="nobody/Nothing-1B"))

    with pytest.raises(InputError, match=r"nobody/Nothing-1B.*Llama-3\.2-3B.*ConnectionError"):
        shapes_of(experiment)


def test_a_folder_s_config_comes_before_shipped_figures(tmp_path):
    folder = tmp_path / "Llama-3.2-3B"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    experiment = TINY["lora/rank8"]
    local = replace(experiment, train=replace(experiment.train, model_id=str(folder)))
    real = replace(experiment, train=replace(experiment.train, model_id="meta-llama/Llama-3.2-3B"))

    assert shapes_of(local).architecture["hidden_size"] == 8
    assert shapes_of(real).architecture["hidden_size"] == 3072
    assert shipped(real.train.model_id)
    assert not shipped(experiment.train.model_id)
    assert (real.is_embedded, experiment.is_embedded) == (False, True)


def test_the_version_follows_experiment_lengths_and_figures(tmp_path):
    make_suite(tmp_path / "MetaMathQA" / "mini")
    experiment = read_suite(tmp_path / "MetaMathQA" / "mini")[-1]
    longer = Lengths(experiment.train.batch_size, 9)

    versions = [count_footprint(experiment, lengths, decode=False).case_version for lengths in (None, None, longer)]

    assert versions[0] == versions[1] != versions[2]


def test_the_size_of_a_safetensors_file_is_known_from_shapes(tmp_path):
    tensors = {
        "b": torch.zeros(3, 5),
        "a.weight": torch.zeros(7, dtype=torch.bfloat16),
        "ü": torch.zeros((), dtype=torch.int64),
        "empty": torch.zeros(0, 4, dtype=torch.float16),
        "mask": torch.zeros(9, dtype=torch.bool),
        **{f"layers.{i}.w": torch.zeros(i + 1, 2, dtype=torch.uint8) for i in range(12)},
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})

    assert file_bytes(tensors) == (tmp_path / "x.safetensors").stat().st_size
