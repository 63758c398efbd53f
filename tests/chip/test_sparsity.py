"""Structured masks against brute force."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.sparsity import Mask, balanced_mask, nm_mask
from lightning_cim.chip.transform import Stored

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4)


def random_weight(seed, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def output_rows(tensor, dim):
    """One flat list an output channel, by plain indexing."""
    return [tensor.select(dim, channel).reshape(-1).tolist() for channel in range(tensor.shape[dim])]


def best_subset(values, count):
    """The subset of ``count`` positions with the largest sum of magnitudes, by trying all of them."""
    count = min(count, len(values))
    best = max(itertools.combinations(range(len(values)), count), key=lambda kept: sum(abs(values[i]) for i in kept))
    return [i in best for i in range(len(values))]


@given(seed=st.integers(0, 2**32 - 1), shape=SHAPES, m=st.integers(1, 6), data=st.data())
@settings(max_examples=60, deadline=None)
def test_nm_mask_equals_brute_force(seed, shape, m, data):
    n, dim = data.draw(st.integers(0, m)), data.draw(st.integers(0, len(shape) - 1))
    weight = random_weight(seed, shape)
    mask = nm_mask(weight, n, m, dim)
    assert mask.shape == weight.shape
    for row, kept in zip(output_rows(weight, dim), output_rows(mask, dim), strict=True):
        slow = [k for i in range(0, len(row), m) for k in best_subset(row[i : i + m], n)]
        assert kept == slow


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), inputs=st.integers(1, 10), sparsity=st.floats(0, 0.99))
@settings(max_examples=60, deadline=None)
def test_balanced_mask_equals_brute_force(seed, rows, inputs, sparsity):
    weight = random_weight(seed, (rows, inputs))
    mask = balanced_mask(weight, sparsity)
    for row, kept in zip(weight.tolist(), mask.tolist(), strict=True):
        assert kept == best_subset(row, round(inputs * (1 - sparsity)))


@given(seed=st.integers(0, 2**32 - 1), shape=SHAPES, sparsity=st.floats(0, 0.99), data=st.data())
@settings(max_examples=40, deadline=None)
def test_balanced_channels_keep_the_same_number(seed, shape, sparsity, data):
    dim = data.draw(st.integers(0, len(shape) - 1))
    mask = balanced_mask(random_weight(seed, shape), sparsity, dim)
    assert len({sum(row) for row in output_rows(mask, dim)}) == 1


def test_remainder_groups_keep_at_most_n():
    assert nm_mask(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]), 2, 4).tolist() == [
        [False, False, True, True, False, True, True]
    ]
    assert nm_mask(torch.ones(1, 5), 2, 4).sum() == 3  # the remainder of one is kept


def test_ties_fall_to_the_first_weight():
    assert nm_mask(torch.ones(1, 4), 2, 4).tolist() == [[True, True, False, False]]
    assert nm_mask(torch.zeros(1, 4), 2, 4).tolist() == [[True, True, False, False]]


def stored(layer, name="weight"):
    return Stored(name, layer, layer.weight)


def test_sr_ste_gradient_equals_the_formula():
    layer = nn.Linear(8, 3)
    link, item = Mask((2, 4), 0.5, refine=0.1), stored(layer)
    link.apply(item)
    mask = nm_mask(layer.weight, 2, 4)
    assert torch.equal(item.mask, mask)
    assert torch.equal(item.value, layer.weight * mask)
    upstream = torch.randn(3, 8)
    item.value.backward(upstream)
    expected = upstream + 0.1 * layer.weight.detach() * (~mask)
    torch.testing.assert_close(layer.weight.grad, expected, rtol=0, atol=1e-7)


def test_sr_ste_masks_follow_the_weights():
    layer = nn.Linear(4, 1, bias=False)
    link = Mask((1, 4), 0.75, refine=2e-4)
    for largest in (0, 3):
        with torch.no_grad():
            layer.weight.fill_(0.1)[0, largest] = 1.0
        item = stored(layer)
        link.apply(item)
        assert item.mask.tolist() == [[i == largest for i in range(4)]]


def test_fixed_masks_stop_the_gradient_of_pruned_weights_and_do_not_follow():
    layer = nn.Linear(8, 3)
    link, item = Mask((2, 4), 0.5), stored(layer)
    link.apply(item)
    assert item.mask is None  # no mask yet: the value passes
    assert item.value is layer.weight
    link.update(layer)
    fixed = link.masks["weight"].clone()
    with torch.no_grad():
        layer.weight.neg_().mul_(torch.where(fixed, 0.1, 10.0))
    item = stored(layer)
    link.apply(item)
    assert torch.equal(item.mask, fixed)
    item.value.sum().backward()
    assert torch.equal(layer.weight.grad, fixed.float())


@pytest.mark.parametrize(("progress", "kept"), [(0.0, 8), (0.5, 6), (1.0, 4)])
def test_gradual_balanced_progress(progress, kept):
    layer = nn.Linear(8, 3)
    mask = Mask(None, 0.5).mask_of(layer.weight, 0, progress)
    assert mask.sum(1).tolist() == [kept] * 3


@pytest.mark.parametrize(("progress", "kept"), [(0.0, 4), (0.4, 3), (1.0, 2)])
def test_gradual_groups_progress(progress, kept):
    mask = Mask((2, 4), 0.5).mask_of(torch.randn(2, 8), 0, progress)
    assert mask.reshape(2, 2, 4).sum(-1).tolist() == [[kept, kept]] * 2


def test_update_uses_the_output_axis_and_the_mapping():
    model = nn.Sequential(nn.ConvTranspose1d(4, 2, 3), nn.Linear(8, 2))
    link = Mask((1, 4), 0.75, mapping=Mapping(exclude=["1"]))
    link.update(model)
    assert list(link.masks) == ["0.weight"]
    assert torch.equal(link.masks["0.weight"], nm_mask(model[0].weight, 1, 4, dim=1))
