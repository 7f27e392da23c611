"""A task of a user's own: which mood a sentence is in, on a tiny encoder with generated data."""

import hashlib
import json
import random
from dataclasses import dataclass
from functools import cached_property

from pytest_peftbench import Column, Metric, TaskSpec, TrainConfig

WORDS = {"glad": ["good", "warm", "bright", "kind"], "sad": ["bad", "cold", "dark", "mean"], "any": ["day", "road"]}
VOCABULARY = ["<pad>", *sorted(word for words in WORDS.values() for word in words)]


@dataclass(frozen=True, kw_only=True)
class MoodConfig(TrainConfig):
    """words: of each sentence."""

    words: int = 9


@dataclass(frozen=True)
class MoodData:
    """Sentences as tokens, (sentences, words), each with its label: 1 for glad, 0 for sad."""

    train: list[tuple[list[int], int]]
    valid: list[tuple[list[int], int]]
    test: list[tuple[list[int], int]]

    @cached_property
    def digest(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(json.dumps([self.train, self.valid, self.test]).encode()).hexdigest()


def sentence(rng, words):
    """More words of one mood than of the other, and its label."""
    label = rng.randrange(2)
    moods = ["sad", "glad"]
    chosen = [rng.choice(WORDS[moods[label]]) for _ in range(words // 3 + 1)]
    chosen += [rng.choice(WORDS[moods[1 - label]]) for _ in range(words // 3 - 1)]
    chosen += [rng.choice(WORDS["any"]) for _ in range(words - len(chosen))]
    rng.shuffle(chosen)
    return [VOCABULARY.index(word) for word in chosen], label


def load_data(config):
    """The same sentences each time."""
    rng = random.Random(0)
    return MoodData(*([sentence(rng, config.words) for _ in range(size)] for size in (128, 32, 64)))


SPEC = TaskSpec(
    name="mood",
    config=MoodConfig,
    task="mood_task:Mood",  # imported when a case runs: it needs torch
    metrics=(
        Metric(
            "test_mood_accuracy",
            unit="fraction",
            direction="higher",
            lane="quality",
            description="share of test sentences whose mood is told",
            absolute_margin=0.05,
            samples="test_told",
        ),
        Metric("valid_mood_accuracy", "fraction", "higher", "info", "the same of validation sentences"),
    ),
    columns=(Column("told", "test_mood_accuracy", ".1%"),),
)
