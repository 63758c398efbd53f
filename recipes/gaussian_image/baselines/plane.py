"""Gaussians of free position, shape and colour on one plane: eight learned numbers each."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from recipes.gaussian_image.rasterizers import Rasterizer
from recipes.gaussian_image.seeds import even_seeds
from recipes.gaussian_image.structured import LEAST_SIGMA, Gaussians

Form = Literal["cholesky", "covariance"]

_MOST_CORRELATION = 0.99


class Values(NamedTuple):
    """What makes the Gaussians of a plane.

    Attributes:
        xy: (N, 2) positions in pixels.
        shape: (N, 3) l11, l21, l22 of the covariance's triangular factor in pixels, or the covariance's entries 11, 12,
            22 in square pixels.
        color: (N, 3), of any sign.
    """

    xy: Tensor
    shape: Tensor
    color: Tensor


class Plane(nn.Module):
    """Gaussians that sum to a picture.

    The learned numbers count in the distance to a Gaussian's neighbours at the start, so that learning rates mean the
    same for any picture and any number of Gaussians.

    Args:
        size: Height and width of the picture.
        count: How many Gaussians.
        form: What the three numbers of a shape are.
        density: Where Gaussians lie closer at the start, see `seeds.density_of`; empty: the same everywhere.
        seed: Of the first positions.
    """

    origin: Tensor
    unit: Tensor

    def __init__(
        self, size: tuple[int, int], count: int, form: Form, density: tuple[int, ...] = (), seed: int = 0
    ) -> None:
        super().__init__()
        xy, spacing = even_seeds(*size, count, density, seed)
        self.size = size
        self.form = form
        self.register_buffer("origin", torch.from_numpy(xy).float())
        self.register_buffer("unit", torch.from_numpy(spacing).float()[:, None])
        self.shift = nn.Parameter(torch.zeros(count, 2))
        self.shape = nn.Parameter(
            torch.tensor([0.5, 0.0, 0.5] if form == "cholesky" else [0.25, 0.0, 0.25]).repeat(count, 1)
        )
        self.color = nn.Parameter(torch.zeros(count, 3))

    def values(self) -> Values:
        """The Gaussians in pixels."""
        unit = self.unit if self.form == "cholesky" else self.unit**2
        return Values(self.origin + self.shift * self.unit, self.shape * unit, self.color)

    @torch.no_grad()
    def load(self, values: Values) -> None:
        """Take over Gaussians in pixels, as they are to the last bit."""
        self.origin.copy_(values.xy)
        self.unit.fill_(1.0)
        self.shift.zero_()
        self.shape.copy_(values.shape)
        self.color.copy_(values.color)

    def gaussians(self, values: Values) -> Gaussians:
        """Gaussians for a rasterizer."""
        return gaussians(values, self.form)

    def render(self, values: Values, draw: Rasterizer) -> Tensor:
        """Picture (H, W, 3), not clamped to [0, 1]."""
        return draw(*self.gaussians(values), *self.size)


def gaussians(values: Values, form: Form) -> Gaussians:
    """Gaussians for a rasterizer; those narrower than `LEAST_SIGMA` are widened to it, for all that shape may hold.

    Args:
        values: Of n Gaussians.
        form: What the numbers of a shape are.

    Example:
        >>> shape = torch.tensor([[2.0, 0.0, 4.0]])
        >>> gaussians(Values(torch.zeros(1, 2), shape, torch.ones(1, 3)), "cholesky").conics.tolist()
        [[0.25, -0.0, 0.0625]]
    """
    a, b, c = values.shape.unbind(1)
    if form == "cholesky":
        a, c = a.clamp_min(LEAST_SIGMA), c.clamp_min(LEAST_SIGMA)
        conics = torch.stack([(1 + (b / c) ** 2) / a**2, -b / (a * c**2), c**-2], 1)
    else:
        a, c = a.clamp_min(LEAST_SIGMA**2), c.clamp_min(LEAST_SIGMA**2)
        limit = _MOST_CORRELATION * (a * c).sqrt().detach()
        b = b.maximum(-limit).minimum(limit)
        conics = torch.stack([c, -b, a], 1) / (a * c - b**2)[:, None]
    return Gaussians(values.xy, conics, values.color)
