"""Who called an operator: a role in what is measured, or a function of a library. Never a function of this package.

Names of our own would change with each renaming, and a difference that only compares rows by name could hide there.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch.optim import Optimizer

# torch, and what stands between a library's functions and the work that is measured: both are looked through.
_TRANSPARENT = frozenset({"torch", __name__.partition(".")[0]})
# What is being done, innermost last: the owner of operators that no library's function calls.
_roles: list[str] = []


@contextmanager
def role(name: str) -> Iterator[None]:
    """Operators of the body that no library's function calls belong to this role: `step`, `loss`, `output`, …."""
    _roles.append(name)
    try:
        yield
    finally:
        _roles.pop()


class Owners:
    """Names who called the current operator: a library's function, the optimizer, a role, or the forward of a backward.

    Autograd numbers the nodes of its graph. The owner of the operator during which a node appeared is remembered under
    the node's number, and operators that the engine runs for this node belong to "<owner> (backward)".
    """

    def __init__(self, optimizer: Optimizer | None, outermost: CodeType) -> None:
        """outermost: code of the function that counts; its callers have no part in the work."""
        self._outermost = outermost
        self._optimizer = f"optimizer {type(optimizer).__name__}" if optimizer is not None else "optimizer"
        # By the id of a frame's code, which is kept so that no other gets it: its hash would be that of all its bytes.
        self._places: dict[int, tuple[CodeType, str]] = {}
        # The newest node so far was not made under our eyes.
        self._by_node = {_newest_node(): "backward"}

    def current(self) -> str:
        """Owner of the operator that is being dispatched."""
        owner = self._from_frames(sys._getframe(1))
        self._by_node.setdefault(_newest_node(), owner)
        return owner

    def _from_frames(self, frame: FrameType | None) -> str:
        while frame is not None and (code := frame.f_code) is not self._outermost:
            known = self._places.get(id(code))
            if known is None:
                known = self._places[id(code)] = (code, _place(frame))
            place = known[1]
            if place == _ENGINE:
                return self._from_node()
            if place == _OPTIMIZER:
                return self._optimizer
            if place != _LOOKED_THROUGH:
                return place
            frame = frame.f_back
        # Without Python frames we are in the autograd engine's own thread (accelerators).
        return self._from_node() if frame is None else _roles[-1]

    def _from_node(self) -> str:
        node = torch._C._current_autograd_node()
        owner = self._by_node.get(node._sequence_nr(), "backward") if node is not None else "backward"
        return owner if owner.endswith(("backward", "(backward)")) else f"{owner} (backward)"


def _newest_node() -> int:
    return int(torch._C._autograd._get_sequence_nr()) - 1


# What a frame is when it is no function of a library.
_ENGINE, _OPTIMIZER, _LOOKED_THROUGH = "<engine>", "<optimizer>", ""


def _place(frame: FrameType) -> str:
    """The name of the frame's function where a library's owns what it calls, else what the frame is."""
    code, module = frame.f_code, frame.f_globals.get("__name__", "")
    if module == "torch.autograd.graph" and code.co_name == "_engine_run_backward":
        return _ENGINE
    if module.startswith("torch.optim."):
        return _OPTIMIZER
    return _LOOKED_THROUGH if module.partition(".")[0] in _TRANSPARENT else _function_name(frame)


_names: dict[CodeType, str] = {}


def _function_name(frame: FrameType) -> str:
    """Qualified name of the frame's function without "<locals>" and the like; a module's name for its top level."""
    code = frame.f_code
    if code not in _names:
        qualified = code.co_qualname if sys.version_info >= (3, 11) else _qualified_name(code, frame.f_globals)
        parts = [part for part in qualified.split(".") if not part.startswith("<")]
        _names[code] = ".".join(parts) or str(frame.f_globals.get("__name__", "unknown"))
    return _names[code]


def _qualified_name(code: CodeType, names: dict[str, Any]) -> str:
    """Python 3.10's substitute for `co_qualname`: find the module's class that has this code.

    The frame's `self` would tell it too, but reading a frame's locals keeps tensors alive that we count.
    """
    for cls in [value for value in names.values() if isinstance(value, type)]:
        for member in vars(cls).values():
            function = inspect.unwrap(getattr(member, "__func__", member))
            if getattr(function, "__code__", None) is code:
                return str(function.__qualname__)
    return code.co_name
