"""A world in which float32 means float64: what a program computes there is the same on any machine but for rounding.

In single precision the order of a sum, which a processor or a library chooses, changes the seventh digit, and a
training makes a third of it. In double precision it changes the sixteenth, and a short training leaves enough between
rounding and a real change to tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# Significant digits of a quantity that is recorded.
DIGITS = 12
PROJECTIONS = 4
# Operators that sum, and whose result another order of summation rounds otherwise.
_SUMS = frozenset(
    """mm bmm addmm baddbmm addbmm addmv mv dot sum mean cumsum convolution _softmax _log_softmax linalg_vector_norm
    native_layer_norm _fused_rms_norm _scaled_dot_product_flash_attention_for_cpu _fft_r2c _fft_c2c _fft_c2r""".split()
)


@contextmanager
def double_precision() -> Iterator[None]:
    """While the body runs, whoever names float32 or complex64 in Python gets float64 or complex128.

    Casts inside transformers, diffusers and PEFT are among them, and checks that a weight is of single precision. What
    torch makes in C++ follows the default dtype. Types are as they were after it, whatever the body raises.
    """
    double, complex_double = torch.float64, torch.complex128
    places: list[tuple[Any, dict[str, Any]]] = [
        (torch, {"float32": double, "float": double, "complex64": complex_double, "cfloat": complex_double}),
        (Tensor, {"float": Tensor.double}),
        (nn.Module, {"float": nn.Module.double}),
    ]
    default = torch.get_default_dtype()
    before = [{name: place.__dict__.get(name) for name in meant} for place, meant in places]
    try:
        torch.set_default_dtype(double)
        for place, meant in places:
            for name, value in meant.items():
                setattr(place, name, value)
        yield
    finally:
        for (place, _), known in zip(places, before, strict=True):
            for name, value in known.items():
                # a tensor's own method stands in a class below `Tensor`
                delattr(place, name) if value is None else setattr(place, name, value)
        torch.set_default_dtype(default)


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
        return value.mul_(1 + self._size * noise)


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
