"""Every model by its name: shapes, ranges, gradients, and what it depends on."""

import pytest
import torch

from recipes.brain_mri.fusion_quality import fusion_quality_map
from recipes.brain_mri.models import ARCHS, learning_rate, network

SIZE = 32


def small(arch, size=SIZE):
    torch.manual_seed(0)
    return network(arch, size, width=8)


def awake(model):
    """As if trained: a last layer that is not all zeros."""
    last = model.decoder.out if hasattr(model, "decoder") else model.net.out
    torch.nn.init.normal_(last.weight, std=0.2, generator=generator(5))
    return model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def slices():
    return torch.rand(3, 1, SIZE, SIZE, generator=generator(7))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_reconstruction_is_a_picture_and_the_same_each_time(arch, slices):
    model = awake(small(arch)).eval()
    with torch.no_grad():
        first, second = model(slices), model(slices)
    assert first.shape == slices.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, second)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_learns_and_the_pass_depends_on_the_generator_alone(arch, slices):
    model = awake(small(arch))
    reconstruction, penalty = model.training_pass(slices, generator(1))
    ((reconstruction - slices).square().mean() + penalty).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias before normalisation does nothing by construction.
    assert [name for name in silent if not name.endswith("in_proj_bias")] == []
    torch.manual_seed(99)
    again, _ = awake(small(arch)).training_pass(slices, generator(1))
    assert torch.equal(again, reconstruction)


@pytest.mark.parametrize("arch", ["vae", "dae", "pddpm", "pddpm-lite"])
def test_another_generator_gives_another_pass(arch, slices):
    model = awake(small(arch)).eval()
    assert not torch.equal(
        model.training_pass(slices, generator(1)).reconstruction,
        model.training_pass(slices, generator(2)).reconstruction,
    )


@pytest.mark.parametrize("arch", [arch for arch in ARCHS if arch != "dae"])
def test_a_new_model_is_black_and_the_fusion_quality_moves_it(arch):
    image = torch.zeros(2, 1, SIZE, SIZE)
    image[..., 8:24, 8:24] = 0.6 + 0.1 * torch.randn(2, 1, 16, 16, generator=generator(3))
    model = small(arch).eval()
    with torch.no_grad():
        assert model(image).max() < 0.01
    found, _ = model.training_pass(image, generator(1))
    painted = found.detach().clone().requires_grad_()
    fusion_quality_map(painted, image).mean().backward()
    lost = (painted.grad.abs() < 1e-9) & (painted.detach() < 0.01) & (image > 0)
    assert lost.float().sum() < 0.02 * (image > 0).sum()


@pytest.mark.parametrize("arch", ["ae", "ae-spatial", "pddpm-lite"])
def test_a_few_steps_lower_the_error(arch, slices):
    model = small(arch)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    errors = []
    for step in range(25):
        reconstruction, penalty = model.training_pass(slices, generator(step))
        error = (reconstruction - slices).abs().mean() + penalty
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert sum(errors[-5:]) < 0.9 * sum(errors[:5])


@pytest.mark.parametrize("arch", ARCHS)
def test_a_size_that_does_not_fit_is_refused(arch):
    with pytest.raises(ValueError, match=r"size=33.*multiple of"):
        small(arch, 33)
    with pytest.raises(ValueError, match=r"built for \(B, 1, 32, 32\)"):
        small(arch)(torch.zeros(1, 1, 48, 48))


def test_unknown_names_and_widths_are_refused():
    with pytest.raises(ValueError, match="there are ae, ae-spatial, vae, dae, pddpm, pddpm-lite"):
        network("gan")
    with pytest.raises(ValueError, match="width=3"):
        network("ae", width=3)


def test_the_authors_network_has_their_size_and_learning_rate():
    model = network("pddpm")
    assert sum(p.numel() for p in model.parameters()) > 1e7
    assert model.net.stem.out_channels == 128
    assert learning_rate("pddpm") == 1e-4
