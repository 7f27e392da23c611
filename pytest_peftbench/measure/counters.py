"""Exact counters of what a piece of work asks of torch: FLOPs, operator calls, live and saved tensor bytes.

The counters depend on the operators that torch dispatches and on the shapes of their tensors, never on the clock or
the machine's load, so two runs of unchanged code give the same numbers. They work alike on real and on meta tensors.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_peftbench.measure.collector import collector_paused
from pytest_peftbench.measure.flops import FORMULAS, aten
from pytest_peftbench.measure.owners import Owners, role
from pytest_peftbench.measure.storages import EARLIER, LiveStorages, Peak, gradient_hooks

T = TypeVar("T")


@dataclass(frozen=True)
class Counters:
    """What one piece of work cost; lower is better for each counter.

    flops: floating point operations of matrix products, convolutions and attention (a multiply-add is two); other
    operators, FFTs and decompositions count as calls only.
    calls: operators that torch dispatched, views included, `aten.detach` not (see `_Counter`).
    peak_bytes: most bytes of tensor storage alive after any operator, each storage once. Weights, their gradients and
    the optimizer's state count from the start, other tensors made earlier from the first operator that reads them. The
    scratch memory inside an operator is not seen, nor is that of sparse tensors.
    saved_bytes: bytes of all storages that autograd saved for the backward pass, each once, the model's parameters and
    buffers not counted.
    operators: "aten.mm @ LoHaLayer.get_delta_weight" -> [calls, FLOPs], sorted by name. The name after the @ is that
    of the innermost function of a library other than torch, or the role of the work (see `owners`).
    peak_tensors: the storages alive at the peak, "[128, 128] float32 @ LoHaLayer.get_delta_weight" -> [count, bytes],
    sorted by name; the first peak when there are several. After the @ stands who made them, or what they are: weights,
    gradients and optimizer state from before the work (these three without shape), other earlier tensors.
    peak: what `peak_bytes` consists of.
    """

    flops: int
    calls: int
    peak_bytes: int
    saved_bytes: int
    operators: dict[str, list[int]] = field(default_factory=dict)
    peak_tensors: dict[str, list[int]] = field(default_factory=dict)
    peak: Peak = field(default_factory=Peak)

    def figures(self) -> dict[str, int]:
        """The counters by name, the parts of the peak as `peak_weights_bytes` and so on."""
        parts = {f"peak_{name}": value for name, value in asdict(self.peak).items()}
        counters = ("flops", "calls", "peak_bytes", "saved_bytes")
        return {**{name: getattr(self, name) for name in counters}, **parts}


def count(
    function: Callable[[], object],
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    *,
    work: str = "work",
) -> Counters:
    """Run `function` once and count what it does. work: its role, which owns what no library's function calls.

    Count a step that ran before: the first one also creates caches and optimizer state. Results are the same bits as
    without counting. While it runs, the garbage collector is off, so that memory held by reference cycles counts in
    every run alike; and autograd's check that saved tensors were not changed in place is off, as with any
    `saved_tensors_hooks`.
    """
    with collector_paused():
        memory = LiveStorages(model, optimizer)
        counter = _Counter(memory, Owners(optimizer, count.__code__))
        with (
            role(work),
            gradient_hooks(model, memory),
            torch.autograd.graph.saved_tensors_hooks(memory.save, lambda saved: saved),
            counter,
        ):
            function()
    operators = counter.operators()
    calls, flops = (sum(row[i] for row in operators.values()) for i in (0, 1))
    return Counters(
        flops, calls, memory.peak_bytes, memory.saved_bytes, operators, memory.peak_tensors(), memory.peak()
    )


def difference(a: Counters, b: Counters) -> Counters:
    """FLOPs, calls and operators of `a` minus those of `b`, rows of zeros dropped.

    `generate(k + 1)` minus `generate(k)` is one decoding step. Peaks cannot be subtracted: both byte counts are 0.
    """
    operators = {}
    for name in sorted({*a.operators, *b.operators}):
        (calls_a, flops_a), (calls_b, flops_b) = (side.operators.get(name, [0, 0]) for side in (a, b))
        if (calls_a, flops_a) != (calls_b, flops_b):
            operators[name] = [calls_a - calls_b, flops_a - flops_b]
    return Counters(a.flops - b.flops, a.calls - b.calls, 0, 0, operators)


def count_host_calls(function: Callable[[], T]) -> tuple[int, T]:
    """Run `function`; return how many calls it made in peft and torch.nn, and what it returned.

    Lower is better: it is what injecting an adapter costs on the host. Counted are Python functions of theirs, lambdas
    and generators among them (these each time that they are resumed), and the built-in functions that they call.
    Comprehensions are not, which newer Pythons inline, nor is the import of a module. Other threads' calls are not
    seen.
    """
    folders = _host_folders()
    count = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        code = frame.f_code
        if event in ("call", "c_call") and code.co_filename.startswith(folders):
            count += event == "c_call" or code.co_name not in _INLINED

    earlier = sys.getprofile()
    sys.setprofile(profile)
    try:
        result = function()
    finally:
        sys.setprofile(earlier)
    return count, result


# What is no call in every Python, and what happens once in a process.
_INLINED = ("<listcomp>", "<setcomp>", "<dictcomp>", "<module>")


def _host_folders() -> tuple[str, ...]:
    peft = importlib.util.find_spec("peft")
    folders = [*(peft.submodule_search_locations or () if peft else ()), *nn.__path__]
    return tuple(os.path.join(folder, "") for folder in folders)


_NOT_COUNTED = frozenset({aten.detach, aten.detach_})


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operator below autograd, counts it, and lets it run.

    `aten.detach` is not counted: torch itself calls it when it saves and unpacks tensors while a mode or saved-tensor
    hooks are active, so most of its calls exist only because we look. Nor is `aten.detach_`, by which `torch.tensor`
    ends in inference mode.
    """

    def __init__(self, memory: LiveStorages, owners: Owners) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory = memory
        self._owners = owners
        self._rows: dict[tuple[str, str], list[int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As in `meta.device.Remembering`: without torch's guard against compiling a call is seen in half the time."""
        return False

    def operators(self) -> dict[str, list[int]]:
        """[calls, FLOPs] by "operator @ owner", sorted."""
        return dict(sorted((f"{name} @ {owner}", row) for (name, owner), row in self._rows.items()))

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = _kinds.get(id(func)) or _kind(func)
        if kind.composite:
            # Inference mode hands over linear, matmul and the like whole; taken apart they count as elsewhere.
            with self:
                return func.decompose(*args, **kwargs)
        owner = self._owners.current()
        self._memory.add(args, EARLIER)
        self._memory.add(kwargs, EARLIER)
        result = func(*args, **kwargs)
        self._memory.add(result, owner)
        if kind.counts:
            row = self._rows.get((kind.name, owner))
            if row is None:
                row = self._rows[kind.name, owner] = [0, 0]
            row[0] += 1
            if kind.formula is not None:
                row[1] += int(kind.formula(*args, **kwargs, out_val=result))
        return result


@dataclass(frozen=True)
class _Kind:
    """An operator, as `aten.mm.default`, and what there is to know of it. name: as `aten.mm`."""

    func: Any
    name: str
    composite: bool
    counts: bool
    formula: Callable[..., int] | None


# By the operator's id: it is never freed, and its hash is computed in Python.
_kinds: dict[int, _Kind] = {}


def _kind(func: Any) -> _Kind:
    packet = func.overloadpacket
    found = _kinds[id(func)] = _Kind(
        func, str(packet), _is_composite(func), packet not in _NOT_COUNTED, FORMULAS.get(packet)
    )
    return found


def _is_composite(func: Any) -> bool:
    """Whether torch runs the operator as a sequence of others.

    Some operators (silu_backward) have such a sequence for exotic devices beside a kernel of their own. They must run
    by their kernel: the sequence gives other bits.
    """
    composite, cpu = (
        torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key) for key in ("CompositeImplicitAutograd", "CPU")
    )
    return composite and not cpu
