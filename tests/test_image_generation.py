"""The image task on the embedded FLUX.2 pipeline: data, loss, drawing, quality, and the faults that must turn red."""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import diffusers.training_utils
import pytest
import torch
from diffusers import Flux2KleinPipeline
from own_functions import all_renamed, own_names, owners_of
from PIL import Image
from support import IMAGE_SUITE, assert_usage_error

from pytest_peftbench.cases.loading import cached_base_models, cached_task_data
from pytest_peftbench.cases.trained import run_experiment
from pytest_peftbench.compare import compare, is_green
from pytest_peftbench.measure import timing
from pytest_peftbench.results.baseline import from_result
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.config import Place
from pytest_peftbench.tasks.image_generation import data as image_data
from pytest_peftbench.tasks.image_generation import world as image_world
from pytest_peftbench.tasks.image_generation.scores import drift, similarity
from pytest_peftbench.tasks.image_generation.spec import EMBEDDED, ImageTrainConfig
from pytest_peftbench.tasks.image_generation.task import DRIFT_SEED, ImageGeneration

DEFAULTS = {
    **json.loads((IMAGE_SUITE / "default_training_params.json").read_text()),
    "max_steps": 3,
    "eval_steps": 3,
    "num_inference_steps": 2,
    "lr_scheduler": None,
    "optimizer_kwargs": {"lr": 0.05},
    "sample_image_prompts": ["a photo of sks cat"],
    "drift_image_prompts": ["a photo of a cat", "a red car at night"],
}
LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["to_q", "to_v", "to_qkv_mlp_proj"]}


def make_experiment(adapter=LORA, **params):
    train = ImageTrainConfig(**{**DEFAULTS, **params})
    return Experiment(CaseId("image-gen", "mini", "lora", "r4"), Path("suite/experiments/lora/r4"), train, adapter)


EXPERIMENT = make_experiment()


base_models, task_data = cached_base_models(), cached_task_data()


def load_data(**params):
    return ImageGeneration.load_data(make_experiment(**params).train, Place())


def task_on(data, **params):
    return ImageGeneration(make_experiment(**params).train, Place(), data)


def no_extra(size):
    return {}


@pytest.fixture(scope="module")
def data():
    return task_data(EXPERIMENT)


@pytest.fixture(scope="module")
def task(data):
    return task_on(data)


@pytest.fixture(scope="module")
def base():
    return base_models(EXPERIMENT).eval()


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    monkeypatch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))


# Data


def test_the_pictures_are_split_as_peft_splits_them(data):
    rows = [image_world.concept_prompt(scene) for scene in image_world.concept_scenes()]
    expected = {name: [rows[index] for index in indices] for name, indices in image_world.concept_split().items()}

    assert [example.prompt for example in data.train] == expected["train"]
    assert [example.prompt for example in data.valid] == expected["validation"]
    assert [example.prompt for example in data.test] == expected["test"]


def test_the_suite_s_prompts_are_those_of_the_pictures():
    rows = [json.loads(line) for line in (EMBEDDED / "data/cat-image-dataset/metadata.jsonl").read_text().splitlines()]

    assert EXPERIMENT.train.instance_prompts == [row["prompt"] for row in rows]


def test_normalised_latents_have_the_scale_of_the_noise_they_are_mixed_with(data):
    assert data.latents.shape == (14, 64, 16)
    assert data.latents.mean().abs() < 0.5
    assert 0.5 < data.latents.std() < 2


def test_text_encoder_and_transformer_are_gone_once_the_prompts_are_encoded(data):
    assert data.pipeline.text_encoder is None
    assert data.pipeline.transformer is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"resolution": 30}, "resolution: must be a multiple of 4 for tiny, is 30; 28 is one"),
        ({"image_column": "picture"}, "image_column: tiny has no column 'picture', but ['image', 'prompt', 'split']"),
        ({"instance_prompts": ["sks cat"] * 19}, "instance_prompts: tiny holds 20 pictures, there are 19 prompts"),
    ],
)
def test_data_that_does_not_fit_the_parameters_is_refused(params, message):
    with pytest.raises(InputError) as raised:
        load_data(**params)

    assert message in str(raised.value)


