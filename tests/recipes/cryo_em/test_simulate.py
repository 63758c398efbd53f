import math

import pytest
import torch

from recipes.cryo_em.ctf import ctf
from recipes.cryo_em.geometry import random_rotations
from recipes.cryo_em.simulate import Simulation, clean_images, project, simulate
from recipes.cryo_em.structures import Trajectory, beads

BEADS = beads(5)


def dense_projection(atoms, weights, rotation, shift, size, pixel_size, sigma):
    """The density of all atoms in camera space, summed over many planes of z; one pixel at a time."""
    camera = atoms.double() @ rotation.double().T
    planes = torch.arange(-200, 201, dtype=torch.float64) * 0.3  # Angstrom
    image = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        for column in range(size):
            x = (column - size // 2 - float(shift[0])) * pixel_size
            y = (row - size // 2 - float(shift[1])) * pixel_size
            points = torch.stack([torch.full_like(planes, x), torch.full_like(planes, y), planes], 1)
            squared = ((points[:, None] - camera[None]) ** 2).sum(-1)
            density = torch.exp(-squared / (2 * sigma**2)) / (2 * math.pi * sigma**2) ** 1.5
            image[row, column] = (density * weights.double()).sum() * 0.3
    return image * pixel_size**2  # atoms per pixel


def test_a_projection_is_the_integral_through_the_density():
    g = torch.Generator().manual_seed(3)
    atoms, weights = 6 * torch.randn(2, 5, 3, generator=g), torch.tensor([6.0, 7.0, 8.0, 16.0, 1.0])
    rotations, shifts = random_rotations(2, g), torch.tensor([[0.7, -1.3], [2.0, 0.0]])
    found = project(atoms, weights, rotations, shifts, 9, 3.0, 2.0)
    for image in range(2):
        expected = dense_projection(atoms[image], weights, rotations[image], shifts[image], 9, 3.0, 2.0)
        assert (found[image] - expected).abs().max() < 1e-4 * expected.max()


def test_one_atom_gives_a_normal_density_where_it_lies():
    image = project(
        torch.tensor([[[6.0, -3.0, 99.0]]]), torch.ones(1), torch.eye(3)[None], torch.tensor([[1.0, 0.0]]), 16, 3.0, 3.0
    )[0]
    row, column = divmod(int(image.argmax()), 16)
    assert (row, column) == (8 - 1, 8 + 2 + 1)
    assert float(image[row, column]) == pytest.approx(1 / (2 * math.pi), rel=1e-5)
    assert float(image.sum()) == pytest.approx(1, abs=1e-3)


def test_images_have_the_asked_snr_and_are_the_same_again():
    settings = Simulation(count=300, size=24, pixel_size=4.0, snr=0.25, shift=1.5, astigmatism=800.0, seed=5)
    found, again = simulate(BEADS, settings), simulate(BEADS, settings)
    assert torch.equal(found.images[:], again.images[:])
    clean = clean_images(found, torch.arange(300))
    noise = found.images[:] - clean
    assert float(clean.var() / noise.var()) == pytest.approx(0.25, rel=0.02)
    assert abs(float(noise.mean())) < 0.02 * float(noise.std())
    other = simulate(BEADS, Simulation(count=300, size=24, pixel_size=4.0, snr=0.25, shift=1.5, seed=6))
    assert not torch.allclose(other.rotations, found.rotations)
    assert float(found.shifts.abs().max()) <= 1.5
    assert float(found.shifts.std()) == pytest.approx(1.5 / math.sqrt(3), rel=0.1)
    assert float(found.labels.mean()) == pytest.approx(0.5, abs=0.06)
    difference = found.ctf.defocus_u - found.ctf.defocus_v
    assert float(difference.min()) >= 0
    assert 700 < float(difference.max()) <= 801


def test_without_noise_an_image_is_the_ctf_times_the_projection():
    settings = Simulation(count=4, size=24, pixel_size=4.0, snr=float("inf"), seed=1)
    found = simulate(BEADS, settings)
    atoms = BEADS.at(found.labels)
    width = settings.width
    for image in range(4):
        one = slice(image, image + 1)
        plain = project(atoms[one], BEADS.weights, found.rotations[one], found.shifts[one], 24, 4.0, width)
        seen = torch.fft.irfft2(torch.fft.rfft2(plain) * ctf(found.ctf[one], 24, 4.0))[0]
        assert torch.allclose(found.images[image][0], seen, atol=1e-4)
    bare = simulate(BEADS, Simulation(count=4, size=24, pixel_size=4.0, snr=float("inf"), seed=1, with_ctf=False))
    assert bare.ctf is None
    assert torch.equal(bare.rotations, found.rotations)
    assert (bare.images[:] >= 0).all()


def test_particles_are_dark():
    found = simulate(BEADS, Simulation(count=50, size=24, pixel_size=4.0, snr=float("inf")))
    assert float(found.images[:].mean(0)[10:14, 10:14].mean()) < 0


def test_the_number_of_images_a_piece_changes_nothing_but_rounding(monkeypatch):
    settings = Simulation(count=70, size=16, pixel_size=6.0, snr=float("inf"))
    whole = simulate(BEADS, settings).images[:]
    monkeypatch.setattr("recipes.cryo_em.simulate.CHUNK", 7)
    assert torch.allclose(simulate(BEADS, settings, progress=True).images[:], whole, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"count": 0}, {"size": 2}, {"snr": 0.0}, {"pixel_size": -1.0}, {"shift": -1.0}, {"sigma": 0.0}, {"shift": 9.0},
     {"astigmatism": -1.0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Simulation(**change)


def test_a_molecule_larger_than_its_box_is_refused():
    with pytest.raises(ValueError, match="enlarge the box"):
        simulate(BEADS, Simulation(count=1, size=16, pixel_size=2.0))


def test_real_particles_have_no_clean_images():
    from tests.recipes.cryo_em.sets import random_particles

    with pytest.raises(ValueError, match="simulated particles only"):
        clean_images(random_particles(), torch.arange(2))


def test_a_still_molecule_gives_still_images():
    still = Trajectory(BEADS.positions[:1], BEADS.weights)
    found = simulate(still, Simulation(count=3, size=16, pixel_size=6.0, snr=float("inf")))
    assert not found.truth.mobile.any()
