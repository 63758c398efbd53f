import pytest
import torch

from recipes.cryo_em.geometry import random_rotations
from recipes.cryo_em.own_frame import errors_in_own_frame
from recipes.cryo_em.poses import Pose, cross_matrix, misplaced


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def true(generator):
    return Pose(random_rotations(400, generator), torch.randn(400, 2, generator=generator))


def test_errors_without_a_pattern_are_left(true, generator):
    """But for the 12 of 1,200 and 12 of 800 numbers that are fitted."""
    angle, shift = errors_in_own_frame(misplaced(true, 2.0, 1.0), true, torch.rand(400, generator=generator))
    assert angle == pytest.approx(2 * (1 - 12 / 1200) ** 0.5, rel=0.01)
    assert shift == pytest.approx((1 - 12 / 800) ** 0.5, rel=0.01)


def test_a_motion_of_the_map_with_the_conformation_is_no_error(true, generator):
    """Maps turned by G and moved by t, and images seen from R G with shifts moved by R t, are the same images."""
    labels = torch.rand(400, generator=generator)
    turns = 0.05 * torch.stack([labels, labels**2, -labels], 1)
    moves = torch.stack([labels**3, 1 - labels, labels**2], 1)
    rotation = true.rotation @ torch.linalg.matrix_exp(cross_matrix(turns))
    shift = true.shift + (true.rotation @ moves[..., None])[:, :2, 0]
    angle, rest = errors_in_own_frame(Pose(rotation, shift), true, labels)
    assert angle < 0.01
    assert rest < 1e-4
    both = misplaced(Pose(rotation, shift), 1.0, 0.5)
    assert errors_in_own_frame(both, true, labels) == pytest.approx((1.0, 0.5), rel=0.02)


def test_one_conformation_leaves_one_motion(true):
    moved = Pose(true.rotation, true.shift + true.rotation[:, :2, 0])
    assert errors_in_own_frame(moved, true, torch.zeros(400)) == pytest.approx((0, 0), abs=1e-3)
