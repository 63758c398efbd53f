"""Gaussian variation whose size depends on the level that a device stores.

The presets, the normaliser and the weight bands are those of the reference codes of NeFT (arXiv 2305.14561), TRICE
(arXiv 2307.15853) and their group's later work; each measured device is reduced there to one ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lightning_cim.variation.base import SigmaRef, max_abs
from lightning_cim.variation.gaussian import GaussianFamily

LevelMode = Literal["weight_band", "per_slice"]

LEVEL_RATIOS: dict[str, float] = {"RRAM1": 1.0, "FeFET2": 2.0, "RRAM4": 4.0, "FeFET6": 6.0}
"""Std of a middle conductance level over that of an outer one, by the published name of the device."""

MIDDLE_SHARE = 0.4
"""The authors' constant: the share of devices in middle levels at which the mean square error is sigma^2."""


@dataclass(frozen=True)
class LevelGaussian(GaussianFamily):
    """Gaussian deviation that is larger in the middle of the conductance range than at its ends.

    Outer levels have the std sigma_0 = sigma / sqrt(0.4 ratio^2 + 0.6), middle levels ratio * sigma_0. With
    ``ratio=1`` this is :class:`~lightning_cim.Gaussian` bit for bit. The normaliser has two consequences:

    * :attr:`std` is nominal. It is exact only where 40 % of the weights (or, ``"per_slice"``, of the devices of every
      place) are in the middle. :meth:`variance` is exact.
    * Trained networks hold most weights near zero, thus in the outer band, so with ratio > 1 and ``"weight_band"`` they
      see less variation than sigma says. Comparing devices at equal sigma is not comparing them at equal error.

    Attributes:
        ratio: s, std of a middle level over that of an outer one, > 0.
        level_mode: What decides the level. ``"weight_band"``, as published: the weight as a whole; its middle band is
            0.25 < |w| / max|W| < 0.75 (strict). ``"per_slice"``, as in the array: |w| / max|W| is rounded to M bits and
            sliced over M/K devices; a device's level (0 .. 2^K - 1) is a middle one in the middle half of the levels
            (1 and 2 of the four of a 2-bit device), and the weight's variance is the place-weighted sum. The sign is
            carried outside the devices. The sum of independent Gaussians is drawn as one.

    Raises:
        ValueError: Numbers out of range, or ``"per_slice"`` without devices of at least 2 bits.

    Example:
        >>> fefet = LevelGaussian.preset("FeFET2", sigma=0.01)
        >>> [round(std, 4) for std in fefet.level_stds]
        [0.0067, 0.0135, 0.0135, 0.0067]
        >>> fefet.variance(torch.tensor([0.1, 0.5, -1.0])).sqrt()
        tensor([0.0067, 0.0135, 0.0067])
    """

    ratio: float
    level_mode: LevelMode = field(default="weight_band", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.ratio) and self.ratio > 0):
            raise ValueError(f"LevelGaussian: ratio must be a finite number > 0, got {self.ratio!r}")
        if self.level_mode not in ("weight_band", "per_slice"):
            raise ValueError(f"LevelGaussian: level_mode must be 'weight_band' or 'per_slice', got {self.level_mode!r}")
        if self.level_mode == "per_slice" and self.sigma_ref == "weight":
            raise ValueError(
                "LevelGaussian: level_mode='per_slice' needs devices, which sigma_ref='weight' has none of. Use"
                " sigma_ref='full_scale' (or 'lsb'), weight_bits=8, device_bits=2"
            )
        if self.level_mode == "per_slice" and self.device_bits == 1:
            raise ValueError(
                "LevelGaussian: a device of 1 bit has no middle level; level_mode='per_slice' needs device_bits >= 2"
            )

    @classmethod
    def preset(
        cls,
        name: str,
        sigma: float,
        *,
        level_mode: LevelMode = "weight_band",
        sigma_ref: SigmaRef = "weight",
        weight_bits: int | None = None,
        device_bits: int | None = None,
    ) -> LevelGaussian:
        """The published reduction of a measured device to one ratio.

        Args:
            name: ``"RRAM1"`` (ratio 1), ``"FeFET2"`` (2), ``"RRAM4"`` (4) or ``"FeFET6"`` (6).
            sigma: As in the constructor, like the other arguments.
            level_mode: What decides the level.
            sigma_ref: What sigma is relative to.
            weight_bits: M.
            device_bits: K.

        Raises:
            ValueError: Unknown name.
        """
        if name not in LEVEL_RATIOS:
            raise ValueError(f"LevelGaussian: unknown preset {name!r}; known: {', '.join(LEVEL_RATIOS)}")
        return cls(
            sigma,
            LEVEL_RATIOS[name],
            level_mode=level_mode,
            sigma_ref=sigma_ref,
            weight_bits=weight_bits,
            device_bits=device_bits,
        )

    @property
    def outer(self) -> float:
        """sigma_0 / sigma: 1 / sqrt(0.4 ratio^2 + 0.6)."""
        return 1.0 / math.sqrt(MIDDLE_SHARE * self.ratio**2 + (1.0 - MIDDLE_SHARE))

    @property
    def level_stds(self) -> tuple[float, float, float, float]:
        """Stds of the four levels L0 .. L3 of a 2-bit device, in units of what sigma is relative to."""
        low = self.sigma * self.outer
        return low, self.ratio * low, self.ratio * low, low

    def unit_moments(self) -> tuple[float, float]:
        """0 and, nominally, 1."""
        return 0.0, 1.0

    def variance(self, weight: Tensor) -> Tensor:
        """Exact variance of each element's deviation: float32, of the weight's shape, in its units squared."""
        return self._spread(weight.detach()) ** 2

    def deviation(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """The normals times each element's std."""
        return numbers.to(weight.device) * self._spread(weight)

    def deviate(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """Weight and deviation in one pass over memory."""
        spread = self._spread(weight.detach())
        return torch.addcmul(weight, numbers.to(weight.device, weight.dtype), spread.to(weight.dtype))

    def _spread(self, weight: Tensor) -> Tensor:
        """Std of each element's deviation in the weight's units."""
        largest = max_abs(weight)
        magnitude = weight.abs().to(torch.promote_types(weight.dtype, torch.float32))
        if self.level_mode == "weight_band":
            factor = self._factor((magnitude > 0.25 * largest) & (magnitude < 0.75 * largest))
        else:
            factor = self._sliced(magnitude / torch.where(largest > 0, largest, 1.0))
        return factor * (largest * self.scale)

    def _factor(self, middle: Tensor) -> Tensor:
        """Std of a level over sigma, as float32."""
        return torch.where(middle, self.ratio * self.outer, self.outer).float()

    def _sliced(self, relative: Tensor) -> Tensor:
        """Root of the place-weighted mean of the slices' squared factors; 1 where they are all 1."""
        assert self.weight_bits is not None
        assert self.device_bits is not None
        levels = 2**self.device_bits
        integer = torch.round(relative.double() * (2**self.weight_bits - 1)).long()
        total = torch.zeros_like(relative, dtype=torch.float64)
        places = 0.0
        for first_bit in range(0, self.weight_bits, self.device_bits):
            level = (integer >> first_bit) % levels
            middle = (4 * level >= levels) & (4 * level < 3 * levels)
            place = 4.0**first_bit  # the square of the place value
            total += place * self._factor(middle).double() ** 2
            places += place
        return (total / places).sqrt().float()
