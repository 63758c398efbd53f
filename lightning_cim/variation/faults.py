"""Devices that are stuck at an end of their range, each for itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from lightning_cim.variation.base import max_abs
from lightning_cim.variation.conductance import ROUNDING, Device
from lightning_cim.variation.device_array import UNIT_DEVICE, DeviceArray
from lightning_cim.variation.effect import DeviceEffect, Order
from lightning_cim.variation.encoding import Encoding

Rates = float | Sequence[float] | Sequence[Sequence[float]]
"""A number for all devices, one for each slice, or for each slice one for each column."""

NOMINAL_WEIGHTS = 4097
"""Evenly spread weights over which nominal moments are averaged."""


@dataclass(frozen=True)
class StuckAt(DeviceEffect):
    """Devices that hold an end of their range, whatever was written to them; each fails independently.

    A device that is stuck has no error of writing and no write-verify repairs it. Drift and reading act on what it
    holds as on all others. Rates are a number for all devices, or a list with one number for each slice, least
    significant first, or a list of lists, for each slice one number for each column: of a pair (positive, negative).
    A list of one entry stands for all slices, so that ``[[0.01, 0.02]]`` tells the columns of a pair apart and
    nothing else.

    Uniform numbers are compared with the rates, so that a chip on which a device is stuck at one rate has it stuck at
    every larger one too. Of several faults in a sum, the last one decides on a device that suffers more than one.

    Attributes:
        low: Probability of a device to be stuck at g_min ("stuck at 0", a high resistance), 0 to 1.
        high: Probability to be stuck at g_max ("stuck at 1", a low resistance), 0 to 1; with ``low`` at most 1.

    Raises:
        ValueError: Rates out of range, or lists that do not fit each other; as soon as the devices are known, lists
            that do not fit the slices and columns that hold a weight.

    Example:
        >>> import lightning_cim as cim
        >>> pcm = cim.Measured.preset("pcm-nandakumar2019") + StuckAt(low=0.01, high=0.001)
        >>> faults = StuckAt(high=1.0)  # both devices of a pair at g_max: the weight is 0
        >>> faults.sample(torch.tensor([1.0, -0.5]), torch.Generator())
        tensor([-1.0000,  0.5000])
    """

    low: Rates = 0.0
    high: Rates = 0.0
    order: ClassVar[Order] = Order.FAULT

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, _simplest(_table(f"StuckAt: {name}", getattr(self, name))))
        low, high = self._tables
        if any(a != b and 1 not in (a, b) for a, b in zip(low.shape, high.shape, strict=True)):
            raise ValueError(
                f"StuckAt: low is given for {_size(low)} and high for {_size(high)}; give both for the same"
            )
        worst = float((low + high).max())
        if worst > 1.0 + ROUNDING:
            raise ValueError(f"StuckAt: a device is stuck low or high, so low + high must be at most 1, got {worst:g}")

    def check(self, device: Device, encoding: Encoding) -> None:
        """Refuse rates by slice or column where a weight has other ones."""
        self._check(encoding.slices, encoding.columns, f" ({encoding})")

    def draw_devices(self, shape: torch.Size, generator: Generator) -> Tensor:
        """Uniform numbers, one a device: small ones are stuck low, large ones high."""
        self._check(shape[0], shape[1])
        return torch.rand(shape, generator=generator, device=generator.device)

    def act(self, devices: DeviceArray, numbers: Tensor) -> None:
        """Let devices hold g_min and g_max."""
        numbers = numbers.to(devices.held.device)
        low, high = (rates.to(numbers.device) for rates in self._tables)
        trailing = (...,) + (None,) * (numbers.ndim - 2)
        stick(devices, numbers < low.float()[trailing], devices.device.g_min)
        stick(devices, numbers >= (1.0 - high).float()[trailing], devices.device.g_max)

    def moments(self, weight: Tensor, encoding: Encoding | None = None) -> tuple[Tensor, Tensor]:
        """Exact mean and variance of each weight's deviation where devices have no other error.

        A device with the relative conductance f becomes 0 with probability p and 1 with probability q. Its error has
        the mean m = q - (p + q) f and the variance p f^2 + q (1 - f)^2 - m^2; errors of devices add up by their place
        values.

        Args:
            weight: Target values, any shape.
            encoding: Which devices hold a weight; default: a differential pair, not sliced.

        Returns:
            float32 tensors of the weight's shape, in its units and in its units squared.

        Raises:
            ValueError: Rates that do not fit the encoding.
        """
        encoding = encoding or Encoding()
        self.check(UNIT_DEVICE, encoding)
        weight, largest = weight.detach().float(), max_abs(weight)
        held = encoding.conductances(weight, torch.where(largest > 0, largest, 1.0), UNIT_DEVICE)
        trailing = (...,) + (None,) * weight.ndim
        low, high = (rates.to(weight)[trailing] for rates in self._tables)
        mean = high - (low + high) * held
        variance = (low * held.square() + high * (1.0 - held).square() - mean.square()).clamp_(min=0.0)
        return (
            encoding.decode_error(mean, UNIT_DEVICE) * largest,
            encoding.decode_variance(variance, UNIT_DEVICE) * largest.square(),
        )

    def scaled(self, factor: float) -> StuckAt:
        """Rates times ``factor``; where that is more than all devices, as many as there are, in the same proportion."""
        low, high = self._tables
        most = 1.0 / (low + high)
        if float(most.min()) >= factor:
            return StuckAt((low * factor).tolist(), (high * factor).tolist())
        share = most.clamp(max=factor)
        return StuckAt((low * share).tolist(), (high * share).tolist())

    @property
    def mean(self) -> float:
        """Exact for weights spread evenly between -max|W| and max|W| on pairs of devices, in units of max|W|."""
        return float(self.moments(_spread_weights())[0].double().mean())

    @property
    def std(self) -> float:
        """Root mean variance, as :attr:`mean`."""
        return math.sqrt(float(self.moments(_spread_weights())[1].double().mean()))

    @property
    def is_null(self) -> bool:
        """Whether no device can be stuck."""
        return not any(bool(rates.any()) for rates in self._tables)

    @property
    def _tables(self) -> tuple[Tensor, Tensor]:
        """Both rates as (slices or 1, columns or 1), in double precision."""
        low, high = (torch.tensor(_table("", rates), dtype=torch.float64) for rates in (self.low, self.high))
        return low, high

    def _check(self, slices: int, columns: int, which: str = "") -> None:
        for name, rates in zip(("low", "high"), self._tables, strict=True):
            if rates.shape[0] not in (1, slices) or rates.shape[1] not in (1, columns):
                raise ValueError(
                    f"StuckAt: {name} is given for {_size(rates)}, but a weight lies on {_plural(slices, 'slice')} of"
                    f" {_plural(columns, 'column')}{which}; give one number for all, or one for each of them"
                )


def stick(devices: DeviceArray, where: Tensor, conductance: float) -> None:
    """Let some devices hold a conductance, by which laws go from then on.

    Args:
        devices: Changed.
        where: bool, of the devices' shape.
        conductance: In the device's unit.
    """
    devices.held = torch.where(where, conductance, devices.held)
    devices.levels = torch.where(where, conductance, devices.levels)


def probability(what: str, value: Any) -> float:
    """A number between 0 and 1.

    Raises:
        ValueError: Anything else.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{what} must be a probability between 0 and 1, got {value!r}")
    return number


def _spread_weights() -> Tensor:
    return torch.linspace(-1.0, 1.0, NOMINAL_WEIGHTS)


def _table(what: str, rates: Any) -> tuple[tuple[float, ...], ...]:
    """Rates as rows of slices and entries of columns, of which there is 1 each where they are all alike."""
    if not isinstance(rates, Sequence) or isinstance(rates, str):
        return ((probability(what, rates),),)
    rows = [row if isinstance(row, Sequence) and not isinstance(row, str) else [row] for row in rates]
    if not rows or len({len(row) for row in rows}) > 1 or not rows[0]:
        raise ValueError(
            f"{what} must be a number, one number for each slice, or for each slice one for each column, got {rates!r}"
        )
    return tuple(tuple(probability(what, rate) for rate in row) for row in rows)


def _simplest(table: tuple[tuple[float, ...], ...]) -> Rates:
    if len(table[0]) > 1:
        return table
    return table[0][0] if len(table) == 1 else tuple(row[0] for row in table)


def _size(rates: Tensor) -> str:
    return f"{_plural(rates.shape[0], 'slice')} of {_plural(rates.shape[1], 'column')}"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
