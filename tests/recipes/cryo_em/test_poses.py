import pytest
import torch

from recipes.cryo_em.ctf import CTFParameters, ctf
from recipes.cryo_em.geometry import random_rotations
from recipes.cryo_em.loss import ImageLoss
from recipes.cryo_em.poses import (
    GivenPoses,
    Pose,
    RefinedPoses,
    angle_between,
    cross_matrix,
    orthonormal,
    pose_loss,
    poses_of,
)
from recipes.cryo_em.projector import Projector
from recipes.cryo_em.support import positions_of, sphere
from tests.recipes.cryo_em.test_projector import blob_images, blobs

SIZE = 16


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_given_poses_stay(generator):
    given = Pose(random_rotations(3, generator), torch.ones(3, 2))
    assert GivenPoses()(torch.zeros(3, SIZE, SIZE), given, torch.arange(3)) is given


def test_refinement_starts_where_poses_are_and_turns_the_camera(generator):
    poses, given = RefinedPoses(5, lever=2.0), Pose(random_rotations(2, generator), torch.zeros(2, 2))
    index = torch.tensor([4, 1])
    found = poses(torch.zeros(2, SIZE, SIZE), given, index)
    assert torch.equal(found.rotation, given.rotation)
    with torch.no_grad():
        poses.rotation[4] = torch.tensor([0.0, 0.0, 0.1])
        poses.shift[1] = torch.tensor([0.25, -0.25])
    found = poses(torch.zeros(2, SIZE, SIZE), given, index)
    assert angle_between(found.rotation, given.rotation).tolist() == pytest.approx([5.7296, 0], abs=1e-3)
    assert found.shift.tolist() == [[0, 0], [0.5, -0.5]]
    seen = torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(found.rotation[0] @ given.rotation[0].T @ seen, torch.tensor([0.995, 0.0998, 0]), atol=1e-3)
    with pytest.raises(ValueError, match="particle 7 has no pose correction"):
        poses(torch.zeros(2, SIZE, SIZE), given, torch.tensor([7, 1]))


def test_gram_schmidt_gives_rotations(generator):
    matrices = orthonormal(*torch.randn(2, 50, 3, generator=generator))
    assert torch.allclose(matrices @ matrices.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(matrices), torch.ones(50), atol=1e-5)


def test_angles(generator):
    turn = torch.linalg.matrix_exp(cross_matrix(torch.tensor([[0.3, -0.2, 0.6]])))
    matrices = random_rotations(4, generator)
    assert angle_between(turn @ matrices, matrices).tolist() == pytest.approx([40.1070] * 4, abs=1e-2)


def test_pose_loss(generator):
    given = Pose(random_rotations(3, generator), torch.zeros(3, 2))
    assert pose_loss(given, given) == 0
    assert pose_loss(Pose(given.rotation, torch.ones(3, 2)), given) == pytest.approx(2)


def test_modes():
    with pytest.raises(ValueError, match="guess"):
        poses_of("guess", SIZE, 1, 8, 1)
    with pytest.raises(ValueError, match="particles=0"):
        poses_of("refine", SIZE, 0, 8, 1)


def test_the_pose_encoder_learns_given_poses(generator):
    torch.manual_seed(0)
    poses = poses_of("encoder", SIZE, 0, 64, 3)
    images = torch.randn(32, SIZE, SIZE, generator=generator)
    given = Pose(random_rotations(32, generator), torch.randn(32, 2, generator=generator))
    optimizer, index = torch.optim.Adam(poses.parameters(), 3e-3), torch.arange(32)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        losses.append(pose_loss(poses(images, given, index), given))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_refinement_recovers_two_degrees_and_one_pixel(generator):
    """Both at once fall under half, on noisy images in closed form of a known cloud of Gaussians behind a CTF."""
    size, count, steps = 32, 24, 80
    positions = positions_of(sphere(size))
    centres = 18 * torch.rand(40, 3, generator=generator) - 9
    densities = blobs(positions, centres, sigma=1.0)
    true = Pose(random_rotations(count, generator), 2 * torch.rand(count, 2, generator=generator) - 1)
    microscope = CTFParameters.of(
        count, defocus_u=9000.0, defocus_v=8000.0, voltage=300.0, cs=2.7, amplitude_contrast=0.1
    )
    transfer, project, loss = ctf(microscope, size, 4.0), Projector(size), ImageLoss(size)
    clean = torch.fft.rfft2(blob_images(centres, true.rotation, true.shift, size, sigma=1.0)) * transfer
    images = torch.fft.irfft2(clean, s=(size, size))
    images = images + images.std() * torch.randn(images.shape, generator=generator)  # a signal-to-noise ratio of 1

    axis = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    turn = torch.linalg.matrix_exp(cross_matrix(torch.deg2rad(torch.tensor(2.0)) * axis))
    push = torch.nn.functional.normalize(torch.randn(count, 2, generator=generator), dim=1)
    wrong = Pose(turn @ true.rotation, true.shift + push)
    poses, index = poses_of("refine", size, count, 8, 1), torch.arange(count)
    optimizer = torch.optim.Adam(poses.parameters(), betas=(0.0, 0.99), eps=1e-12)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        optimizer.zero_grad()
        pose = poses(images, wrong, index)
        spectrum = project(densities.expand(count, -1), positions, pose.rotation, pose.shift)
        loss(spectrum * transfer, images).backward()
        optimizer.step()
    pose = poses(images, wrong, index)
    assert angle_between(wrong.rotation, true.rotation).mean() == pytest.approx(2, abs=1e-3)
    assert angle_between(pose.rotation, true.rotation).mean() < 1
    assert (pose.shift - true.shift).norm(dim=1).mean() < 0.5
