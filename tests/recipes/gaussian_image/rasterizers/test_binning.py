import pytest
import torch

from recipes.gaussian_image.rasterizers.binning import bin_by_torch
from tests.recipes.gaussian_image.rasterizers.cases import gaussians, weights


@pytest.mark.parametrize(("height", "width", "tile"), [(40, 50, 8), (16, 16, 16), (5, 33, 16), (1, 1, 8)])
def test_every_pair_that_matters_is_listed_in_order(height, width, tile):
    means, conics, _ = gaussians(80, height, width, seed=tile + width)
    pairs = bin_by_torch(means, conics, height, width, tile)
    assert (pairs.tiles_y, pairs.tiles_x) == (-(-height // tile), -(-width // tile))
    assert pairs.offsets.shape == (pairs.tiles + 1,)
    drawn = weights(means, conics, height, width) >= 1 / 255
    for index in range(pairs.tiles):
        top, left = index // pairs.tiles_x * tile, index % pairs.tiles_x * tile
        needed = drawn[top : top + tile, left : left + tile].flatten(0, 1).any(0).nonzero()[:, 0].tolist()
        listed = pairs.ids[pairs.offsets[index] : pairs.offsets[index + 1]].tolist()
        assert set(needed) <= set(listed)
        assert listed == sorted(set(listed))
    assert pairs.tile_of_pair().tolist() == sorted(pairs.tile_of_pair().tolist())


def test_a_round_gaussian_is_in_its_tile_only():
    means, conics = torch.tensor([[12.0, 20.0]]), torch.tensor([[4.0, 0.0, 4.0]])  # reaches 1.7 pixels
    pairs = bin_by_torch(means, conics, 32, 32, 8)
    assert pairs.tile_of_pair().tolist() == [2 * 4 + 1]
    assert pairs.centres()[9].tolist() == [12.0, 20.0]
