"""GaussianImage (ECCV 2024): positions, Cholesky factors and colours of Gaussians, and their quantisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recipes.gaussian_image.baselines.plane import Plane, Values
from recipes.gaussian_image.baselines.points import leaf_order
from recipes.gaussian_image.baselines.quantisers import ResidualQuantiser, UniformQuantiser
from recipes.gaussian_image.rasterizers import Rasterizer


@dataclass(frozen=True)
class GaussianImageConfig:
    """Sizes of a model; its file holds them.

    Attributes:
        height: Of the image, in pixels.
        width: Likewise.
        count: Gaussians.
        xy_bits: Positions lie on a square grid of 2^xy_bits cells along the longer side.
        shape_bits: Of each number of a shape; 6 as published.
        stages: Codebooks of colours; 2 as published.
        entries: Colours in each codebook; 8 as published.

    Raises:
        ValueError: Sizes that make no image or no model.
    """

    height: int
    width: int
    count: int
    xy_bits: int = 11
    shape_bits: int = 6
    stages: int = 2
    entries: int = 32

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.count, self.stages) < 1 or self.entries < 2:
            raise ValueError("height, width, count and stages must be at least 1, entries at least 2")
        if not (1 <= self.xy_bits <= 16 and 1 <= self.shape_bits <= 16):
            raise ValueError(f"xy_bits={self.xy_bits}, shape_bits={self.shape_bits}: want 1 to 16")

    @classmethod
    def sized(cls, height: int, width: int, count: int) -> GaussianImageConfig:
        """Published bits of shapes; positions to about a 45th of the distance between Gaussians, 32 colours a codebook.

        Finer positions and larger codebooks cost more than they gain, as measured at 256 x 256 pixels.

        Example:
            >>> GaussianImageConfig.sized(256, 256, 2000).xy_bits, GaussianImageConfig.sized(512, 512, 8000).xy_bits
            (11, 12)
        """
        spacing = math.sqrt(height * width / max(count, 1))
        return cls(height, width, count, xy_bits=min(16, max(1, round(math.log2(45 * max(height, width) / spacing)))))

    @property
    def cell(self) -> float:
        """Side of a cell of the grid of positions, in pixels."""
        return max(self.height, self.width) / (1 << self.xy_bits)

    @property
    def cells(self) -> tuple[int, int]:
        """Columns and rows of that grid inside the image.

        Example:
            >>> GaussianImageConfig(height=256, width=512, count=1, xy_bits=10).cells
            (1024, 512)
        """
        longer = max(self.height, self.width)
        columns, rows = (-(-(side << self.xy_bits) // longer) for side in (self.width, self.height))
        return columns, rows


class GaussianImage(nn.Module):
    """Gaussians of one plane with the quantisers of their numbers.

    Args:
        config: Sizes.
        density: Where Gaussians lie closer at the start, see `seeds.density_of`; empty: the same everywhere.
        seed: Of the first positions.
    """

    ready: Tensor

    def __init__(self, config: GaussianImageConfig, density: tuple[int, ...] = (), seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.plane = Plane((config.height, config.width), config.count, "cholesky", density, seed)
        self.shapes = UniformQuantiser(config.shape_bits, 3)
        self.colors = ResidualQuantiser(config.stages, config.entries, 3)
        self.register_buffer("ready", torch.tensor(False))

    def start_quantisers(self, spare: float = 0.001) -> None:
        """Fit the quantisers to the Gaussians as they are; the share `spare` at each end of shapes may be clipped."""
        values = self.plane.values()
        self.shapes.start(values.shape.detach(), spare)
        self.colors.start(values.color.detach())
        self.ready.fill_(True)

    def quantised(self) -> Values:
        """The Gaussians as a decoder gets them; gradients pass as if they were not quantised."""
        xy, shape, color = self.plane.values()
        on_grid = positions(cells(xy, self.config), self.config)
        return Values(on_grid + (xy - xy.detach()), self.shapes(shape), self.colors(color))

    def commitment(self) -> Tensor:
        """Mean squared distance of colours from their quantised ones, which pulls colours towards the codebooks."""
        color: Tensor = self.plane.color
        distance: Tensor = color - self.colors(color).detach()
        return distance.square().mean()

    @torch.no_grad()
    def stored(self) -> Values:
        """The Gaussians of `quantised` in the order of the file, in which a decoder sums them."""
        order = leaf_order(cells(self.plane.values().xy, self.config).numpy(), *self.config.cells)
        return Values(*(part[torch.from_numpy(order)] for part in self.quantised()))

    def render(self, values: Values, draw: Rasterizer) -> Tensor:
        """Picture (H, W, 3), not clamped to [0, 1]."""
        return self.plane.render(values, draw)


def cells(xy: Tensor, config: GaussianImageConfig) -> Tensor:
    """Cell (N, 2), column and row, that holds each position; the nearest one for positions outside of the image."""
    last = torch.tensor(config.cells) - 1
    return (xy.detach().cpu() / config.cell).floor().long().clamp_min(0).minimum(last)


def positions(cells: Tensor, config: GaussianImageConfig) -> Tensor:
    """Middle of each cell in pixels, (N, 2)."""
    return (cells.float() + 0.5) * config.cell
