"""Coarse noise, and what the network is told."""

import pytest
import torch

from recipes.brain_mri.models.denoising import DenoisingAutoEncoder, coarse_noise


def noise(count=400, size=64, seed=0):
    return coarse_noise(torch.zeros(count, 1, size, size), torch.Generator().manual_seed(seed))


def test_noise_is_coarse_and_has_no_mean():
    found = noise()
    assert found.mean().abs() < 0.01
    # Bilinear interpolation of white noise keeps, along one axis, between 1/2 and 1 of the variance, 2/3 on average.
    assert found.std().item() == pytest.approx(0.2 * (2 / 3), rel=0.1)
    neighbours = (found[..., 1:] * found[..., :-1]).mean() / found.square().mean()
    far = (found[..., 16:] * found[..., :-16]).mean() / found.square().mean()
    assert neighbours > 0.8
    assert abs(far) < 0.1


def test_noise_is_rolled_by_random_distances():
    generator = torch.Generator().manual_seed(0)
    flat = torch.zeros(1, 1, 64, 64)
    # The seam between the grid's first and last cells is where neighbours differ most; it moves.
    seams = {int((found[..., 1:] - found[..., :-1]).abs().sum((0, 1, 2)).argmax())
             for found in (coarse_noise(flat.expand(50, 1, 64, 64), generator) for _ in range(6))}  # fmt: skip
    assert len(seams) > 3


def test_training_sees_noise_and_testing_does_not():
    torch.manual_seed(0)
    model = DenoisingAutoEncoder(32, 4)
    seen = []
    model.net.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    image = torch.rand(2, 1, 32, 32)
    image[..., :4, :] = 0
    model.training_pass(image, torch.Generator().manual_seed(3))
    model(image)
    noise = coarse_noise(image, torch.Generator().manual_seed(3))
    assert torch.equal(seen[0], image + noise * (image > 0))
    assert torch.equal(seen[0][..., :4, :], image[..., :4, :])
    assert torch.equal(seen[1], image)


def test_it_begins_with_what_it_is_given():
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(DenoisingAutoEncoder(32, 4)(image), image)


def test_a_few_steps_remove_noise():
    torch.manual_seed(0)
    model, image = DenoisingAutoEncoder(32, 8), torch.rand(4, 1, 32, 32)
    optimizer, errors = torch.optim.Adam(model.parameters(), 3e-3), []
    for step in range(40):
        error = (model.training_pass(image, torch.Generator().manual_seed(step)).reconstruction - image).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert sum(errors[-8:]) < 0.9 * sum(errors[:8])
