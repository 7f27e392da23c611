"""Builds the embedded math task: tokenizer, pretrained base model and data, the same bytes each time.

The bytes depend on the torch build and on the instruction set, so pin the latter before torch is imported:
`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice, repeat
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pytest_peftbench.tasks.building import Progress, deterministic, muon_step, sha256, warmup_then_cosine
from pytest_peftbench.tasks.math_reasoning import world as math_data

SEED = 20
VOCABULARY = 512
TOKENIZER_DOCUMENTS = 24_000
STEPS = 3_800
BATCH = 16
LENGTH = 128
LEARNING_RATE = 4e-3
MUON_LEARNING_RATE = 0.02
RESULT_WEIGHT = 4.0
LOSS_EVERY = 100
HELD_OUT_STORIES = 256
TRAIN_ROWS, VALID_ROWS, TEST_ROWS, WIKI_ROWS = 2_000, 50, 256, 64

UNKNOWN, START, END = "<unk>", "<s>", "</s>"
PRINTABLE_ASCII = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]  # byte-level names of space and newline


def build(out: Path, progress: Progress, *, steps: int | None = None) -> dict[str, Any]:
    """Write `model/`, `data/` and `build.json` under `out` and return what `build.json` holds.

    `steps` shortens the pretraining. Two builds with the same torch and instruction set write the same bytes.
    """
    steps = STEPS if steps is None else steps
    out.mkdir(parents=True, exist_ok=True)
    write_data(out / "data")
    tokenizer = train_tokenizer()
    with deterministic():
        model, losses = pretrain(tokenizer, steps, progress)
        save(model, tokenizer, out / "model")
        solved = solve_rate(out / "model")
    progress(f"solves {solved:.1%} of held-out problems in the pretraining wording")
    report = describe(out, steps=steps, losses=losses, solved=solved)
    (out / "build.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def describe(out: Path, *, steps: int, losses: dict[str, float], solved: float) -> dict[str, Any]:
    """What `build.json` holds: how the files under `out` were made, and their sha256."""
    shape = {key: value for key, value in config().to_diff_dict().items() if key != "transformers_version"}
    files = [out / "model/model.safetensors", *sorted((out / "data").rglob("*.jsonl"))]
    return {
        "seed": SEED,
        "torch": torch.__version__,
        "steps": steps,
        "batch": BATCH,
        "length": LENGTH,
        "learning_rates": {"muon": MUON_LEARNING_RATE, "adamw": LEARNING_RATE},
        "config": shape,
        "data": {
            "rows": {"train": TRAIN_ROWS, "validation": VALID_ROWS, "test": TEST_ROWS, "wiki": WIKI_ROWS},
            "mix": {
                "train": [asdict(difficulty) for difficulty in math_data.TRAIN_MIX],
                "questions": [asdict(difficulty) for difficulty in math_data.QUESTION_MIX],
            },
            "largest_total": math_data.MAX_TOTAL,
            "largest_factor": math_data.LARGEST_FACTOR,
            "held_out_modulus": math_data.HELD_OUT_MODULUS,
            "primer_documents": math_data.PRIMER_DOCUMENTS,
        },
        "losses": losses,
        "held_out_solve_rate": solved,
        "sha256": {path.relative_to(out).as_posix(): sha256(path) for path in files},
    }


def write_data(folder: Path) -> None:
    """Write the benchmark's data sets in the layout and columns of the real ones."""
    tables = {
        "MetaMathQA/train.jsonl": math_data.training_rows(Random(f"{SEED}-train"), TRAIN_ROWS),
        "gsm8k/train.jsonl": math_data.question_rows(Random(f"{SEED}-validation"), VALID_ROWS),
        "gsm8k/test.jsonl": math_data.question_rows(Random(f"{SEED}-test"), TEST_ROWS),
        "finewiki/train.jsonl": math_data.wiki_rows(Random(f"{SEED}-wiki"), WIKI_ROWS),
    }
    for name, rows in tables.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which each digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[UNKNOWN, START, END],
        initial_alphabet=PRINTABLE_ASCII,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=config().max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )


def _tokenizer_corpus() -> Iterator[str]:
    """Pretraining text and the benchmark's prompt, so that its words are whole tokens."""
    yield from islice(math_data.pretraining_text(Random(f"{SEED}-tokenizer")), TOKENIZER_DOCUMENTS)
    yield from repeat(math_data.BENCHMARK_PROMPT.format(query=""), TOKENIZER_DOCUMENTS // 50)


def config() -> LlamaConfig:
    """The base model's shape: 0.66 million parameters, grouped queries, tied embeddings."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def pretrain(
    tokenizer: PreTrainedTokenizerFast, steps: int, progress: Progress
) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """Train the base model from scratch; returns it with every `LOSS_EVERY`-th loss and the last."""
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(config())
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named.items() if p.ndim < 2 or "embed" in name]
    momenta = [(weight, torch.zeros_like(weight)) for weight in matrices]
    optimizer = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    rows = pretraining_rows(tokenizer)
    equals = tokenizer.convert_tokens_to_ids("=")
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")))
    losses: dict[str, float] = {}
    for step in range(steps):
        tokens = torch.tensor(list(islice(rows, BATCH)))
        loss = _next_token_loss(model, tokens, equals, digits)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scale = warmup_then_cosine(step, steps)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * scale
        optimizer.step()
        muon_step(momenta, MUON_LEARNING_RATE * scale)
        if step % LOSS_EVERY == 0 or step == steps - 1:
            losses[str(step)] = round(loss.item(), 4)
            progress(f"step {step} of {steps}: loss {loss.item():.3f}")
    return model, losses


def _next_token_loss(model: LlamaForCausalLM, tokens: Tensor, equals: int, digits: Tensor) -> Tensor:
    """Mean cross-entropy in which the digits after "=" weigh more: few tokens, but the skill itself."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    losses = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    after = torch.isin(tokens[:, 1:], digits) & (tokens[:, :-1] == equals)
    after[:, 1:] |= torch.isin(tokens[:, 2:], digits) & after[:, :-1]
    weights = 1 + (RESULT_WEIGHT - 1) * after.flatten()
    return (losses * weights).sum() / weights.sum()


def pretraining_rows(tokenizer: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    """Endless rows of `LENGTH` + 1 tokens.

    Each row starts with a document, as a benchmark prompt does, so the end of the row before it is cut off.
    """
    texts = math_data.pretraining_text(Random(f"{SEED}-pretraining"))
    row: list[int] = []
    while True:
        for tokens in tokenizer(list(islice(texts, 1_000)))["input_ids"]:
            row += [*tokens, tokenizer.eos_token_id]
            if len(row) > LENGTH:
                yield row[: LENGTH + 1]
                row = []


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save model and tokenizer; float16 halves the file and turns to float32 without loss."""
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.inference_mode()
def solve_rate(folder: Path) -> float:
    """Share of held-out problems, in the pretraining wording, that the saved model solves to the word."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    problems = math_data.held_out_stories(Random(f"{SEED}-stories"), HELD_OUT_STORIES)
    prompts = tokenizer([math_data.story_prompt(p) for p in problems], padding=True, return_tensors="pt")
    inputs = {"input_ids": prompts["input_ids"], "attention_mask": prompts["attention_mask"]}
    output = model.generate(**inputs, max_new_tokens=56, do_sample=False)
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    expected = [math_data.story_ending(problem) for problem in problems]
    solved: list[bool] = [text == ending for text, ending in zip(texts, expected, strict=True)]
    return sum(solved) / len(solved)
