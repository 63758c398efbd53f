"""Bottlenecks."""

import pytest
import torch

from recipes.brain_mri.models.autoencoder import AutoEncoder


def test_a_dense_bottleneck_lets_so_many_numbers_through():
    model = AutoEncoder(32, 8, "dense", latent=3).eval()
    codes = []
    model.to_latent.register_forward_hook(lambda module, given, code: codes.append(code))
    with torch.no_grad():
        model(torch.rand(2, 1, 32, 32))
    assert codes[0].shape == (2, 3)


def test_a_spatial_bottleneck_sees_only_its_neighbourhood_and_a_dense_one_everything():
    image = torch.rand(1, 1, 192, 192)
    changed = image.clone()
    changed[..., :8, :8] = 1 - changed[..., :8, :8]
    far = []
    for bottleneck in ("spatial", "dense"):
        torch.manual_seed(0)
        model = AutoEncoder(192, 4, bottleneck).eval()
        torch.nn.init.normal_(model.decoder.out.weight)
        with torch.no_grad():
            far.append((model(image) - model(changed))[..., -48:, -48:].abs().max().item())
    assert far[0] == 0
    assert far[1] > 0


def test_the_divergence_is_that_of_two_normals():
    torch.manual_seed(0)
    model = AutoEncoder(32, 4, "variational", latent=5, kl_weight=0.5).eval()
    image = torch.rand(3, 1, 32, 32)
    penalty = model.training_pass(image, torch.Generator().manual_seed(0)).penalty
    mean, log_variance = model._latent(model.squeeze(model.encoder(image)))
    found = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(found, torch.distributions.Normal(0.0, 1.0)).mean()
    assert penalty.item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
    assert penalty > 0
