import math

import numpy as np
import pytest
import torch

from recipes.gaussian_image.metrics import LEAST_SIDE, quality


def noisy(side, amount):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(side, side, 3, generator=generator)
    return image, image + amount * torch.randn(side, side, 3, generator=generator)


def slow_ssim(one, other):
    """SSIM of Wang et al. (2004), window by window; beyond the edge the image is mirrored."""
    one, other = (np.pad(part, ((5, 5), (5, 5), (0, 0)), mode="reflect") for part in (one.double(), other.double()))
    one, other = torch.from_numpy(one), torch.from_numpy(other)
    axis = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(axis**2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    found = []
    for y in range(one.shape[0] - 10):
        for x in range(one.shape[1] - 10):
            for c in range(3):
                a, b = (part[y : y + 11, x : x + 11, c] for part in (one, other))
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * a * a).sum() - ma**2, (window * b * b).sum() - mb**2
                cov = (window * a * b).sum() - ma * mb
                found.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return float(torch.stack(found).mean())


def test_psnr_and_ssim_against_loops():
    image, picture = noisy(18, 0.2)
    found = quality(picture, image)
    clamped = picture.clamp(0, 1)
    mse = sum((a - b) ** 2 for a, b in zip(clamped.double().flatten().tolist(), image.flatten().tolist(), strict=True))
    assert found.psnr == pytest.approx(-10 * math.log10(mse / image.numel()), abs=1e-4)
    assert found.ssim == pytest.approx(slow_ssim(clamped, image), abs=1e-4)


def test_both_similarities_against_torchmetrics():
    reference = pytest.importorskip("torchmetrics.functional.image")
    image, picture = noisy(LEAST_SIDE + 5, 0.1)
    found = quality(picture, image)
    one, other = (part.clamp(0, 1).permute(2, 0, 1)[None] for part in (picture, image))
    ssim = reference.structural_similarity_index_measure(one, other, data_range=1.0)
    scales = reference.multiscale_structural_similarity_index_measure(one, other, data_range=1.0, normalize="relu")
    assert found.ssim == pytest.approx(float(ssim), abs=1e-5)
    assert found.ms_ssim == pytest.approx(float(scales), abs=1e-5)


def test_small_images_say_what_is_missing():
    image, picture = noisy(10, 0.1)
    tiny = quality(picture, image)
    assert tiny.ssim is None
    assert tiny.ms_ssim is None
    assert "SSIM below 11" in tiny.note
    image, picture = noisy(LEAST_SIDE - 1, 0.1)
    assert quality(picture, image).ms_ssim is None
    image, picture = noisy(LEAST_SIDE, 0.1)
    large = quality(picture, image)
    assert 0 < large.ms_ssim < 1
    assert large.note == ""


def test_the_same_picture_is_perfect():
    image, _ = noisy(LEAST_SIDE, 0.0)
    found = quality(image, image)
    assert found.psnr == pytest.approx(120)
    assert found.ssim == pytest.approx(1)
    assert found.ms_ssim == pytest.approx(1)


def test_more_noise_is_worse():
    little, much = (quality(*reversed(noisy(LEAST_SIDE, amount))) for amount in (0.05, 0.2))
    assert little.psnr > much.psnr
    assert little.ssim > much.ssim
    assert little.ms_ssim > much.ms_ssim


def test_pictures_that_cannot_be_compared():
    image = torch.zeros(8, 8, 3)
    with pytest.raises(ValueError, match="shape"):
        quality(torch.zeros(8, 9, 3), image)
    with pytest.raises(ValueError, match="not finite"):
        quality(torch.full((8, 8, 3), torch.nan), image)
