"""Devices that fail together with their neighbours in the array: whole lines, and clusters.

Every class draws uniform numbers and compares them with its rates, so that a chip on which a device is stuck at one
rate has it stuck at every larger one too.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import max_pool2d

from lightning_cim.variation.device_array import DeviceArray
from lightning_cim.variation.effect import DeviceEffect, Order
from lightning_cim.variation.faults import StuckAt, probability, stick

End = Literal["low", "high"]


class StuckTogether(DeviceEffect):
    """Devices that fail together with their neighbours in the array.

    A weight of shape (outputs, ...) lies on an array of one bit line for each output and one word line for each of the
    remaining elements, unrolled as convolutions unroll them (input channel, then kernel row, then kernel column). Each
    slice and each column of a pair is an array of its own and fails independently. (The weight of a transposed
    convolution has its inputs first, so that its lines change places.)

    Attributes:
        stuck_at: What failed devices hold: ``"low"`` is g_min, ``"high"`` g_max.
    """

    order: ClassVar[Order] = Order.FAULT
    stuck_at: End

    @property
    @abstractmethod
    def expected_share(self) -> float:
        """Of devices that fail, 0 to 1: the probability of every single one."""

    @abstractmethod
    def failed(self, numbers: Any, outputs: int, inputs: int) -> Tensor:
        """Which devices of the arrays failed.

        Args:
            numbers: What :meth:`draw_devices` gave.
            outputs: Bit lines of each array.
            inputs: Word lines of each array.

        Returns:
            bool, (slices, columns, outputs, inputs).
        """

    def act(self, devices: DeviceArray, numbers: Any) -> None:
        """Let failed devices hold an end of their range."""
        failed = self.failed(numbers, *_lines(devices.held.shape)).to(devices.held.device)
        end = devices.device.g_min if self.stuck_at == "low" else devices.device.g_max
        stick(devices, failed.reshape(devices.held.shape), end)

    @property
    def mean(self) -> float:
        """That of :attr:`marginal`, as a single weight does not see the others."""
        return self.marginal.mean

    @property
    def std(self) -> float:
        """That of :attr:`marginal`."""
        return self.marginal.std

    @property
    def is_null(self) -> bool:
        """Whether no device can fail."""
        return self.expected_share == 0.0

    @property
    def marginal(self) -> StuckAt:
        """Devices that fail each for itself at the same rate: the same for any single weight."""
        return StuckAt(**{self.stuck_at: self.expected_share})


@dataclass(frozen=True)
class StuckLines(StuckTogether):
    """Broken lines: all devices of a word line (one input) or of a bit line (one output) are stuck.

    The expected share of failed devices is 1 - (1 - rows) (1 - columns). See :class:`StuckTogether` for where a weight
    lies in the array.

    Attributes:
        rows: Probability of a word line to be broken, 0 to 1.
        columns: Probability of a bit line to be broken, 0 to 1.
        stuck_at: What their devices hold: ``"low"`` (g_min) or ``"high"`` (g_max).
        tile: (word lines, bit lines) of the arrays into which a larger matrix is cut; a line is broken within one of
            them only. None: one array for each matrix.

    Raises:
        ValueError: Numbers out of range, or an unknown word.

    Example:
        >>> broken = StuckLines(rows=0.01, columns=0.02, tile=(256, 256))
        >>> round(broken.expected_share, 4)
        0.0298
    """

    rows: float = 0.0
    columns: float = 0.0
    stuck_at: End = "low"
    tile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            object.__setattr__(self, name, probability(f"StuckLines: {name}", getattr(self, name)))
        _check_end("StuckLines", self.stuck_at)
        if self.tile is not None:
            tile = tuple(self.tile) if isinstance(self.tile, Sequence) else ()
            if len(tile) != 2 or not all(isinstance(lines, int) and lines >= 1 for lines in tile):
                raise ValueError(
                    "StuckLines: tile must be the word lines and the bit lines of an array, such as (256, 256), got"
                    f" {self.tile!r}"
                )
            object.__setattr__(self, "tile", tile)

    def draw_devices(self, shape: torch.Size, generator: Generator) -> tuple[Tensor, Tensor]:
        """Uniform numbers of every word line and every bit line of every array."""
        outputs, inputs = _lines(shape)
        high, wide = self.tile or (inputs, outputs)
        return tuple(  # type: ignore[return-value]
            torch.rand((*shape[:2], *lines), generator=generator, device=generator.device)
            for lines in ((-(-outputs // max(wide, 1)), inputs), (outputs, -(-inputs // max(high, 1))))
        )

    def failed(self, numbers: tuple[Tensor, Tensor], outputs: int, inputs: int) -> Tensor:
        """Which devices lie on a broken line."""
        high, wide = self.tile or (inputs, outputs)
        rows = (numbers[0] < self.rows).repeat_interleave(wide, 2)[:, :, :outputs]
        columns = (numbers[1] < self.columns).repeat_interleave(high, 3)[..., :inputs]
        return rows | columns

    def scaled(self, factor: float) -> StuckLines:
        """Both rates times ``factor``, at most 1."""
        return replace(self, rows=min(1.0, self.rows * factor), columns=min(1.0, self.columns * factor))

    @property
    def expected_share(self) -> float:
        """1 - (1 - rows) (1 - columns)."""
        return self.rows + self.columns - self.rows * self.columns


@dataclass(frozen=True)
class StuckClusters(StuckTogether):
    """Failures that come in patches of ``size`` x ``size`` devices, as a defect of the wafer makes them.

    Each device of the array, and of a margin around it, is the corner of a patch with the same probability
    p = 1 - (1 - share)^(1 / size^2), independently. A device survives if none of the size^2 patches that reach it is
    there, thus every device, at the edge too, fails with the probability ``share``: the same as with
    ``StuckAt(low=share)``, but not one without its neighbours. See :class:`StuckTogether` for where a weight lies in
    the array.

    Attributes:
        share: Probability of a device to fail, 0 to 1.
        size: Edge of a patch in devices, >= 1; 1 is :class:`StuckAt`'s independent failure.
        stuck_at: What failed devices hold: ``"low"`` (g_min) or ``"high"`` (g_max).

    Raises:
        ValueError: Numbers out of range, or an unknown word.

    Example:
        >>> round(StuckClusters(share=0.01, size=3).rate, 6)
        0.001116
    """

    share: float
    size: int = 3
    stuck_at: End = "low"

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", probability("StuckClusters: share", self.share))
        _check_end("StuckClusters", self.stuck_at)
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"StuckClusters: size must be a number of devices >= 1, got {self.size!r}")

    @property
    def expected_share(self) -> float:
        """``share``."""
        return self.share

    @property
    def rate(self) -> float:
        """p, the probability of a device to be the corner of a patch."""
        return 1.0 if self.share == 1.0 else -math.expm1(math.log1p(-self.share) / self.size**2)

    def draw_devices(self, shape: torch.Size, generator: Generator) -> Tensor:
        """Uniform numbers of every device and of a margin that is as wide as a patch reaches."""
        outputs, inputs = (lines + self.size - 1 for lines in _lines(shape))
        return torch.rand((*shape[:2], outputs, inputs), generator=generator, device=generator.device)

    def failed(self, numbers: Tensor, outputs: int, inputs: int) -> Tensor:
        """Which devices a patch reaches."""
        if not outputs * inputs:
            return torch.zeros((*numbers.shape[:2], outputs, inputs), dtype=torch.bool)
        corners = (numbers < self.rate).float()
        # One direction after the other: size + size comparisons for each device, not size x size.
        return max_pool2d(max_pool2d(corners, (self.size, 1), 1), (1, self.size), 1) > 0

    def scaled(self, factor: float) -> StuckClusters:
        """The share times ``factor``, at most 1."""
        return replace(self, share=min(1.0, self.share * factor))


def _lines(shape: torch.Size) -> tuple[int, int]:
    """Bit lines and word lines of the arrays of (slices, columns, *shape of the weight)."""
    _, _, *weight = shape
    return (weight[0] if weight else 1), math.prod(weight[1:])


def _check_end(what: str, end: str) -> None:
    if end not in ("low", "high"):
        raise ValueError(f"{what}: stuck_at must be 'low' (g_min) or 'high' (g_max), got {end!r}")
