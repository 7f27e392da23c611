"""Exact counters of what a piece of work asks of torch: FLOPs, operator calls, live and saved tensor bytes.

The counters depend on the operators that torch dispatches and on the shapes of their tensors, never on the clock or
the machine's load, so two runs of unchanged code give the same numbers. They work alike on real and on meta tensors.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import inspect
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from types import CodeType, FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

T = TypeVar("T")
aten = torch.ops.aten


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


@dataclass(frozen=True)
class Footprint:
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
    of the innermost function outside torch; it only serves to explain a difference.
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
    peak: Peak = Peak()

    def figures(self) -> dict[str, int]:
        """The counters by name, the parts of the peak as `peak_weights_bytes` and so on."""
        parts = {f"peak_{name}": value for name, value in asdict(self.peak).items()}
        counters = ("flops", "calls", "peak_bytes", "saved_bytes")
        return {**{name: getattr(self, name) for name in counters}, **parts}


def measure(
    function: Callable[[], object], model: nn.Module | None = None, optimizer: Optimizer | None = None
) -> Footprint:
    """Run `function` once and count what it does.

    Measure a step that ran before: the first one also creates caches and optimizer state. Results are the same bits as
    without measuring. While it runs, the garbage collector is off, so that memory held by reference cycles counts in
    every run alike; and autograd's check that saved tensors were not changed in place is off, as with any
    `saved_tensors_hooks`.
    """
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        memory = _LiveStorages(_weights(model), _gradients(model), _optimizer_state(optimizer))
        counter = _Counter(memory, _Owners(optimizer))
        with (
            _gradient_hooks(model, memory),
            torch.autograd.graph.saved_tensors_hooks(memory.save, lambda saved: saved),
            counter,
        ):
            function()
    finally:
        if collecting:
            gc.enable()
    operators = counter.operators()
    calls, flops = (sum(row[i] for row in operators.values()) for i in (0, 1))
    return Footprint(
        flops, calls, memory.peak_bytes, memory.saved_bytes, operators, memory.peak_tensors(), memory.peak()
    )


def set_apart() -> None:
    """Take what is there now, imported modules above all, out of the garbage collector's rounds.

    The collector runs before each measurement; going through the 400,000 objects that PEFT and transformers make takes
    a fifth of a second each time. Call this before a model is made. What was set apart earlier and nobody holds any
    more is freed.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def difference(a: Footprint, b: Footprint) -> Footprint:
    """FLOPs, calls and operators of `a` minus those of `b`, rows of zeros dropped.

    `generate(k + 1)` minus `generate(k)` is one decoding step. Peaks cannot be subtracted: both byte counts are 0.
    """
    operators = {}
    for name in sorted({*a.operators, *b.operators}):
        (calls_a, flops_a), (calls_b, flops_b) = (side.operators.get(name, [0, 0]) for side in (a, b))
        if (calls_a, flops_a) != (calls_b, flops_b):
            operators[name] = [calls_a - calls_b, flops_a - flops_b]
    return Footprint(a.flops - b.flops, a.calls - b.calls, 0, 0, operators)


def count_host_calls(function: Callable[[], T]) -> tuple[int, T]:
    """Run `function`; return how many Python calls it made in peft and torch.nn, and what it returned.

    Lower is better: it is what injecting an adapter costs on the host. Comprehensions and lambdas are not counted
    (newer Pythons inline some); a generator counts each time that it is resumed. Other threads' calls are not seen.
    """
    folders = _host_folders()
    count = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        code = frame.f_code
        if event == "call" and not code.co_name.startswith("<") and code.co_filename.startswith(folders):
            count += 1

    earlier = sys.getprofile()
    sys.setprofile(profile)
    try:
        result = function()
    finally:
        sys.setprofile(earlier)
    return count, result


def _host_folders() -> tuple[str, ...]:
    peft = importlib.util.find_spec("peft")
    folders = [*(peft.submodule_search_locations or () if peft else ()), *nn.__path__]
    return tuple(os.path.join(folder, "") for folder in folders)


