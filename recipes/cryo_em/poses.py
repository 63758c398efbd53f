"""Where each particle is seen from: as given, refined from there, or read off the image."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from recipes.cryo_em.encoders import ImageEncoder

PoseMode = Literal["given", "refine", "encoder"]


class Pose(NamedTuple):
    """Orientations and shifts.

    Attributes:
        rotation: (b, 3, 3), ``x_cam = R x``.
        shift: (b, 2), (tx, ty) in pixels.
    """

    rotation: Tensor
    shift: Tensor


class GivenPoses(nn.Module):
    """Poses as they are."""

    def forward(self, images: Tensor, given: Pose, index: Tensor) -> Pose:
        """Poses of images (b, D, D) of particles (b,)."""
        return given


class RefinedPoses(nn.Module):
    """A small rotation and shift of its own for each particle, at first none.

    Args:
        particles: How many.
        lever: Pixels from the centre at which a rotation moves density as far as a shift of the same parameter, so that
            one learning rate suits both: a typical particle fills half of its box, a quarter to each side.

    Raises:
        ValueError: No particles.
    """

    def __init__(self, particles: int, lever: float) -> None:
        super().__init__()
        self.lever = lever
        if particles < 1:
            raise ValueError(f"pose='refine' with particles={particles}: every particle needs a correction of its own")
        self.rotation = nn.Parameter(torch.zeros(particles, 3))
        self.shift = nn.Parameter(torch.zeros(particles, 2))

    def forward(self, images: Tensor, given: Pose, index: Tensor) -> Pose:
        """Poses of images (b, D, D) of particles (b,): ``exp(w) R`` with the rotation vector w in the camera's frame.

        Raises:
            ValueError: A particle that this model was not made for.
        """
        if int(index.max()) >= len(self.rotation):
            raise ValueError(
                f"particle {int(index.max())} has no pose correction: the model was made for {len(self.rotation)}; "
                "unseen particles keep the poses they are given"
            )
        turn = torch.linalg.matrix_exp(cross_matrix(self.rotation[index]))
        return Pose(turn @ given.rotation, given.shift + self.lever * self.shift[index])


class PoseEncoder(nn.Module):
    """An encoder of its own reads two vectors for the rotation, and the shift, off the image.

    Args:
        size: Box size D.
        width: Of the hidden layers.
        depth: How many hidden layers.
    """

    def __init__(self, size: int, width: int, depth: int) -> None:
        super().__init__()
        self.encoder = ImageEncoder(size, 8, width, depth)

    def forward(self, images: Tensor, given: Pose, index: Tensor) -> Pose:
        """Poses of images (b, D, D)."""
        read = self.encoder(images)
        # Near the identity at first: there the two vectors are far from parallel, where Gram-Schmidt has no gradient.
        first = read[:, :3] + read.new_tensor([1.0, 0.0, 0.0])
        second = read[:, 3:6] + read.new_tensor([0.0, 1.0, 0.0])
        return Pose(orthonormal(first, second), read[:, 6:])


def poses_of(mode: PoseMode, size: int, particles: int, width: int, depth: int) -> nn.Module:
    """The poses of one mode; arguments as of `CryoFormer`.

    Raises:
        ValueError: An unknown mode.
    """
    if mode == "given":
        return GivenPoses()
    if mode == "refine":
        return RefinedPoses(particles, size / 4)
    if mode == "encoder":
        return PoseEncoder(size, width, depth)
    raise ValueError(f"pose={mode!r}: want 'given', 'refine' or 'encoder'")


def cross_matrix(vectors: Tensor) -> Tensor:
    """Matrices (b, 3, 3) whose product with x is the cross product of vectors (b, 3) with x.

    Example:
        >>> cross_matrix(torch.tensor([[0.0, 0.0, 1.0]])) @ torch.tensor([1.0, 0.0, 0.0])
        tensor([[0., 1., 0.]])
    """
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))  # type: ignore[no-any-return, no-untyped-call]


def orthonormal(first: Tensor, second: Tensor) -> Tensor:
    """Rotations (b, 3, 3) whose first two columns span the planes of two vectors (b, 3), by Gram and Schmidt.

    Example:
        >>> orthonormal(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[1.0, 3.0, 0.0]]))[0].tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    x = nn.functional.normalize(first, dim=-1)
    y = nn.functional.normalize(second - (second * x).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def pose_loss(found: Pose, given: Pose) -> Tensor:
    """Mean of ``||R - R0||_F^2 + ||t - t0||^2``, what the pose encoder is pre-trained on."""
    turned = (found.rotation - given.rotation).square().sum((1, 2))
    return (turned + (found.shift - given.shift).square().sum(1)).mean()


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """Angles (b,) in degrees of the rotations that take matrices a to b, both (b, 3, 3).

    Example:
        >>> quarter = torch.linalg.matrix_exp(cross_matrix(torch.tensor([[0.0, 0.0, torch.pi / 2]])))
        >>> round(angle_between(torch.eye(3)[None], quarter).item(), 3)
        90.0
    """
    # The chord is exact where the arc cosine of the trace, near 0, is not.
    chord = (a - b).square().sum((-1, -2)).sqrt() / (2 * 2**0.5)
    return torch.rad2deg(2 * torch.asin(chord.clamp(max=1)))
