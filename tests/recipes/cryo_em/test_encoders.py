import torch

from recipes.cryo_em.encoders import ImageEncoder


def test_corners_are_not_seen():
    torch.manual_seed(0)
    encoder, images = ImageEncoder(16, 3, width=8, depth=3), torch.randn(2, 16, 16)
    spoilt = images.clone()
    spoilt[:, 0, 0] = 100
    assert torch.allclose(encoder(images), encoder(spoilt), atol=1e-3)
    spoilt[:, 8, 8] += 10
    assert not torch.allclose(encoder(images), encoder(spoilt), atol=1e-3)
