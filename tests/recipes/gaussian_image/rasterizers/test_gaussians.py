import math

import pytest
import torch

from recipes.gaussian_image.rasterizers.gaussians import CUT, check_gaussians, factor, half_extents
from tests.recipes.gaussian_image.rasterizers.cases import gaussians, weights


def changed(which, index, value):
    case = list(gaussians(4, 8, 8))
    case[which][index] = value
    return case


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (changed(0, (2, 1), float("nan")), "means of Gaussian 2.* not finite"),
        (changed(1, (1, 0), float("inf")), "conics of Gaussian 1.* not finite"),
        (changed(2, (3, 0), float("nan")), "colors of Gaussian 3.* not finite"),
        (changed(1, 2, torch.tensor([1.0, 1.0, 1.0])), "conic of Gaussian 2.* not positive definite"),
        (changed(1, 3, torch.tensor([-1.0, 0.0, -1.0])), "conic of Gaussian 3.* not positive definite"),
        (changed(1, 0, torch.tensor([0.0, 0.0, 1.0])), "conic of Gaussian 0.* not positive definite"),
        ([torch.zeros(4, 2), torch.zeros(3, 3), torch.zeros(4, 3)], "shapes"),
        ([torch.zeros(4, 2), torch.zeros(4, 2, 2), torch.zeros(4, 3)], "shapes"),
        ([torch.zeros(2), torch.zeros(3), torch.zeros(3)], "shapes"),
        ([torch.tensor(0.0), torch.zeros(3), torch.zeros(3)], "shapes"),
        ([torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, 0)], "channel"),
    ],
)
def test_what_cannot_be_drawn_is_refused(case, message):
    with pytest.raises(ValueError, match=message):
        check_gaussians(*case, 8, 8)


@pytest.mark.parametrize("size", [(0, 8), (8, 0), (-1, 8)])
def test_an_image_has_pixels(size):
    with pytest.raises(ValueError, match="at least one row"):
        check_gaussians(*gaussians(1, 8, 8), *size)


def test_formats_and_devices():
    means, conics, colors = gaussians(2, 8, 8)
    with pytest.raises(ValueError, match=r"colors are torch.bfloat16.*takes torch.float32"):
        check_gaussians(means, conics, colors.bfloat16(), 8, 8)
    with pytest.raises(ValueError, match=r"conics are torch.float64"):
        check_gaussians(means, conics.double(), colors, 8, 8, (torch.float32, torch.float64))
    with pytest.raises(ValueError, match="colors are on meta, not on cpu"):
        check_gaussians(means, conics, colors.to("meta"), 8, 8)
    with pytest.raises(ValueError, match="means are on cpu, not on cuda"):
        check_gaussians(means, conics, colors, 8, 8, device_type="cuda")


def test_a_float32_conic_just_positive_definite_passes():
    # 1 - (1 - 2^-23): float32 products would round the determinant away.
    sliver = torch.tensor([[1.0, 1.0 - 2**-23, 1.0]])
    check_gaussians(torch.zeros(1, 2), sliver, torch.ones(1, 1), 8, 8)


def test_factor_gives_the_conic_back():
    conics = gaussians(50, 8, 8)[1]
    l11, l21, l22 = factor(conics).unbind(1)
    again = torch.stack([l11 * l11, l11 * l21, l21 * l21 + l22 * l22], dim=1)
    torch.testing.assert_close(again, conics.double(), rtol=1e-12, atol=0.0)


def test_half_extents_just_hold_what_is_above_the_cut():
    means, conics = torch.tensor([[40.0, 30.0]]), gaussians(1, 8, 8, smallest=3.0, largest=6.0, seed=3)[1]
    rows, columns = (weights(means, conics, 60, 80)[..., 0] >= math.exp(-CUT)).nonzero().unbind(1)
    wide, high = half_extents(conics)[0].tolist()
    reached = (columns + 0.5 - 40).abs().max().item(), (rows + 0.5 - 30).abs().max().item()
    assert wide - 1.5 < reached[0] <= wide
    assert high - 1.5 < reached[1] <= high