def save_pictures(folder, colors):
    folder.mkdir()
    for number, color in enumerate(colors):
        Image.new("RGB", (32, 32), color).save(folder / f"{number}.png")


def test_a_folder_of_pictures_is_data_too(tmp_path):
    save_pictures(tmp_path / "pictures", ["red", "green", "blue", "white"])
    params = {"instance_prompts": ["a", "b", "c", "d"], "valid_size": 1, "test_size": 1}

    data = load_data(dataset_id=str(tmp_path / "pictures"), **params)

    assert (len(data.train), len(data.valid), len(data.test)) == (2, 1, 1)


def test_a_picture_in_two_splits_is_refused(tmp_path):
    save_pictures(tmp_path / "pictures", ["red", "green", "red", "red"])
    params = {"instance_prompts": ["a", "b", "c", "d"], "valid_size": 1, "test_size": 1}

    with pytest.raises(InputError, match=r"is in the training split and in the (validation|test) split"):
        load_data(dataset_id=str(tmp_path / "pictures"), **params)


def test_the_digest_tells_other_prompts_and_other_splits_apart(data):
    swapped = replace(data, valid=data.test, test=data.valid)
    reworded = replace(data, train=[replace(data.train[0], prompt="a cat"), *data.train[1:]])

    assert len({data.digest, swapped.digest, reworded.digest}) == 3


# Training


def test_a_batch_mixes_latents_and_noise_at_the_scheduler_s_noise_levels(task):
    (batch,) = islice(task.batches(seed=0), 1)

    assert batch["latents"].shape == batch["noise"].shape == (4, 64, 16)
    assert torch.allclose(batch["sigmas"].flatten(), batch["timesteps"] / 1000)
    assert ((batch["sigmas"] > 0) & (batch["sigmas"] <= 1)).all()


def test_batches_go_through_all_pictures_and_depend_on_the_seed_alone(task):
    def first(seed, count=7):
        return list(islice(task.batches(seed), count))

    seen = torch.cat([batch["latents"] for batch in first(0)])[:14]

    assert len({picture.numpy().tobytes() for picture in seen}) == 14
    assert all(torch.equal(a["noise"], b["noise"]) for a, b in zip(first(1), first(1), strict=True))
    assert not torch.equal(first(0, 1)[0]["noise"], first(1, 1)[0]["noise"])


def test_drawing_leaves_the_noise_levels_of_training_alone(task, base):
    before = task.probe_batch()
    task.decode(base, 2, no_extra)

    assert torch.equal(task.probe_batch()["sigmas"], before["sigmas"])


def test_the_loss_is_the_weighted_distance_from_noise_minus_latents(task, base):
    batch = task.probe_batch()
    with torch.no_grad():
        distance = float(((task.output(base, batch) - (batch["noise"] - batch["latents"])) ** 2).mean())
        loss, doubled = (float(task.loss(base, {**batch, "weights": batch["weights"] * by})) for by in (1, 2))

    assert loss == pytest.approx(distance)
    assert doubled == pytest.approx(2 * distance)


def test_the_weighting_scheme_weighs(data):
    batch = task_on(data, weighting_scheme="sigma_sqrt").probe_batch()

    assert torch.allclose(batch["weights"], batch["sigmas"] ** -2.0)


# Quality


def test_the_base_model_has_not_drifted_from_itself(task, base):
    said = []
    reference = task.reference(base, said.append)
    evaluation = task.evaluate(base, no_extra, reference)

    assert said[0] == f"pictures 0/{len(EXPERIMENT.train.sample_image_prompts)}"
    assert evaluation.metrics["drift"] == pytest.approx(0, abs=1e-6)
    assert evaluation.metrics["images.changed"] == "differs"
    assert evaluation.metrics["test_dino_similarity"] <= 0.4


