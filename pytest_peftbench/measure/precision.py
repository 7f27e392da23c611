"""A world in which float32 means float64: what a program computes there is the same on any machine but for rounding.

In single precision the order of a sum, which a processor or a library chooses, changes the seventh digit, and a
training makes a third of it. In double precision it changes the sixteenth, and a short training leaves enough between
rounding and a real change to tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Significant digits of a quantity that is recorded.
DIGITS = 12
PROJECTIONS = 4
# Operators that sum, and whose result another order of summation rounds otherwise.
_SUMS = frozenset(
    """mm bmm addmm baddbmm addbmm addmv mv dot sum mean cumsum convolution _softmax _log_softmax linalg_vector_norm
    native_layer_norm _fused_rms_norm _scaled_dot_product_flash_attention_for_cpu _fft_r2c _fft_c2c _fft_c2r""".split()
)
# Operators that draw numbers, and those that have several right answers: signs of vectors, the order of equals.
_FREE = frozenset(
    """rand rand_like randn randn_like randint randint_like randperm random_ uniform uniform_ normal normal_ bernoulli
    bernoulli_ exponential_ multinomial _standard_gamma _linalg_svd linalg_svd linalg_qr _linalg_eigh linalg_eigh topk
    sort""".split()
)
_SINGLE = torch.float32


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """torch's dropout with a mask that is the same on any machine: its own is drawn by MKL where there is one."""
    if not training or p == 0:
        return input
    kept = (torch.rand(input.shape) >= p).to(input.device, input.dtype) / (1 - p)
    return input.mul_(kept) if inplace else input * kept


# What Python code names, and what it means in the world of double precision.
_MEANT: list[tuple[Any, dict[str, Any]]] = [
    (torch, dict.fromkeys(("float32", "float"), torch.float64)),
    (torch, dict.fromkeys(("complex64", "cfloat"), torch.complex128)),
    (Tensor, {"float": Tensor.double}),
    (nn.Module, {"float": nn.Module.double}),
    (nn.functional, {"dropout": _dropout}),
]
# A tensor's own method stands in a class below `Tensor`: there is nothing to restore.
_PLAIN = [(place, {name: place.__dict__.get(name) for name in meant}) for place, meant in _MEANT]


@contextmanager
def double_precision() -> Iterator[None]:
    """While the body runs, whoever names float32 or complex64 in Python gets float64 or complex128.

    Casts inside transformers, diffusers and PEFT are among them, and checks that a weight is of single precision. What
    torch makes in C++ follows the default dtype; dropout draws alike on any machine. Types are as they were after it,
    whatever the body raises.
    """
    # imported in this world, the tables that it and its libraries keep of types would lack float32 ever after
    import_module("peft")
    default = torch.get_default_dtype()
    _exchange(_MEANT, torch.float64)
    try:
        yield
    finally:
        _exchange(_PLAIN, default)


@contextmanager
def as_stored() -> Iterator[None]:
    """While the body runs, types mean themselves again: a file's reader asks torch for the type that stands in it."""
    if torch.float32 is _SINGLE:
        yield
        return
    _exchange(_PLAIN, _SINGLE)
    try:
        yield
    finally:
        _exchange(_MEANT, torch.float64)


def _exchange(places: list[tuple[Any, dict[str, Any]]], default: torch.dtype) -> None:
    torch.set_default_dtype(default)
    for place, values in places:
        for name, value in values.items():
            if value is not None:
                setattr(place, name, value)
            elif name in place.__dict__:
                delattr(place, name)


def widened(model: nn.Module) -> nn.Module:
    """The model in double precision where float32 means that, and as it is elsewhere.

    What it computed when it was made, such as the frequencies of rotary embeddings, it computes anew: widened, it would
    keep the last digit of single precision.
    """
    if torch.float32 is _SINGLE:
        return model
    model.double()
    for part in model.modules():
        if hasattr(part, "config") and any(True for _ in part.buffers()) and not any(True for _ in part.parameters()):
            anew = type(part)(part.config)
            for name, value in anew.named_buffers(recurse=False):
                setattr(part, name, value.to(getattr(part, name).device))
    return model


class OtherRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds each sum in double precision otherwise: by a few units of the last digit, drawn from a fixed seed.

    As another processor, number of threads or version of a library would. The method is Monte Carlo arithmetic
    (Parker, Pierce and Eggert 2000).
    """

    def __init__(self, size: float = 4e-16) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._size = size
        self._generator = torch.Generator().manual_seed(0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What the operator gives, rounded otherwise if it sums."""
        found = func(*args, **(kwargs or {}))
        return tree_map(self._rounded, found) if func.overloadpacket.__name__ in _SUMS else found

    def _rounded(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in (torch.float64, torch.complex128):
            return value
        noise = torch.randn(value.shape, generator=self._generator, dtype=torch.float64).to(value.device)
        # a sum of whole numbers, such as a position in a text, is exact in any order
        whole = torch.zeros_like(noise, dtype=torch.bool) if value.is_complex() else value == value.trunc()
        return value.mul_(1 + self._size * noise.masked_fill(whole, 0.0))


class FreeOnCPU(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draws numbers on the CPU, and chooses there among several right answers, for tensors of any device.

    An accelerator has generators and libraries of its own, so that an adapter would start from other numbers there.
    What draws from a generator of the device's own is left alone.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What the operator gives, on the device where it was asked for."""
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        devices = [leaf.device for leaf in leaves if isinstance(leaf, Tensor)] or [kwargs.get("device") or _CPU]
        generators = [leaf.device for leaf in leaves if isinstance(leaf, torch.Generator)]
        # on the meta device, where transformers makes a model that it reads, there is nothing to draw
        left_alone = _META in devices or any(device != _CPU for device in generators)
        if func.overloadpacket.__name__ not in _FREE or left_alone:
            return func(*args, **kwargs)
        on_cpu = tree_map(lambda leaf: _placed(leaf, _CPU), (args, kwargs))
        found = func(*on_cpu[0], **on_cpu[1])
        if func.overloadpacket.__name__.endswith("_"):
            return args[0].copy_(found)
        return tree_map(lambda leaf: _placed(leaf, devices[0]), found)


_CPU, _META = torch.device("cpu"), torch.device("meta")


def _placed(value: Any, device: torch.device) -> Any:
    """A tensor, or the name of a device, on another device; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    return device if isinstance(value, torch.device) else value


def project(tensor: Tensor) -> list[float]:
    """A tensor in a few numbers that any change of it changes: its root mean square, and sums with fixed signs.

    The sums, divided by the root of the number of entries, are of the same size as the first.
    """
    flat = tensor.detach().double().cpu().flatten()
    generator = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(2, (PROJECTIONS, flat.numel()), generator=generator, dtype=torch.float64) - 1
    sums = signs @ flat / max(1, flat.numel()) ** 0.5
    return digits([float(flat.square().mean().sqrt()), *sums.tolist()])


def digits(numbers: list[float]) -> list[float]:
    """Numbers to DIGITS significant digits."""
    return [float(f"{number:.{DIGITS - 1}e}") for number in numbers]
