"""Files that were written once must be read for ever: `golden-1.sgi` has version 1 of the format.

A change that breaks this needs a new version in `container.VERSION`, a reader of the old one, and a further file here.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest

from recipes.gaussian_image.codec.decoder import decode
from recipes.gaussian_image.rasterizers import rasterizer
from tests.recipes.gaussian_image.codec.small import CONFIG

pytest.importorskip("constriction")

GOLDEN = (Path(__file__).parent / "golden-1.sgi").read_bytes()
ATTRIBUTES = [3929382030, 1098723112, 3377016512]
COLUMN = [0.2757, 0.128, 0.2512, 0.5424, 0.5496, 1.9395, 1.7751]


def test_numbers_of_an_old_file_are_the_same():
    image = decode(GOLDEN)
    assert image.config == CONFIG
    assert [zlib.crc32(part.contiguous().numpy().astype("<f4").tobytes()) for part in image.attributes] == ATTRIBUTES


def test_picture_of_an_old_file_is_the_same():
    picture = decode(GOLDEN).render(draw=rasterizer("torch"))
    assert picture.shape == (70, 99, 3)
    np.testing.assert_allclose(picture[::10, 50].mean(1), COLUMN, atol=2e-4)