def test_drift_goes_from_0_for_the_same_pictures_to_1_for_opposite_ones():
    assert drift(torch.tensor([1.0, 1.0])) == 0.0
    assert drift(torch.tensor([1.0, -1.0])) == 0.5
    assert drift(torch.tensor([-1.0])) == 1.0


def test_similarity_is_the_mean_cosine():
    assert similarity(torch.tensor([1.0, 0.5])) == 0.75


def test_a_picture_depends_on_prompt_and_seed_and_not_on_those_drawn_beside_it(data, base):
    def draw(prompts, seed, size):
        return task_on(data, batch_size_eval=size).draw(base, prompts, seed).images

    two = draw(["a photo of a cat", "a red car at night"], 5, size=2)
    one = draw(["a photo of a cat", "a red car at night"], 5, size=1)
    other = draw(["a photo of a cat"], 6, size=1)

    def pixels(image):
        return torch.tensor(list(image.tobytes()), dtype=torch.float)

    assert all((pixels(a) - pixels(b)).abs().max() <= 1 for a, b in zip(one, two, strict=True))
    assert (pixels(other[0]) - pixels(one[0])).abs().max() > 10


# A case


def run(experiment=EXPERIMENT, data=task_data):
    return run_experiment(experiment, base_models, data)


@pytest.fixture(scope="module")
def lora():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))
        return run()


def test_a_case_measures_similarity_and_drift_with_their_samples(lora):
    (seed,) = lora.seeds

    assert seed.metrics["test_dino_similarity"] == pytest.approx(sum(seed.samples["similarity_per_image"]) / 12)
    assert seed.metrics["drift"] == pytest.approx(sum(seed.samples["drift_per_image"]) / 2)
    assert seed.metrics["drift"] > 0
    assert seed.metrics["images.changed"] == "ok"
    # 4 test prompts three times, 2 unrelated ones by either model
    assert len(seed.metrics["images_sha256"]) == 12 + 2 + 2
    assert lora.metrics["disable.restores_base"] == lora.metrics["reload.same_output"] == "ok"


def test_another_name_of_each_function_of_ours_changes_no_row_of_a_baseline(lora):
    with all_renamed():
        again = run(data=cached_task_data())

    def attributed(result):
        return result.operators, result.peak_tensors, result.base.operators

    assert attributed(again) == attributed(lora)
    assert not owners_of(*attributed(lora)) & own_names()


def test_full_fine_tuning_has_a_drift_too():
    result = run(make_experiment(adapter=None, optimizer_kwargs={"lr": 0.003}))

    assert 0 < result.seeds[0].metrics["drift"] < 1


def test_one_denoising_step_is_two_passes_because_it_is_guided(lora):
    unguided = run(make_experiment(guidance_scale=1.0))

    assert lora.metrics["decode_step.flops"] == 2 * unguided.metrics["decode_step.flops"]


def test_a_denoising_step_moves_no_vae_and_drawing_does(task, base, monkeypatch):
    moved = []
    monkeypatch.setattr(task.data.pipeline.vae, "to", moved.append)

    task.decode(base, 1, no_extra)
    assert moved == []

    task.draw(base, ["a photo of a cat"], 0)
    assert [str(device) for device in moved] == ["cpu", "cpu"]


def test_the_result_is_in_peft_s_schema(lora):
    last = lora.to_json()["train_info"]["metrics"][-1]

    assert set(last) == {"step", "test dino_similarity", "drift", "train loss", "train samples"}
    assert lora.to_json()["train_info"]["metrics"][0]["valid dino_similarity"] <= 1
    assert lora.to_json()["meta_info"]["dataset_info"] == {"sha": None, "created_at": None}


