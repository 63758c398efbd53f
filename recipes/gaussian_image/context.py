"""Entropy model: what a seed's position says about its attributes.

A small network turns the hash grid's features at a seed into mean, scale and quantisation step of each attribute. It
stays digital under every mapping onto chips: a decoder that computes other numbers than the encoder reads garbage.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.gaussian_image.codec import fixed_point as fixed
from recipes.gaussian_image.hash_grid import BinaryHashGrid, Corners, HashConfig

KINDS = ("f", "s", "d")
"""Attributes of a seed: feature, scalings, offsets."""

LEAST_SCALE = 1e-3
"""Smallest standard deviation of the entropy model, in the attribute's unit."""
LEAST_STEP = 2**-6
"""Smallest quantisation step, relative to the base step."""
SYMBOL_BITS = 8
"""Means and scales of symbols, which the range coder gets, are multiples of 2^-8."""


class ContextStats(NamedTuple):
    """What the entropy model says about one attribute.

    Attributes:
        mean: (N, width).
        scale: (N, width), standard deviation, positive.
        step: (N, 1), quantisation step.
    """

    mean: Tensor
    scale: Tensor
    step: Tensor


class CodingStats(NamedTuple):
    """The same on the integer grid that encoder and decoder share.

    Attributes:
        mean: int64 (N, width), of the symbol round(x / step), in units of 2^-8.
        scale: int64 (N, width), of the symbol, in units of 2^-8, at least 1.
        step: float64 (N, 1), a multiple of 2^-20.
    """

    mean: NDArray[np.int64]
    scale: NDArray[np.int64]
    step: NDArray[np.float64]


class Context(nn.Module):
    """Hash grid and network of two layers.

    Args:
        u: (N, 2) positions in [0, 1].
        widths: Numbers that each of `KINDS` holds.
        steps: Base quantisation step of each.
        hidden: Neurons between the layers.
        grid: Size of the hash grid.
        raw_scale: The network's output is the scale itself, bounded below at 1e-9, as in the authors' code, where a
            scale that starts negative never learns. Default: softplus.

    Example:
        >>> context = Context(torch.rand(7, 2), {"f": 4, "s": 4, "d": 6}, {"f": 1, "s": 1, "d": 0.2}, 8, HashConfig())
        >>> stats = context()
        >>> stats["f"].mean.shape, stats["d"].step.shape
        (torch.Size([7, 4]), torch.Size([7, 1]))
    """

    rows: Tensor
    weights: Tensor

    def __init__(
        self,
        u: Tensor,
        widths: dict[str, int],
        steps: dict[str, float],
        hidden: int,
        grid: HashConfig,
        raw_scale: bool = False,
    ) -> None:
        super().__init__()
        self.grid = BinaryHashGrid(grid)
        total = sum(widths.values())
        self.mlp = nn.Sequential(nn.Linear(grid.width, hidden), nn.ReLU(), nn.Linear(hidden, 2 * total + len(KINDS)))
        self.widths, self.steps, self.raw_scale = widths, steps, raw_scale
        corners = self.grid.corners(u.double())
        self.register_buffer("rows", corners.rows, persistent=False)
        self.register_buffer("weights", corners.weight, persistent=False)

    def forward(self, seeds: Tensor | None = None) -> dict[str, ContextStats]:
        """Statistics of every seed's attributes.

        Args:
            seeds: int64 (n,), only of these.
        """
        chosen = slice(None) if seeds is None else seeds
        parts = self._parts(self.mlp(self.grid.mix(Corners(self.rows[chosen], self.weights[chosen]))))
        return {
            kind: ContextStats(
                mean,
                raw.clamp_min(1e-9) if self.raw_scale else F.softplus(raw) + LEAST_SCALE,
                self.steps[kind] * (1 + torch.tanh(step)).clamp_min(LEAST_STEP),
            )
            for kind, (mean, raw, step) in parts.items()
        }

    def coding_stats(self, seeds: NDArray[np.int64] | None = None) -> dict[str, CodingStats]:
        """The same in integer arithmetic: equal for the same file on every machine, thread count and device.

        Weights are taken as the file holds them, in half precision; see `codec.fixed_point` for what makes the result
        exact.

        Args:
            seeds: (n,), only of these.
        """
        chosen = slice(None) if seeds is None else seeds
        rows = self.rows.cpu().numpy()[chosen]
        signs = np.where(self.grid.bits().cpu().numpy(), 1, -1)
        weight = fixed.to_fixed(self.weights.cpu().numpy()[chosen], fixed.ACTIVATION_BITS)
        x = (signs[rows] * weight[..., None]).sum(2).reshape(len(rows), -1)
        x = fixed.linear(fixed.relu(fixed.linear(x, *self._half(0))), *self._half(2))
        return {kind: self._coding(kind, *parts) for kind, parts in self._parts(x).items()}

    def _coding(
        self, kind: str, mean: NDArray[np.int64], raw: NDArray[np.int64], step: NDArray[np.int64]
    ) -> CodingStats:
        unit = 1 << fixed.VALUE_BITS
        more = fixed.VALUE_BITS - fixed.ACTIVATION_BITS
        factor = np.maximum(fixed.one_plus_tanh(step), int(LEAST_STEP * unit))
        base = int(fixed.to_fixed(self.steps[kind], fixed.VALUE_BITS))
        width = np.maximum(fixed.shift_round(base * factor, fixed.VALUE_BITS), 1)
        scale = np.maximum(raw << more, 1) if self.raw_scale else fixed.softplus(raw) + int(LEAST_SCALE * unit)
        return CodingStats(
            fixed.divide_round(mean << (more + SYMBOL_BITS), width),
            np.maximum(fixed.divide_round(scale << SYMBOL_BITS, width), 1),
            width / unit,
        )

    def _parts(self, output: Any) -> dict[str, tuple[Any, Any, Any]]:
        """Mean, scale and step of each attribute out of the network's output, a tensor or an array."""
        total = sum(self.widths.values())
        parts, start = {}, 0
        for number, kind in enumerate(KINDS):
            end, at = start + self.widths[kind], 2 * total + number
            parts[kind] = output[:, start:end], output[:, total + start : total + end], output[:, at : at + 1]
            start = end
        return parts

    def _half(self, layer: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Weight and bias as the file holds them."""
        parts = self.mlp.get_submodule(str(layer)).named_parameters()
        weight, bias = (parameter.detach().half().cpu().numpy() for _, parameter in parts)
        return weight, bias
