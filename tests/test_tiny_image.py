"""The embedded image task: its drawn world, the shipped pipeline and encoder, and the build that made them."""

import hashlib
import json
import os
import subprocess
import sys
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from support import IMAGE_SUITE

from pytest_peftbench.tasks.image_generation import world as image_world
from pytest_peftbench.tasks.image_generation.spec import EMBEDDED as IMAGE
from pytest_peftbench.tasks.image_generation.world import Scene

SUITE = json.loads((IMAGE_SUITE / "default_training_params.json").read_text())
PICTURES = IMAGE / "data" / "cat-image-dataset"

# World


def run_python(code, **environment):
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_seed_draws_the_same_pictures_whatever_the_hash_seed():
    code = """
from hashlib import sha256
from random import Random
from pytest_peftbench.tasks.image_generation.world import caption, concept_scenes, creature_scene, pixels, sample_scene
rng = Random(0)
scenes = [*(sample_scene(rng) for _ in range(40)), *(creature_scene(rng) for _ in range(10)), *concept_scenes()]
captions = [caption(scene, rng) for scene in scenes]
print(sha256(pixels(scenes).tobytes() + str(captions).encode()).hexdigest())
"""
    assert run_python(code, PYTHONHASHSEED="1") == run_python(code, PYTHONHASHSEED="2")


def test_the_world_needs_no_torch():
    code = "import sys, pytest_peftbench.tasks.image_generation.world; print('torch' in sys.modules)"

    assert run_python(code) == "False"


def test_two_views_of_a_scene_differ_in_pixels_and_not_in_words():
    scene = image_world.sample_scene(Random(1))
    view = image_world.place(scene, Random(2))

    assert not np.array_equal(*image_world.pixels([scene, view]))
    assert image_world.caption(view) == image_world.caption(scene)


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (Scene("cat", "orange", "room"), "a photo of an orange cat in a room"),
        (Scene("car", "red", "night", "tree", drawing=True), "a drawing of a red car at night next to a tree"),
        (Scene("sks cat", "", "beach", "hat"), "a photo of sks cat at the beach wearing a hat"),
    ],
)
def test_a_caption_tells_what_the_scene_shows(scene, words):
    assert image_world.caption(scene) == words


def test_a_caption_with_chance_leaves_words_out_but_names_the_subject():
    rng = Random(3)
    scenes = [image_world.sample_scene(rng) for _ in range(200)]
    captions = [image_world.caption(scene, rng) for scene in scenes]

    assert all(scene.subject in words for scene, words in zip(scenes, captions, strict=True))
    assert {words.split()[0] for words in captions} == {"a", "an"}
    assert any(scene.color not in words for scene, words in zip(scenes, captions, strict=True))


def test_the_world_never_shows_the_concept():
    rng = Random(4)

    assert image_world.CONCEPT not in {image_world.sample_scene(rng).subject for _ in range(500)}


# The concept's data


def test_the_concept_is_split_into_14_2_and_4_pictures_that_share_none():
    split = image_world.concept_split()

    assert {name: len(indices) for name, indices in split.items()} == {"train": 14, "validation": 2, "test": 4}
    assert sorted(index for indices in split.values() for index in indices) == list(range(20))


def test_the_concepts_prompts_are_all_different_and_name_it():
    prompts = [image_world.concept_prompt(scene) for scene in image_world.concept_scenes()]

    assert len(set(prompts)) == 20
    assert all(prompt.startswith("sks cat ") for prompt in prompts)
    assert all("sks cat" in prompt for prompt in SUITE["sample_image_prompts"])
    assert not any("sks" in prompt for prompt in SUITE["drift_image_prompts"])


def test_the_shipped_pictures_are_the_drawn_ones():
    rows = [json.loads(line) for line in (PICTURES / "metadata.jsonl").read_text().splitlines()]
    shipped = [np.asarray(Image.open(PICTURES / row["file_name"])) for row in rows]
    split = image_world.concept_split()

    assert np.array_equal(np.stack(shipped), image_world.pixels(image_world.concept_scenes()))
    assert [row["prompt"] for row in rows] == [image_world.concept_prompt(s) for s in image_world.concept_scenes()]
    assert all(number in split[row["split"]] for number, row in enumerate(rows))


# Shipped models


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import Flux2KleinPipeline

    pipeline = Flux2KleinPipeline.from_pretrained(IMAGE / "model").to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline, prompts, **options):
    text = json.loads((IMAGE / "build.json").read_text())["text"]
    return pipeline(
        prompt=prompts,
        height=image_world.SIZE,
        width=image_world.SIZE,
        num_inference_steps=8,
        guidance_scale=3.0,
        max_sequence_length=text["tokens"],
        text_encoder_out_layers=text["layers"],
        generator=torch.Generator().manual_seed(0),
        **options,
    ).images


