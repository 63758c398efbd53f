"""The schedule, the cells, and which pixels the network paints."""

import math

import pytest
import torch

from recipes.brain_mri.models.diffusion import PatchDiffusion, signal
from recipes.brain_mri.models.simplex import simplex_noise


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PatchDiffusion(32, 8, (1, 2), 1, attention=False)


@pytest.fixture
def image():
    return torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_schedule_is_the_cosine():
    steps = torch.tensor([0, 100, 499, 749, 990])
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    expected = [math.cos(((int(t) + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / start for t in steps]
    assert signal(steps).tolist() == pytest.approx(expected, rel=1e-4)
    assert (signal(torch.arange(1000)).diff() < 0).all()


def test_training_paints_one_quarter_and_leaves_the_rest(model, image):
    found = model.training_pass(image, torch.Generator().manual_seed(0)).reconstruction
    changed = found != image
    quarters = changed.view(5, 2, 16, 2, 16).sum((2, 4)).flatten(1)
    assert ((quarters > 0).sum(1) == 1).all()
    assert (quarters.amax(1) > 250).all()


def test_training_covers_every_quarter(model, image):
    many = image[:1].expand(40, 1, 32, 32)
    changed = model.training_pass(many, torch.Generator().manual_seed(0)).reconstruction != many
    assert (changed.view(40, 2, 16, 2, 16).sum((2, 4)).flatten(1) > 0).any(0).all()


def test_the_network_sees_three_clean_quarters_and_a_noisy_one_at_the_fixed_step(model, image):
    seen = []
    model.net.register_forward_hook(lambda module, given, out: seen.append(given))
    model(image[:1])
    slices, steps = seen[0]
    assert steps.tolist() == [749] * 4
    clean = (slices == 2 * image[:1] - 1).view(4, 2, 16, 2, 16).float().mean((2, 4)).flatten(1)
    assert torch.equal(clean.round(), 1 - torch.eye(4))


def test_the_quarters_are_those_of_four_separate_paintings(model, image):
    with torch.no_grad():
        whole = model(image)
        noise = simplex_noise(5, 32, torch.Generator().manual_seed(0))
        for cell, (rows, columns) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            place = (..., slice(16 * rows, 16 * rows + 16), slice(16 * columns, 16 * columns + 16))
            alone = model._paint(image, noise, torch.full((5,), cell), torch.full((5,), 749))
            assert torch.allclose(whole[place], alone[place].clamp(0, 1), atol=1e-5)


def test_portions_change_nothing(model, image):
    with torch.no_grad():
        whole = model(image)
        model.chunk = 4
        assert torch.allclose(model(image), whole, atol=1e-5)
        assert torch.allclose(model(image[:2]), whole[:2], atol=1e-5)
    assert model(image[:0]).shape == (0, 1, 32, 32)


def test_a_step_out_of_range_is_refused():
    with pytest.raises(ValueError, match="test_step=1000"):
        PatchDiffusion(32, 8, test_step=1000)
