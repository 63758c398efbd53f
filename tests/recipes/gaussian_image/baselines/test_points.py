import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.gaussian_image.baselines.points import leaf_order, read_points, write_points

queue = pytest.importorskip("constriction").stream.queue

grids = st.tuples(st.integers(1, 40), st.integers(1, 40))


def written(cells, columns, rows):
    coder = queue.RangeEncoder()
    write_points(coder, cells, columns, rows)
    return coder.get_compressed()


@settings(max_examples=60, deadline=None)
@given(grids, st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_points_come_back_in_the_order_that_is_announced(grid, count, seed):
    cells = np.random.default_rng(seed).integers(0, grid, (count, 2))
    words = written(cells, *grid)
    found = read_points(queue.RangeDecoder(words), count, *grid)
    assert np.array_equal(found, cells[leaf_order(cells, *grid)])


def test_points_of_one_cell_stay_in_their_order():
    cells = np.array([[2, 1], [0, 0], [2, 1], [2, 1]])
    assert leaf_order(cells, 3, 2).tolist() == [1, 0, 2, 3]


def test_order_costs_nothing():
    """The stream has the length of the set's probability, log2(N!) bits below that of N addresses."""
    cells = np.random.default_rng(0).integers(0, [1024, 600], (3000, 2))
    bits = 32 * len(written(cells, 1024, 600))
    ideal = 3000 * math.log2(1024 * 600) - math.lgamma(3001) / math.log(2)
    assert ideal < bits < 1.02 * ideal


def test_crowds_cost_less_than_even_points():
    rng = np.random.default_rng(0)
    even = rng.integers(0, 1024, (3000, 2))
    crowd = rng.integers(0, 128, (3000, 2))
    assert len(written(crowd, 1024, 1024)) < len(written(even, 1024, 1024)) - 3000 * 5.5 / 32
