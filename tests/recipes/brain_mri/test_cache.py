import numpy as np
import pytest

from recipes.brain_mri.cache import cached
from recipes.brain_mri.phantom import phantom


class Maker:
    def __init__(self, **options):
        self.options, self.calls = options, 0

    def __call__(self):
        self.calls += 1
        return phantom(**self.options)


def same(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("image", "mask", "seg", "healthy", "affine")
    ) and (a.name, a.lesion) == (b.name, b.lesion)


def test_made_once_and_the_same_however_it_comes(tmp_path):
    make = Maker(seed=1, lesion="tumour")
    first, second, never = (cached(where, "a b/c", {"v": 1}, make) for where in (tmp_path, tmp_path, None))
    assert make.calls == 2  # the third has no cache
    assert same(first, second)
    assert same(first, never)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("a-b-c-")


def test_every_part_of_the_key_counts(tmp_path):
    for key in ({"v": 1, "seed": 1}, {"v": 2, "seed": 1}, {"v": 1, "seed": 2}, {"seed": 1, "v": 1}):
        cached(tmp_path, "x", key, Maker())
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"garbage" * 9])
def test_a_broken_file_is_made_again(tmp_path, spoil):
    make = Maker(seed=2)
    whole = cached(tmp_path, "x", {}, make)
    (path,) = tmp_path.iterdir()
    path.write_bytes(spoil(path.read_bytes()))
    assert same(cached(tmp_path, "x", {}, make), whole)
    assert make.calls == 2
    cached(tmp_path, "x", {}, make)
    assert make.calls == 2


def test_nothing_is_left_when_making_fails(tmp_path):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cached(tmp_path, "x", {}, fail)
    assert not list(tmp_path.iterdir())