def test_pictures_stand_base_beside_adapted_with_prompt_and_seed_in_the_file(lora):
    assert [picture.name for picture in lora.pictures if "reference" not in picture.name] == [
        "lora--r4/concept-01.png",
        "lora--r4/unrelated-01.png",
        "lora--r4/unrelated-02.png",
    ]
    image = Image.open(io.BytesIO(lora.pictures[-1].png))
    image.load()

    assert image.size == (64, 32)
    assert image.text == {
        "prompt": "a red car at night",
        "seed": str(DRIFT_SEED + 1),
        "left": "base model",
        "right": "adapted model",
    }
    left = hashlib.sha256(image.crop((0, 0, 32, 32)).tobytes()).hexdigest()[:16]
    assert lora.seeds[0].metrics["images_sha256"][f"base model: a red car at night, seed {DRIFT_SEED + 1}"] == left


def test_the_concepts_held_out_pictures_stand_among_them_in_the_same_size(lora, data):
    references = [picture for picture in lora.pictures if "reference" in picture.name]

    assert [picture.prompt for picture in references] == [example.prompt for example in data.test]
    assert {Image.open(io.BytesIO(picture.png)).size for picture in references} == {(32, 32)}


def test_the_digest_does_not_depend_on_where_the_model_lies(tmp_path, data):
    shutil.copytree(EMBEDDED / "model", tmp_path / "model")

    assert load_data(model_id=str(tmp_path / "model")).digest == data.digest


def test_cases_with_other_unrelated_prompts_have_a_reference_of_their_own(lora):
    prompts = ["a yellow dog at the beach"]

    second = run(make_experiment(drift_image_prompts=prompts))

    assert len(lora.seeds[0].samples["drift_per_image"]) == 2
    assert len(second.seeds[0].samples["drift_per_image"]) == 1
    assert f"base model: {prompts[0]}, seed {DRIFT_SEED}" in second.seeds[0].metrics["images_sha256"]


def test_cases_that_draw_other_timesteps_have_a_reference_of_their_own(lora):
    other = run(make_experiment(weighting_scheme="mode", logit_mean=1.0))

    assert lora.metrics["init.identity"] == other.metrics["init.identity"] == "ok"
    assert lora.base.losses != other.base.losses


# Faults


def verdict(recorded, data=lambda experiment: replace(task_data(experiment))):
    """Of a run on data of its own, of which nothing is known that an earlier one measured on them."""
    return compare(run(data=data), from_result(recorded), METRICS, tests=1)


def found(verdict, name):
    """The verdict on a metric, or on the base model."""
    (finding,) = (item for item in verdict.findings if name in (item.metric, item.about))
    return finding.verdict


def test_unchanged_code_is_identical(lora):
    result = verdict(lora, cached_task_data())

    assert result.verdict == "identical", result.text()


def test_an_adapter_that_is_ignored_when_drawing_is_red(lora, monkeypatch):
    generate = ImageGeneration._generate

    def ignoring(self, model, *args, **kwargs):
        if not hasattr(model, "disable_adapter"):
            return generate(self, model, *args, **kwargs)
        with model.disable_adapter():
            return generate(self, model, *args, **kwargs)

    monkeypatch.setattr(ImageGeneration, "_generate", ignoring)
    result = verdict(lora)

    assert not is_green(result)
    assert found(result, "images.changed") == "regressed"


def test_a_base_that_is_drawn_with_the_adapter_left_on_is_red_though_drift_looks_better(lora, monkeypatch):
    evaluate = ImageGeneration.evaluate

    def with_adapter(self, model, extra, reference, progress):
        return evaluate(self, model, extra, self.draw_samples(model), progress)

    monkeypatch.setattr(ImageGeneration, "evaluate", with_adapter)
    result = verdict(lora)

    assert not is_green(result)
    assert result.values["drift"] == pytest.approx(0, abs=1e-6)
    assert found(result, "drift") == "cannot tell"  # one seed alone, which is red as well
    assert found(result, "images.changed") == "regressed"
    assert found(result, "images_sha256") == "numerics changed"


