import math

import pytest
import torch

from recipes.gaussian_image.rasterizers.reference import rasterize
from tests.recipes.gaussian_image.rasterizers.cases import gaussians


@pytest.mark.parametrize("cut", [True, False])
def test_equals_the_formula_pixel_by_pixel(cut):
    means, conics, colors = (values.double() for values in gaussians(5, 6, 9, smallest=0.5, largest=4.0))
    image = rasterize(means, conics, colors, 6, 9, cut=cut)
    dropped = 0
    for row in range(6):
        for column in range(9):
            expected = [0.0, 0.0, 0.0]
            for (mx, my), (q11, q12, q22), color in zip(means.tolist(), conics.tolist(), colors.tolist(), strict=True):
                dx, dy = column + 0.5 - mx, row + 0.5 - my
                weight = math.exp(-(q11 * dx * dx + 2 * q12 * dx * dy + q22 * dy * dy) / 2)
                dropped += weight < 1 / 255
                if weight >= 1 / 255 or not cut:
                    expected = [total + weight * part for total, part in zip(expected, color, strict=True)]
            assert image[row, column].tolist() == pytest.approx(expected, abs=1e-12)
    assert dropped > 50


def test_gradcheck_without_the_cut():
    leaves = [v.double().requires_grad_() for v in gaussians(4, 5, 6, smallest=0.8, largest=3.0)]
    assert torch.autograd.gradcheck(lambda *g: rasterize(*g, 5, 6, cut=False), leaves, atol=1e-7)


def test_no_gaussian_is_black():
    image = rasterize(torch.zeros(0, 2), torch.zeros(0, 3), torch.zeros(0, 3), 4, 5)
    assert torch.equal(image, torch.zeros(4, 5, 3))
