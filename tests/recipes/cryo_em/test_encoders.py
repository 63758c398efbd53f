import pytest
import torch

from recipes.cryo_em.encoders import ImageEncoder, Spectrum, shells


def test_corners_are_not_seen():
    torch.manual_seed(0)
    encoder, images = ImageEncoder(16, 3, width=8, depth=3), torch.randn(2, 16, 16)
    spoilt = images.clone()
    spoilt[:, 0, 0] = 100
    assert torch.allclose(encoder(images), encoder(spoilt), atol=1e-3)
    spoilt[:, 8, 8] += 10
    assert not torch.allclose(encoder(images), encoder(spoilt), atol=1e-3)


def test_the_filter_keeps_signal_and_drops_white_noise():
    generator = torch.Generator().manual_seed(1)
    low = torch.fft.rfft2(torch.randn(400, 16, 16, generator=generator)) * (shells(16) <= 3)
    signal = torch.fft.irfft2(low, s=(16, 16))
    images = signal + signal.std() * torch.randn(400, 16, 16, generator=generator)
    spectrum = Spectrum(16)
    for part in images.split(100):
        assert spectrum.add({"image": part})["image"] is part
    found = spectrum.wiener()
    shell = shells(16)
    assert found[(shell >= 1) & (shell <= 3)].min() > 5 * found[shell > 4].max()
    assert found[0, 0] == 0
    filtered = torch.fft.irfft2(torch.fft.rfft2(images) * found, s=(16, 16))
    assert filtered.var().item() == pytest.approx(1, abs=0.05)
    clear = torch.corrcoef(torch.stack([filtered.flatten(), signal.flatten()]))[0, 1]
    assert clear > torch.corrcoef(torch.stack([images.flatten(), signal.flatten()]))[0, 1] + 0.1


def test_images_without_structure_are_left():
    spectrum = Spectrum(8)
    spectrum.add({"image": torch.zeros(2, 8, 8)})
    assert torch.equal(spectrum.wiener(), torch.ones(8, 5))
