import math

import pytest
import torch

from recipes.cryo_em.geometry import random_rotations
from recipes.cryo_em.projector import Projector, fourier_sum, ray_points, ray_projection, trilinear
from recipes.cryo_em.support import positions_of, sphere

SIZE = 32
SIGMA = 2 / 3  # of an atom, in voxels: as narrow as simulated particles are


@pytest.fixture(scope="module")
def rotations():
    return random_rotations(12, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def centres():
    return (torch.rand(30, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 16


def blobs(positions, centres, sigma=SIGMA):
    """Normal densities at positions (M, 3)."""
    square = (positions[:, None] - centres).square().sum(-1)
    return (torch.exp(-square / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)) ** 3).sum(1)


def blob_images(centres, rotations, shifts=None, size=SIZE, sigma=SIGMA):
    """Their line integrals in closed form: normal densities of two dimensions."""
    axis = torch.arange(size) - size // 2
    x, y = torch.einsum("bij,nj->bin", rotations, centres)[:, :2].unbind(1)
    if shifts is not None:
        x, y = x + shifts[:, :1], y + shifts[:, 1:]
    profile = [torch.exp(-((axis - at[..., None]) ** 2) / (2 * sigma**2)) for at in (y, x)]
    return torch.einsum("bny,bnx->byx", *profile) / (2 * math.pi * sigma**2)


def in_band_error(found, wanted, project):
    band = (project.fy**2 + project.fx**2).sqrt() < 0.35
    return ((found - wanted)[:, band].abs().square().sum() / wanted[:, band].abs().square().sum()).sqrt().item()


@pytest.mark.parametrize(("oversampling", "bar"), [(1, 0.05), (2, 0.02)])
def test_gaussian_blobs_in_closed_form_and_only_when_divided(centres, rotations, oversampling, bar):
    project = Projector(SIZE, oversampling)
    positions = positions_of(sphere(SIZE))
    shifts = 3 * torch.rand(12, 2, generator=torch.Generator().manual_seed(2)) - 1.5
    found = project(blobs(positions, centres).expand(12, -1), positions, rotations, shifts)
    wanted = torch.fft.rfft2(blob_images(centres, rotations, shifts))
    assert in_band_error(found, wanted, project) < bar
    assert in_band_error(found / project.deconvolution, wanted, project) > bar  # not divided at all
    multiplied = found / project.deconvolution.square()
    assert in_band_error(multiplied, wanted, project) > 0.05


def test_the_plain_fourier_sum_is_what_it_approximates(rotations):
    project, positions = Projector(SIZE, 4), positions_of(sphere(SIZE))
    densities = torch.randn(12, len(positions), generator=torch.Generator().manual_seed(3))
    wanted = fourier_sum(densities, positions, rotations, SIZE)
    assert in_band_error(project(densities, positions, rotations), wanted, project) < 0.02


def quarter(axis, turns):
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    matrix = torch.eye(3)
    matrix[i, i] = matrix[j, j] = 0
    matrix[i, j], matrix[j, i] = -1, 1
    return torch.linalg.matrix_power(matrix, turns)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_voxels_that_land_on_pixels_are_not_blurred(axis, turns):
    rotation, size = quarter(axis, turns)[None], 16
    mask = sphere(size)
    volume = torch.zeros(size, size, size)
    volume[mask] = torch.randn(int(mask.sum()), generator=torch.Generator().manual_seed(4))
    project, positions = Projector(size), positions_of(mask)
    spread = project(volume[mask][None], positions, rotation) / project.deconvolution
    summed = torch.zeros(size, size)
    x, y, _ = (rotation[0] @ positions.T).long() + size // 2
    summed.index_put_((y, x), volume[mask], accumulate=True)
    assert torch.allclose(project.images(spread)[0], summed, atol=1e-5)
    if turns == 0:
        assert torch.allclose(summed, volume.sum(0), atol=1e-5)
    assert torch.allclose(ray_projection(volume, rotation)[0], summed, atol=1e-4)


def test_the_literal_rays_agree_where_density_is_smooth(centres, rotations):
    grid = positions_of(torch.ones(SIZE, SIZE, SIZE, dtype=torch.bool))
    volume = blobs(grid, centres / 2, sigma=2.0).view(SIZE, SIZE, SIZE)
    project, mask = Projector(SIZE), sphere(SIZE)
    spectrum = project(volume[mask].expand(2, -1), positions_of(mask), rotations[:2])
    rays = ray_projection(volume, rotations[:2])
    assert (project.images(spectrum) - rays).norm() / rays.norm() < 0.06  # trilinear values are too low at peaks
    wanted = blob_images(centres / 2, rotations[:2], sigma=2.0)
    assert (project.images(spectrum) - wanted).norm() / wanted.norm() < 0.01  # of the edges of pixel space


def test_ray_points_are_rotated_back(rotations):
    points = ray_points(4, rotations[:1])
    assert torch.allclose(points[0, 3, 0, 2], rotations[0].T @ torch.tensor([0.0, -2.0, 1.0]), atol=1e-6)


def test_trilinear_is_exact_for_linear_maps():
    z, y, x = torch.meshgrid(*[torch.arange(6.0) - 3] * 3, indexing="ij")
    points = 4 * torch.rand(20, 3, generator=torch.Generator().manual_seed(5)) - 2.5
    found = trilinear(1 + x - 2 * y + 3 * z, points)
    assert torch.allclose(found, 1 + points @ torch.tensor([1.0, -2.0, 3.0]), atol=1e-5)


def test_whole_shifts_move_pixels():
    project = Projector(8)
    spectrum = project(torch.ones(1, 1), torch.zeros(1, 3), torch.eye(3)[None], torch.tensor([[2.0, -1.0]]))
    image = project.images(spectrum)[0]
    assert divmod(image.argmax().item(), 8) == (4 - 1, 4 + 2)
    assert image.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_gradients(oversampling):
    generator = torch.Generator().manual_seed(6)
    project = Projector(8, oversampling).double()
    positions = positions_of(sphere(8))[::9].double()
    densities = torch.randn(2, len(positions), generator=generator, dtype=torch.float64, requires_grad=True)
    rotations = random_rotations(2, generator).double().requires_grad_()
    shifts = torch.randn(2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda d, r, s: torch.view_as_real(project(d, positions, r, s)), (densities, rotations, shifts)
    )


@pytest.mark.parametrize(("size", "oversampling", "said"), [(7, 2, "even"), (2, 2, "at least 4"), (8, 0, "at least 1")])
def test_impossible_grids(size, oversampling, said):
    with pytest.raises(ValueError, match=said):
        Projector(size, oversampling)
