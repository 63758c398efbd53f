"""As test_fuzz, for files of arrays, whose own tests do not damage the container."""

import io
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recipes._arrays import load_npy, load_npz
from recipes.arrhythmia.contest import load_strips
from recipes.arrhythmia.integer import IntegerNet
from recipes.cryo_em.cache import with_truth
from recipes.cryo_em.cryosparc import read_cryosparc
from recipes.image_classification.sources import _npz
from tests.release.test_fuzz import check, damaged


class Kind:
    def __init__(self, name, arrays, read):
        self.name, self.read = name, read
        file = io.BytesIO()
        np.savez(file, **arrays) if isinstance(arrays, dict) else np.save(file, arrays)
        self.content = file.getvalue()


def pixels(count):
    return np.arange(count * 48, dtype=np.uint8).reshape(count, 4, 4, 3)


CLASSES = {"train_images": pixels(3), "test_images": pixels(2), "train_labels": [0, 1, 0], "test_labels": [0, 1]}
STRIPS = {
    "signal": np.arange(9, dtype=np.int16),
    "offsets": [0, 9],
    "lsb_mv": 0.01,
    "patient": ["a"],
    "rhythm": ["VFb"],
}
TRUTH = {"labels": np.zeros(2), "positions": np.zeros((1, 3, 3)), "weights": np.ones(3), "sigma": 1.5}
ROWS = np.zeros(2, dtype=[("uid", "u8"), ("blob/path", "S6"), ("blob/idx", "u4"), ("blob/psize_A", "f4")])
KINDS = {
    "npz": Kind("a.npz", CLASSES, load_npz),
    "npy": Kind("a.npy", np.arange(6.0).reshape(2, 3), load_npy),
    "images": Kind("a.npz", CLASSES, _npz),
    "strips": Kind("a.npz", STRIPS, load_strips),
    "truth": Kind("a.npz", TRUTH, partial(with_truth, particles=None)),
    "integers": Kind("a.npz", {"format": 1, "length": 8}, IntegerNet.load),
    "cryoSPARC": Kind("a.cs", ROWS, read_cryosparc),
}


@pytest.mark.parametrize("name", ["npz", "npy", "images", "strips"])
def test_a_good_file_is_read(tmp_path, name):
    path = tmp_path / KINDS[name].name
    path.write_bytes(KINDS[name].content)
    KINDS[name].read(path)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_by_name(tmp_path_factory, name, data):
    kind = KINDS[name]
    if name == "truth":  # a whole one is joined with particles, which there are none of here
        content = kind.content[: data.draw(st.integers(0, len(kind.content) - 1))]
    else:
        content = data.draw(damaged(kind.content))
    check(kind, tmp_path_factory.mktemp("fuzz"), content)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=100))
@example(content=b"PK\x03\x04" + b"x" * 40)
@example(content=b"\x93NUMPY\x01\x00" + b"\x10\x00{'shape': (2, (\n")
@example(content=b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,)}  \n")
def test_any_bytes_are_read_or_refused_by_name(tmp_path_factory, name, content):
    check(KINDS[name], tmp_path_factory.mktemp("fuzz"), content)
