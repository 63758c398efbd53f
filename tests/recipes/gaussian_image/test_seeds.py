"""Seed positions: a pure function of few numbers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.gaussian_image import seeds


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 300), st.integers(0, 2**31))
def test_seeds_are_inside_and_repeatable(height, width, count, seed):
    xy, spacing = seeds.even_seeds(height, width, count, (), seed)
    again, _ = seeds.even_seeds(height, width, count, (), seed)
    assert xy.shape == (count, 2)
    assert (xy == again).all()
    assert (xy >= 0).all()
    assert (xy < [width, height]).all()
    np.testing.assert_allclose(spacing, (height * width / count) ** 0.5)


def test_another_process_draws_the_same_seeds():
    program = (
        "from recipes.gaussian_image.seeds import even_seeds\n"
        "import torch; torch.manual_seed(5)\n"
        "print(even_seeds(30, 20, 50, tuple(range(1, 61)) * 3 + (1,) * 36, 7)[0].tobytes().hex())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    here = seeds.even_seeds(30, 20, 50, tuple(range(1, 61)) * 3 + (1,) * 36, 7)[0]
    assert done.stdout.strip() == here.tobytes().hex()


def test_constant_density_is_even():
    xy, _ = seeds.even_seeds(64, 64, 256, (), 0)
    per_cell = np.histogram2d(xy[:, 0], xy[:, 1], bins=8, range=[[0, 64]] * 2)[0]
    assert per_cell.min() >= 2  # 4 expected; independent draws would leave cells empty
    assert per_cell.max() <= 6


def test_seeds_follow_the_density():
    rows, columns = seeds.map_shape(60, 60)
    cells = np.ones((rows, columns), int)
    cells[:, columns // 2 + 1 :] = 9
    xy, spacing = seeds.even_seeds(60, 60, 1000, tuple(cells.ravel().tolist()), 0)
    across = np.interp(np.arange(60) + 0.5, (np.arange(columns) + 0.5) * 60 / columns, cells[0])
    wanted = 1000 * across.reshape(6, 10).sum(1) / across.sum()
    np.testing.assert_allclose(np.histogram(xy[:, 0], 6, (0, 60))[0], wanted, rtol=0.1)
    left, right = xy[:, 0] < 28, xy[:, 0] > 36
    np.testing.assert_allclose(spacing[left], 3 * spacing[right].min())


def test_hilbert_curve_visits_neighbours_one_after_another():
    for side in (2, 8, 16):
        y, x = np.divmod(np.arange(side * side), side)
        order = np.argsort(seeds._hilbert(x, y, side))
        assert (np.abs(np.diff(x[order])) + np.abs(np.diff(y[order])) == 1).all()


def test_map_lies_where_the_image_changes_and_fits_the_file():
    image = torch.full((40, 90, 3), 0.5)
    image[20:, 60:] = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))
    shape = seeds.map_shape(40, 90)
    cells = np.array(seeds.density_of(image)).reshape(shape)
    assert cells.size <= seeds.MOST_CELLS
    assert cells.min() >= 1
    assert cells.max() == seeds.LARGEST_DENSITY
    assert np.unravel_index(cells.argmax(), shape)[0] >= shape[0] // 2
    assert (cells[: shape[0] // 2 - 1] == cells[0, 0]).all()
    assert set(seeds.density_of(image, power=0.0)) == {seeds.LARGEST_DENSITY}


@pytest.mark.parametrize("height", [1, 16, 5000])
@pytest.mark.parametrize("width", [1, 99, 4096])
def test_maps_fit_for_any_shape(height, width):
    rows, columns = seeds.map_shape(height, width)
    assert rows >= 1
    assert columns >= 1
    assert rows * columns <= seeds.MOST_CELLS


def test_a_map_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="density map of 3 values"):
        seeds.even_seeds(16, 16, 10, (1, 2, 3), 0)


def test_authors_seeds_are_distinct_whole_pixels():
    xy = seeds.grid_seeds(16, 24, 150, 0)
    assert (xy == np.floor(xy)).all()
    assert len(np.unique(xy, axis=0)) == len(xy) <= 150
    assert (xy < [24, 16]).all()
    assert len(seeds.grid_seeds(4, 4, 1000, 0)) <= 16