def test_latents_without_the_batch_norm_s_mean_and_deviation_are_red(lora, monkeypatch):
    def encode(self, image, generator):
        return self._patchify_latents(self.vae.encode(image).latent_dist.mode())

    monkeypatch.setattr(Flux2KleinPipeline, "_encode_vae_image", encode)
    result = verdict(lora, cached_task_data())

    assert not is_green(result)
    assert found(result, "base model") == "numerics changed"
    assert found(result, "train_loss") == "cannot tell"  # one seed alone


def test_guidance_that_is_switched_off_is_red(lora, monkeypatch):
    monkeypatch.setattr(Flux2KleinPipeline, "do_classifier_free_guidance", False)
    result = verdict(lora)

    assert not is_green(result)
    assert found(result, "decode_step.flops") == "improved"
    assert found(result, "images_sha256") == "numerics changed"


def test_training_on_one_timestep_only_is_red(lora, monkeypatch):
    def one(weighting_scheme, batch_size, *args, **kwargs):
        return torch.full((batch_size,), 0.5)

    monkeypatch.setattr(diffusers.training_utils, "compute_density_for_timestep_sampling", one)
    result = verdict(lora)

    assert not is_green(result)
    assert found(result, "base model") == "numerics changed"


def test_training_pictures_in_the_test_split_are_red(lora, monkeypatch):
    load = image_data.load_splits

    def leaking(*args):
        train, valid, test = load(*args)
        return [train, valid, train[: len(test)]]

    monkeypatch.setattr(image_data, "load_splits", leaking)
    result = verdict(lora, cached_task_data())

    assert result.verdict == "not comparable"
    assert not is_green(result)


# In pytest


def test_pictures_are_written_beside_the_result_that_names_them(bench):
    suite = bench.path / "image-gen" / "mini"
    for name, value in {
        "default_training_params.json": DEFAULTS,
        "experiments/lora/r4/adapter_config.json": LORA,
    }.items():
        (suite / name).parent.mkdir(parents=True, exist_ok=True)
        (suite / name).write_text(json.dumps(value))
    (bench.path / "test_mini.py").write_text((IMAGE_SUITE.parents[1] / "test_image_generation.py").read_text())

    result = bench.run("--peft-no-compare", "--peft-json", "out")

    assert result.ret == 0, result.stdout.str()
    folder = bench.path / "out" / "image-gen" / "mini"
    named = json.loads((folder / "lora--r4.json").read_text())["peftbench"]["pictures"]
    drawn = [picture for picture in named if "reference" not in picture["file"]]
    assert [picture["prompt"] for picture in drawn] == ["a photo of sks cat", "a photo of a cat", "a red car at night"]
    assert len(named) > len(drawn)
    for picture in drawn:
        assert Image.open(folder / picture["file"]).text["seed"] == str(picture["seed"])


def test_parameters_of_the_other_task_are_refused(bench):
    (bench.path / "image-gen" / "mini" / "experiments" / "lora" / "r4").mkdir(parents=True)
    (bench.path / "image-gen" / "mini" / "default_training_params.json").write_text(
        json.dumps({**DEFAULTS, "query_template": "{query}"})
    )
    (bench.path / "test_mini.py").write_text((IMAGE_SUITE.parents[1] / "test_image_generation.py").read_text())

    assert_usage_error(bench.run(), "default_training_params.json", "query_template")


def test_diffusers_is_asked_for_a_type_of_weights_by_the_name_that_its_version_knows(monkeypatch):
    from diffusers.utils import deprecation_utils

    monkeypatch.setattr(deprecation_utils, "_resolve_dtype", None, raising=False)
    assert image_data.in_dtype("bfloat16") == {"dtype": torch.bfloat16}
    monkeypatch.delattr(deprecation_utils, "_resolve_dtype")
    assert image_data.in_dtype("bfloat16") == {"torch_dtype": torch.bfloat16}
