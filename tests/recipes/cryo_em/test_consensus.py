import pytest
import torch

from recipes.cryo_em.batches import InOrder
from recipes.cryo_em.consensus import consensus, shell_reliability
from recipes.cryo_em.simulate import Simulation, simulate
from recipes.cryo_em.structures import beads


def batches(snr=0.5, count=600, **options):
    particles = simulate(beads().only_first(), Simulation(count, 24, 6.0, snr=snr, seed=1, **options))
    return particles, InOrder(particles, torch.arange(count), 100)


def test_the_map_is_the_true_one_in_its_own_scale():
    particles, parts = batches(snr=5.0, shift=1.5, astigmatism=500.0)
    found, truth = consensus(parts, 24), particles.truth.volumes(torch.zeros(1))[0]
    assert torch.corrcoef(torch.stack([found.flatten(), truth.flatten()]))[0, 1] > 0.95
    assert ((found * truth).sum() / truth.square().sum()).item() == pytest.approx(1, abs=0.1)


def test_noise_alone_is_damped():
    _, parts = batches()
    noise = [{**part, "image": torch.randn(part["image"].shape)} for part in parts]
    plain = consensus(parts, 24)
    assert consensus(noise, 24).norm() < 0.5 * plain.norm() * (
        noise[0]["image"].std() / parts.particles.images[:1].std()
    )


def test_reliability_of_alike_and_unlike_halves():
    first, second = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = torch.fft.fftn(first), torch.fft.fftn(second)
    assert torch.allclose(shell_reliability(first, first), torch.ones(16, 16, 16), atol=1e-4)
    assert shell_reliability(first, second)[4:8, 4:8, 4:8].mean() < 0.2


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        consensus([], 16)
