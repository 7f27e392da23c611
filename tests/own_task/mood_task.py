"""What the task does when it runs."""

import random

import torch
from mood import VOCABULARY, load_data
from transformers import BertConfig, BertForSequenceClassification

from pytest_peftbench.tasks.task import Evaluation, Task, silent


class Mood(Task):
    """See `pytest_peftbench.tasks.task.Task`."""

    generates = False

    @staticmethod
    def load_base_model(config, place):
        """A random encoder; a real task would load one with `from_pretrained`."""
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        return BertForSequenceClassification(BertConfig(vocab_size=len(VOCABULARY), **shape, num_labels=2))

    @staticmethod
    def load_data(config, place):
        """Generated."""
        return load_data(config)

    def batches(self, seed):
        """Sentences drawn at random."""
        rng = random.Random(seed)
        while True:
            yield self._batch(rng.sample(self.data.train, self.config.batch_size))

    def probe_batch(self):
        """The first sentences."""
        return self._batch(self.data.train[: self.config.batch_size])

    def loss(self, model, batch):
        """Cross-entropy of the label."""
        return model(**batch).loss

    def output(self, model, batch):
        """Logits, (sentences, labels)."""
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits

    def validate(self, model, extra, progress=silent):
        """Share of validation sentences that are told."""
        told = self._told(model, self.data.valid)
        return {"valid_mood_accuracy": sum(told) / len(told)}

    def evaluate(self, model, extra, reference, progress=silent):
        """Share of test sentences that are told."""
        told = self._told(model, self.data.test)
        samples = {"test_told": "".join("01"[item] for item in told)}
        return Evaluation({"test_mood_accuracy": sum(told) / len(told)}, samples)

    def _batch(self, sentences):
        tokens, labels = zip(*sentences, strict=True)
        return {
            "input_ids": torch.tensor(tokens, device=self.place.device),
            "labels": torch.tensor(labels, device=self.place.device),
        }

    @torch.inference_mode()
    def _told(self, model, sentences):
        batch = self._batch(sentences)
        return (self.output(model, batch).argmax(-1) == batch["labels"]).tolist()
