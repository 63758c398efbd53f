"""The binary hash grid against a loop over seeds, levels and corners."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.gaussian_image.hash_grid import BinaryHashGrid, HashConfig

CONFIG = HashConfig(resolutions=(4, 9, 40), table_size=128, features=3)


def slow(grid, u):
    """Features of one position, straight from the definition."""
    features, start = [], 0
    for side, entries in zip(CONFIG.resolutions, CONFIG.entries, strict=True):
        x, y = (float(part) * (side - 2) + 0.5 for part in u)
        level = [0.0] * CONFIG.features
        for column in (math.floor(x), math.floor(x) + 1):
            for row in (math.floor(y), math.floor(y) + 1):
                hashed = (column ^ (row * 2654435761)) % entries
                entry = column + row * side if side * side <= entries else hashed
                weight = (1 - abs(x - column)) * (1 - abs(y - row))
                for number, value in enumerate(grid.table[start + entry].tolist()):
                    level[number] += weight * (1 if value >= 0 else -1)
        features += level
        start += entries
    return features


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.floats(0, 1), st.floats(0, 1)), st.integers(0, 99))
def test_features_equal_the_slow_loop(u, seed):
    torch.manual_seed(seed)
    grid = BinaryHashGrid(CONFIG)
    got = grid(torch.tensor([u], dtype=torch.float64))[0]
    torch.testing.assert_close(got, torch.tensor(slow(grid, u)), atol=1e-5, rtol=0)


def test_small_levels_are_dense_and_large_ones_hashed():
    assert CONFIG.entries == (16, 88, 128)
    assert BinaryHashGrid(CONFIG).table.shape == (232, 3)


def test_gradient_is_that_of_the_mix_where_entries_are_within_one():
    grid = BinaryHashGrid(HashConfig(resolutions=(4,), table_size=16, features=1))
    with torch.no_grad():
        grid.table.copy_(torch.linspace(-1.5, 1.5, 16)[:, None])
    u = torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    grid(u).sum().backward()
    corners = grid.corners(u)
    want = torch.zeros(16).index_add_(0, corners.rows.flatten(), corners.weight.flatten())[:, None]
    want[grid.table.detach().abs() > 1] = 0
    torch.testing.assert_close(grid.table.grad, want)


def test_bits_round_trip_and_only_signs_matter():
    grid, other = BinaryHashGrid(CONFIG), BinaryHashGrid(CONFIG)
    u = torch.rand(20, 2)
    before = grid(u)
    other.load_bits(grid.bits())
    assert torch.equal(other(u), before)
    assert torch.equal(other.bits(), grid.bits())
    with pytest.raises(ValueError, match="shape"):
        grid.load_bits(torch.ones(3, 3, dtype=torch.bool))


def test_cost_is_the_entropy_of_the_bits():
    grid = BinaryHashGrid(CONFIG)
    ones = grid.table.numel() // 4
    flat = torch.arange(grid.table.numel()) < ones
    grid.load_bits(flat.view(grid.table.shape))
    p = ones / grid.table.numel()
    entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert grid.cost().item() == pytest.approx(32 + grid.table.numel() * entropy, rel=1e-5)


@pytest.mark.parametrize("bad", [{"resolutions": ()}, {"resolutions": (1,)}, {"table_size": 0}, {"features": 0}])
def test_sizes_without_content_are_refused(bad):
    with pytest.raises(ValueError, match="want levels"):
        HashConfig(**bad)
