"""Formulas for the FLOPs of an operator, a multiply-add being two: torch's, and those that torch has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def _attention_flop(query: Tensor, key: Tensor, value: Tensor, *args: object, **kwargs: object) -> int:
    """FLOPs of softmax(QKᵀ)V: two batched matrix products; the causal mask saves nothing, as in torch's formulas."""
    batch, heads, queries, width = query.shape
    return 2 * batch * heads * queries * key.shape[2] * (width + value.shape[3])


def _attention_backward_flop(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: object, **kwargs: object
) -> int:
    """FLOPs of five batched matrix products: the scores again, and the gradients of scores, value, query and key."""
    batch, heads, queries, width = query.shape
    return 2 * batch * heads * queries * key.shape[2] * (3 * width + 2 * value.shape[3])


def _dot_flop(a: Tensor, b: Tensor, *args: object, **kwargs: object) -> int:
    return 2 * a.numel()


def _addmv_flop(bias: Tensor, matrix: Tensor, vector: Tensor, *args: object, **kwargs: object) -> int:
    return 2 * matrix.numel()


def _addbmm_flop(bias: Tensor, a: Tensor, b: Tensor, *args: object, **kwargs: object) -> int:
    return 2 * a.numel() * b.shape[2]


# torch has no formula for these (2.13), and would count attention on the CPU as nothing. Where it has one, it prevails.
FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
    aten._scaled_dot_product_fused_attention_overrideable: _attention_flop,
    aten._scaled_dot_product_fused_attention_overrideable_backward: _attention_backward_flop,
    aten.dot: _dot_flop,
    aten.vdot: _dot_flop,
    aten.mv: _dot_flop,
    aten.addmv: _addmv_flop,
    aten.addmv_: _addmv_flop,
    aten.addbmm: _addbmm_flop,
    aten.addbmm_: _addbmm_flop,
    aten.addmm_: flop_registry[aten.addmm],
    aten.baddbmm_: flop_registry[aten.baddbmm],
    **flop_registry,
    # torch's formulas want as many heads in key and value as in query, which the kernels do not.
    aten._scaled_dot_product_flash_attention: _attention_flop,
    aten._scaled_dot_product_flash_attention_backward: _attention_backward_flop,
}
