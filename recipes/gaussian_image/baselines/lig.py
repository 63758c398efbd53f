"""LIG, level of Gaussians (AAAI 2025), at two levels: a coarse picture and, at full size, what it misses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.gaussian_image.baselines.plane import Plane, Values
from recipes.gaussian_image.rasterizers import Rasterizer


class Lig(nn.Module):
    """Two planes of Gaussians whose shapes are covariances.

    The coarse plane has half as large a side and, as published, an eighth of the Gaussians: `coarse` of as many as its
    pixels would get. Its picture is enlarged bilinearly. The fine plane's picture, 0 to 1, spans the rest from its
    least to its largest value.

    Args:
        size: Height and width of the image, at least 2.
        count: Gaussians of both planes together.
        coarse: The published `allo_ratio`.
        density: Where Gaussians lie closer at the start, see `seeds.density_of`; empty: the same everywhere.
        seed: Of the first positions.

    Raises:
        ValueError: A level without pixels or Gaussians.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        count: int,
        coarse: float = 0.5,
        density: tuple[int, ...] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        few = int(count * coarse / 4)
        if min(size) < 2 or not 0 < few < count:
            raise ValueError(f"{count} Gaussians, {few} of them coarse, on {size[0]} x {size[1]} pixels: too few")
        half = (size[0] // 2, size[1] // 2)
        self.coarse = Plane(half, few, "covariance", (), seed)
        self.fine = Plane(size, count - few, "covariance", density, seed + 1)
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    @property
    def planes(self) -> tuple[Plane, Plane]:
        """The coarse and the fine one."""
        return self.coarse, self.fine

    def values(self) -> tuple[Values, Values]:
        """Gaussians of the coarse and the fine plane."""
        return self.coarse.values(), self.fine.values()

    @torch.no_grad()
    def start_level(self, level: int, image: Tensor, draw: Rasterizer) -> Tensor:
        """What a level is fitted to; at the fine one this fixes how its picture spans the rest.

        Args:
            level: 0 coarse, 1 fine.
            image: (H, W, 3) in [0, 1].
            draw: Rasterizer.

        Returns:
            (H, W, 3) of the level's size, in [0, 1].
        """
        if level == 0:
            return _resize(image, self.coarse.size, "area")
        rest = image - _resize(self.coarse.render(self.coarse.values(), draw), image.shape[:2], "bilinear")
        self.low.copy_(rest.min())
        self.high.copy_(torch.maximum(rest.max(), rest.min() + 1e-6))
        return (rest - self.low) / (self.high - self.low)

    def render(self, values: tuple[Values, Values], draw: Rasterizer) -> Tensor:
        """Picture (H, W, 3), not clamped to [0, 1]."""
        coarse, fine = (plane.render(part, draw) for plane, part in zip(self.planes, values, strict=True))
        return self.join(coarse, fine, self.low, self.high)

    @staticmethod
    def join(coarse: Tensor, fine: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The picture of two planes' pictures: the coarse one enlarged, plus the fine one spanning `low` to `high`."""
        return _resize(coarse, fine.shape[:2], "bilinear") + fine * (high - low) + low


def _resize(image: Tensor, size: tuple[int, int] | torch.Size, mode: str) -> Tensor:
    return F.interpolate(image.permute(2, 0, 1)[None], tuple(size), mode=mode)[0].permute(1, 2, 0).contiguous()
