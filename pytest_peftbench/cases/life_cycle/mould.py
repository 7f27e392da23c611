"""Copies of one model, made fast: `copy.deepcopy` takes longer than all that is then done with a tiny model."""

from __future__ import annotations

import io
import pickle
from typing import Any

from torch import Tensor, nn

# What pickling raises of a model that holds functions of one model alone.
UNPICKLABLE = (AttributeError, TypeError, pickle.PicklingError)


class Mould:
    """Gives copies of a model. Tensors that two of its modules share are shared in each copy, too.

    Raises one of UNPICKLABLE for a model that holds what cannot be copied so.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tensors: list[Tensor] = []
        buffer = io.BytesIO()
        _Pickler(buffer, self._tensors).dump(model)
        self._shape = buffer.getvalue()

    def copy(self) -> nn.Module:
        """A model that shares nothing with others."""
        copied: nn.Module = _Unpickler(io.BytesIO(self._shape), self._tensors).load()
        return copied


class _Pickler(pickle.Pickler):
    """Leaves tensors aside: what torch writes of each takes most of the time."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors
        self._numbers: dict[int, int] = {}

    def persistent_id(self, what: Any) -> int | None:
        if not isinstance(what, Tensor):
            return None
        if id(what) not in self._numbers:
            self._numbers[id(what)] = len(self._tensors)
            self._tensors.append(what)
        return self._numbers[id(what)]


class _Unpickler(pickle.Unpickler):
    """Gives each tensor a copy."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors
        self._copies: dict[int, Tensor] = {}

    def persistent_load(self, number: int) -> Tensor:
        if number not in self._copies:
            self._copies[number] = _copy(self._tensors[number])
        return self._copies[number]


def _copy(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
