import pytest
import torch

from recipes.cryo_em.backprojection import BackProjection
from recipes.cryo_em.batches import batch_of
from recipes.cryo_em.projector import fourier_sum
from recipes.cryo_em.support import distances, positions_of, sphere
from tests.recipes.cryo_em.sets import random_particles

SIZE = 8


@pytest.fixture
def batch():
    particles = random_particles(5, SIZE)
    return batch_of(particles, torch.arange(len(particles)))


def test_without_a_blur_it_is_the_adjoint_of_image_formation(batch):
    """<A v, image> = <v, A^T image> for a point at a node: A by the slow sum over voxels, shifted, times the CTF."""
    batch["rotation"] = torch.eye(3).expand(5, 3, 3).contiguous()
    batch["shift"] = torch.tensor([[1.0, -2.0]]).repeat(5, 1)  # whole pixels: nothing is interpolated
    back = BackProjection(SIZE, side=SIZE)
    found = back(batch, torch.zeros(1), torch.zeros(1, 3))
    for node in (0, 60, 100):
        point = back.nodes[node : node + 1]
        moved = torch.cat([point[:, :2] + batch["shift"][:1], point[:, 2:]], 1)
        spectrum = fourier_sum(torch.ones(5, 1), moved, batch["rotation"], SIZE) * batch["ctf"] * (back.blur > 0)
        image = torch.fft.irfft2(spectrum, s=(SIZE, SIZE))
        passed = batch["ctf"] * (back.blur > 0)
        scale = passed.square().mean((1, 2)).sqrt()
        assert torch.allclose(found[:, node] * scale, (image * batch["image"]).sum((1, 2)), atol=1e-4)


def test_an_image_of_the_base_map_leaves_nothing(batch):
    positions = positions_of(sphere(SIZE))
    densities = torch.rand(len(positions), generator=torch.Generator().manual_seed(0))
    back = BackProjection(SIZE, side=4)
    spectrum = back.project(densities.expand(5, -1), positions, batch["rotation"], batch["shift"]) * batch["ctf"]
    batch["image"] = back.project.images(spectrum)
    something = back(batch, torch.zeros_like(densities), positions)
    nothing = back(batch, densities, positions)
    assert nothing.abs().max() < 1e-3 * something.abs().max()


def test_a_deformation_is_read_alike_from_every_view():
    """A lump off the centre: what is read where it lies is largest there, and far larger than opposite to it."""
    size, lump = 16, torch.tensor([[4.0, -2.0, 2.0]])
    particles = random_particles(40, size, with_ctf=False)
    batch = batch_of(particles, torch.arange(40))
    back = BackProjection(size, side=8)
    batch["image"] = back.project.images(back.project(torch.ones(40, 1), lump, batch["rotation"], batch["shift"]))
    found = back(batch, torch.zeros(1), torch.zeros(1, 3))
    here = (back.nodes - lump).norm(dim=1).argmin()
    opposite = (back.nodes + lump).norm(dim=1).argmin()
    assert found.mean(0).argmax() == here
    assert found[:, here].min() > 0.75 * found[:, here].max()
    assert found[:, here].min() > 3 * found[:, opposite].mean()


def test_white_noise_has_variance_one(batch):
    generator = torch.Generator().manual_seed(1)
    particles = random_particles(400, 16, seed=1)
    batch = batch_of(particles, torch.arange(400))
    batch["image"] = torch.randn(400, 16, 16, generator=generator)
    back = BackProjection(16, side=16)
    batch["rotation"] = torch.eye(3).expand(400, 3, 3)
    batch["shift"] = torch.zeros(400, 2)
    assert back(batch, torch.zeros(1), torch.zeros(1, 3)).var() == pytest.approx(1, abs=0.05)


def test_nodes_beside_the_support_are_silent(batch):
    back = BackProjection(SIZE, side=4)
    back.place(distances(SIZE) < 2)
    found = back(batch, torch.zeros(1), torch.zeros(1, 3))
    radius = back.nodes.norm(dim=1)
    assert (found[:, radius < 2] != 0).all()
    assert not found[:, radius > 4].any()
