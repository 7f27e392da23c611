"""The meta device as a stand-in for an accelerator: tensors have shapes and no storage, operators cost nothing.

A few things stand in the way of running real training code there, and are answered here. Values that Python asks for
(`.item()`, `if tensor:`) are 0 and False, tensors that it compares are equal, and a condition holds for all elements.
Attention goes to the kernels that an accelerator would choose, in place of the sequence of small operators that torch
takes on meta tensors. Optimizers take their multi-tensor path, as on an accelerator. Initialisations run without the
numbers they would compute: shapes stay, contents do not exist.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

META = torch.device("meta")
# Tensors of at most this many elements are real while an adapter is made: small constants steer Python code.
SMALL = 1024
aten = torch.ops.aten
_real_attention = functional.scaled_dot_product_attention


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention by the kernel that CUDA chooses: flash for half precision without a mask, else memory-efficient.

    A boolean mask becomes an additive one of the query's type, as the kernel wants it.
    """
    if not query.is_meta:
        return _real_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if attn_mask is None and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] == value.shape[-1]:
        flash = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)
        attended: Tensor = flash[0]
        return attended
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            zero, minus_infinity = (query.new_full((), number) for number in (0.0, float("-inf")))
            attn_mask = torch.where(attn_mask, zero, minus_infinity)
        attn_mask = attn_mask.expand(*query.shape[:2], query.shape[2], key.shape[2])
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    efficient = aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, needs_grad, dropout_p, is_causal, scale=scale
    )
    result: Tensor = efficient[0]
    return result


@contextlib.contextmanager
def made_on_meta(dtype: str) -> Iterator[None]:
    """Modules made in the body have weights of this type on the meta device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with META:
            yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def accelerator() -> Iterator[None]:
    """Runs the body as on an accelerator, on meta tensors. Each condition holds for all elements."""
    distribution = torch.distributions.Distribution
    with (
        _multi_tensor_optimizers(),
        # a check of values that do not exist
        mock.patch.object(distribution, "_validate_args", new=False),
        mock.patch.object(functional, "scaled_dot_product_attention", _attention),
        Remembering(),  # type: ignore[no-untyped-call]
    ):
        yield


@contextlib.contextmanager
def _multi_tensor_optimizers() -> Iterator[None]:
    """torch takes the multi-tensor path of optimizers and clipping on the devices of a list, without meta."""
    from torch.optim import optimizer
    from torch.utils import _foreach_utils

    name = "_get_foreach_kernels_supported_devices"
    with contextlib.ExitStack() as stack:
        for module in (optimizer, _foreach_utils):
            if hasattr(module, name):
                stack.enter_context(mock.patch.object(module, name, return_value=["cuda", "xpu", "mtia", "meta"]))
        yield


class _Unknown(Exception):
    """An argument by which calls cannot be told apart."""


class _Eager(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode under which nothing is compiled, so that torch need not guard each call against it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class Remembering(_Eager):  # type: ignore[no-untyped-call]
    """Works out once what an operator makes of tensors of given shapes: the same call again takes microseconds.

    Many operators have their meta kernel in Python, and a transformer calls each with the same shapes in every layer.
    Remembered are calls whose results are new tensors of their own, and calls that change contents in place.
    """

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kind = _kinds.get(id(func)) or _kind(func)
        if kind.special and args[0].is_meta:
            if func in _ANSWERS:
                return _ANSWERS[func]
            args = _without_conditions(func, args, torch.Size.numel)
            if func is aten.nonzero.default:
                return args[0]
        if kind.makes == "other":
            return func(*args, **(kwargs or {}))
        try:
            key = _key(kind, args, kwargs)
        except _Unknown:
            return func(*args, **(kwargs or {}))
        recipe = _remembered.get(key, _NEVER_SEEN)
        if recipe is _NEVER_SEEN:
            result = func(*args, **(kwargs or {}))
            changed_shape = _key(kind, args, kwargs) != key
            _remembered[key] = None if changed_shape else _recipe(kind.makes, result, args, kwargs)
            return result
        if recipe is None:
            return func(*args, **(kwargs or {}))
        if kind.makes == "in place":
            return args[0] if recipe else None
        made = [made_as and torch.empty_strided(*made_as[:2], dtype=made_as[2], device=META) for made_as in recipe]
        if kind.makes == "one tensor":
            return made[0]
        return made if kind.makes == "list" else tuple(made)


# What a call makes, by function and arguments: shape, stride and type of each result, None for none; for a call in
# place whether it returns its first argument. None: it must be called.
_remembered: dict[Any, Any] = {}
_NEVER_SEEN = object()


@dataclass(frozen=True)
class _Kind:
    """An operator. makes: how its result relates to its arguments. special: whether it asks for contents."""

    func: Any
    makes: str
    special: bool


# By the operator's id, which is its own for as long as it is kept here: its hash is computed in Python.
_kinds: dict[int, _Kind] = {}


def _kind(func: Any) -> _Kind:
    found = _kinds[id(func)] = _Kind(func, _makes(func), func in _ANSWERS or func in _CONDITIONAL)
    return found


def _makes(func: Any) -> str:
    """How an operator's result relates to its arguments, by its schema."""
    schema = func._schema
    name = func.overloadpacket.__name__
    returns = schema.returns
    if not schema.is_mutable:
        if any(item.alias_info is not None for item in returns):
            return "other"
        types = [str(item.type) for item in returns]
        if types == ["Tensor"]:
            return "one tensor"
        if types == ["List[Tensor]"]:
            return "list"
        return "several tensors" if set(types) == {"Tensor"} else "other"
    written = [arg.alias_info is not None and arg.alias_info.is_write for arg in schema.arguments]
    first_only = written[0] and not any(written[1:])
    if not name.endswith("_") or not first_only or name in ("resize_", "set_", "detach_", "as_strided_"):
        return "other"
    return "in place" if len(returns) <= 1 else "other"


