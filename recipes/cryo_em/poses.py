"""Where each particle is seen from: as given, refined from there, or read off the image.

Refinement is a maximum a posteriori estimate by damped scoring. A particle's correction x moves by a part of
(g - x / s^2) / (F + 1 / s^2), where g is the gradient of its image's log-likelihood, s how far off poses are thought to
be, and F the Fisher information J^T J / sigma^2 along one axis: the same for all particles, from the squared products
of J^T with white noise. Steps of one length, as Adam's, end among the noise where an image tells little; and gradients
squared, instead of F, are so large while poses are far off that nothing moves.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from recipes.cryo_em.encoders import ImageEncoder
from recipes.cryo_em.stack import ImageStack

DAMPING = 0.5
"""Part of the full step."""
PROBE_EVERY = 10
"""Steps between two looks at the information."""
MEMORY = 0.9
"""Of its running mean."""

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
    """A small rotation and shift of its own for each particle, at first none, which `step` improves.

    Args:
        particles: How many.
        size: Box size D.
        degrees: Root mean square angle by which given rotations are thought to be off.
        pixels: Root mean square length by which given shifts are thought to be off.

    Attributes:
        rotation: (n, 3), rotation vectors in the camera's frame.
        shift: (n, 2), pixels.

    Raises:
        ValueError: No particles, or errors that are not positive.
    """

    spread: Tensor
    squares: Tensor
    probes: Tensor

    def __init__(self, particles: int, size: int, degrees: float = 2.0, pixels: float = 1.0) -> None:
        super().__init__()
        if particles < 1:
            raise ValueError(f"pose='refine' with particles={particles}: every particle needs a correction of its own")
        if not (degrees > 0 and pixels > 0):
            raise ValueError(f"pose errors of {degrees} degrees and {pixels} pixels: want positive ones")
        self.pixels_of_image = size**2
        self.rotation = nn.Parameter(torch.zeros(particles, 3))
        self.shift = nn.Parameter(torch.zeros(particles, 2))
        along = torch.tensor([math.radians(degrees) / 3**0.5, pixels / 2**0.5])  # along one axis
        self.register_buffer("spread", along, persistent=False)
        self.register_buffer("squares", torch.zeros(2))
        self.register_buffer("probes", torch.tensor(0))

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
        return Pose(turn @ given.rotation, given.shift + self.shift[index])

    @torch.no_grad()
    def step(self, error: float) -> None:
        """Improve the corrections of the particles that have a gradient, of the mean over their images' squared errors.

        Args:
            error: Mean squared error per pixel: about the variance of the noise.
        """
        assert self.rotation.grad is not None
        index = self.rotation.grad.abs().sum(1).nonzero()[:, 0]
        of_likelihood = self.pixels_of_image * len(index) / (2 * error)
        for number, values in enumerate((self.rotation, self.shift)):
            assert values.grad is not None
            information = self.squares[number] / (1 - MEMORY**self.probes) / error
            precision = 1 / self.spread[number] ** 2
            score = -of_likelihood * values.grad[index] - precision * values[index]
            values[index] += DAMPING * score / (information + precision)
            values.grad = None

    def probe(self, predicted: Tensor, index: Tensor, seed: int) -> None:
        """Learn how much images tell about poses.

        Args:
            predicted: Images (b, D, D), with a graph that leads to the corrections; it is kept.
            index: Their particles (b,).
            seed: Of the noise.
        """
        noise = torch.randn(predicted.shape, generator=torch.Generator().manual_seed(seed)).to(predicted)
        products = torch.autograd.grad(predicted, (self.rotation, self.shift), noise, retain_graph=True)
        self.probes += 1
        for number, product in enumerate(products):
            self.squares[number].lerp_(product[index].square().mean(), 1 - MEMORY)


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


def poses_of(
    mode: PoseMode, size: int, particles: int, width: int, depth: int, errors: tuple[float, float] = (2.0, 1.0)
) -> nn.Module:
    """The poses of one mode; arguments as of `CryoFormer`.

    Raises:
        ValueError: An unknown mode.
    """
    if mode == "given":
        return GivenPoses()
    if mode == "refine":
        return RefinedPoses(particles, size, *errors)
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


def misplaced(pose: Pose, degrees: float, pixels: float, seed: int = 0) -> Pose:
    """Poses that are all off by the same angle, about random axes, and the same distance, in random directions.

    Example:
        >>> true = Pose(torch.eye(3).expand(4, 3, 3), torch.zeros(4, 2))
        >>> wrong = misplaced(true, 2.0, 1.0)
        >>> [round(float(x.mean()), 3) for x in (angle_between(wrong.rotation, true.rotation), wrong.shift.norm(dim=1))]
        [2.0, 1.0]
    """
    generator = torch.Generator().manual_seed(seed)
    axes = nn.functional.normalize(torch.randn(len(pose.shift), 3, generator=generator), dim=1)
    ways = nn.functional.normalize(torch.randn(len(pose.shift), 2, generator=generator), dim=1)
    turn = torch.linalg.matrix_exp(cross_matrix(math.radians(degrees) * axes))
    return Pose(turn @ pose.rotation, pose.shift + pixels * ways)


@torch.no_grad()
def found_poses(poses: nn.Module, images: ImageStack, given: Pose, batch: int = 256) -> Pose:
    """Poses as a fitted model has them, of all the particles it was fitted to, in their order.

    Args:
        poses: `CryoFormer.poses`.
        images: Of those particles.
        given: Their given poses.
        batch: Images read at once.
    """
    parts = [
        poses(images[rows], Pose(given.rotation[rows], given.shift[rows]), rows)
        for rows in torch.split(torch.arange(len(images)), batch)
    ]
    return Pose(torch.cat([part.rotation for part in parts]), torch.cat([part.shift for part in parts]))
