"""Bytes of the tensor storages that are alive, their peak, and what it consists of."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Peak:
    """What was alive when the most bytes were; the parts add up to `peak_bytes`.

    weights: of the model, its buffers too. activations: what autograd saved for the backward pass at any time.
    temporary: all else, the batch included.
    """

    weights_bytes: int = 0
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    activations_bytes: int = 0
    temporary_bytes: int = 0


def _weights_of(model: nn.Module | None) -> list[Tensor]:
    return [] if model is None else [*model.parameters(), *model.buffers()]


def _gradients_of(model: nn.Module | None) -> list[Tensor]:
    return [weight.grad for weight in _weights_of(model) if weight.is_leaf and weight.grad is not None]


def _optimizer_state_of(optimizer: Optimizer | None) -> list[Tensor]:
    if optimizer is None:
        return []
    return [leaf for state in optimizer.state.values() for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> torch.UntypedStorage | None:
    """The memory behind a tensor; None for a sparse tensor, which has no single one."""
    try:
        return tensor.untyped_storage()
    except NotImplementedError:
        return None


def bytes_of(model: nn.Module) -> int:
    """Bytes of all tensors that a model's modules hold, each storage once: weights, buffers, attributes of any kind."""
    held = (tree_leaves(vars(module)) for module in model.modules())
    tensors = [leaf for leaves in held for leaf in leaves if isinstance(leaf, Tensor)]
    storages = {id(storage): storage for tensor in tensors if (storage := _storage(tensor)) is not None}
    return sum(storage.nbytes() for storage in storages.values())


# What was there before the work. Weights and what belongs to them have no shape: they are many, and known.
_WEIGHTS, _GRADIENTS, _OPTIMIZER_STATE, EARLIER = "weights", "gradients", "optimizer state", "earlier work"


@cache
def _row(shape: tuple[int, ...], dtype: torch.dtype, owner: str) -> str:
    """`[128, 128] float32 @ LoHaLayer.get_delta_weight`."""
    told = "" if owner in (_WEIGHTS, _GRADIENTS, _OPTIMIZER_STATE) else f"{list(shape)} "
    return f"{told}{str(dtype).removeprefix('torch.')} @ {owner}"


class LiveStorages:
    """Bytes of the storages that are alive, and their peak.

    torch keeps one Python object per storage for as long as the storage lives, also while only autograd's graph (C++)
    holds it, so the object's id names the storage and a weak reference to it tells the storage's death. Ids are used
    again; a number of its own tells each storage from those before it. A storage shows only later what it was for
    (saved for backward, a gradient), so what the peak consists of is found at the end, from the log of all changes.
    """

    def __init__(self, model: nn.Module | None, optimizer: Optimizer | None) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0
        self.saved_bytes = 0
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._numbers: dict[int, int] = {}
        self._next_number = 0
        self._sizes: dict[int, int] = {}
        self._kinds: dict[int, str] = {}
        # Of each number what `_row` makes a row of.
        self._described: dict[int, tuple[tuple[int, ...], torch.dtype, str]] = {}
        # What came and went: number of the storage, storages and bytes more or less.
        self._log: list[tuple[int, int, int]] = []
        self._log_at_peak = 0
        for tensor in _weights_of(model):
            self._mark(tensor, "weights_bytes", _WEIGHTS)
        # Storages that `saved_bytes` no longer counts: the weights, and what is in it already.
        self._not_saved_again = set(self._references)
        for tensor in _optimizer_state_of(optimizer):
            self._mark(tensor, "optimizer_bytes", _OPTIMIZER_STATE)
        for tensor in _gradients_of(model):
            self.mark_gradient(tensor)

    def add(self, value: object, owner: str) -> None:
        """Count the tensors in `value` from now on, each storage once; views and known storages change nothing."""
        if isinstance(value, Tensor):
            if (storage := _storage(value)) is not None:
                self._add(storage, value, owner)
        elif isinstance(value, (tuple, list)):
            for item in value:
                self.add(item, owner)
        elif isinstance(value, dict):
            for item in value.values():
                self.add(item, owner)

    def peak_tensors(self) -> dict[str, list[int]]:
        """Count and bytes of the storages alive when `peak_bytes` was first reached, by row."""
        rows: dict[str, list[int]] = {}
        for number, count, size in self._log[: self._log_at_peak]:
            totals = rows.setdefault(_row(*self._described[number]), [0, 0])
            totals[0] += count
            totals[1] += size
        return {row: rows[row] for row in sorted(rows) if rows[row][1]}

    def save(self, tensor: Tensor) -> Tensor:
        """Hook that autograd calls with each tensor it saves; what it returns is what autograd keeps.

        An operator's saved result knows the graph node that saves it. Kept as it is, the two would hold each other, and
        a graph that is dropped without a backward pass would never be freed; hence the detached alias.
        """
        if (storage := _storage(tensor)) is not None:
            key = self._add(storage, tensor, EARLIER)
            if key not in self._not_saved_again:
                self._not_saved_again.add(key)
                self.saved_bytes += storage.nbytes()
            self._kinds.setdefault(self._numbers[key], "activations_bytes")
        return tensor.detach()

    def mark_gradient(self, gradient: Tensor) -> None:
        """The tensor is the gradient of a weight."""
        self._mark(gradient, "gradients_bytes", _GRADIENTS)

    def peak(self) -> Peak:
        """What was alive at the peak, by what it turned out to be for."""
        parts = dict.fromkeys((item.name for item in fields(Peak)), 0)
        for number, _, change in self._log[: self._log_at_peak]:
            parts[self._kinds.get(number, "temporary_bytes")] += change
        return Peak(**parts)

    def _mark(self, tensor: Tensor, kind: str, owner: str) -> None:
        if (storage := _storage(tensor)) is not None:
            number = self._numbers[self._add(storage, tensor, owner)]
            if self._kinds.get(number) not in ("weights_bytes", "optimizer_bytes"):
                self._kinds[number] = kind

    def _add(self, storage: torch.UntypedStorage, tensor: Tensor, owner: str) -> int:
        key = id(storage)
        # A storage may be resized in place; that is noticed when an operator next sees it.
        size = storage.nbytes()
        known = self._sizes.get(key)
        if known is None:
            self._references[key] = weakref.ref(storage, lambda _: self._forget(key))
            self._numbers[key] = self._next_number
            self._described[self._next_number] = (tensor.shape, tensor.dtype, owner)
            self._next_number += 1
        if size != known:
            grown = size - (known or 0)
            self._sizes[key] = size
            self._log.append((self._numbers[key], int(known is None), grown))
            self.live_bytes += grown
            if self.live_bytes > self.peak_bytes:
                self.peak_bytes, self._log_at_peak = self.live_bytes, len(self._log)
        return key

    def _forget(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.live_bytes -= size
        self._log.append((self._numbers.pop(key), -1, -size))
        self._not_saved_again.discard(key)
        del self._references[key]


@contextmanager
def gradient_hooks(model: nn.Module | None, memory: LiveStorages) -> Iterator[None]:
    """Tell `memory` of each gradient that the backward pass leaves in a weight."""

    def mark(weight: Tensor) -> None:
        if weight.grad is not None:
            memory.mark_gradient(weight.grad)

    weights = [weight for weight in _weights_of(model) if weight.is_leaf and weight.requires_grad]
    handles = [weight.register_post_accumulate_grad_hook(mark) for weight in weights]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
