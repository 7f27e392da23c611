"""Faults that must not pass for unchanged; quality may move or not."""

from __future__ import annotations

from pytest_peftbench.commands.selftest.faults.fault import Fault
from pytest_peftbench.commands.selftest.faults.own import (
    END_OF_TEXT_NOT_LEARNED,
    GRADIENTS_NOT_CLIPPED,
    PADDING_COUNTED,
)
from pytest_peftbench.commands.selftest.faults.places import ADALORA, LOHA, LORA, LORA_FORWARD, MISS, OFT, PROMPT
from pytest_peftbench.commands.selftest.patching import Edit

_BITS = ("witness", "first_losses", "adapter_sha256")
_BITS_OR_BASE = (*_BITS, "base model")  # of the benchmark's own loss and step, which train the base model too


def _numerics(name: str, experiment: str, size: str, *edits: Edit, metrics: tuple[str, ...] = _BITS) -> Fault:
    """A fault that must not pass for unchanged; quality may move or not."""
    return Fault(name, experiment, size, "numerics", metrics, edits)


NUMERICS = (
    _numerics(
        "scaling off",
        "lora/rank8",
        "x1.02",
        Edit(f"{LORA}:Linear.forward", LORA_FORWARD, "lora_B(lora_A(dropout(x))) * (scaling * 1.02)"),
    ),
    _numerics(
        "scaling off",
        "lora/rank8",
        "x1.000001",
        Edit(f"{LORA}:Linear.forward", LORA_FORWARD, "lora_B(lora_A(dropout(x))) * (scaling * 1.000001)"),
    ),
    _numerics(
        "scaling off",
        "loha/rank8",
        "x1.0001",
        Edit(
            f"{LOHA}.update_layer",
            "self.scaling[adapter_name] = alpha / r",
            "self.scaling[adapter_name] = 1.0001 * alpha / r",
        ),
    ),
    _numerics(
        "gradient stopped for one factor",
        "lora/rank8",
        "A of B A x",
        Edit(f"{LORA}:Linear.forward", "lora_B(lora_A(dropout(x)))", "lora_B(lora_A(dropout(x)).detach())"),
    ),
    _numerics(
        "adapter ignored in some modules",
        "loha/rank8",
        "k_proj and v_proj",
        Edit(
            f"{LOHA}.forward",
            "if active_adapter not in self._available_adapters:",
            "if active_adapter not in self._available_adapters or self.out_features == 64:",
        ),
    ),
    _numerics(
        "adapter is no identity at first: blocks not zero",
        "miss/rank8",
        "0 -> 0.0001",
        Edit(
            f"{MISS}:MissLayer.reset_miss_parameters",
            "torch.zeros(r, self.out_features)",
            "torch.full((r, self.out_features), 1e-4)",
        ),
        metrics=(*_BITS, "init.max_output_difference"),
    ),
    _numerics(
        "orthogonality no longer asked for",
        "adalora/rank8",
        "penalty on the factors dropped",
        Edit(
            f"{ADALORA}.model:AdaLoraModel.forward",
            "outputs.loss += orth_reg_weight * regu_loss",
            "outputs.loss += 0 * regu_loss",
        ),
    ),
    _numerics(
        "importance not smoothed",
        "adalora/rank8",
        "running mean of the sensitivity dropped",
        Edit(
            f"{ADALORA}.layer:RankAllocator.update_ipt",
            "self.beta1 * self.exp_avg_ipt[n] + (1 - self.beta1) * self.ipt[n]",
            "self.ipt[n]",
        ),
        metrics=("adapter_sha256",),
    ),
    _numerics(
        "last term of a series dropped",
        "oft/block16",
        "1 of 5 terms of the rotation",
        Edit(f"{OFT}._cayley_batch", "R.add_(Q_power)", "R.add_(Q_power, alpha=0.0)"),
    ),
    _numerics(
        "start of the prompt off",
        "prompttuning/sample-vocab",
        "x1.02",
        Edit(
            f"{PROMPT}.__init__",
            "word_embedding_weights = word_embeddings(init_token_ids).detach().clone()",
            "word_embedding_weights = word_embeddings(init_token_ids).detach().clone() * 1.02",
            times=2,
        ),
        metrics=(*_BITS, "init.max_output_difference"),
    ),
    _numerics(
        "padding counted in the loss",
        "lora/rank8",
        "all padding of a batch",
        PADDING_COUNTED,
        metrics=_BITS_OR_BASE,
    ),
    _numerics(
        "gradients not clipped",
        "vera/rank64",
        "norm above the limit",
        GRADIENTS_NOT_CLIPPED,
        metrics=_BITS_OR_BASE,
    ),
    _numerics(
        "end of text not learned",
        "lora/rank8",
        "EOS left out of the loss",
        END_OF_TEXT_NOT_LEARNED,
        metrics=_BITS_OR_BASE,
    ),
)
