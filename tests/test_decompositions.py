"""Factors of matrices that do not hang on the processor."""

import pytest
import torch

from pytest_peftbench.measure import decompositions
from pytest_peftbench.measure.decompositions import steady_decompositions

SHAPES = [(5, 9), (9, 5), (4, 4), (2, 3, 7)]


@pytest.fixture(params=SHAPES, ids=str)
def matrix(request):
    return torch.randn(request.param, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def factors_of(matrix):
    """Every factor, and what the factors give again."""
    square = matrix @ matrix.mT
    left, values, right = torch.linalg.svd(matrix)
    thin_left, _, thin_right = torch.linalg.svd(matrix, full_matrices=False)
    orthogonal, triangle = torch.linalg.qr(matrix)
    eigenvalues, vectors = torch.linalg.eigh(square)
    count = values.shape[-1]
    again = [
        (left[..., :count] * values[..., None, :] @ right[..., :count, :], matrix),
        (thin_left * values[..., None, :] @ thin_right, matrix),
        (left @ left.mT, torch.eye(left.shape[-1], dtype=left.dtype).expand_as(left)),
        (right @ right.mT, torch.eye(right.shape[-1], dtype=left.dtype).expand_as(right)),
        (orthogonal @ triangle, matrix),
        (vectors * eigenvalues[..., None, :] @ vectors.mT, square),
    ]
    return [left, right, thin_left, thin_right, orthogonal, vectors], again


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_factors_give_the_matrix_again(matrix, elsewhere):
    with steady_decompositions(elsewhere=elsewhere) as asked:
        _, again = factors_of(matrix)
    assert asked.count == 4
    for found, expected in again:
        torch.testing.assert_close(found, expected)


def test_another_processors_signs_and_columns_change_nothing(matrix, monkeypatch):
    with steady_decompositions():
        expected, _ = factors_of(matrix)
    generator = torch.Generator().manual_seed(1)

    def signs(size):
        return 2.0 * torch.randint(2, (size,), generator=generator, dtype=torch.float64) - 1

    def turn(size):
        return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q

    def svd(A, full_matrices=True):
        left, values, right = torch.linalg.svd(A, full_matrices)
        rank = values.shape[-1]
        left[..., :rank] *= (other := signs(rank))
        right[..., :rank, :] *= other[:, None]
        # what is mapped to nothing has many bases
        left[..., rank:] @= turn(left.shape[-1] - rank)
        right[..., rank:, :] = turn(right.shape[-2] - rank) @ right[..., rank:, :]
        return left, values, right

    def eigh(A):
        values, vectors = torch.linalg.eigh(A)
        return values, vectors * signs(values.shape[-1])

    def qr(A):
        left, right = torch.linalg.qr(A)
        other = signs(left.shape[-1])
        return left * other, right * other[:, None]

    plain = torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr
    # what the machine gives, each time with other signs
    for name, give, machines in zip(("_svd", "_eigh", "_qr"), (svd, eigh, qr), plain, strict=True):
        monkeypatch.setattr(decompositions, name, _beneath(give, machines))
    with steady_decompositions():
        found, _ = factors_of(matrix)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def _beneath(give, machines):
    """A function that finds the machine's own decomposition where it asks torch for it."""
    name = machines.__name__.removeprefix("linalg_")

    def beneath(*arguments, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.linalg, name, machines)
            return give(*arguments, **options)

    return beneath


@pytest.mark.parametrize("values", [[2.0] * 5, [1.0, 1.0, 3.0, 7.0, 7.0]])
def test_vectors_of_one_value_are_one_of_many_and_always_the_same(values, monkeypatch):
    plain, seed = torch.linalg.eigh, torch.Generator().manual_seed(2)
    values = torch.tensor(values, dtype=torch.float64)
    turned = torch.linalg.qr(torch.randn(5, 5, generator=seed, dtype=torch.float64)).Q
    matrix = turned * values @ turned.mT

    def eigh(A):
        """Other vectors of the same values: turned among those of one, as rounding does."""
        found, vectors = plain(A)
        for value in values.unique():
            of_one = (found - value).abs() < 1e-6
            count = int(of_one.sum())
            vectors[:, of_one] @= torch.linalg.qr(torch.randn(count, count, generator=seed, dtype=torch.float64)).Q
        return found, vectors

    with steady_decompositions():
        expected = torch.linalg.eigh(matrix).eigenvectors
    torch.testing.assert_close(expected * values @ expected.mT, matrix)
    monkeypatch.setattr(decompositions, "_eigh", _beneath(eigh, plain))
    with steady_decompositions():
        torch.testing.assert_close(torch.linalg.eigh(matrix).eigenvectors, expected)


def test_elsewhere_every_second_column_has_the_other_sign(matrix):
    with steady_decompositions():
        here, _ = factors_of(matrix)
    with steady_decompositions(elsewhere=True):
        there, _ = factors_of(matrix)
    for name, one, other in zip(("left", "thin left", "orthogonal", "vectors"), here[::2], there[::2], strict=False):
        assert torch.equal(one[..., 0::2], other[..., 0::2]), name
    assert torch.equal(here[2][..., 1::2], -there[2][..., 1::2])


def test_torch_is_as_it_was_whatever_happens():
    plain = torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr
    with steady_decompositions():
        assert torch.linalg.svd is not plain[0]
    with pytest.raises(RuntimeError), steady_decompositions():
        torch.linalg.qr(torch.ones(2))
    assert (torch.linalg.svd, torch.linalg.eigh, torch.linalg.qr) == plain
