"""The true maps of a simulation, and the density they are made of: one Gaussian an atom."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recipes.cryo_em.stack import chunks
from recipes.cryo_em.structures import Trajectory

MOBILE_PART = 0.1
"""A voxel is mobile where its density's standard deviation along the path exceeds this part of the brightest mean."""
PATH_POINTS = 21
CHUNK = 4


def profiles(coordinates: Tensor, size: int, sigma: float) -> Tensor:
    """Normal densities of width ``sigma`` about ``coordinates`` (..., A), sampled at the D positions ``i - D//2``.

    All in voxels. Returns (..., A, D), whose sum over D is 1 where a Gaussian is wide and lies well inside.
    """
    grid = torch.arange(size, dtype=coordinates.dtype, device=coordinates.device) - size // 2
    exponent = (grid - coordinates[..., None]).mul_(1 / (math.sqrt(2) * sigma)).square_().neg_()
    return exponent.exp_().mul_(1 / (math.sqrt(2 * math.pi) * sigma))


def default_sigma(pixel_size: float) -> float:
    """Width of an atom's Gaussian [Angstrom]: 1.5, and at least two thirds of a pixel, lest samples alias."""
    return max(1.5, 2 / 3 * pixel_size)


@dataclass(frozen=True)
class Truth:
    """True maps along a path.

    Args:
        trajectory: The atoms.
        size: Voxels D of a map's edge.
        pixel_size: Angstrom.
        sigma: Width of an atom's Gaussian [Angstrom].
    """

    trajectory: Trajectory
    size: int
    pixel_size: float
    sigma: float

    def volumes(self, labels: Tensor) -> Tensor:
        """Density per voxel at labels (k,) in [0, 1], sampled at voxels' centres: (k, D, D, D) in order z, y, x.

        A map's sum along an axis is the projection of `simulate.project` along it.
        """
        maps = [self._chunk(part) for part in chunks(labels.to(torch.float32).reshape(-1), CHUNK)]
        return torch.cat(maps) if maps else torch.zeros(0, *[self.size] * 3)

    def _chunk(self, labels: Tensor) -> Tensor:
        atoms = self.trajectory.at(labels) / self.pixel_size
        x, y, z = (profiles(axis, self.size, self.sigma / self.pixel_size) for axis in atoms.unbind(-1))
        plane = (y * self.trajectory.weights[:, None])[..., :, None] * x[..., None, :]  # (k, A, D, D)
        maps: Tensor = (z.mT @ plane.flatten(2)).reshape(-1, self.size, self.size, self.size)
        return maps

    @cached_property
    def spread(self) -> Tensor:
        """Standard deviation of the density along the path, (D, D, D): the true flexibility."""
        if len(self.trajectory.positions) == 1:
            return torch.zeros(*[self.size] * 3)
        return self._path.std(0, correction=0)

    @cached_property
    def mobile(self) -> Tensor:
        """Bool (D, D, D): where the density changes along the path, see `MOBILE_PART`. Nowhere if nothing moves."""
        return self.spread > MOBILE_PART * self._path.mean(0).max()

    @cached_property
    def _path(self) -> Tensor:
        return self.volumes(torch.linspace(0, 1, PATH_POINTS))
