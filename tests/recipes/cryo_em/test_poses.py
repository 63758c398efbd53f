import pytest
import torch

from recipes.cryo_em.ctf import CTFParameters, ctf
from recipes.cryo_em.geometry import random_rotations
from recipes.cryo_em.loss import ImageLoss
from recipes.cryo_em.poses import (
    DAMPING,
    MEMORY,
    GivenPoses,
    Pose,
    RefinedPoses,
    angle_between,
    cross_matrix,
    found_poses,
    orthonormal,
    pose_loss,
    poses_of,
)
from recipes.cryo_em.projector import Projector
from recipes.cryo_em.stack import TensorStack
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
    poses, given = RefinedPoses(5, SIZE), Pose(random_rotations(2, generator), torch.zeros(2, 2))
    index = torch.tensor([4, 1])
    found = poses(torch.zeros(2, SIZE, SIZE), given, index)
    assert torch.equal(found.rotation, given.rotation)
    with torch.no_grad():
        poses.rotation[4] = torch.tensor([0.0, 0.0, 0.1])
        poses.shift[1] = torch.tensor([0.5, -0.5])
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
    with pytest.raises(ValueError, match="want positive ones"):
        poses_of("refine", SIZE, 3, 8, 1, (2.0, 0.0))


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


def test_a_step_is_the_damped_score_shrunk_towards_the_given_pose():
    poses = RefinedPoses(3, 4, degrees=2.0, pixels=1.0)
    with torch.no_grad():
        poses.shift[1] = 0.3
    before = poses.shift.detach().clone()
    weights = torch.ones(1, 4, 4)
    poses.probe((poses.shift[1, 0] + poses.shift[1, 1] + poses.rotation[1].sum()) * weights, torch.tensor([1]), seed=0)
    squares = poses.squares[1] / (1 - MEMORY)
    noise = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert squares == pytest.approx(float(noise.sum().square()))
    poses.rotation.grad = torch.zeros(3, 3)
    poses.rotation.grad[1] = 1e-3
    poses.shift.grad = torch.zeros(3, 2)
    poses.shift.grad[1] = torch.tensor([0.1, -0.2])
    score = -16 / (2 * 0.5) * torch.tensor([0.1, -0.2])
    poses.step(error=0.5)
    information, precision = squares / 0.5, 2.0
    wanted = 0.3 + DAMPING * (score - precision * 0.3) / (information + precision)
    assert torch.allclose(poses.shift[1], wanted)
    assert torch.equal(poses.shift[[0, 2]], before[[0, 2]])
    assert poses.shift.grad is None


def test_the_information_is_that_of_the_jacobian(generator):
    """Squared products of J^T with white noise average to the diagonal of J^T J."""
    poses, index = RefinedPoses(40, 8), torch.arange(40)
    patterns = torch.randn(3, 8, 8, generator=generator)
    predicted = torch.einsum("nk,kyx->nyx", poses.rotation, patterns) + poses.shift[:, :1, None] * patterns[0]
    for seed in range(60):
        poses.probe(predicted, index, seed)
    squares = poses.squares / (1 - MEMORY**poses.probes)
    assert squares[0] == pytest.approx(patterns.square().sum((1, 2)).mean().item(), rel=0.2)
    assert squares[1] == pytest.approx(patterns[0].square().sum().item() / 2, rel=0.3)


def test_where_images_tell_nothing_poses_stay_near_the_given_ones(generator):
    poses, index = RefinedPoses(50, 8), torch.arange(50)
    pattern = 1e-3 * torch.randn(8, 8, generator=generator)
    for step in range(60):
        predicted = (poses.rotation.sum(1) + poses.shift.sum(1))[:, None, None] * pattern
        poses.probe(predicted, index, step)
        (predicted - torch.randn(50, 8, 8, generator=generator)).square().mean().backward()
        poses.step(error=1.0)
    assert poses.rotation.detach().abs().max() < 1e-3
    assert poses.shift.detach().abs().max() < 0.1


def test_poses_of_all_particles_are_found_in_their_order(generator):
    images = TensorStack(torch.zeros(7, SIZE, SIZE))
    given = Pose(random_rotations(7, generator), torch.zeros(7, 2))
    poses = RefinedPoses(7, SIZE)
    with torch.no_grad():
        poses.shift[:, 0] = torch.arange(7.0)
    found = found_poses(poses, images, given, batch=3)
    assert found.shift[:, 0].tolist() == list(range(7))
    assert torch.allclose(found.rotation, given.rotation)


def test_refinement_recovers_two_degrees_and_one_pixel(generator):
    """Both at once fall under half, on noisy images in closed form of a known cloud of Gaussians behind a CTF."""
    size, count, steps = 32, 24, 30
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
    for step in range(steps):
        pose = poses(images, wrong, index)
        spectrum = project(densities.expand(count, -1), positions, pose.rotation, pose.shift) * transfer
        poses.probe(project.images(spectrum), index, step)
        error = loss(spectrum, images)
        error.backward()
        poses.step(float(error.detach()))
    pose = poses(images, wrong, index)
    assert angle_between(wrong.rotation, true.rotation).mean() == pytest.approx(2, abs=1e-3)
    assert angle_between(pose.rotation, true.rotation).mean() < 1
    assert (pose.shift - true.shift).norm(dim=1).mean() < 0.5
