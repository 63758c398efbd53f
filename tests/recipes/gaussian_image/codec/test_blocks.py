import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.gaussian_image.codec.blocks import Block, members, read_index, side_for, write_index
from recipes.gaussian_image.codec.errors import CodecError

numbers = st.integers(0, 2**16 - 1)
blocks = st.builds(Block, st.integers(0, 1000), st.integers(0, 2**32 - 1), numbers, st.tuples(*[numbers] * 4))


@given(st.integers(0, 2**32), st.integers(0, 80), st.integers(1, 40))
def test_every_seed_is_in_the_block_of_its_square(seed, count, side):
    positions = np.random.default_rng(seed).uniform(0, 64, (count, 2))
    parts = members(positions, side)
    assert sorted(np.concatenate([*parts, np.zeros(0, dtype=np.int64)]).tolist()) == list(range(count))
    squares = [{(int(y // side), int(x // side)) for x, y in positions[part]} for part in parts]
    assert all(len(square) == 1 for square in squares)
    flat = [square.pop() for square in squares]
    assert flat == sorted(set(flat))
    assert all((np.diff(part) > 0).all() for part in parts)


def test_squares_hold_about_as_many_seeds_as_asked_for():
    positions = np.random.default_rng(0).uniform(0, 128, (4000, 2))
    parts = members(positions, side_for(128, 128, 4000, 250))
    assert 200 <= 4000 / len(parts) <= 260


@given(st.lists(blocks, max_size=5))
def test_index_is_read_as_written(entries):
    data = write_index(entries)
    assert len(data) == 18 * len(entries)
    assert read_index(data, len(entries), sum(block.length for block in entries)) == entries


def test_an_index_that_does_not_fit_the_file_is_refused():
    entries = [Block(10, 1, 2, (0, 0, 4, 4)), Block(20, 1, 2, (0, 0, 4, 4))]
    with pytest.raises(CodecError, match="36 bytes for 3 blocks"):
        read_index(write_index(entries), 3, 30)
    with pytest.raises(CodecError, match="ends inside its blocks: they take 30 bytes, 29 are there"):
        read_index(write_index(entries), 2, 29)
    with pytest.raises(CodecError, match="goes on behind"):
        read_index(write_index(entries), 2, 31)
