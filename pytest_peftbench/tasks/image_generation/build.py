"""Builds the embedded image task: a small FLUX.2 pipeline, an image encoder and the concept's pictures.

As for the math task the bytes depend on the torch build and the instruction set, so pin the latter before torch is
imported: `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, mse_loss, normalize, pad
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model, Qwen2TokenizerFast, Qwen3Config
from transformers import Qwen3ForCausalLM as TextEncoder

from pytest_peftbench.tasks.building import Progress, deterministic, muon_step, sha256, warmup_then_cosine
from pytest_peftbench.tasks.image_generation import world as world
from pytest_peftbench.tasks.image_generation.world import Scene

SEED = 20
LOSS_EVERY = 50
TEXT_TOKENS = 20
TEXT_LAYERS = (1, 2, 3)  # the hidden states that the transformer reads
LATENT_CHANNELS = 4
TEXT_WIDTH = 64
VOCABULARY, TOKENIZER_CAPTIONS = 512, 4_000
CREATURE_SHARE = 0.25
UNCONDITIONAL_SHARE = 0.1
NEW_SETTING_SHARE = 0.7
NCE_TEMPERATURE = 0.15
MUON_LEARNING_RATE = 0.02
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class Stage:
    """One stage of the training: `steps` batches out of `pictures` pictures."""

    steps: int
    batch: int
    learning_rate: float
    pictures: int

    def shortened(self, steps: int | None) -> Stage:
        """At most `steps` steps, and no more pictures than these can show."""
        if steps is None or steps >= self.steps:
            return self
        return replace(self, steps=steps, pictures=min(self.pictures, steps * self.batch))


STAGES = {
    "vae": Stage(steps=5_000, batch=8, learning_rate=2e-3, pictures=6_000),
    "encoder": Stage(steps=1_000, batch=32, learning_rate=1e-3, pictures=6_000),
    "flow": Stage(steps=2_200, batch=32, learning_rate=2e-3, pictures=16_000),
}


def build(out: Path, progress: Progress, *, steps: int | None = None) -> dict[str, Any]:
    """Write `model/`, `dino/`, `data/` and `build.json` under `out` and return what `build.json` holds.

    `steps` shortens each stage. Two builds with the same torch and instruction set write the same bytes.
    """
    stages = {name: stage.shortened(steps) for name, stage in STAGES.items()}
    with deterministic():
        vae, vae_record = train_vae(stages["vae"], progress)
        encoder, encoder_record = train_encoder(stages["encoder"], progress)
        tokenizer = train_tokenizer()
        text_encoder, transformer, flow_record = train_flow(stages["flow"], vae, tokenizer, progress)
    records = {"vae": vae_record, "encoder": encoder_record, "flow": flow_record}
    return save(out, stages, records, vae, encoder, tokenizer, text_encoder, transformer)


def save(
    out: Path,
    stages: dict[str, Stage],
    records: dict[str, Any],
    vae: AutoencoderKLFlux2,
    encoder: Dinov2Model,
    tokenizer: Qwen2TokenizerFast,
    text_encoder: TextEncoder,
    transformer: Flux2Transformer2DModel,
) -> dict[str, Any]:
    """Write the trained models in float16, the concept's pictures and `build.json`."""
    out.mkdir(parents=True, exist_ok=True)
    write_data(out / "data")
    tokenizer.backend_tokenizer.no_padding()  # else the file would keep how the training padded and cut
    tokenizer.backend_tokenizer.no_truncation()
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        transformer=transformer.half(),
    )
    pipeline.save_pretrained(out / "model")
    encoder.half().save_pretrained(out / "dino")
    image_processor().save_pretrained(out / "dino")
    report = {
        "seed": SEED,
        "torch": torch.__version__,
        "text": {"tokens": TEXT_TOKENS, "layers": list(TEXT_LAYERS)},
        "stages": {name: {**asdict(stages[name]), **record} for name, record in records.items()},
        "muon_learning_rate": MUON_LEARNING_RATE,
        "unconditional_share": UNCONDITIONAL_SHARE,
        "creature_share": CREATURE_SHARE,
        "new_setting_share": NEW_SETTING_SHARE,
        "sha256": {path.relative_to(out).as_posix(): sha256(path) for path in _built_files(out)},
    }
    (out / "build.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _built_files(out: Path) -> list[Path]:
    """Weights, tokenizer and pictures; the other JSON files name the versions of their libraries."""
    names = ("*.safetensors", "tokenizer.json", "*.png", "*.jsonl")
    return sorted(path for name in names for path in out.rglob(name))


def write_data(folder: Path) -> None:
    """Write the concept's pictures, in the data set's order, with their prompts and splits."""
    pictures = folder / "cat-image-dataset"
    pictures.mkdir(parents=True, exist_ok=True)
    split_of = {index: name for name, indices in world.concept_split().items() for index in indices}
    rows = []
    for index, scene in enumerate(world.concept_scenes()):
        name = f"{index:02}.png"
        world.draw_scene(scene).save(pictures / name)
        rows.append({"file_name": name, "prompt": world.concept_prompt(scene), "split": split_of[index]})
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# ---------------------------------------------------------------- autoencoder


def train_vae(stage: Stage, progress: Progress) -> tuple[AutoencoderKLFlux2, dict[str, Any]]:
    """Learn to draw a picture again from a sixteenth of its pixels, in four channels."""
    torch.manual_seed(SEED)
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(12, 24),
        decoder_block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,
        sample_size=world.SIZE,
        mid_block_add_attention=False,
    )
    for name, module in vae.named_modules():
        if name.endswith("conv2"):  # each residual block starts as the identity
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    vae.to(memory_format=torch.channels_last)
    images = world.pixels(_scenes(Random(f"{SEED}-vae"), stage.pictures))
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.95), weight_decay=1e-4)
    losses = Losses("vae", stage, progress)
    for step, rows in enumerate(_batches(stage)):
        picture = _to_tensor(images[rows]).to(memory_format=torch.channels_last)
        mean = vae.encode(picture).latent_dist.mean
        drawn = vae.decode(mean + 0.05 * torch.randn_like(mean)).sample
        loss = _picture_loss(drawn, picture) + 1e-4 * mean.square().mean()
        losses.add(loss)
        _descend(loss, optimizer, stage, step)
    vae.to(memory_format=torch.contiguous_format).half().float().eval()
    _measure_latents(vae, _to_tensor(images[:1_000]))
    held_out = world.pixels(_scenes(Random(f"{SEED}-held-out"), 200))
    quality = {"world": _psnr(vae, held_out), "concept": _psnr(vae, world.pixels(world.concept_scenes()))}
    progress(f"vae: {quality['world']} dB on held-out scenes, {quality['concept']} dB on the concept")
    return vae, {"losses": losses.curve, "psnr_db": quality}


