"""From voxel densities to the Fourier transform of a projection image.

Voxels rotate, their densities are spread bilinearly over a pixel grid, and a Fourier transform follows. Spreading
convolves with a triangle one pixel wide to each side, so the transform carries sinc^2(kx) sinc^2(ky) and is divided by
it. What the pixel grid cannot hold folds back; on a grid `oversampling` times finer that happens further out. The
exact result is the non-uniform Fourier sum over the voxels, `fourier_sum`: what the central slice of the voxel map is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Projector(nn.Module):
    """Projects voxel densities along the camera's z axis.

    Args:
        size: Box size D in pixels, even.
        oversampling: Pixels of the grid that densities are spread over, per pixel of the image along an axis.

    Raises:
        ValueError: An odd size, or oversampling below 1.

    Example:
        >>> project = Projector(8)
        >>> spectrum = project(torch.ones(1, 1), torch.tensor([[1.0, 2.0, 3.0]]), torch.eye(3)[None])
        >>> project.images(spectrum)[0].argmax().item() == (4 + 2) * 8 + (4 + 1)
        True
    """

    deconvolution: Tensor
    fy: Tensor
    fx: Tensor

    def __init__(self, size: int, oversampling: int = 2) -> None:
        super().__init__()
        if size % 2 or size < 4:
            raise ValueError(f"box size {size}: want an even number of pixels, at least 4")
        if oversampling < 1:
            raise ValueError(f"oversampling={oversampling}: want at least 1")
        self.size, self.oversampling = size, oversampling
        fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
        spread = (torch.sinc(fy / oversampling) * torch.sinc(fx / oversampling)) ** 2
        self.register_buffer("deconvolution", 1 / spread, persistent=False)
        self.register_buffer("fy", fy, persistent=False)
        self.register_buffer("fx", fx, persistent=False)

    def forward(self, densities: Tensor, positions: Tensor, rotations: Tensor, shifts: Tensor | None = None) -> Tensor:
        """Project.

        Args:
            densities: (b, M).
            positions: (x, y, z) of the voxels from the centre D // 2, in voxels, (M, 3); at most D // 2 - 1 from it, or
                they wrap around the image.
            rotations: (b, 3, 3), ``x_cam = R x``.
            shifts: (b, 2), (tx, ty) in pixels by which the content moves; exact for fractions. None: none.

        Returns:
            ``torch.fft.rfft2`` of the images, complex (b, D, D // 2 + 1).
        """
        side = self.size * self.oversampling
        camera = rotations[:, :2] @ positions.T * self.oversampling  # (b, 2, M)
        low = camera.detach().floor()
        part, node = camera - low, (low.long() + side // 2) % side
        after = (node + 1) % side
        right, below = part[:, 0], part[:, 1]
        lower, upper = densities * below, densities - densities * below
        row, next_row = node[:, 1] * side, after[:, 1] * side
        grid = densities.new_zeros(len(densities), side * side)
        for index, value in (
            (row + node[:, 0], upper - upper * right),
            (row + after[:, 0], upper * right),
            (next_row + node[:, 0], lower - lower * right),
            (next_row + after[:, 0], lower * right),
        ):
            grid = grid.scatter_add(1, index, value)
        spectrum = torch.fft.rfft2(grid.view(-1, side, side))[..., : self.size // 2 + 1]
        half = self.size // 2
        if self.oversampling > 1:
            spectrum = torch.cat([spectrum[:, :half], spectrum[:, -half:]], 1)
        spectrum = spectrum * self.deconvolution
        return spectrum if shifts is None else spectrum * self.phase(shifts)  # type: ignore[no-any-return]

    def phase(self, shifts: Tensor) -> Tensor:
        """What moves images by shifts (b, 2) [pixels]: a factor (b, D, D // 2 + 1) of their spectra."""
        turns = self.fx * shifts[:, 0, None, None] + self.fy * shifts[:, 1, None, None]
        return torch.polar(torch.ones_like(turns), -2 * math.pi * turns)

    def images(self, spectrum: Tensor) -> Tensor:
        """Images (b, D, D) of spectra (b, D, D // 2 + 1)."""
        return torch.fft.irfft2(spectrum, s=(self.size, self.size))  # type: ignore[no-any-return]


def fourier_sum(densities: Tensor, positions: Tensor, rotations: Tensor, size: int) -> Tensor:
    """The projection's spectrum as the plain sum over voxels: exact and slow. The reference of `Projector`.

    Args:
        densities: (b, M).
        positions: (M, 3).
        rotations: (b, 3, 3).
        size: Box size D.

    Returns:
        Complex (b, D, D // 2 + 1), the layout of ``torch.fft.rfft2``.
    """
    x, y = (rotations[:, :2] @ positions.T + size // 2).unbind(1)
    ky = torch.fft.fftfreq(size, dtype=x.dtype, device=x.device)
    kx = torch.fft.rfftfreq(size, dtype=x.dtype, device=x.device)
    rows = torch.exp(-2j * math.pi * ky[:, None] * y[:, None])  # (b, D, M)
    columns = torch.exp(-2j * math.pi * kx[:, None] * x[:, None])
    return (rows * densities[:, None]) @ columns.mT


def ray_points(size: int, rotations: Tensor) -> Tensor:
    """Points of the literal ray formulation: for each pixel and depth the voxel-frame point ``R^T x_cam``.

    Args:
        size: Box size D.
        rotations: (b, 3, 3).

    Returns:
        (b, D, D, D, 3), depth first, then rows and columns of the image; (x, y, z) in voxels from the centre.
    """
    axis = torch.arange(size, dtype=rotations.dtype, device=rotations.device) - size // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.einsum("zyxi,bij->bzyxj", torch.stack([x, y, z], -1), rotations)  # rows times R are R^T columns


def trilinear(volume: Tensor, points: Tensor) -> Tensor:
    """Values (...) of a map (D, D, D) between its voxels, at points (..., 3) in voxels from the centre; 0 outside.

    Example:
        >>> volume = torch.arange(64.0).view(4, 4, 4)
        >>> trilinear(volume, torch.tensor([[-1.0, 0.0, 1.0], [0.5, 0.0, 0.0]]))
        tensor([57.0000, 42.5000])
    """
    size = volume.shape[0]
    grid = 2 * (points + size // 2) / (size - 1) - 1  # (x, y, z), as grid_sample wants them
    sampled = nn.functional.grid_sample(volume[None, None], grid.reshape(1, -1, 1, 1, 3), align_corners=True)
    return sampled.view(points.shape[:-1])


def ray_projection(volume: Tensor, rotations: Tensor) -> Tensor:
    """Images (b, D, D) of one map (D, D, D), integrated along rays between its voxels: the literal formulation."""
    return trilinear(volume, ray_points(volume.shape[0], rotations)).sum(1)
