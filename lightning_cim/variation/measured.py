"""Variation of devices that someone measured: presets from papers, and your own data."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Generator, Tensor

from lightning_cim.variation import device_plots
from lightning_cim.variation.base import Variation, max_abs
from lightning_cim.variation.conductance import Device
from lightning_cim.variation.device_array import DeviceArray
from lightning_cim.variation.device_file import PresetList, file_at, preset_file, presets
from lightning_cim.variation.encoding import Encoding, Moments
from lightning_cim.variation.level_file import Fit, device_from_csv
from lightning_cim.variation.levels import LevelGaussian
from lightning_cim.variation.retention import Retention

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LevelRatioName = Literal["rram1", "fefet2", "rram4", "fefet6"]


@dataclass(frozen=True)
class Measured(Variation):
    """Programming error of a measured device, in the encoding that puts weights on it.

    The largest magnitude of a tensor lies at the device's g_max. A device written to the conductance g ends at
    max(g + shift(g) + sigma(g) z, 0) with z standard normal: a conductance is never negative. Where this cuts, near
    zero, the mode ``"collapsed"`` has the exact mean and variance of the devices, but not quite their distribution.

    Attributes:
        device: Range of conductance and error of one device; see :meth:`preset`, :meth:`from_csv`, :meth:`from_toml`.
        encoding: Which devices hold a weight.
        scale: Factor on every deviation, >= 0; not 1 in warm-ups and sweeps only.
        retention: The device at all times after programming at which it was measured, if at several; see :meth:`at`.

    Raises:
        ValueError: ``scale`` is negative or not finite.

    Example:
        >>> pcm = Measured.preset("pcm-nandakumar2019")
        >>> round(pcm.device.sigma_at(12.5), 3)
        0.953
        >>> weight = torch.tensor([1.0, -0.5, 0.0])
        >>> pcm.variance(weight).sqrt()  # of 1: (1.055^2 + 0.584^2 0.263^2)^(1/2) / 25 uS, the second device cut at 0
        tensor([0.0427, 0.0386, 0.0087])
    """

    device: Device
    encoding: Encoding = field(default_factory=Encoding)
    scale: float = 1.0
    retention: Retention | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"Measured: scale must be a finite number >= 0, got {self.scale!r}")

    @overload
    @classmethod
    def preset(cls, name: LevelRatioName, **options: Any) -> LevelGaussian: ...

    @overload
    @classmethod
    def preset(
        cls,
        name: str,
        *,
        encoding: Encoding | None = None,
        g_min: float | None = None,
        g_max: float | None = None,
        on_off: float | None = None,
        rescale_to: float | None = None,
        **options: Any,
    ) -> Measured: ...

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        encoding: Encoding | None = None,
        g_min: float | None = None,
        g_max: float | None = None,
        on_off: float | None = None,
        rescale_to: float | None = None,
        **options: Any,
    ) -> Measured | LevelGaussian:
        """A published device. ``Measured.list()`` prints all of them with their options.

        Args:
            name: Such as ``"pcm-nandakumar2019"``. ``"rram1"``, ``"fefet2"``, ``"rram4"`` and ``"fefet6"`` are known by
                one ratio only and take the arguments of :meth:`LevelGaussian.preset`, of which ``sigma`` is needed.
            encoding: Which devices hold a weight; default: a differential pair of devices of any conductance.
            g_min: Conductance that stands for 0, in the device's unit; default: the file's.
            g_max: Conductance that stands for the largest weight. The error at a conductance stays the measured one, so
                a device that is used over less of its range is relatively worse.
            on_off: g_max / g_min, instead of ``g_min``.
            rescale_to: Where the measured g_max comes to lie: a device whose range and error are larger or smaller by
                one factor, with the same relative error. This is what some toolkits mean by g_max; it is an assumption.
            **options: What the file has several measurements of, such as ``time="1 day"`` or ``day=5``; default: the
                first of them.

        Raises:
            ValueError: An unknown name or option, a value that was not measured, or a range outside the valid one.

        Example:
            >>> Measured.preset("rram-wan2022", time="1 day", on_off=20).device.g_min
            2.0
        """
        file = preset_file(name)
        ranges = {"g_min": g_min, "g_max": g_max, "on_off": on_off, "rescale_to": rescale_to}
        if file.level_preset is not None:
            given = [key for key, value in {**ranges, "encoding": encoding}.items() if value is not None]
            if given:
                raise ValueError(
                    f"{name} is known by the ratio of its levels only, so {', '.join(given)} mean nothing; give sigma,"
                    " and sigma_ref, weight_bits, device_bits for a sliced weight"
                )
            if "sigma" not in options:
                raise ValueError(f"{name} is known by the ratio of its levels only: give sigma, for example sigma=0.1")
            return LevelGaussian.preset(file.level_preset, **options)
        device = file.device(options)

        def used(device: Device) -> Device:
            device = device if rescale_to is None else device.rescaled(rescale_to)
            return device.between(g_min, g_max, on_off)

        retention = file.retention(options)
        return cls(used(device), encoding or Encoding(), retention=None if retention is None else retention.map(used))

    @classmethod
    def list(cls) -> PresetList:
        """The names of all presets; printed, a table of them.

        Example:
            >>> "sonos" in Measured.list()
            True
        """
        return presets()

    @classmethod
    def from_toml(cls, path: str | PathLike[str], *, encoding: Encoding | None = None, **options: Any) -> Measured:
        """A device from a file in the format of the presets.

        Args:
            path: The file. The least that it says is ``name = "..."``, ``[conductance]`` with ``unit``, ``min`` and
                ``max``, and ``[programming]`` with ``sigma = { model = "linear", intercept = 1.0, slope = 0.0 }``.
            encoding: Which devices hold a weight; default: a differential pair.
            **options: As in :meth:`preset`.

        Raises:
            ValueError: With file and line, what is wrong there.
        """
        file = file_at(path)
        return cls(file.device(options), encoding or Encoding(), retention=file.retention(options))

    @classmethod
    def from_csv(
        cls,
        path: str | PathLike[str],
        *,
        fit: Fit = "table",
        degree: int | None = None,
        mean_shift: bool = True,
        name: str | None = None,
        encoding: Encoding | None = None,
        g_min: float | None = None,
        g_max: float | None = None,
    ) -> Measured:
        r"""A device from your own measurements.

        Args:
            path: A CSV file whose first line names columns with units: ``target_uS,reading_uS``, one reading a line and
                two or more for each target, or ``level_uS,mean_uS,std_uS``, one level a line. Lines that start with
                ``#`` are comments.
            fit: ``"table"``: straight lines between the levels. ``"polynomial"``: least squares over the levels.
            degree: Of the polynomial.
            mean_shift: Whether the mean error of each level is part of the variation; False: its spread only.
            name: Default: the file's.
            encoding: Which devices hold a weight; default: a differential pair.
            g_min: Conductance that stands for 0; default: the lowest level.
            g_max: Conductance that stands for the largest weight; default: the highest level.

        Returns:
            The variation; ``.device.measured`` and ``.device.residuals`` tell how good the fit is, as does
            :meth:`plot_residuals`.

        Raises:
            ValueError: With file and line, what is wrong there; or ranges and a degree that do not fit the data.

        Example:
            >>> import pathlib, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = pathlib.Path(folder, "cells.csv")
            ...     _ = path.write_text("level_uS,mean_uS,std_uS\n2,2.1,0.4\n10,9.8,0.6\n30,29,0.9\n")
            ...     mine = Measured.from_csv(path)
            >>> round(mine.device.sigma_at(20.0), 6), round(mine.device.shift_at(20.0), 6)
            (0.75, -0.6)
        """
        device = device_from_csv(path, fit=fit, degree=degree, mean_shift=mean_shift, name=name)
        return cls(device.between(g_min, g_max), encoding or Encoding())

    def draw(self, shape: torch.Size, generator: Generator) -> Tensor:
        """Standard normal numbers, float32 on the generator's device.

        Returns:
            Of the weight's shape; in the mode ``"per_slice"`` (slices, columns, *shape), one for each device.
        """
        if self.encoding.mode == "per_slice":
            shape = torch.Size((self.encoding.slices, self.encoding.columns, *shape))
        return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)

    def deviation(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """The errors of a weight's devices, added up in the weight's units."""
        weight, numbers, largest = weight.detach(), numbers.to(weight.device), max_abs(weight)
        if self.encoding.mode == "per_slice":
            devices = DeviceArray(weight, self.device, self.encoding)
            self.write(devices, weight, numbers)
            return devices.deviation()
        relative, mean = self._moments(weight, largest)
        relative.mul_(numbers)
        if mean is not None:
            relative.add_(mean)
        return relative.mul_(largest * self.scale)

    def deviate(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """Weight and deviation; in one pass over memory where there is no mean."""
        clean = weight.detach()
        if self.encoding.mode == "per_slice":
            return weight + self.deviation(clean, numbers).to(weight.dtype)
        largest = max_abs(clean)
        spread, mean = self._moments(clean, largest)
        scale = largest * self.scale
        numbers = numbers.to(weight.device, torch.float32)
        if mean is not None:
            return weight + torch.addcmul(mean, numbers, spread, out=spread).mul_(scale).to(weight.dtype)
        return torch.addcmul(weight, numbers.to(weight.dtype), spread.mul_(scale).to(weight.dtype))

    def write(self, devices: DeviceArray, weight: Tensor, numbers: Tensor) -> None:
        """Errors of every device by its own number, where devices are like these."""
        if (devices.device, devices.encoding) != self.devices or self.encoding.mode != "per_slice":
            return super().write(devices, weight, numbers)
        errors = self.device.sigma(devices.targets).mul_(numbers.to(weight.device))
        if self.device.shift is not None:
            errors += self.device.shift(devices.targets)
        errors = (devices.targets + errors).clamp_(min=self.device.floor).sub_(devices.targets)
        devices.held = devices.held + errors.mul_(self.scale)
        return None

    def at(self, seconds: float) -> Measured:
        """The device as it was measured so long after programming, where that was measured at several times.

        Between two of them mean and std are interpolated linearly in ln(1 + t / 1 s), which is ours.

        Raises:
            ValueError: Later or earlier than anything that was measured.
        """
        return self if self.retention is None else replace(self, device=self.retention.at(seconds))

    def variance(self, weight: Tensor) -> Tensor:
        """Exact variance of each element's deviation: float32, of the weight's shape, in its units squared."""
        weight, largest = weight.detach(), max_abs(weight)
        return self._moments(weight, largest)[0].mul_(largest * self.scale).square_()

    def mean_deviation(self, weight: Tensor) -> Tensor:
        """Exact mean of each element's deviation: float32, of the weight's shape, in its units."""
        weight, largest = weight.detach(), max_abs(weight)
        _, mean = self._moments(weight, largest)
        return torch.zeros_like(weight, dtype=torch.float32) if mean is None else mean.mul_(largest * self.scale)

    def scaled(self, factor: float) -> Measured:
        """The same variation with every deviation, its mean included, times ``factor``."""
        return replace(self, scale=self.scale * factor)

    @property
    def devices(self) -> tuple[Device, Encoding]:
        """Device and encoding; whether each device has a number of its own makes no difference."""
        return self.device, replace(self.encoding, mode="per_slice")

    @property
    def per_device(self) -> Measured:
        """The same in the mode ``"per_slice"``."""
        return replace(self, encoding=replace(self.encoding, mode="per_slice"))

    @property
    def mean(self) -> float:
        """Nominal: mean deviation over weights spread evenly between -max|W| and max|W|, in units of max|W|.

        About 0 for pairs, whose halves are alike; :meth:`mean_deviation` is exact.
        """
        return self.scale * _nominal(self.device, self.encoding)[0]

    @property
    def std(self) -> float:
        """Nominal: root mean variance over weights spread evenly between -max|W| and max|W|, in units of max|W|.

        Trained networks hold most weights near zero, where many devices deviate less; :meth:`variance` is exact.
        """
        return self.scale * _nominal(self.device, self.encoding)[1]

    @property
    def is_null(self) -> bool:
        """Whether no weight deviates."""
        return self.scale == 0.0 or not any(_nominal(self.device, self.encoding))

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Sigma, and the mean error where there is one, against conductance; dots are the measured levels.

        Args:
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes. The shaded part of the axis is the range in which weights lie.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        return device_plots.plot_error(self.device, ax)

    def plot_residuals(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Measured std minus fitted sigma at each level, with twice the standard error of a std where it is known.

        Args:
            ax: Draw here instead of on a new figure.

        Raises:
            ValueError: The levels that were measured are not known, as for most presets.
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        return device_plots.plot_residuals(self.device, ax)

    def __str__(self) -> str:
        """Name, range and encoding, with a digest of all numbers: equal for equal variations only."""
        device = self.device
        key = hashlib.blake2b(repr(self).encode(), digest_size=4).hexdigest()
        parts = [f"{device.name} {device.g_min:g}..{device.g_max:g} {device.unit}", str(self.encoding), f"#{key}"]
        if self.scale != 1.0:
            parts.insert(2, f"scale={self.scale!r}")
        return f"Measured({', '.join(parts)})"

    def _moments(self, weight: Tensor, largest: Tensor) -> tuple[Tensor, Tensor | None]:
        """Std and mean of the deviation over max|W|, new tensors; None where the mean is 0."""
        moments = _moments(self.device, self.encoding, weight.device)
        relative = (weight.to(torch.promote_types(weight.dtype, torch.float32)) / _above_zero(largest)).float()
        flat = relative.reshape(-1)
        cells = moments.cells_(flat)
        std = moments.std(cells, out=flat).view(weight.shape)
        return std, moments.mean(cells).view(weight.shape) if moments.has_mean else None


def _above_zero(largest: Tensor) -> Tensor:
    """The scale of a tensor, and 1 for a tensor of zeros."""
    return torch.where(largest > 0, largest, 1.0)


@lru_cache(maxsize=64)
def _moments(device: Device, encoding: Encoding, where: torch.device) -> Moments:
    return Moments(device, encoding, where)


@lru_cache(maxsize=64)
def _nominal(device: Device, encoding: Encoding) -> tuple[float, float, float]:
    """Mean, root mean variance and largest mean over evenly spread weights."""
    variation = Measured(device, encoding)
    weight = torch.linspace(-1.0, 1.0, 4097)
    mean, variance = variation.mean_deviation(weight).double(), variation.variance(weight).double()
    return float(mean.mean()), math.sqrt(float(variance.mean())), float(mean.abs().max())