def _picture_loss(drawn: Tensor, picture: Tensor) -> Tensor:
    """Distance of the pixels, and of their steps to the right and down, which keep edges sharp."""
    gap = drawn - picture
    steps = gap.diff(dim=-1).abs().mean() + gap.diff(dim=-2).abs().mean()
    return gap.abs().mean() + gap.square().mean() + 0.5 * steps


@torch.no_grad()
def _measure_latents(vae: AutoencoderKLFlux2, pictures: Tensor) -> None:
    """Set the batch norm that the pipeline normalises latents with."""
    patches = torch.cat([_patches(vae, some) for some in torch.split(pictures, 100)])
    vae.bn.running_mean.copy_(patches.mean((0, 2, 3)).half())
    vae.bn.running_var.copy_(patches.var((0, 2, 3)).half())


def _patches(vae: AutoencoderKLFlux2, pictures: Tensor) -> Tensor:
    patches: Tensor = Flux2KleinPipeline._patchify_latents(vae.encode(pictures).latent_dist.mode())
    return patches


@torch.no_grad()
def _psnr(vae: AutoencoderKLFlux2, images: NDArray[np.uint8]) -> float:
    picture = _to_tensor(images)
    drawn = vae.decode(vae.encode(picture).latent_dist.mode()).sample.clamp(-1, 1)
    return round(-10 * math.log10(mse_loss(drawn, picture).item() / 4), 2)


# ---------------------------------------------------------------- image encoder


