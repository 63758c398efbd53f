import pytest
import torch

from recipes.cryo_em.loss import ImageLoss


def test_fourier_is_real_space_over_all_pixels():
    generator = torch.Generator().manual_seed(0)
    predicted, images = (torch.randn(3, 12, 12, generator=generator) for _ in range(2))
    difference = predicted - images
    wanted = (difference - difference.mean((1, 2), keepdim=True)).square().mean()
    for loss in (ImageLoss(12), ImageLoss(12, "real", radius=2.0)):
        assert loss(torch.fft.rfft2(predicted), images).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_real_does_not_see_corners_and_neither_sees_the_mean():
    images = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
    spoilt = images.clone()
    spoilt[:, 0, 0] = 50
    zero = torch.zeros(2, 16, 9, dtype=torch.complex64)
    real, fourier = ImageLoss(16, "real"), ImageLoss(16)
    assert torch.equal(real(zero, images), real(zero, spoilt))
    assert fourier(zero, images) < fourier(zero, spoilt)
    assert fourier(zero, images + 3).item() == pytest.approx(fourier(zero, images).item(), rel=1e-4)


def test_options():
    with pytest.raises(ValueError, match="hartley"):
        ImageLoss(8, "hartley")
    with pytest.raises(ValueError, match="radius 0"):
        ImageLoss(8, "real", radius=0)
