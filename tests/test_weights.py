"""Tensors told apart to the bit: two of them, a model by its digest, and by a fingerprint as fast as reading it."""

import math

import pytest
import torch
from torch import nn

from pytest_peftbench.measure import weights
from pytest_peftbench.measure.weights import digest, max_difference, same_bits


def test_same_bits_tells_the_last_bit_the_type_and_the_shape():
    one = torch.ones(2)
    nearly = torch.nextafter(one, one + 1)

    assert same_bits(one, one.clone())
    assert not same_bits(one, nearly)
    assert not same_bits(one, one.double())
    assert not same_bits(one, torch.ones(2, 1))
    assert not same_bits(one * math.nan, one * math.nan)


def test_max_difference_is_infinite_for_other_shapes_and_nan_for_nan():
    one = torch.ones(2)

    assert max_difference(one, torch.tensor([1.0, 0.5])) == 0.5
    assert max_difference(one, torch.ones(3)) == math.inf
    assert math.isnan(max_difference(one, torch.tensor([1.0, math.nan])))
    assert max_difference(torch.empty(0), torch.empty(0)) == 0


# The digest


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_the_digest_sees_the_last_bit_of_weights_and_buffers():
    model = linear()
    before = digest(model)
    assert digest(linear()) == before

    with torch.no_grad():
        model[0].weight[0, 0] = torch.nextafter(model[0].weight[0, 0], torch.tensor(9.0))
    after_weight = digest(model)
    model[1].running_mean += 1

    assert len({before, after_weight, digest(model)}) == 3


def test_the_digest_sees_names_shapes_and_types():
    values = torch.arange(4.0)

    def holding(name, tensor):
        module = nn.Module()
        module.register_buffer(name, tensor)
        return digest(module)

    digests = {
        holding("a", values),
        holding("b", values),
        holding("a", values.reshape(2, 2)),
        holding("a", values.view(torch.int32)),
    }

    assert len(digests) == 4


def test_the_digest_of_what_is_trained_leaves_the_rest_out():
    model = linear()
    model[0].weight.requires_grad_(False)
    before = digest(model), digest(model, trainable_only=True)

    with torch.no_grad():
        model[0].weight += 1

    assert digest(model) != before[0]
    assert digest(model, trainable_only=True) == before[1]


def test_any_type_and_shape_has_a_digest():
    module = nn.Module()
    module.register_buffer("scalar", torch.tensor(1.0, dtype=torch.bfloat16))
    module.register_buffer("empty", torch.empty(0, 3))
    module.register_buffer("strided", torch.arange(6).reshape(2, 3).T)
    module.register_buffer("flag", torch.tensor([True]))

    assert len(digest(module)) == 64


def test_weights_too_many_to_hash_are_told_by_names_and_shapes_but_what_is_trained_by_its_bits(monkeypatch):
    monkeypatch.setattr(weights, "HASHED_PARAMETERS", 3)
    model = linear()
    before = digest(model), digest(model, trainable_only=True)

    with torch.no_grad():
        model[0].weight += 1

    assert digest(model) == before[0]
    assert digest(model, trainable_only=True) != before[1]


# The fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
def test_the_fingerprint_sees_each_bit_and_where_it_stands(monkeypatch, dtype):
    monkeypatch.setattr(weights, "_CHUNK", 8)

    def of(values):
        model = torch.nn.Module()
        model.register_buffer("weights", torch.tensor(values).to(dtype))
        return weights.fingerprint(model)

    bits = [0, 1, 0, 0, 1] * 23
    others = [[*bits[:i], 1 - bits[i], *bits[i + 1 :]] for i in range(len(bits))]
    assert of(bits) == of(list(bits))
    assert of(bits) not in [of(other) for other in [*others, bits[::-1], bits[1:] + bits[:1]]]