def new_encoder() -> Dinov2Model:
    """An untrained image encoder: 0.3 million parameters."""
    return Dinov2Model(
        Dinov2Config(
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=3,
            mlp_ratio=2,
            image_size=world.SIZE,
            patch_size=4,
        )
    )


def train_encoder(stage: Stage, progress: Progress) -> tuple[Dinov2Model, dict[str, Any]]:
    """Learn to match two views of one scene, and to name what it shows.

    Views differ in place, size and jitter, and most of them in the setting, so what they share is the subject: the
    sense of "similarity" here. Naming keeps the setting in the embedding, for drift.
    """
    torch.manual_seed(SEED + 1)
    encoder = new_encoder()
    rng = Random(f"{SEED}-encoder")
    scenes = _scenes(rng, stage.pictures)
    others = [_another_view(scene, rng) for scene in scenes]
    views = [(world.pixels(side), torch.tensor([_labels(scene) for scene in side])) for side in (scenes, others)]
    heads = torch.nn.ModuleList(torch.nn.Linear(96, size) for size in LABEL_SIZES)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], weight_decay=0.05)
    partners = torch.arange(2 * stage.batch).roll(stage.batch)
    losses = Losses("encoder", stage, progress)
    for step, rows in enumerate(_batches(stage)):
        pictures = _augmented(torch.cat([_to_tensor(images[rows]) for images, _ in views]))
        classes = encoder(pixel_values=pictures).last_hidden_state[:, 0]
        unit = normalize(classes, dim=-1)
        likeness = unit @ unit.T / NCE_TEMPERATURE
        match = cross_entropy(likeness.fill_diagonal_(-1e4), partners)
        targets = torch.cat([labels[rows] for _, labels in views])
        names = [cross_entropy(head(classes), targets[:, n], ignore_index=-1) for n, head in enumerate(heads)]
        loss = match + 0.5 * torch.stack(names).sum()
        losses.add(loss)
        _descend(loss, optimizer, stage, step)
    encoder.half().float().eval()
    cosines = _cosines(encoder)
    progress(f"encoder: mean cosines {cosines}")
    return encoder, {"losses": losses.curve, "mean_cosines": cosines}


def _another_view(scene: Scene, rng: Random) -> Scene:
    """The same subject seen anew, mostly in another setting."""
    if rng.random() < NEW_SETTING_SHARE:
        other = world.sample_scene(rng)
        scene = replace(scene, background=other.background, companion=other.companion)
    return world.place(scene, rng)


def _vocabularies() -> tuple[list[str], ...]:
    return (list(world.SUBJECTS), list(world.COLORS), list(world.BACKGROUNDS), list(world.COMPANIONS))


LABEL_SIZES = [*map(len, _vocabularies()), 2]


def _labels(scene: Scene) -> list[int]:
    """Class numbers of what the scene shows; -1 for a creature's kind and colour, which have no name."""
    shown = (scene.subject, scene.color, scene.background, scene.companion)
    labels = [names.index(name) if name in names else -1 for names, name in zip(_vocabularies(), shown, strict=True)]
    if labels[0] == -1:
        labels[1] = -1
    return [*labels, int(scene.drawing)]


