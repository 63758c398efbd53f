import math

import pytest
import torch

from recipes.cryo_em.masks import density_mask, soft_mask, sphere


def test_the_edge_is_half_a_cosine_of_the_distance():
    core = sphere(15, 3)
    mask = soft_mask(core, dilate=1.0, edge=3.0)
    grid = torch.stack(torch.meshgrid(*[torch.arange(15)] * 3, indexing="ij"), -1).reshape(-1, 3).double()
    distance = torch.cdist(grid, grid[core.flatten()]).amin(1)
    beyond = ((distance - 1.0) / 3.0).clamp(0, 1)
    assert torch.allclose(mask.flatten().double(), 0.5 + 0.5 * torch.cos(math.pi * beyond), atol=1e-6)


def test_without_an_edge_the_mask_is_hard():
    assert set(soft_mask(sphere(9, 2), dilate=1, edge=0).unique().tolist()) == {0.0, 1.0}


def test_a_dense_region_is_found_and_its_surroundings_are_not():
    volume = 0.01 * torch.randn(20, 20, 20, generator=torch.Generator().manual_seed(0))
    volume[8:12, 8:12, 8:12] += 1
    mask = density_mask(volume, dilate=1, edge=2)
    assert float(mask[8:12, 8:12, 8:12].min()) == 1
    assert float(mask[:4].max()) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: soft_mask(torch.zeros(4, 4, 4, dtype=torch.bool)), "empty"),
        (lambda: soft_mask(torch.ones(4, 4, 4, dtype=torch.bool), edge=-1), "at least 0"),
        (lambda: density_mask(-torch.ones(8, 8, 8)), "contrast"),
        (lambda: density_mask(torch.ones(8, 8, 8), level=2), "level"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