def test_the_shipped_files_are_those_of_the_build():
    recorded = json.loads((IMAGE / "build.json").read_text())["sha256"]
    weights = {path.relative_to(IMAGE).as_posix() for path in IMAGE.rglob("*.safetensors")}

    assert weights <= set(recorded)
    for name, sha256 in recorded.items():
        assert hashlib.sha256((IMAGE / name).read_bytes()).hexdigest() == sha256, name


def test_the_shipped_files_stay_small_and_name_no_folder():
    files = [path for path in IMAGE.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= 6 * 2**20
    assert not any("_name_or_path" in path.read_text() for path in files if path.name.endswith("config.json"))


def test_the_pipeline_generates_the_same_finite_pictures_twice(pipeline):
    prompts = ["a photo of a red cat in a room", "a blue car at the beach"]
    first = generate(pipeline, prompts, output_type="np")
    second = generate(pipeline, prompts, output_type="np")

    assert first.shape == (2, image_world.SIZE, image_world.SIZE, 3)
    assert np.isfinite(first).all()
    assert np.array_equal(first, second)


def test_the_picture_follows_the_prompt(pipeline):
    night, pink = generate(pipeline, ["a yellow star at night", "a yellow star on a pink background"], output_type="np")

    assert night[0].mean() < 0.5 < pink[0].mean()  # the top row of the picture is sky or wall


def test_the_autoencoder_redraws_the_concept(pipeline):
    drawn = torch.from_numpy(image_world.pixels(image_world.concept_scenes())).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        redrawn = pipeline.vae.decode(pipeline.vae.encode(drawn).latent_dist.mode()).sample

    assert -10 * torch.log10((redrawn - drawn).square().mean() / 4) > 22


def test_the_encoder_finds_two_views_of_the_concept_more_alike_than_an_ordinary_cat():
    from transformers import BitImageProcessorPil, Dinov2Model

    encoder = Dinov2Model.from_pretrained(IMAGE / "dino", dtype=torch.float32)
    processor = BitImageProcessorPil.from_pretrained(IMAGE / "dino")

    def embed(scene):
        inputs = processor(image_world.draw_scene(scene), return_tensors="pt")
        with torch.no_grad():
            return torch.nn.functional.normalize(encoder(**inputs).last_hidden_state[0, 0], dim=-1)

    concept = image_world.concept_scenes()[0]
    view = image_world.place(concept, Random(5))
    cat = Scene("cat", "orange", concept.background, concept.companion)

    assert embed(concept) @ embed(view) > 0.8
    assert embed(concept) @ embed(cat) < 0.6


def test_no_torchvision_is_imported_by_build_pipeline_or_encoder():
    code = f"""
import sys
import torch
import pytest_peftbench.tasks.image_generation.build
from diffusers import Flux2KleinPipeline
from transformers import BitImageProcessorPil, Dinov2Model
pipeline = Flux2KleinPipeline.from_pretrained({str(IMAGE / "model")!r}).to(torch.float32)
text = dict(max_sequence_length=20, text_encoder_out_layers=(1, 2, 3))
pipeline(prompt="a cat", height=32, width=32, num_inference_steps=1, **text)
Dinov2Model.from_pretrained({str(IMAGE / "dino")!r})
BitImageProcessorPil.from_pretrained({str(IMAGE / "dino")!r})
print("torchvision" in sys.modules)
"""
    assert run_python(code) == "False"


# Build


def test_a_shortened_build_writes_the_same_bytes_twice_and_the_shipped_tokenizer_and_prompts(tmp_path):
    from pytest_peftbench.tasks.image_generation.build import build

    said = []
    torch.manual_seed(1)
    first = build(tmp_path / "first", said.append, steps=2)
    torch.manual_seed(2)
    second = build(tmp_path / "second", said.append, steps=2)

    assert first == second == json.loads((tmp_path / "first/build.json").read_text())
    assert {"model/vae/diffusion_pytorch_model.safetensors", "dino/model.safetensors"} <= set(first["sha256"])
    assert any(line.startswith("flow: step 2 of 2") for line in said)
    shipped = json.loads((IMAGE / "build.json").read_text())["sha256"]
    for name in ("model/tokenizer/tokenizer.json", "data/cat-image-dataset/metadata.jsonl"):
        assert first["sha256"][name] == shipped[name]
