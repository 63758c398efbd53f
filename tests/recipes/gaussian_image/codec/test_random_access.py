import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from recipes.gaussian_image.codec.blocks import meets
from recipes.gaussian_image.codec.decoder import decode
from recipes.gaussian_image.codec.encoder import encode
from recipes.gaussian_image.codec.view import covariances_of, reach, seen
from recipes.gaussian_image.rasterizers import rasterizer
from recipes.gaussian_image.structured import Gaussians
from tests.recipes.gaussian_image.codec.small import CONFIG, small_model

pytest.importorskip("constriction")

FILE = encode(small_model(), seeds_per_block=10)
DRAW = rasterizer("torch")
FULL = decode(FILE).render(draw=DRAW)


def psnr(picture, other):
    return -10 * torch.log10((picture - other).square().mean()).item()


@st.composite
def regions(draw):
    x0, y0 = draw(st.integers(0, CONFIG.width - 1)), draw(st.integers(0, CONFIG.height - 1))
    return x0, y0, draw(st.integers(x0 + 1, CONFIG.width)), draw(st.integers(y0 + 1, CONFIG.height))


@settings(max_examples=25, deadline=None)
@given(regions())
def test_a_crop_is_the_crop_of_the_whole(region):
    x0, y0, x1, y1 = region
    image = decode(FILE)
    crop = image.render(region=region, draw=DRAW)
    difference = (crop - FULL[y0:y1, x0:x1]).abs()
    # A pixel on the 1/255 ellipse of a Gaussian may fall on either side of it, since float sums round differently.
    cut = difference > 2e-5
    assert cut.float().mean() <= 0.01
    assert difference.max() <= 0.02
    assert image.decoded >= {number for number, block in enumerate(image.blocks) if meets(block.box, region)}


def test_a_small_crop_decodes_few_blocks():
    image = decode(FILE)
    image.render(region=(0, 0, 8, 8), draw=DRAW)
    assert 0 < len(image.decoded) <= 0.6 * len(image.blocks)


def test_boxes_hold_all_that_a_block_draws():
    image = decode(FILE)
    attributes = image.attributes
    for members, block in zip(image.members, image.blocks, strict=True):
        own = type(attributes)(*(part[members] for part in attributes))
        with torch.no_grad():
            gaussians = image.model.gaussians_of(own, image.model.positions[members], image.model.unit[members])
        drawn = (DRAW(*gaussians, CONFIG.height, CONFIG.width) != 0).any(2).numpy()
        x0, y0, x1, y1 = block.box
        outside = drawn.copy()
        outside[y0:y1, x0:x1] = False
        assert not outside.any()


def test_an_enlarged_picture_passes_through_the_pixels():
    larger = decode(FILE).render(size=(3 * CONFIG.height, 3 * CONFIG.width), draw=DRAW)
    centres = larger[1::3, 1::3]
    assert psnr(centres, FULL) > 45


def test_a_part_enlarged_is_the_part_of_the_enlarged_whole():
    region = (20, 10, 60, 50)
    part = decode(FILE).render(region=region, size=(80, 80), draw=DRAW)
    whole = decode(FILE).render(size=(2 * CONFIG.height, 2 * CONFIG.width), draw=DRAW)
    assert psnr(part, whole[20:100, 40:120]) > 45


def test_a_smaller_picture_is_averaged():
    smaller = decode(FILE).render(region=(0, 0, 96, 64), size=(16, 24), draw=DRAW)
    averaged = F.avg_pool2d(FULL[:64, :96].permute(2, 0, 1), 4).permute(1, 2, 0)
    picked = FULL[2:64:4, 2:96:4]
    assert psnr(smaller, averaged) > 36
    assert psnr(smaller, averaged) > psnr(picked, averaged) + 6


def test_gaussians_seen_smaller_keep_their_mass():
    # A regular grid of places within a pixel of the smaller picture: what one place loses another gains.
    places = torch.cartesian_prod(torch.arange(8), torch.arange(8)) / 2 + 14
    conics = torch.tensor([[1.0, 0.25, 1.0]]).repeat(64, 1)
    gaussians = Gaussians(places, conics, torch.ones(64, 3))
    full = DRAW(*gaussians, 32, 32).sum()
    smaller = DRAW(*seen(gaussians, (0, 0, 32, 32), (8, 8)), 8, 8).sum() * 16
    assert abs(smaller / full - 1) < 0.02


def test_reach_is_where_the_weight_is_1_in_255():
    # Correlated, so that the widths of the ellipse differ from those of its axes.
    covariance = torch.tensor([[9.0, 4.0], [4.0, 16.0]])
    q = torch.linalg.inv(covariance)
    gaussian = Gaussians(torch.tensor([[50.0, 40.0]]), torch.tensor([[q[0, 0], q[0, 1], q[1, 1]]]), torch.ones(1, 3))
    assert torch.allclose(covariances_of(gaussian.conics), torch.tensor([[9.0, 4.0, 16.0]], dtype=torch.float64))
    half = np.sqrt(2 * np.log(255))
    x0, y0, x1, y1 = reach(gaussian, (100, 100))
    assert x0 == np.floor(50 - 3 * half) - 1
    assert x1 == np.ceil(50 + 3 * half) + 1
    assert (y0, y1) == (np.floor(40 - 4 * half) - 1, np.ceil(40 + 4 * half) + 1)
    assert reach(gaussian._replace(means=torch.tensor([[-90.0, 40.0]])), (100, 100)) == (0, 0, 0, 0)


def test_wrong_views_are_refused():
    image = decode(FILE)
    with pytest.raises(ValueError, match="x1 <= 99"):
        image.render(region=(0, 0, 100, 10))
    with pytest.raises(ValueError, match="want 0 <= x0 < x1"):
        image.render(region=(5, 0, 5, 10))
    with pytest.raises(ValueError, match="0 x 5 pixels"):
        image.render(size=(0, 5))
    with pytest.raises(ValueError, match="level 2: want 0 to 1"):
        image.render(level=2)
    with pytest.raises(ValueError, match="without region or size"):
        image.render(level=1, size=(3, 3))
    assert not image.decoded
