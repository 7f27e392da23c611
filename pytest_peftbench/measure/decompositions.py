"""Matrix decompositions that are the same on any machine, but for rounding.

What LAPACK gives is one of many: a column of the factors may have either sign, columns of one value may be any that
span the same, and so may those that a matrix maps to nothing. Which ones, rounding and the processor decide. An adapter
that is made of the factors of the base weights is another one there, unless it stores them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_svd, _eigh, _qr = torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr
_types: Any = torch.return_types
# Values that differ by less, relative to the largest, are one: in double precision rounding makes 1e-15 of it.
_ONE_VALUE = 1e-9


class Decompositions:
    """How often the body of `steady_decompositions` asked for one."""

    count: int = 0


@contextmanager
def steady_decompositions(*, elsewhere: bool = False) -> Iterator[Decompositions]:
    """While the body runs, `torch.linalg`'s svd, eigh and qr give the same one of the factors that are as good.

    elsewhere: gives every second column with the other sign, as another processor may. Of matrices with singular values
    that are equal, the singular vectors are LAPACK's but for their signs. Whatever the body raises, the functions are
    what they were after it.
    """
    seen = Decompositions()

    def signs(columns: Tensor) -> Tensor:
        """1 or -1 for each column, so that its largest entry comes out positive, or is the other one of the two."""
        largest = columns.abs().argmax(-2, keepdim=True)
        found = _sign(columns.gather(-2, largest).squeeze(-2))
        if elsewhere:
            found[..., 1::2] *= -1
        return found

    def svd(A: Tensor, full_matrices: bool = True, **options: Any) -> Any:
        seen.count += 1
        left, values, right = _svd(A, full_matrices, **options)
        rank = values.shape[-1]
        sign = signs(left[..., :rank])
        left = torch.cat([left[..., :rank] * sign[..., None, :], _spanning(left[..., rank:])], -1)
        right = torch.cat([right[..., :rank, :] * sign[..., None], _spanning(right[..., rank:, :].mT).mT], -2)
        return _types.linalg_svd((left, values, right))

    def eigh(A: Tensor, *arguments: Any, **options: Any) -> Any:
        seen.count += 1
        values, vectors = _eigh(A, *arguments, **options)
        vectors = _of_one_value(values, vectors)
        return _types.linalg_eigh((values, vectors * signs(vectors)[..., None, :]))

    def qr(A: Tensor, *arguments: Any, **options: Any) -> Any:
        seen.count += 1
        left, right = _qr(A, *arguments, **options)
        if not left.numel():
            return _types.linalg_qr((left, right))
        sign = signs(left)
        return _types.linalg_qr((left * sign[..., None, :], right * sign[..., : right.shape[-2], None]))

    earlier = torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr
    torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr = svd, eigh, qr
    try:
        yield seen
    finally:
        torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr = earlier


def _of_one_value(values: Tensor, vectors: Tensor) -> Tensor:
    """The eigenvectors, those of one eigenvalue replaced by the ones that `_spanning` gives of their span."""
    size = values.shape[-1]
    found = vectors.reshape(-1, size, size).clone()
    for one, matrix in zip(values.reshape(-1, size).tolist(), found, strict=True):
        starts = [at for at in range(size) if not at or one[at] - one[at - 1] > _ONE_VALUE * max(map(abs, one))]
        for start, end in zip(starts, [*starts[1:], size], strict=True):
            if end - start > 1:
                matrix[:, start:end] = _spanning(matrix[:, start:end])
    return found.reshape(vectors.shape)


def _spanning(columns: Tensor) -> Tensor:
    """Of all orthonormal columns of one span the lower triangular ones, which are the same however it is given."""
    if not columns.numel():
        return columns
    triangle = _qr(columns.detach().mT)[1]
    spanning: Tensor = (triangle * _sign(triangle.diagonal(dim1=-2, dim2=-1))[..., None]).mT
    return spanning


def _sign(values: Tensor) -> Tensor:
    """1 or -1: for nothing 1."""
    return torch.where(values.detach() < 0, -1, 1).to(values.dtype)
