"""The homogeneous baseline: one map for all images, without any training.

The baseline is the best single map within the same support, in the sense of least squares, so it owes nothing to the
network that it is compared with. Maps by direct inversion come with it, of all images and of each half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from recipes.cryo_em.consensus import Inversion
from recipes.cryo_em.ctf import ctf
from recipes.cryo_em.particles import Particles

CHUNK = 256
"""Images that are inserted at once."""


class Homogeneous:
    """One map, with the methods of a heterogeneous model.

    Args:
        volume: (D, D, D).
        support: Bool (D, D, D) outside which the map is zero; that of the model it is compared with.
        pixel_size: Angstrom.

    Example:
        >>> model = Homogeneous(torch.ones(4, 4, 4), torch.ones(4, 4, 4), 3.0)
        >>> model.volumes(model.encode({"image": torch.zeros(7, 4, 4)})).shape
        torch.Size([7, 4, 4, 4])
    """

    attends = False

    def __init__(self, volume: Tensor, support: Tensor, pixel_size: float) -> None:
        self.support = support.bool().cpu()
        self.volume = volume.cpu() * self.support
        self.pixel_size = pixel_size

    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Zeros (b, 1, 1), whatever the images (b, D, D) show."""
        return torch.zeros(len(batch["image"]), 1, 1)

    def volumes(self, latents: Tensor) -> Tensor:
        """The same map for every latent, (b, D, D, D)."""
        return self.volume.expand(len(latents), -1, -1, -1)

    def attention_maps(self, latents: Tensor) -> Tensor:
        """Zeros (b, 1, D, D, D): nothing attends."""
        return torch.zeros(len(latents), 1, *self.volume.shape)


@dataclass(frozen=True)
class Reconstruction:
    """One map of all images, in three ways.

    Attributes:
        volume: (D, D, D), by direct inversion, shells weighted by their reliability.
        halves: Two (D, D, D), of images with even and with odd numbers, by direct inversion, shells as they are: with
            shells weighted, a mask would smear strong shells over weak ones.
        fitted: (D, D, D), by least squares within a support.
    """

    volume: Tensor
    halves: tuple[Tensor, Tensor]
    fitted: Tensor


def reconstruct(particles: Particles, support: Tensor) -> Reconstruction:
    """Reconstruct all images, and both halves.

    Args:
        particles: With poses, at least 4.
        support: Bool (D, D, D), of the map by least squares.

    Raises:
        ValueError: Fewer than 4 images.
    """
    if len(particles) < 4:
        raise ValueError(f"a map and two half maps want at least 4 images, got {len(particles)}")
    size = particles.size
    both, first, second = (Inversion(size) for _ in range(3))
    for rows in torch.split(torch.arange(len(particles)), CHUNK):
        transfer = torch.ones(len(rows), size, size // 2 + 1)
        if particles.ctf is not None:
            transfer = ctf(particles.ctf[rows], size, particles.pixel_size)
        both.add(particles.images[rows], particles.rotations[rows], particles.shifts[rows], transfer)
    for index, half in enumerate((first, second)):
        # An inversion weights shells by what its own two halves share: equal ones leave them as they are.
        half.signal[:], half.weight[:] = both.signal[index], both.weight[index]
    return Reconstruction(both.map(), (first.map(), second.map()), least_squares(both, support.bool().cpu()))


def least_squares(sums: Inversion, support: Tensor) -> Tensor:
    """The map within a support that explains the images best.

    Conjugate gradients on the normal equations. Their operator is a convolution, whose transform are the summed CTF^2,
    so the images are not needed again. Iterations end where the map of one half begins to explain the other half worse,
    which keeps noise out without anything to tune.

    Args:
        sums: Of all images.
        support: Bool (D, D, D).

    Returns:
        (D, D, D), 0 off the support.
    """
    halves = [_Normal.of(sums, half, support) for half in (0, 1)]
    steps = [_best_step(halves[half], halves[1 - half]) for half in (0, 1)]
    together = _Normal(halves[0].kernel + halves[1].kernel, halves[0].target + halves[1].target, support)
    wanted = max(1, round(sum(steps) / 2))
    return next(islice(together.iterates(), wanted - 1, None))


MOST_STEPS = 60
_PATIENCE = 3
"""Steps without a gain on the other half, after which there will be none."""


@dataclass(frozen=True)
class _Normal:
    """Normal equations T v = b of maps v on a support.

    Attributes:
        kernel: Transform of T's convolution on the padded grid, (P, P, P // 2 + 1).
        target: b, (D, D, D).
        support: Bool (D, D, D).
    """

    kernel: Tensor
    target: Tensor
    support: Tensor

    @classmethod
    def of(cls, sums: Inversion, half: int, support: Tensor) -> _Normal:
        side, size = sums.side, sums.size
        grid = (side, side, side)
        axis = torch.fft.fftfreq(side).abs()
        spread = torch.sinc(axis).square()  # of the trilinear spreading, in real space
        spreads = spread[:, None, None] * spread[:, None] * spread
        # The real part belongs to the sums with their mirror images added, as real maps need them.
        signal, weight = (torch.fft.ifftn(part[half].view(grid)).real / spreads for part in (sums.signal, sums.weight))
        return cls(torch.fft.rfftn(weight).real, _cropped(signal, size) * support, support)

    def __call__(self, volume: Tensor) -> Tensor:
        """T v, (D, D, D), for v on the support."""
        size, side = volume.shape[0], self.kernel.shape[0]
        begin = (side - size) // 2
        wide = torch.zeros(side, side, side)
        wide[begin : begin + size, begin : begin + size, begin : begin + size] = volume
        spectrum = torch.fft.rfftn(torch.fft.ifftshift(wide)) * self.kernel
        return _cropped(torch.fft.irfftn(spectrum, s=wide.shape), size) * self.support

    def misfit(self, volume: Tensor) -> float:
        """Squared error of the images, less that of an empty map, in some unit."""
        return float((volume * (self(volume) - 2 * self.target)).sum())

    def iterates(self) -> Iterator[Tensor]:
        """Maps after 1, 2, ... steps from 0."""
        volume, rest = torch.zeros_like(self.target), self.target
        direction, power = rest, float(rest.square().sum())
        for _ in range(MOST_STEPS):
            image = self(direction)
            step = power / max(float((direction * image).sum()), 1e-30)
            volume, rest = volume + step * direction, rest - step * image
            yield volume
            before, power = power, float(rest.square().sum())
            direction = rest + power / max(before, 1e-30) * direction


def _best_step(one: _Normal, other: _Normal) -> int:
    """After how many steps a map of one half explains the other best."""
    best, misfit = 1, float("inf")
    for step, volume in enumerate(one.iterates(), 1):
        found = other.misfit(volume)
        if found < misfit:
            best, misfit = step, found
        elif step >= best + _PATIENCE:
            break
    return best


def _cropped(grid: Tensor, size: int) -> Tensor:
    """The box (D, D, D) with its centre at D//2 of a grid whose origin is its first cell."""
    begin = (grid.shape[0] - size) // 2
    inner = slice(begin, begin + size)
    centred: Tensor = torch.fft.fftshift(grid)
    return centred[inner, inner, inner]
