"""Rotations and shifts, and how the programs of the field write them.

``x_cam = R x`` with column vectors (x, y, z). RELION's angles are intrinsic ZYZ; its matrix, cryoDRGN's matrix and
``R`` are one. cryoSPARC writes the rotation vector of ``R`` transposed. All three write the shift that centres an
image, which is minus how far its content was moved: RELION in pixels or Angstrom, cryoSPARC in pixels, cryoDRGN as part
of the box.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def _about_z(angle: Tensor) -> Tensor:
    c, s, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(*angle.shape, 3, 3)


def _about_y(angle: Tensor) -> Tensor:
    c, s, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, zero, s, zero, one, zero, -s, zero, c], -1).reshape(*angle.shape, 3, 3)


def matrix_from_euler(angles: Tensor) -> Tensor:
    """RELION's ``rlnAngleRot``, ``rlnAngleTilt``, ``rlnAnglePsi`` [degree], (..., 3), as matrices (..., 3, 3).

    Example:
        >>> matrix_from_euler(torch.tensor([90.0, 0.0, 0.0])).round().abs().int().tolist()
        [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    """
    rot, tilt, psi = torch.deg2rad(angles.to(torch.float64)).unbind(-1)
    return (_about_z(-psi) @ _about_y(-tilt) @ _about_z(-rot)).to(angles.dtype)


def euler_from_matrix(rotations: Tensor) -> Tensor:
    """RELION's angles [degree] of matrices (..., 3, 3): rot and psi in [-180, 180], tilt in [0, 180].

    Where the tilt is 0 or 180 degrees only the sum or difference of the others counts; psi is 0 then.
    """
    a = rotations.to(torch.float64)
    in_plane = torch.hypot(a[..., 2, 0], a[..., 2, 1])
    tilt = torch.atan2(in_plane, a[..., 2, 2])  # acos would lose half the digits near 0
    rot = torch.atan2(a[..., 2, 1], a[..., 2, 0])
    psi = torch.atan2(a[..., 1, 2], -a[..., 0, 2])
    at_pole = in_plane < 1e-7
    rot = torch.where(at_pole, torch.atan2(-a[..., 1, 0], a[..., 1, 1]), rot)
    psi = torch.where(at_pole, torch.zeros_like(psi), psi)
    return torch.rad2deg(torch.stack([rot, tilt, psi], -1)).to(rotations.dtype)


def matrix_from_quaternion(quaternions: Tensor) -> Tensor:
    """Matrices (..., 3, 3) of quaternions (..., 4) in the order w, x, y, z, of any length but 0."""
    w, x, y, z = (quaternions / quaternions.norm(dim=-1, keepdim=True)).unbind(-1)
    return torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        -1,
    ).reshape(*w.shape, 3, 3)


def random_rotations(count: int, generator: torch.Generator) -> Tensor:
    """Rotations uniform over all, (count, 3, 3): quaternions uniform on their sphere."""
    return matrix_from_quaternion(torch.randn(count, 4, generator=generator, dtype=torch.float64)).to(torch.float32)


def matrix_from_vector(vectors: Tensor) -> Tensor:
    """Matrices (..., 3, 3) of rotation vectors (..., 3): axis times angle [radian]. Differentiable, at 0 too."""
    matrices: Tensor = _roma().rotvec_to_rotmat(vectors)
    return matrices


def vector_from_matrix(rotations: Tensor) -> Tensor:
    """Rotation vectors (..., 3) of matrices (..., 3, 3), of angles in [0, pi]."""
    vectors: Tensor = _roma().rotmat_to_rotvec(rotations)
    return vectors


def angle_between(first: Tensor, second: Tensor) -> Tensor:
    """Angle [degree] of the rotation from one to the other of matrices (..., 3, 3), in [0, 180].

    Example:
        >>> turned = matrix_from_euler(torch.tensor([30.0, 0.0, 0.0]))
        >>> round(float(angle_between(turned, torch.eye(3))), 3)
        30.0
    """
    difference = (first - second).to(torch.float64).flatten(-2).norm(dim=-1)
    # |R - S| = 2 sqrt 2 sin(angle / 2): unlike the trace's arc cosine, exact for small angles.
    return torch.rad2deg(2 * torch.asin((difference / math.sqrt(8)).clamp(max=1))).to(first.dtype)


def _roma() -> Any:
    try:
        import roma
    except ImportError as error:
        raise ImportError("rotation vectors need roma: pip install 'lightning-cim[cryo]'") from error
    return roma
