"""Edits of the benchmark's own pipeline. What they name and quote is ours, so they change with it."""

from __future__ import annotations

from pytest_peftbench.commands.selftest.patching import Edit

_TASK = "pytest_peftbench.tasks.math_reasoning.task"
_TRAINING = "pytest_peftbench.cases.training"

PADDING_COUNTED = Edit(
    f"{_TASK}:MathReasoning._train_batch", 'batch["attention_mask"] == 0', 'batch["attention_mask"] < 0'
)
GRADIENTS_NOT_CLIPPED = Edit(f"{_TRAINING}:Trainer.step", "if self.clip:", "if False:")
END_OF_TEXT_NOT_LEARNED = Edit(
    f"{_TASK}:MathReasoning._train_batch",
    'batch["attention_mask"] == 0',
    'batch["input_ids"] == self.data.tokenizer.eos_token_id',
)
CONSTANT_LEARNING_RATE = Edit(
    f"{_TRAINING}:make_schedule", "cosine if config.lr_scheduler else lambda _: 1.0", "lambda _: 1.0"
)
ADAPTER_OFF_WHILE_TESTED = Edit(
    f"{_TASK}:MathReasoning.evaluate",
    "correct = self._solve(model, self.data.test, extra, progress)",
    "with model.disable_adapter():\n    correct = self._solve(model, self.data.test, extra, progress)",
)