def _key(kind: _Kind, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    """Tells calls apart; what is made without a type is of the default one.

    In place a fraction changes contents alone, and an optimizer has another one in each step.
    """
    fractions = kind.makes != "in place"
    named = _frozen(tuple(kwargs.items()), fractions) if kwargs else ()
    return (id(kind.func), torch.get_default_dtype(), _frozen(args, fractions), named)


def _frozen(value: Any, fractions: bool) -> Any:
    """A key for a call's argument: of a tensor all but its contents. Raises _Unknown for what has none."""
    if isinstance(value, Tensor):
        if not value.is_meta or value.layout != torch.strided:
            raise _Unknown
        bits = (value.is_conj(), value.is_neg()) if value.is_complex() else None
        return (value.shape, value.stride(), value.dtype, bits)
    if isinstance(value, (tuple, list)):
        return tuple([_frozen(item, fractions) for item in value])
    if value is None or isinstance(value, (str, torch.dtype, torch.device, torch.layout, torch.memory_format)):
        return value
    if isinstance(value, (bool, int, float, complex)):
        return (type(value), value if fractions or not isinstance(value, float) else None)
    raise _Unknown


def _recipe(kind: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    """What `Remembering` needs to give the same result again; None where it cannot."""
    if kind == "in place":
        return result is args[0] if isinstance(result, Tensor) else False if result is None else None
    tensors = [result] if kind == "one tensor" else result
    known = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    recipe: list[tuple[Any, Any, torch.dtype] | None] = []
    for tensor in tensors:
        if tensor is None:  # a gradient that nobody asked for
            recipe.append(None)
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_meta or tensor.layout != torch.strided:
            return None
        again = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
        storage = tensor.untyped_storage()
        own = id(storage) not in known and storage.nbytes() == again.untyped_storage().nbytes()
        if not own or tensor.is_conj() or tensor.is_neg():
            return None
        known.add(id(storage))
        recipe.append((tensor.shape, tensor.stride(), tensor.dtype))
    return recipe


class Shapes(_Eager):  # type: ignore[no-untyped-call]
    """Runs initialisations without their numbers: tensors of some size are made on the meta device.

    What meets a meta tensor becomes one; small tensors among themselves are real. A condition on a meta tensor holds
    for each of its elements, or for as many as `matches` says of a tensor of that shape.
    """

    def __init__(self, matches: Callable[[torch.Size], int] = torch.Size.numel) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._matches = matches

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor.is_meta for tensor in tensors):
            return self._on_meta(func, args, kwargs)
        if not tensors and "device" in kwargs and _numel(func, args) > SMALL:
            kwargs = {name: _moved(value) for name, value in kwargs.items()} | {"device": META}
        return func(*args, **kwargs)

    def _on_meta(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in _ANSWERS:
            return _ANSWERS[func]
        if func in _CONDITIONAL:
            args = _without_conditions(func, args, self._matches)
            if func is aten.nonzero.default:
                return args[0]
        moved, moved_kwargs = tree_map(_moved, (args, kwargs))
        result = func(*moved, **moved_kwargs)
        in_place = isinstance(args[0], Tensor) and not args[0].is_meta and func._schema.is_mutable
        return args[0] if in_place else result


# What Python learns of contents that do not exist.
_ANSWERS: dict[Any, Any] = {aten._local_scalar_dense.default: 0, aten.equal.default: True}
# Operators that look at a tensor's contents to find positions.
_CONDITIONAL = frozenset({aten.nonzero.default, aten.index.Tensor, aten.index_put.default, aten.index_put_.default})


def _without_conditions(func: Any, args: tuple[Any, ...], matches: Callable[[torch.Size], int]) -> tuple[Any, ...]:
    """Arguments with each condition replaced by as many positions as match it; for `nonzero` the positions alone."""
    if func is aten.nonzero.default:
        return (torch.empty((matches(args[0].shape), args[0].dim()), dtype=torch.long, device=META),)
    positions: list[Tensor | None] = []
    for index in args[1]:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            positions.append(index)
        else:
            count = matches(index.shape)
            positions += [torch.empty(count, dtype=torch.long, device=META) for _ in range(index.dim())]
    return (args[0], positions, *args[2:])


def _moved(value: Any) -> Any:
    if isinstance(value, torch.device):
        return META
    if isinstance(value, torch.Generator):
        return None
    if not isinstance(value, Tensor) or value.is_meta:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=META)


def _numel(func: Any, args: tuple[Any, ...]) -> int:
    """Elements of the tensor that a factory makes; 0 where the first argument does not tell."""
    size = args[0] if args else ()
    if isinstance(size, int):
        return size * size if func.overloadpacket is aten.eye else size
    if isinstance(size, (list, tuple)) and all(isinstance(n, int) for n in size):
        return torch.Size(size).numel()
    return 0
