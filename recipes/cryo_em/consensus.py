"""The consensus map: what all particles have in common, by direct Fourier inversion.

A projection's spectrum is the central slice of the map's. Each image gives one, spread trilinearly over a 3D grid twice
as fine, weighted by its CTF; sums are divided by sums of squared CTFs. Two halves of the particles tell how reliable
each shell of frequencies is (their Fourier shell correlation c), and shells are weighted with 2 c / (1 + c), the
expected correlation of the whole set's map with the truth (Rosenthal and Henderson, 2003).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import product

import torch
from torch import Tensor

from recipes.cryo_em.support import sphere

PADDING = 2
_LEAST = 1e-3
"""Of the mean weight: a cell that saw less is as good as empty."""


class Inversion:
    """Sums of slices, to which batches are added one by one.

    Args:
        size: Box size D, even.
        device: Where the sums lie.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.size, self.side = size, PADDING * size
        self.signal = torch.zeros(2, self.side**3, dtype=torch.complex64, device=device)
        self.weight = torch.zeros(2, self.side**3, device=device)
        self.seen = 0
        ky = torch.fft.fftfreq(size, 1 / size, device=device)[:, None].expand(-1, size // 2 + 1)
        kx = torch.fft.rfftfreq(size, 1 / size, device=device).expand(size, -1)
        # Beyond Nyquist's circle a rotated slice leaves the box. The half plane has one of each conjugate pair.
        kept = (kx**2 + ky**2 < (size // 2) ** 2) & ((kx > 0) | (ky >= 0))
        self.kept = kept
        self.frequencies = torch.stack([kx[kept], ky[kept]], 1)  # (F, 2), cycles per box

    def add(self, images: Tensor, rotations: Tensor, shifts: Tensor, ctf: Tensor) -> None:
        """Add images (b, D, D) with rotations (b, 3, 3), shifts (b, 2) and CTFs (b, D, D // 2 + 1)."""
        kx, ky = self.frequencies.T
        centre = self.size // 2 + shifts
        turns = (kx * centre[:, :1] + ky * centre[:, 1:]) / self.size
        slices = torch.fft.rfft2(images)[:, self.kept] * torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
        transfer = ctf[:, self.kept]
        values, weights = slices * transfer, transfer.square()
        points = torch.einsum("fi,bij->bfj", self.frequencies, rotations[:, :2]) * PADDING  # k R = R^T k
        low = points.floor()
        part, node = points - low, low.long()
        half = (self.seen + torch.arange(len(images), device=images.device)) % 2
        self.seen += len(images)
        start = (half * self.side**3)[:, None]
        for corner in product((0, 1), repeat=3):
            share = torch.ones_like(turns)
            for axis, step in enumerate(corner):
                share = share * (part[..., axis] if step else 1 - part[..., axis])
            x, y, z = ((node[..., axis] + step) % self.side for axis, step in enumerate(corner))
            cell = (start + (z * self.side + y) * self.side + x).flatten()
            self.signal.view(-1).index_add_(0, cell, (values * share).flatten())
            self.weight.view(-1).index_add_(0, cell, (weights * share).flatten())

    def map(self) -> Tensor:
        """The map (D, D, D) of all that was added, shells weighted by their reliability; zero outside the sphere."""
        shape = (-1, self.side, self.side, self.side)
        signal, weight = self.signal.view(shape), self.weight.view(shape)
        signal, weight = signal + _mirrored(signal).conj(), weight + _mirrored(weight)
        halves = self._inverse(signal, weight)
        merged = self._inverse(signal.sum(0, keepdim=True), weight.sum(0, keepdim=True))[0]
        reliability = shell_reliability(torch.fft.fftn(halves[0]), torch.fft.fftn(halves[1]))
        return torch.fft.ifftn(torch.fft.fftn(merged) * reliability).real  # type: ignore[no-any-return]

    def _inverse(self, signal: Tensor, weight: Tensor) -> Tensor:
        least = _LEAST * weight.mean((1, 2, 3), keepdim=True)
        maps = torch.fft.fftshift(torch.fft.ifftn(signal / (weight + least), dim=(1, 2, 3)).real, (1, 2, 3))
        begin = (self.side - self.size) // 2
        inner = slice(begin, begin + self.size)
        axis = (torch.arange(self.size, device=maps.device) - self.size // 2) / self.side
        spread = torch.sinc(axis) ** 2  # of the trilinear spreading, in the map
        maps = maps[:, inner, inner, inner] / (spread[:, None, None] * spread[:, None] * spread)
        return maps * sphere(self.size).to(maps.device)  # type: ignore[no-any-return]


def _mirrored(grid: Tensor) -> Tensor:
    """The grid (n, s, s, s) at the negative of each frequency."""
    return grid.flip(1, 2, 3).roll((1, 1, 1), (1, 2, 3))


def shell_reliability(first: Tensor, second: Tensor) -> Tensor:
    """``2 c / (1 + c)`` at each frequency, c the Fourier shell correlation of two spectra (D, D, D); 0 where c < 0."""
    size = first.shape[0]
    axis = torch.fft.fftfreq(size, 1 / size, device=first.device)
    shell = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().round().long().flatten()

    def of(values: Tensor) -> Tensor:
        return torch.zeros(int(shell.max()) + 1, device=values.device).index_add_(0, shell, values.flatten())

    power = (of(first.abs().square()) * of(second.abs().square())).sqrt()
    correlation = (of((first * second.conj()).real) / power.clamp_min(1e-30)).clamp(0, 1)
    return (2 * correlation / (1 + correlation))[shell].view(first.shape)


def consensus(batches: Iterable[Mapping[str, Tensor]], size: int, device: torch.device | str = "cpu") -> Tensor:
    """The consensus map (D, D, D) of batches with ``image``, ``rotation``, ``shift`` and, or else none, ``ctf``."""
    inversion = Inversion(size, device)
    for batch in batches:
        image = batch["image"].to(device)
        ctf = batch["ctf"].to(device) if "ctf" in batch else torch.ones(len(image), size, size // 2 + 1, device=device)
        inversion.add(image, batch["rotation"].to(device), batch["shift"].to(device), ctf)
    if inversion.seen == 0:
        raise ValueError("there are no images to make a consensus map of")
    return inversion.map()
