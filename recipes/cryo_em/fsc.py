"""Fourier shell correlation of maps, and the resolution that it gives.

FSC(r) = Re sum F1 conj(F2) / sqrt(sum |F1|^2 sum |F2|^2), sums over a shell of spatial frequencies. Two ways of making
shells and two of reading a resolution off the curve are in use, and they differ by up to a shell; both are here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Bins = Literal["rounded", "floor"]
"""``rounded``: shell i holds i - 1/2 <= r < i + 1/2, for i = 0 .. D/2. ``floor``: shell i holds i - 1 <= r < i, for
i = 1 .. D/2 - 1, as cryoDRGN counts them. r is in units of 1/(D pixels)."""
Crossing = Literal["first", "last"]
"""``first``: where the curve first falls below the threshold, between two shells by linear interpolation. ``last``: the
largest frequency of a shell at or above the threshold, as cryoDRGN reads it."""

MAP_TO_TRUTH = 0.5
"""Threshold for a map against the true one."""
HALF_MAPS = 0.143
"""Threshold for two maps from one half of the data each (Rosenthal & Henderson, J. Mol. Biol. 333, 2003)."""


@dataclass(frozen=True)
class ShellCorrelation:
    """FSC curves of one or more pairs of maps.

    Attributes:
        frequency: (S,), 1/Angstrom, from 0.
        correlation: (..., S) in [-1, 1]; 1 at frequency 0 by definition, and 0 in a shell that one map leaves empty.
        pixel_size: Angstrom.
    """

    frequency: Tensor
    correlation: Tensor
    pixel_size: float

    @property
    def auc(self) -> Tensor:
        """Mean over all shells but the first, (...)."""
        return self.correlation[..., 1:].mean(-1)

    def resolution(self, threshold: float = MAP_TO_TRUTH, crossing: Crossing = "first") -> Tensor:
        """Resolution in Angstrom, (...).

        Args:
            threshold: Such as `MAP_TO_TRUTH` or `HALF_MAPS`.
            crossing: Which one counts.

        Returns:
            At least two pixels (Nyquist). Infinite where no shell but that of frequency 0 reaches the threshold
            (``last``).

        Raises:
            ValueError: A threshold outside (0, 1), or an unknown crossing.

        Example:
            >>> curve = torch.tensor([1.0, 0.9, 0.3, 0.6, 0.1])
            >>> found = ShellCorrelation(torch.arange(5) / 10, curve, pixel_size=1.0)
            >>> round(float(found.resolution()), 3), round(float(found.resolution(crossing="last")), 3)
            (6.0, 3.333)
        """
        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold}: an FSC threshold lies between 0 and 1, such as 0.5 or 0.143")
        if crossing not in ("first", "last"):
            raise ValueError(f"crossing={crossing!r}: must be 'first' or 'last'")
        at = _first(self, threshold) if crossing == "first" else _last(self, threshold)
        return (1 / at).clamp_min(2 * self.pixel_size)


def fourier_shell_correlation(
    first: Tensor, second: Tensor, pixel_size: float, mask: Tensor | None = None, bins: Bins = "rounded"
) -> ShellCorrelation:
    """FSC of maps, pair by pair.

    Args:
        first: (..., D, D, D).
        second: The same shape, or one that broadcasts to it.
        pixel_size: Angstrom.
        mask: (D, D, D) in [0, 1]; multiplies both. A soft edge is needed: see `masks.soft_mask`.
        bins: How shells are made.

    Raises:
        ValueError: Maps that are no cubes of one size, or an unknown way of making shells.

    Example:
        >>> volume = torch.rand(2, 8, 8, 8)
        >>> found = fourier_shell_correlation(volume, volume, pixel_size=3.0)
        >>> found.correlation.shape, [round(x, 6) for x in found.auc.tolist()]
        (torch.Size([2, 5]), [1.0, 1.0])
    """
    size = first.shape[-1]
    for name, volume in (("first", first), ("second", second), *((("mask", mask),) if mask is not None else ())):
        if volume.ndim < 3 or tuple(volume.shape[-3:]) != (size, size, size):
            raise ValueError(f"{name}: want (..., {size}, {size}, {size}), got {tuple(volume.shape)}")
    shells, count = shells_of(size, bins)
    shells = shells.to(first.device)
    if mask is not None:
        first, second = first * mask, second * mask
    spectra = [torch.fft.fftn(volume.double(), dim=(-3, -2, -1)).flatten(-3) for volume in (first, second)]
    cross = shell_sums((spectra[0] * spectra[1].conj()).real, shells, count)
    power = [shell_sums(spectrum.abs().square(), shells, count) for spectrum in spectra]
    norm = (power[0] * power[1]).sqrt()
    correlation = torch.where(norm > 0, cross / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0.0)
    correlation[..., 0] = 1.0
    frequency = torch.arange(count, dtype=torch.float64) / (size * pixel_size)
    return ShellCorrelation(frequency, correlation.cpu(), pixel_size)


def shell_sums(values: Tensor, shells: Tensor, count: int) -> Tensor:
    """Sums over shells.

    Args:
        values: (..., D^3).
        shells: (D^3,), the shell of each; those from ``count`` on are left out.
        count: Shells.

    Returns:
        (..., count).
    """
    index = shells.clamp_max(count)
    sums = torch.zeros(*values.shape[:-1], count + 1, dtype=values.dtype, device=values.device)
    return sums.index_add(-1, index, values)[..., :count]


@lru_cache(maxsize=8)
def shells_of(size: int, bins: Bins) -> tuple[Tensor, int]:
    """The shell of each frequency in the order of ``fftn``, (D^3,), and how many there are."""
    radius = frequency_radius(size).flatten()
    if bins == "rounded":
        return (radius + 0.5).floor().long(), size // 2 + 1
    if bins == "floor":
        return radius.floor().long() + 1, size // 2
    raise ValueError(f"bins={bins!r}: must be 'rounded' or 'floor'")


def frequency_radius(size: int) -> Tensor:
    """Distance from frequency 0 in units of 1/(D pixels), float64 (D, D, D), in the order of ``fftn``."""
    line = torch.fft.fftfreq(size, d=1 / size, dtype=torch.float64).square()
    square: Tensor = line[:, None, None] + line[None, :, None] + line
    return square.sqrt()


def _first(found: ShellCorrelation, threshold: float) -> Tensor:
    curve, frequency = found.correlation, found.frequency
    below = curve < threshold
    index = below.int().argmax(-1, keepdim=True)  # of the first; 0 where there is none, as shell 0 is never below
    high, low = (curve.gather(-1, at)[..., 0] for at in ((index - 1).clamp_min(0), index))
    step = frequency[1]
    crossed = frequency[(index[..., 0] - 1).clamp_min(0)] + step * (high - threshold) / (high - low)
    return torch.where(below.any(-1), crossed, math.inf)


def _last(found: ShellCorrelation, threshold: float) -> Tensor:
    return torch.where(found.correlation >= threshold, found.frequency, 0.0).amax(-1)
