import pytest
import torch
from scipy import ndimage

from recipes.cryo_em.smoothing import REACH, Smoothing
from recipes.cryo_em.support import sphere


def blurred(sigma, volume, mask):
    smoothing = Smoothing(sigma)
    smoothing.place(mask)
    return smoothing(volume[mask][None])[0]


def test_inside_it_is_scipys_gaussian():
    volume, mask = torch.zeros(16, 16, 16), sphere(16)
    volume[8, 7, 9] = 1
    wanted = torch.from_numpy(ndimage.gaussian_filter(volume.double().numpy(), 0.8, truncate=REACH))
    assert torch.allclose(blurred(0.8, volume, mask).double(), wanted[mask], atol=0.02)  # scipy's kernel is a cube
    assert blurred(0.8, volume, mask).sum() == pytest.approx(1, abs=1e-5)


def test_nothing_wraps_around_or_enters():
    mask = torch.zeros(8, 8, 8, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 0, 1] = mask[7, 7, 7] = True
    volume = torch.zeros(8, 8, 8)
    volume[0, 0, 0] = 1
    found = blurred(0.7, volume, mask)
    assert found[0] > found[1] > 0
    assert found[2] == 0


def test_zero_leaves_values():
    assert torch.equal(blurred(0.0, torch.ones(8, 8, 8), sphere(8)), torch.ones(int(sphere(8).sum())))
    with pytest.raises(ValueError, match="smooth=-1"):
        Smoothing(-1)


def test_gradient():
    smoothing = Smoothing(0.7)
    smoothing.place(sphere(6))
    smoothing.kernel = smoothing.kernel.double()
    values = torch.randn(2, int(sphere(6).sum()), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(smoothing, (values,))
