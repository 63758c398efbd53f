import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipes.cryo_em import geometry

ANGLE = st.floats(-180, 180, width=32)


def relion_matrix(rot, tilt, psi):
    """Element by element, as in the source of XMIPP and RELION's documentation."""
    a, b, g = (math.radians(x) for x in (rot, tilt, psi))
    ca, cb, cg, sa, sb, sg = math.cos(a), math.cos(b), math.cos(g), math.sin(a), math.sin(b), math.sin(g)
    return torch.tensor(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ],
        dtype=torch.float64,
    )


@given(ANGLE, st.floats(0, 180, width=32), ANGLE)
def test_euler_angles_give_relions_matrix_and_come_back(rot, tilt, psi):
    matrix = geometry.matrix_from_euler(torch.tensor([rot, tilt, psi], dtype=torch.float64))
    assert (matrix - relion_matrix(rot, tilt, psi)).abs().max() < 1e-12
    again = geometry.matrix_from_euler(geometry.euler_from_matrix(matrix))
    assert (again - matrix).abs().max() < 1e-6


def test_angles_that_determine_a_rotation_come_back_themselves():
    angles = torch.tensor([[10.0, 20.0, 30.0], [-170.0, 179.0, 5.0], [90.0, 0.01, -90.0]], dtype=torch.float64)
    assert (geometry.euler_from_matrix(geometry.matrix_from_euler(angles)) - angles).abs().max() < 1e-8


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_at_the_poles_the_matrix_comes_back_with_no_psi(tilt):
    matrix = geometry.matrix_from_euler(torch.tensor([40.0, tilt, 25.0], dtype=torch.float64))
    angles = geometry.euler_from_matrix(matrix)
    assert angles[2] == 0
    assert (geometry.matrix_from_euler(angles) - matrix).abs().max() < 1e-9


def test_random_rotations_are_rotations_and_uniform():
    r = geometry.random_rotations(4000, torch.Generator().manual_seed(0))
    assert (r @ r.mT - torch.eye(3)).abs().max() < 1e-5
    assert (torch.linalg.det(r) - 1).abs().max() < 1e-5
    assert r.mean(0).abs().max() < 0.05  # standard error of an element 0.009
    assert (r.square().mean(0) - 1 / 3).abs().max() < 0.03
    angle = geometry.angle_between(r, torch.eye(3))
    assert float(angle.mean()) == pytest.approx(math.degrees(math.pi / 2 + 2 / math.pi), abs=2.5)  # of the Haar measure


def test_a_quarter_turn_about_z_takes_x_to_y():
    half = math.sqrt(0.5)
    quarter = geometry.matrix_from_quaternion(torch.tensor([half, 0.0, 0.0, half]))
    assert torch.allclose(quarter @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)
    pytest.importorskip("roma")
    assert torch.allclose(geometry.matrix_from_vector(torch.tensor([0.0, 0.0, math.pi / 2])), quarter, atol=1e-6)


def test_rotation_vectors_come_back_and_have_a_gradient_at_zero():
    pytest.importorskip("roma")
    vectors = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 - 1.5
    assert (geometry.vector_from_matrix(geometry.matrix_from_vector(vectors)) - vectors).abs().max() < 1e-9
    zero = torch.zeros(3, requires_grad=True)
    geometry.matrix_from_vector(zero)[0, 1].backward()
    assert torch.allclose(zero.grad, torch.tensor([0.0, 0.0, -1.0]), atol=1e-6)


@given(st.floats(1e-4, 179.99))
def test_the_angle_between_rotations_is_the_angle_turned(angle):
    first = geometry.matrix_from_euler(torch.tensor([12.0, 34.0, 56.0], dtype=torch.float64))
    turn = geometry.matrix_from_euler(torch.tensor([0.0, angle, 0.0], dtype=torch.float64))
    assert float(geometry.angle_between(first, turn @ first)) == pytest.approx(angle, rel=1e-4)
