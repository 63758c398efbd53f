"""Two-dimensional simplex noise in octaves, written from Perlin's description ("Improving noise", and simplex noise).

Diffusion models for anomaly detection use it instead of white noise, because it covers lesions of every size (Wyatt et
al., AnoDDPM 2022). Gradients are random unit vectors, one a corner, drawn afresh for every field, instead of hashed
ones, and the sum has variance 1 by construction, so that it fits a diffusion schedule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TO_LATTICE = (math.sqrt(3) - 1) / 2
_FROM_LATTICE = (3 - math.sqrt(3)) / 6


def simplex_noise(
    count: int,
    size: int,
    generator: torch.Generator,
    octaves: int = 6,
    persistence: float = 0.8,
    wavelength: float = 64.0,
) -> Tensor:
    """Fields of mean 0 and variance 1 (over draws, averaged over pixels).

    Octave k has wavelength / 2^k pixels and amplitude persistence^k; all fields of a call share the place of each
    octave's lattice, which is random.

    Args:
        count: Number of fields. Field i does not depend on how many follow.
        size: Side in pixels.
        generator: On the CPU.
        octaves: Number of octaves.
        persistence: Amplitude of an octave relative to the one before.
        wavelength: Of the first octave in pixels.

    Returns:
        (count, 1, size, size).

    Example:
        >>> simplex_noise(2, 32, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 32, 32])
    """
    lattices = []
    for octave in range(octaves):
        place = torch.rand(2, generator=generator)
        lattices.append(_lattice(size, wavelength / 2**octave, place))
    variance = sum(persistence ** (2 * k) * _variance(*lattice) for k, lattice in enumerate(lattices))
    fields = torch.zeros(count, size * size)
    for field in fields:
        for octave, (corner, offset, weight) in enumerate(lattices):
            angle = 2 * math.pi * torch.rand(int(corner.max()) + 1, generator=generator)
            gradient = torch.stack([angle.cos(), angle.sin()], 1)
            field += persistence**octave * (weight * (gradient[corner] * offset).sum(2)).sum(0)
    return fields.view(count, 1, size, size) / math.sqrt(variance)


def _lattice(size: int, wavelength: float, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three corners around each pixel.

    Returns:
        corner, (3, size^2): number of the corner. offset, (3, size^2, 2): from corner to pixel, in wavelengths.
        weight, (3, size^2): (1/2 - |offset|^2)^4, or 0 beyond.
    """
    axis = torch.arange(size, dtype=torch.float64)
    point = torch.cartesian_prod(axis, axis) / wavelength + place
    cell = (point + _TO_LATTICE * point.sum(1, keepdim=True)).floor()
    first = point - (cell - _FROM_LATTICE * cell.sum(1, keepdim=True))
    lower = (first[:, :1] > first[:, 1:]).double()
    step = torch.cat([lower, 1 - lower], 1)
    steps = torch.stack([torch.zeros_like(step), step, torch.ones_like(step)])
    offset = first - (steps - _FROM_LATTICE * steps.sum(2, keepdim=True))
    vertex = (cell + steps).long()
    vertex -= vertex.amin((0, 1))
    corner = vertex[..., 0] * (vertex[..., 1].max() + 1) + vertex[..., 1]
    weight = (0.5 - offset.square().sum(2)).clamp(min=0) ** 4
    return corner, offset.float(), weight.float()


def _variance(corner: Tensor, offset: Tensor, weight: Tensor) -> float:
    """Of an octave of amplitude 1: a random unit vector has variance 1/2 along any direction."""
    return float((weight.square() * offset.square().sum(2)).sum(0).mean() / 2)