def _augmented(pictures: Tensor) -> Tensor:
    """Shifted in brightness and tint, noisy, half of them blurred: as generated pictures are."""
    rows = len(pictures)
    pictures = pictures + 0.06 * torch.randn(rows, 1, 1, 1) + 0.03 * torch.randn(rows, 3, 1, 1)
    pictures = pictures + torch.rand(rows, 1, 1, 1) * 0.12 * torch.randn(pictures.shape)
    blurred = avg_pool2d(pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(rows, 1, 1, 1) * (torch.rand(rows, 1, 1, 1) < 0.5)
    return pictures.lerp(blurred, share)


@torch.no_grad()
def _cosines(encoder: Dinov2Model) -> dict[str, float]:
    """How alike the encoder finds the concept's pictures and: other views, ordinary cats, and each other."""
    rng = Random(f"{SEED}-cosines")
    scenes = world.concept_scenes()

    def embed(scenes: Sequence[Scene]) -> Tensor:
        output = encoder(pixel_values=_to_tensor(world.pixels(scenes)))
        return normalize(output.last_hidden_state[:, 0], dim=-1)

    concept = embed(scenes)
    cats = [replace(scene, subject="cat", color=rng.choice(list(world.COLORS))) for scene in scenes]
    others = {
        "another view": [world.place(scene, rng) for scene in scenes],
        "an ordinary cat": [world.place(scene, rng) for scene in cats],
        "another setting": scenes[1:] + scenes[:1],
    }
    return {name: round((concept * embed(other)).sum(-1).mean().item(), 3) for name, other in others.items()}


def image_processor() -> BitImageProcessorPil:
    """What turns a picture into the encoder's input, without torchvision."""
    size = {"height": world.SIZE, "width": world.SIZE}
    half = [0.5, 0.5, 0.5]
    return BitImageProcessorPil(size=size, do_center_crop=False, image_mean=half, image_std=half)


# ---------------------------------------------------------------- tokenizer, text encoder and transformer


def train_tokenizer() -> Qwen2TokenizerFast:
    """A byte-level BPE of the class FLUX.2 uses, in which the world's words are single tokens."""
    rng = Random(f"{SEED}-tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    captions = [world.caption(world.sample_scene(rng), rng) for _ in range(TOKENIZER_CAPTIONS)]
    tokenizer.train_from_iterator(captions, trainer)
    table = json.loads(tokenizer.to_str())["model"]
    fast = Qwen2TokenizerFast(
        vocab=table["vocab"],
        merges=[tuple(pair) for pair in table["merges"]],
        unk_token=PAD,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START, END],
        model_max_length=TEXT_TOKENS,
        padding_side="right",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def new_text_encoder(tokenizer: Qwen2TokenizerFast) -> TextEncoder:
    """An untrained text encoder: 0.13 million parameters."""
    return TextEncoder(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=len(TEXT_LAYERS),
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def new_transformer() -> Flux2Transformer2DModel:
    """An untrained transformer, 1.3 million parameters: one double and four single blocks."""
    return Flux2Transformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=1,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH * len(TEXT_LAYERS),
        timestep_guidance_channels=64,
        mlp_ratio=2.0,
        axes_dims_rope=(4, 10, 10, 8),
        rope_theta=500,
        guidance_embeds=False,
    )


def train_flow(
    stage: Stage, vae: AutoencoderKLFlux2, tokenizer: Qwen2TokenizerFast, progress: Progress
) -> tuple[TextEncoder, Flux2Transformer2DModel, dict[str, Any]]:
    """Train text encoder and transformer together, from scratch, by flow matching."""
    torch.manual_seed(SEED + 2)
    text_encoder, transformer = new_text_encoder(tokenizer), new_transformer()
    latents, captions = _latents_and_captions(vae, stage.pictures)
    progress(f"flow: {len(latents)} pictures encoded")
    tokens, mask = tokenize(tokenizer, captions)
    no_tokens, no_mask = tokenize(tokenizer, [""])
    image_ids = Flux2KleinPipeline._prepare_latent_ids(latents[: stage.batch])
    latents = Flux2KleinPipeline._pack_latents(latents)
    text_ids = Flux2KleinPipeline._prepare_text_ids(torch.zeros(stage.batch, TEXT_TOKENS, 1))
    optimizer, momenta = _optimizers([text_encoder, transformer])
    losses = Losses("flow", stage, progress)
    for step, rows in enumerate(_batches(stage)):
        target = latents[rows]
        dropped = torch.rand(stage.batch, 1) < UNCONDITIONAL_SHARE
        text = embed_text(
            text_encoder, torch.where(dropped, no_tokens, tokens[rows]), torch.where(dropped, no_mask, mask[rows])
        )
        noise = torch.randn(target.shape)
        time = _times(stage.batch)
        velocity = transformer(
            hidden_states=target.lerp(noise, time.view(-1, 1, 1)),
            timestep=time,
            encoder_hidden_states=text,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
        loss = mse_loss(velocity, noise - target)
        losses.add(loss)
        _descend(loss, optimizer, stage, step, momenta)
    return text_encoder.eval(), transformer.eval(), {"losses": losses.curve}


def tokenize(tokenizer: Qwen2TokenizerFast, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token numbers and mask of the prompts as the pipeline makes them."""
    texts = [tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False) for prompt in prompts]
    encoded = tokenizer(texts, return_tensors="pt", padding="max_length", truncation=True, max_length=TEXT_TOKENS)
    return encoded["input_ids"], encoded["attention_mask"]


def embed_text(text_encoder: TextEncoder, tokens: Tensor, mask: Tensor) -> Tensor:
    """The hidden states of `TEXT_LAYERS` side by side, as the pipeline passes them to the transformer."""
    output = text_encoder(
        input_ids=tokens, attention_mask=mask, output_hidden_states=True, use_cache=False, logits_to_keep=1
    )
    return torch.cat([output.hidden_states[layer] for layer in TEXT_LAYERS], dim=-1)


@torch.no_grad()
def _latents_and_captions(vae: AutoencoderKLFlux2, number: int) -> tuple[Tensor, list[str]]:
    """Normalised latents of `number` scenes, as the pipeline normalises them, and their captions."""
    rng = Random(f"{SEED}-flow")
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    deviation = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
    scenes = [world.sample_scene(rng) for _ in range(number)]
    parts = [_patches(vae, _to_tensor(world.pixels(scenes[n : n + 64]))) for n in range(0, number, 64)]
    return (torch.cat(parts) - mean) / deviation, [world.caption(scene, rng) for scene in scenes]


def _times(number: int) -> Tensor:
    """Half of the times uniform, half around the middle, where the picture takes shape."""
    middle = torch.sigmoid(torch.randn(number) + 0.2)
    return torch.where(torch.rand(number) < 0.5, middle, torch.rand(number))


def _optimizers(modules: Iterable[torch.nn.Module]) -> tuple[torch.optim.AdamW, list[tuple[Tensor, Tensor]]]:
    """Muon's momenta for the matrices of attention and feed-forward; AdamW for all other weights."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for module in modules:
        for name, weight in module.named_parameters():
            is_layer = weight.ndim == 2 and any(part in name for part in ("attn", "mlp", ".ff"))
            (matrices if is_layer else others).append(weight)
    optimizer = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    return optimizer, [(weight, torch.zeros_like(weight)) for weight in matrices]


# ---------------------------------------------------------------- shared by the stages


class Losses:
    """A stage's loss curve: the mean over each `LOSS_EVERY` steps, under the number of the last."""

    def __init__(self, name: str, stage: Stage, progress: Progress) -> None:
        self.name, self.stage, self.progress = name, stage, progress
        self.curve: dict[str, float] = {}
        self._recent: list[float] = []
        self._steps = 0

    def add(self, loss: Tensor) -> None:
        """Take note of the next step's loss."""
        self._recent.append(loss.item())
        self._steps += 1
        if self._steps % LOSS_EVERY == 0 or self._steps == self.stage.steps:
            mean = round(sum(self._recent) / len(self._recent), 4)
            self.curve[str(self._steps)] = mean
            self._recent.clear()
            self.progress(f"{self.name}: step {self._steps} of {self.stage.steps}: loss {mean:.4f}")


def _scenes(rng: Random, number: int) -> list[Scene]:
    """Scenes of the world, some of them with a creature: what autoencoder and image encoder see."""
    return [
        world.creature_scene(rng) if rng.random() < CREATURE_SHARE else world.sample_scene(rng) for _ in range(number)
    ]


def _batches(stage: Stage) -> Iterator[Tensor]:
    """Row numbers of each step's batch: pass after pass over the pictures, each in another order."""
    rows = torch.empty(0, dtype=torch.long)
    for _ in range(stage.steps):
        while len(rows) < stage.batch:
            rows = torch.cat([rows, torch.randperm(stage.pictures)])
        yield rows[: stage.batch]
        rows = rows[stage.batch :]


def _to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Pixels from -1 to 1, channels first."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def _descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    stage: Stage,
    step: int,
    momenta: Sequence[tuple[Tensor, Tensor]] = (),
) -> None:
    """One step on the clipped gradient: AdamW's on its weights, Muon's on those in `momenta`."""
    scale = warmup_then_cosine(step, stage.steps)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    weights += [weight for weight, _ in momenta]
    for weight in weights:
        weight.grad = None
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = stage.learning_rate * scale
    optimizer.step()
    muon_step(list(momenta), MUON_LEARNING_RATE * scale)
