"""How far off poses are, beyond what no image can tell.

If every map of a conformation is turned and moved, and the poses of its images the other way round, the images stay the
same. So a fit of a moving molecule finds poses up to a rigid motion that goes with the conformation. Here that motion
is a cubic in the conformation's label, fitted by least squares: 12 numbers for the rotation, 12 for the shift.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.cryo_em.poses import Pose

DEGREE = 3
"""Of the polynomial in the label."""


def errors_in_own_frame(found: Pose, true: Pose, labels: Tensor) -> tuple[float, float]:
    """Root mean square errors that a rigid motion with the conformation does not explain.

    Args:
        found: Poses of n particles, n well above 24, near the true ones.
        true: Their true poses.
        labels: (n,), their conformations as one number.

    Returns:
        Angle in degrees, and distance in pixels.

    Example:
        >>> true = Pose(torch.eye(3).repeat(100, 1, 1), torch.zeros(100, 2))
        >>> labels = torch.linspace(0, 1, 100)
        >>> moved = Pose(true.rotation, torch.stack([labels, labels**2], 1))
        >>> [round(error, 4) for error in errors_in_own_frame(moved, true, labels)]
        [0.0, 0.0]
    """
    span = (labels.max() - labels.min()).clamp_min(1e-9)
    powers = ((labels - labels.min()) / span).double()[:, None] ** torch.arange(DEGREE + 1)  # (n, 4)
    turns = rotation_vectors((true.rotation.mT @ found.rotation).double())  # in the molecule's frame
    left = turns - powers @ torch.linalg.lstsq(powers, turns, driver="gelsd").solution
    moves = (found.shift - true.shift).double().flatten()
    seen = torch.einsum("nij,nk->nijk", true.rotation[:, :2].double(), powers).reshape(len(moves), -1)
    beside = moves - seen @ torch.linalg.lstsq(seen, moves[:, None], driver="gelsd").solution[:, 0]
    angle = torch.rad2deg(left.square().sum(1).mean().sqrt())
    return float(angle), float(beside.view(-1, 2).square().sum(1).mean().sqrt())


def rotation_vectors(rotations: Tensor) -> Tensor:
    """Axis times angle [radians], (n, 3), of rotations (n, 3, 3) by less than a quarter turn.

    Example:
        >>> from recipes.cryo_em.poses import cross_matrix
        >>> vector = torch.tensor([[0.1, -0.2, 0.3]])
        >>> torch.allclose(rotation_vectors(torch.linalg.matrix_exp(cross_matrix(vector))), vector)
        True
    """
    skew = (rotations - rotations.mT) / 2
    sines = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], 1)
    size = sines.norm(dim=1, keepdim=True)
    return sines * torch.where(size > 1e-8, torch.asin(size.clamp(max=1)) / size.clamp_min(1e-30), 1.0)
