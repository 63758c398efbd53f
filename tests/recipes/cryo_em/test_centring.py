import pytest
import torch

from recipes.cryo_em.batches import InOrder
from recipes.cryo_em.centring import centre, shift_step
from recipes.cryo_em.datamodule import CryoData
from recipes.cryo_em.own_frame import errors_in_own_frame
from recipes.cryo_em.poses import Pose, poses_of
from recipes.cryo_em.projector import Projector

SIZE = 16


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_a_step_is_that_of_the_dense_problem(generator):
    """Least squares over pixels with the Jacobian of autograd, plus a Gaussian prior on the correction."""
    before, spread = torch.randn(3, 2, generator=generator), 0.7
    clean = torch.fft.rfft2(torch.randn(3, SIZE, SIZE, generator=generator))
    clean[:, SIZE // 2], clean[..., -1] = 0, 0  # shifted by parts of a pixel, Nyquist's cosine is no longer real
    phase = Projector(SIZE).phase
    seen = torch.fft.rfft2(torch.randn(3, SIZE, SIZE, generator=generator))

    def images(moves):
        return torch.fft.irfft2(clean * phase(moves), s=(SIZE, SIZE)).flatten(1)

    found = shift_step(clean * phase(before), seen, before, spread)
    off = torch.fft.irfft2(seen, s=(SIZE, SIZE)).flatten(1) - images(before)
    variance = off.square().mean()
    jacobian = torch.stack([torch.autograd.functional.jacobian(images, before)[i, :, i] for i in range(3)])
    squares = jacobian.mT @ jacobian / variance + torch.eye(2) / spread**2
    score = (jacobian.mT @ off[..., None])[..., 0] / variance - before / spread**2
    torch.testing.assert_close(found, torch.linalg.solve(squares, score), atol=1e-4, rtol=1e-4)


def particles(**options):
    return CryoData(
        "beads",
        count=128,
        size=SIZE,
        pixel_size=6.0,
        frames="one",
        cache=None,
        progress=False,
        **{"snr": 10, **options},
    )


@pytest.mark.parametrize(("snr", "left"), [(10, 0.15), (1, 0.5)])
def test_shifts_come_back(snr, left):
    data = particles(snr=snr, pose_errors=(0.0, 1.0), shift=1.0)
    poses = poses_of("refine", SIZE, 128, 8, 1)
    centre(poses, InOrder(data.particles, torch.arange(128), 50), Projector(SIZE))
    found = Pose(data.true_poses.rotation, (data.particles.shifts + poses.shift).detach())
    assert errors_in_own_frame(found, data.true_poses, torch.zeros(128))[1] < left
    assert not poses.rotation.any()


def test_the_map_is_that_of_the_new_shifts():
    """Sharper than with the wrong ones: nearer to the map of images in their true poses."""
    wrong, right = particles(pose_errors=(0.0, 1.0)), particles()
    maps = []
    for data, spread in ((wrong, 1e-6), (wrong, 1.0), (right, 1e-6)):
        poses = poses_of("refine", SIZE, 128, 8, 1, (2.0, spread))
        maps.append(centre(poses, InOrder(data.particles, torch.arange(128), 64), Projector(SIZE)))
    blurred, found, true = maps
    assert (found - true).norm() < 0.5 * (blurred - true).norm()


def test_shifts_that_are_known_stay():
    data = particles(pose_errors=(0.0, 1.0))
    poses = poses_of("refine", SIZE, 128, 8, 1, (2.0, 1e-4))
    centre(poses, InOrder(data.particles, torch.arange(128), 64), Projector(SIZE))
    assert poses.shift.abs().max() < 1e-4