# Tensors that exist before the work starts


def _weights(model: nn.Module | None) -> list[Tensor]:
    return [] if model is None else [*model.parameters(), *model.buffers()]


def _gradients(model: nn.Module | None) -> list[Tensor]:
    return [weight.grad for weight in _weights(model) if weight.is_leaf and weight.grad is not None]


def _optimizer_state(optimizer: Optimizer | None) -> list[Tensor]:
    if optimizer is None:
        return []
    return [leaf for state in optimizer.state.values() for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


# Bytes


def _storage(tensor: Tensor) -> torch.UntypedStorage | None:
    """The memory behind a tensor; None for a sparse tensor, which has no single one."""
    try:
        return tensor.untyped_storage()
    except NotImplementedError:
        return None


# What was there before the work. Weights and what belongs to them have no shape: they are many, and known.
_WEIGHTS, _GRADIENTS, _OPTIMIZER_STATE, _EARLIER = "weights", "gradients", "optimizer state", "earlier work"


def _row(tensor: Tensor, owner: str) -> str:
    """`[128, 128] float32 @ LoHaLayer.get_delta_weight`."""
    shape = "" if owner in (_WEIGHTS, _GRADIENTS, _OPTIMIZER_STATE) else f"{list(tensor.shape)} "
    return f"{shape}{str(tensor.dtype).removeprefix('torch.')} @ {owner}"


class _LiveStorages:
    """Bytes of the storages that are alive, and their peak.

    torch keeps one Python object per storage for as long as the storage lives, also while only autograd's graph (C++)
    holds it, so the object's id names the storage and a weak reference to it tells the storage's death. Ids are used
    again; a number of its own tells each storage from those before it. A storage shows only later what it was for
    (saved for backward, a gradient), so what the peak consists of is found at the end, from the log of all changes.
    """

    def __init__(self, weights: Iterable[Tensor], gradients: Iterable[Tensor], optimizer: Iterable[Tensor]) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0
        self.saved_bytes = 0
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._numbers: dict[int, int] = {}
        self._next_number = 0
        self._sizes: dict[int, int] = {}
        self._kinds: dict[int, str] = {}
        self._rows: dict[int, str] = {}
        # What came and went: number of the storage, storages and bytes more or less.
        self._log: list[tuple[int, int, int]] = []
        self._log_at_peak = 0
        for tensor in weights:
            self._mark(tensor, "weights_bytes", _WEIGHTS)
        # Storages that `saved_bytes` no longer counts: the weights, and what is in it already.
        self._not_saved_again = set(self._references)
        for tensor in optimizer:
            self._mark(tensor, "optimizer_bytes", _OPTIMIZER_STATE)
        for tensor in gradients:
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
            totals = rows.setdefault(self._rows[number], [0, 0])
            totals[0] += count
            totals[1] += size
        return {row: rows[row] for row in sorted(rows) if rows[row][1]}

    def save(self, tensor: Tensor) -> Tensor:
        """Hook that autograd calls with each tensor it saves; what it returns is what autograd keeps.

        An operator's saved result knows the graph node that saves it. Kept as it is, the two would hold each other, and
        a graph that is dropped without a backward pass would never be freed; hence the detached alias.
        """
        if (storage := _storage(tensor)) is not None:
            key = self._add(storage, tensor, _EARLIER)
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
            self._rows[self._next_number] = _row(tensor, owner)
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
def _gradient_hooks(model: nn.Module | None, memory: _LiveStorages) -> Iterator[None]:
    """Tell `memory` of each gradient that the backward pass leaves in a weight."""

    def mark(weight: Tensor) -> None:
        if weight.grad is not None:
            memory.mark_gradient(weight.grad)

    weights = [weight for weight in _weights(model) if weight.is_leaf and weight.requires_grad]
    handles = [weight.register_post_accumulate_grad_hook(mark) for weight in weights]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# Operators


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
_FORMULAS: dict[Any, Callable[..., int]] = {
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


_NOT_COUNTED = frozenset({aten.detach, aten.detach_})


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operator below autograd, counts it, and lets it run.

    `aten.detach` is not counted: torch itself calls it when it saves and unpacks tensors while a mode or saved-tensor
    hooks are active, so most of its calls exist only because we look. Nor is `aten.detach_`, by which `torch.tensor`
    ends in inference mode.
    """

    def __init__(self, memory: _LiveStorages, owners: _Owners) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory = memory
        self._owners = owners
        self._rows: dict[tuple[Any, str], list[int]] = {}

    def operators(self) -> dict[str, list[int]]:
        """[calls, FLOPs] by "operator @ owner", sorted."""
        return dict(sorted((f"{packet} @ {owner}", row) for (packet, owner), row in self._rows.items()))

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if _is_composite(func):
            # Inference mode hands over linear, matmul and the like whole; taken apart they count as elsewhere.
            with self:
                return func.decompose(*args, **kwargs)
        owner = self._owners.current()
        self._memory.add(args, _EARLIER)
        self._memory.add(kwargs, _EARLIER)
        result = func(*args, **kwargs)
        self._memory.add(result, owner)
        if packet not in _NOT_COUNTED:
            row = self._rows.get((packet, owner))
            if row is None:
                row = self._rows[packet, owner] = [0, 0]
            row[0] += 1
            if formula := _FORMULAS.get(packet):
                row[1] += int(formula(*args, **kwargs, out_val=result))
        return result


@functools.cache
def _is_composite(func: Any) -> bool:
    """Whether torch runs the operator as a sequence of others.

    Some operators (silu_backward) have such a sequence for exotic devices beside a kernel of their own. They must run
    by their kernel: the sequence gives other bits.
    """
    composite, cpu = (
        torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key) for key in ("CompositeImplicitAutograd", "CPU")
    )
    return composite and not cpu


# Who called an operator


# torch, and what stands between it and its callers while we measure
_NOT_OWNERS = frozenset({"torch", __name__, "pytest_peftbench.meta.device"})


class _Owners:
    """Names who called the current operator: a function outside torch, the optimizer, or the forward of a backward.

    Autograd numbers the nodes of its graph. The owner of the operator during which a node appeared is remembered under
    the node's number, and operators that the engine runs for this node belong to "<owner> (backward)".
    """

    def __init__(self, optimizer: Optimizer | None) -> None:
        self._optimizer = f"optimizer {type(optimizer).__name__}" if optimizer is not None else "optimizer"
        # The newest node so far was not made under our eyes.
        self._by_node = {_newest_node(): "backward"}

    def current(self) -> str:
        """Owner of the operator that is being dispatched."""
        owner = self._from_frames(sys._getframe(1))
        self._by_node.setdefault(_newest_node(), owner)
        return owner

    def _from_frames(self, frame: FrameType | None) -> str:
        while frame is not None and frame.f_code is not measure.__code__:
            module = frame.f_globals.get("__name__", "")
            if module == "torch.autograd.graph" and frame.f_code.co_name == "_engine_run_backward":
                return self._from_node()
            if module.startswith("torch.optim."):
                return self._optimizer
            if module not in _NOT_OWNERS and not module.startswith("torch."):
                return _function_name(frame)
            frame = frame.f_back
        # Without Python frames we are in the autograd engine's own thread (accelerators).
        return self._from_node() if frame is None else "measured function"

    def _from_node(self) -> str:
        node = torch._C._current_autograd_node()
        owner = self._by_node.get(node._sequence_nr(), "backward") if node is not None else "backward"
        return owner if owner.endswith(("backward", "(backward)")) else f"{owner} (backward)"


def _newest_node() -> int:
    return int(torch._C._autograd._get_sequence_nr()) - 1


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
