"""Tensors and models told apart: to the last bit, by a hash that files hold, by a checksum as fast as reading."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

# Above this size hashing the weights costs seconds; names and shapes then stand for them.
HASHED_PARAMETERS = 2**26
# Words of 8 bytes that `fingerprint` reads at a time; at least 8.
_CHUNK = 2**20
# Numbers of a parameter that `glimpse` reads.
_GLIMPSED = 256


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree to the last bit (NaN agrees with nothing)."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b))


def max_difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; infinite when the shapes differ, NaN when a value is."""
    if a.shape != b.shape:
        return float("inf")
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0


def last_digit(model: nn.Module) -> float:
    """The relative size of the last digit of a model's weights, of the coarsest of its float types; 1e-7 for float32.

    A smaller step would be rounded away.
    """
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return max((torch.finfo(dtype).eps for dtype in types), default=0.0)


@torch.no_grad()
def move(model: nn.Module, size: float, seed: int = 0) -> nn.Module:
    """Multiply each weight by 1 + `size` times a number of about 1 that depends on the weight; returns the model.

    How far figures move with it tells rounding's part in them: 1e-7 is about the last digit of float32. Equal weights
    stay equal, since a method that picks the largest ones breaks ties by their order, which is no rounding.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            weights = parameter.double()
            parameter.copy_(weights * (1 + size * 2**0.5 * torch.cos(1e4 * weights + seed)))
    return model


def digest(model: nn.Module, trainable_only: bool = False) -> str:
    """sha256 of a model's parameters and buffers, or of its trainable parameters: names, shapes, types and bits.

    Of a model with more than HASHED_PARAMETERS parameters only names, shapes and types are hashed.
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    hash_bits = sum(tensor.numel() for tensor in tensors.values()) <= HASHED_PARAMETERS
    if trainable_only:
        tensors = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    else:
        tensors.update(model.named_buffers())
    return digest_of(tensors, bits=hash_bits or trainable_only)


def digest_of(tensors: Mapping[str, Tensor], *, bits: bool = True) -> str:
    """sha256 of named tensors, in the order of their names: name, shape, type and, unless told otherwise, bits."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if bits:
            sha.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def glimpse(model: nn.Module) -> str:
    """sha256 of the first numbers of each parameter: in a millisecond it tells other weights, if not each other one."""
    return digest_of({name: parameter.flatten()[:_GLIMPSED] for name, parameter in model.named_parameters()})


def fingerprint(model: nn.Module) -> int:
    """A checksum of the bits of all parameters and buffers, in their order, at the speed of reading them.

    Unlike `digest` it covers models of any size; it is compared within one process only.
    """
    total = 0
    odd = 2 * torch.arange(_CHUNK) + 1
    for tensor in (*model.parameters(), *model.buffers()):
        bits = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        bits = bits.clone() if bits.storage_offset() % 8 else bits
        whole = bits.numel() // 8 * 8
        # the sum of words weighted by odd numbers, modulo 2**64: sees each bit, and where it stands
        words = torch.split(bits[:whole].view(torch.int64), _CHUNK)
        for chunk in (*words, bits[whole:].long()):
            total = (31 * total + int((chunk * odd[: chunk.numel()]).sum())) % 2**64
    return total
