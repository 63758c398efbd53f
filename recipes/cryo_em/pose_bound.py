"""How well poses can be known from one noisy image each: the Cramér-Rao bound, with what is known beforehand."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from recipes.cryo_em.particles import Particles
from recipes.cryo_em.poses import cross_matrix
from recipes.cryo_em.simulate import clean_images

IMAGES = 64
"""Images whose bounds are averaged."""
TURN, PUSH = 1e-2, 0.1
"""Steps of the differences, in radians and pixels."""


def pose_bound(particles: Particles, snr: float, degrees: float, pixels: float) -> tuple[float, float]:
    """The least root mean square errors of poses, for who knows the molecule's map and each image's conformation.

    An image's Fisher information is J^T J / sigma^2, J being how it changes with rotation and shift and sigma^2 the
    variance of the noise. What is known beforehand adds the inverse variances of a Gaussian.

    Args:
        particles: Simulated, in their true poses.
        snr: Variance of the signal over that of the noise.
        degrees: Root mean square angle by which rotations are known to be off.
        pixels: Root mean square length by which shifts are known to be off.

    Returns:
        Angle in degrees, and shift in pixels.
    """
    some = particles.subset(slice(0, IMAGES))
    rows = torch.arange(len(some))
    columns = [_change(some, rows, turn=TURN * axis) / TURN for axis in torch.eye(3)]
    columns += [_change(some, rows, push=PUSH * axis) / PUSH for axis in torch.eye(2)]
    jacobian = torch.stack(columns, 1).flatten(2).double()  # (n, 5, D D)
    variance = float(clean_images(some, rows).var()) / snr
    known = [3 / math.radians(degrees) ** 2] * 3 + [2 / pixels**2] * 2
    information = jacobian @ jacobian.mT / variance + torch.diag(torch.tensor(known, dtype=torch.float64))
    left = torch.linalg.inv(information).diagonal(dim1=1, dim2=2).mean(0)
    return math.degrees(float(left[:3].sum().sqrt())), float(left[3:].sum().sqrt())


def _change(particles: Particles, rows: Tensor, turn: Tensor | None = None, push: Tensor | None = None) -> Tensor:
    """Central differences of clean images, (n, D, D)."""
    images = []
    for sign in (0.5, -0.5):
        rotations, shifts = particles.rotations, particles.shifts
        if turn is not None:
            rotations = torch.linalg.matrix_exp(cross_matrix(sign * turn[None])) @ rotations
        if push is not None:
            shifts = shifts + sign * push
        images.append(clean_images(replace(particles, rotations=rotations, shifts=shifts), rows))
    return images[0] - images[1]
