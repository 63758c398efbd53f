"""Quantisation of attributes, in training and for the file, and what it costs in bits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.gaussian_image.context import SYMBOL_BITS, CodingStats

LEAST_PROBABILITY = 1e-6
"""A symbol costs 20 bits at most."""
LARGEST_DEVIATION = 15_000
"""Symbols lie within this many steps of their mean."""


def noisy(x: Tensor, step: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
    """Stand-in for rounding in training: add U(-1/2, 1/2) steps.

    Args:
        x: Any shape.
        step: Positive; gradients reach it.
        generator: Where the noise comes from.
    """
    noise = torch.rand(x.shape, generator=generator, device=x.device) - 0.5
    return x + noise * step


def rounded(x: Tensor, step: Tensor | float) -> Tensor:
    """Round to multiples of the step.

    Gradients pass to x as if it were the identity, and to the step as in learned step size quantisation (Esser et al.,
    2020): without the latter the rate term would widen steps until nothing is left.

    Example:
        >>> rounded(torch.tensor([0.3, -0.9]), 0.5).tolist()
        [0.5, -1.0]
    """
    symbol = x / step
    return (symbol + (symbol.round() - symbol).detach()) * step


def bits(x: Tensor, mean: Tensor, scale: Tensor, step: Tensor | float) -> Tensor:
    """Bits that an ideal coder spends on each value under a Gaussian quantised to multiples of the step.

    -log2 of the Gaussian's mass within half a step of the value. Gradients of values whose mass is below 1e-6 go
    through only where they raise it.

    Args:
        x: Values, any shape.
        mean: Of the Gaussian, broadcasts.
        scale: Its standard deviation, positive.
        step: Quantisation step, positive.

    Example:
        >>> round(bits(torch.zeros(1), torch.zeros(1), torch.ones(1), 1.0).item(), 3)
        1.385
    """
    deviation = (x - mean).abs()  # the lower tail of the normal distribution is where floats are precise
    upper = torch.special.ndtr((step / 2 - deviation) / scale)
    lower = torch.special.ndtr((-step / 2 - deviation) / scale)
    mass: Tensor = _LowerBound.apply(upper - lower, LEAST_PROBABILITY)
    return -mass.log2()


def symbols(x: Tensor, stats: CodingStats) -> NDArray[np.int64]:
    """Values as the integers that the file holds: round(x / step), within 15,000 of the mean.

    Args:
        x: (N, width), finite.
        stats: Of these values.
    """
    nearest = np.rint(x.detach().cpu().numpy().astype(np.float64) / stats.step).astype(np.int64)
    centre = stats.mean >> SYMBOL_BITS
    return np.clip(nearest, centre - LARGEST_DEVIATION, centre + LARGEST_DEVIATION)


def values(symbol: NDArray[np.int64], stats: CodingStats) -> Tensor:
    """What a decoder makes of symbols: float32 (N, width)."""
    return torch.from_numpy((symbol * stats.step).astype(np.float32))


def symbol_bits(symbol: NDArray[np.int64], stats: CodingStats) -> float:
    """Bits that an ideal coder spends on all these symbols."""
    unit = 1 << SYMBOL_BITS
    mean, scale = (torch.from_numpy(part / unit) for part in (stats.mean, stats.scale))
    return float(bits(torch.from_numpy(symbol.astype(np.float64)), mean, scale, 1.0).sum())


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient also passes below the bound where descent raises x."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        (x,) = ctx.saved_tensors
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None
