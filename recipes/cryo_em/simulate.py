"""Particle images of a moving molecule: exact projections of Gaussian atoms, microscope and noise.

An image is ``CTF * P + noise``. P comes from atoms, a reconstruction from voxels, so nothing is inverted by the formula
that made it. The noise is white, its variance such that ``var(CTF * P) / var(noise)`` over all pixels is the asked SNR.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from recipes.cryo_em.ctf import CTFParameters, ctf
from recipes.cryo_em.geometry import random_rotations
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.stack import TensorStack, chunks
from recipes.cryo_em.structures import Trajectory
from recipes.cryo_em.truth import Truth, default_sigma, profiles

CHUNK = 64
DEFOCUS = (5000.0, 15000.0)
"""Drawn between these [Angstrom]: small enough that a particle's signal stays within its box."""

T = TypeVar("T")


@dataclass(frozen=True)
class Simulation:
    """What is simulated.

    Args:
        count: Images.
        size: Pixels D of an edge.
        pixel_size: Angstrom.
        snr: Variance of the signal over that of the noise; inf for none.
        shift: Contents are moved by up to this along x and y [pixels].
        sigma: Width of an atom's Gaussian [Angstrom]; None for `truth.default_sigma`.
        astigmatism: Largest difference of an image's two defocus values [Angstrom].
        with_ctf: False for a microscope that changes nothing.
        seed: Of everything drawn.

    Raises:
        ValueError: If a number is out of range.
    """

    count: int = 5000
    size: int = 32
    pixel_size: float = 3.0
    snr: float = 0.1
    shift: float = 0.0
    sigma: float | None = None
    astigmatism: float = 0.0
    with_ctf: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.size < 4:
            raise ValueError(f"count={self.count} and size={self.size}: at least 1 image of 4 pixels' edge is needed")
        if not (0 < self.pixel_size < float("inf") and self.snr > 0 and self.shift >= 0 and self.astigmatism >= 0):
            raise ValueError("pixel_size and snr must be positive; shift and astigmatism must not be negative")
        if self.sigma is not None and not 0 < self.sigma < float("inf"):
            raise ValueError(f"sigma={self.sigma}: an atom's width must be positive")
        if self.shift > self.size / 4:
            raise ValueError(f"shift={self.shift} pixels would move particles out of their box of {self.size}")

    @property
    def width(self) -> float:
        """Width of an atom's Gaussian [Angstrom]."""
        return default_sigma(self.pixel_size) if self.sigma is None else self.sigma


def project(
    positions: Tensor, weights: Tensor, rotations: Tensor, shifts: Tensor, size: int, pixel_size: float, sigma: float
) -> Tensor:
    """Line integrals along the camera's z of Gaussian atoms, exactly.

    A Gaussian's integral is a product of one in x and one in y, so an image is one matrix product of profiles.

    Args:
        positions: (b, A, 3) [Angstrom], or (1, A, 3) for one conformation.
        weights: (A,).
        rotations: (b, 3, 3).
        shifts: (b, 2) [pixels].
        size: D.
        pixel_size: Angstrom.
        sigma: Width of an atom [Angstrom].

    Returns:
        (b, D, D), rows y and columns x: density per voxel, summed over voxels along z.
    """
    camera = torch.einsum("bij,baj->bai", rotations[:, :2], positions.expand(len(rotations), -1, -1)) / pixel_size
    x, y = (camera + shifts[:, None]).unbind(-1)
    width = sigma / pixel_size
    images: Tensor = (profiles(y, size, width) * weights[:, None]).mT @ profiles(x, size, width)
    return images


def simulate(trajectory: Trajectory, settings: Simulation, progress: bool = False) -> Particles:
    """Simulate a data set; the same settings give the same images.

    Args:
        trajectory: The molecule's path; conformations are drawn uniformly along it.
        settings: What is simulated.
        progress: Show a bar.

    Raises:
        ValueError: If the molecule does not fit the box.
    """
    half_box = settings.size // 2 * settings.pixel_size
    if trajectory.radius > half_box:
        raise ValueError(
            f"the molecule reaches {trajectory.radius:.0f} Angstrom from its centre; half a box of {settings.size} "
            f"pixels of {settings.pixel_size} Angstrom is {half_box:.0f}: enlarge the box or the pixels"
        )
    particles = _drawn(trajectory, settings)
    images = torch.empty(settings.count, settings.size, settings.size)
    for rows in _tracked(chunks(torch.arange(settings.count), CHUNK), progress):
        images[rows] = clean_images(particles, rows)
    if settings.snr < float("inf"):
        deviation = float(images.std(correction=0)) / settings.snr**0.5
        noise = torch.Generator().manual_seed(_seed_of(settings.seed, 1))
        for rows in chunks(torch.arange(settings.count), CHUNK):
            images[rows] += deviation * torch.randn(images[rows].shape, generator=noise)
    return replace(particles, images=TensorStack(images))


def clean_images(particles: Particles, rows: Tensor) -> Tensor:
    """Noiseless images (b, D, D) of some of simulated particles, from their truth.

    Raises:
        ValueError: If they are not simulated.
    """
    truth = particles.truth
    if truth is None or particles.labels is None:
        raise ValueError("clean images are known of simulated particles only")
    some = particles.labels[rows]
    atoms, weights = truth.trajectory.at(some), truth.trajectory.weights
    pose = particles.rotations[rows], particles.shifts[rows]
    images = project(atoms, weights, *pose, truth.size, truth.pixel_size, truth.sigma)
    if particles.ctf is None:
        return images
    transfer = ctf(particles.ctf[rows], truth.size, truth.pixel_size)
    seen: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * transfer, s=images.shape[-2:])
    return seen


def _drawn(trajectory: Trajectory, settings: Simulation) -> Particles:
    generator = torch.Generator().manual_seed(_seed_of(settings.seed, 0))
    count = settings.count
    labels = torch.rand(count, generator=generator)
    rotations = random_rotations(count, generator)
    shifts = (2 * torch.rand(count, 2, generator=generator) - 1) * settings.shift
    defocus = DEFOCUS[0] + (DEFOCUS[1] - DEFOCUS[0]) * torch.rand(count, generator=generator)
    difference = settings.astigmatism * torch.rand(count, generator=generator)
    angle = 180 * torch.rand(count, generator=generator)
    microscope = CTFParameters.of(
        count,
        defocus_u=defocus + difference / 2,
        defocus_v=defocus - difference / 2,
        angle=angle,
        voltage=300.0,
        cs=2.7,
        amplitude_contrast=0.1,
    )
    truth = Truth(trajectory, settings.size, settings.pixel_size, settings.width)
    nothing = TensorStack(torch.zeros(1, settings.size, settings.size)).subset(torch.zeros(count, dtype=torch.long))
    known = microscope if settings.with_ctf else None
    return Particles(nothing, rotations, shifts, known, settings.pixel_size, labels, truth)


def _seed_of(seed: int, stream: int) -> int:
    return (seed * 2 + stream) % 2**63


def _tracked(items: Iterable[T], progress: bool) -> Iterator[T]:
    if not progress:
        yield from items
        return
    from rich.progress import track

    yield from track(list(items), description="simulating images")
