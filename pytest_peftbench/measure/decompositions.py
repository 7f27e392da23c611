"""Matrix decompositions that are the same on any machine, but for rounding.

What LAPACK gives is one of many: a column of the factors may have either sign, and the columns that span what a matrix
maps to nothing may be any that do. Which ones, the processor decides. An adapter that is made of the factors of the
base weights is another one there, unless it stores them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_svd, _eigh, _qr = torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr
_types: Any = torch.return_types


class Decompositions:
    """How often the body of `steady_decompositions` asked for one."""

    count: int = 0


@contextmanager
def steady_decompositions(*, elsewhere: bool = False) -> Iterator[Decompositions]:
    """While the body runs, `torch.linalg`'s svd, eigh and qr give factors of fixed signs, and of fixed other columns.

    elsewhere: gives every second column with the other sign, as good as the first: as another processor may.
    Whatever the body raises, they are what they were after it.
    """
    seen = Decompositions()

    def signs(columns: Tensor) -> Tensor:
        """1 or -1 for each column, so that its largest entry comes out positive, or is the other one of the two."""
        largest = columns.abs().argmax(-2, keepdim=True)
        found = columns.gather(-2, largest).sign().squeeze(-2)
        found = torch.where(found == 0, torch.ones_like(found), found)
        if elsewhere:
            found[..., 1::2] *= -1
        return found.detach()

    def svd(A: Tensor, full_matrices: bool = True, **options: Any) -> Any:
        seen.count += 1
        left, values, right = _svd(A, False, **options)
        sign = signs(left)
        left, right = left * sign[..., None, :], right * sign[..., :, None]
        if full_matrices:
            left, right = _completed(left), _completed(right.mH).mH
        return _types.linalg_svd((left, values, right))

    def eigh(A: Tensor, *arguments: Any, **options: Any) -> Any:
        seen.count += 1
        values, vectors = _eigh(A, *arguments, **options)
        return _types.linalg_eigh((values, vectors * signs(vectors)[..., None, :]))

    def qr(A: Tensor, *arguments: Any, **options: Any) -> Any:
        seen.count += 1
        left, right = _qr(A, *arguments, **options)
        if not left.numel():
            return _types.linalg_qr((left, right))
        sign = signs(left)
        rows = sign[..., : right.shape[-2]]
        return _types.linalg_qr((left * sign[..., None, :], right * rows[..., :, None]))

    earlier = torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr
    torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr = svd, eigh, qr
    try:
        yield seen
    finally:
        torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr = earlier


def _completed(columns: Tensor) -> Tensor:
    """Orthonormal columns, and as many more as make them a basis: those of the unit vectors that are left, in order."""
    rows, rank = columns.shape[-2:]
    if rows == rank:
        return columns
    unit = torch.eye(rows, dtype=columns.dtype, device=columns.device).expand(*columns.shape[:-2], rows, rows)
    basis, factors = _qr(torch.cat([columns.detach(), unit], -1))
    more = basis[..., rank:] * factors.diagonal(dim1=-2, dim2=-1)[..., rank:].sign()[..., None, :]
    return torch.cat([columns, more], -1)
