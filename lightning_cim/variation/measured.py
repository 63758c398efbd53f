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

from lightning_cim._plotting import figure_and_axes
from lightning_cim.variation.base import Variation, max_abs
from lightning_cim.variation.conductance import Device
from lightning_cim.variation.device_file import PresetList, device_from_toml, preset_file, presets
from lightning_cim.variation.encoding import Encoding, Moments
from lightning_cim.variation.level_file import Fit, device_from_csv
from lightning_cim.variation.levels import LevelGaussian

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LevelRatioName = Literal["rram1", "fefet2", "rram4", "fefet6"]


@dataclass(frozen=True)
class Measured(Variation):
    """Programming error of a measured device, in the encoding that puts weights on it.

    The largest magnitude of a tensor lies at the device's g_max. A device written to the conductance g ends at
    g + shift(g) + sigma(g) z with z standard normal; nothing is cut at zero conductance, as the curves describe the
    spread around the target.

    Attributes:
        device: Range of conductance and error of one device; see :meth:`preset`, :meth:`from_csv`, :meth:`from_toml`.
        encoding: Which devices hold a weight.
        scale: Factor on every deviation, >= 0; not 1 in warm-ups and sweeps only.

    Raises:
        ValueError: ``scale`` is negative or not finite.

    Example:
        >>> pcm = Measured.preset("pcm-nandakumar2019")
        >>> round(pcm.device.sigma_at(12.5), 3)
        0.953
        >>> weight = torch.tensor([1.0, -0.5, 0.0])
        >>> pcm.variance(weight).sqrt()  # over the pair: sqrt(sigma(g)^2 + sigma(0)^2) / 25 uS
        tensor([0.0435, 0.0395, 0.0149])
    """

    device: Device
    encoding: Encoding = field(default_factory=Encoding)
    scale: float = 1.0

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
        if rescale_to is not None:
            device = device.rescaled(rescale_to)
        return cls(device.between(g_min, g_max, on_off), encoding or Encoding())

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
        return cls(device_from_toml(path, options), encoding or Encoding())

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
            return self._of_devices(weight.float(), numbers, _above_zero(largest)) * (largest * self.scale)
        moments = _moments(self.device, self.encoding, weight.device)
        relative = moments.std_(self._fraction(weight, largest)).mul_(numbers)
        if moments.has_mean:
            relative.add_(self._mean(moments, weight, largest))
        return relative.mul_(largest * self.scale)

    def deviate(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """Weight and deviation; in one pass over memory where there is no mean."""
        clean = weight.detach()
        moments = _moments(self.device, self.encoding, weight.device)
        if self.encoding.mode == "per_slice" or moments.has_mean:
            return weight + self.deviation(clean, numbers).to(weight.dtype)
        largest = max_abs(clean)
        spread = moments.std_(self._fraction(clean, largest)).mul_(largest * self.scale)
        return torch.addcmul(weight, numbers.to(weight.device, weight.dtype), spread.to(weight.dtype))

    def variance(self, weight: Tensor) -> Tensor:
        """Exact variance of each element's deviation: float32, of the weight's shape, in its units squared."""
        weight, largest = weight.detach(), max_abs(weight)
        moments = _moments(self.device, self.encoding, weight.device)
        return moments.std_(self._fraction(weight, largest)).mul_(largest * self.scale).square_()

    def mean_deviation(self, weight: Tensor) -> Tensor:
        """Exact mean of each element's deviation: float32, of the weight's shape, in its units."""
        weight, largest = weight.detach(), max_abs(weight)
        moments = _moments(self.device, self.encoding, weight.device)
        if not moments.has_mean:
            return torch.zeros_like(weight, dtype=torch.float32)
        return self._mean(moments, weight, largest).mul_(largest * self.scale)

    def scaled(self, factor: float) -> Measured:
        """The same variation with every deviation, its mean included, times ``factor``."""
        return replace(self, scale=self.scale * factor)

    @property
    def mean(self) -> float:
        """Nominal: mean deviation over weights spread evenly between -max|W| and max|W|, in units of max|W|.

        0 for pairs, whose halves are alike; :meth:`mean_deviation` is exact.
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
        device = self.device
        figure, ax = figure_and_axes(ax)
        grid = device.grid(401)
        ax.plot(grid.numpy(), device.sigma(grid).numpy(), color="#1f4e79", label="std")
        if device.shift is not None:
            ax.plot(grid.numpy(), device.shift(grid).numpy(), color="#c0392b", linestyle="--", label="mean error")
        if device.measured:
            ax.plot(*zip(*((level.target, level.std) for level in device.measured), strict=True), "o", color="#1f4e79")
        ax.axvspan(device.g_min, device.g_max, color="#9db4c8", alpha=0.2, label="range of weights")
        return self._labelled(figure, ax, "error of one device")

    def plot_residuals(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Measured std minus fitted sigma at each level, with twice the standard error of a std where it is known.

        Args:
            ax: Draw here instead of on a new figure.

        Raises:
            ValueError: The levels that were measured are not known, as for most presets.
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        device = self.device
        if not device.measured:
            raise ValueError(f"{device.name}: the measured levels are not known, so there are no residuals to plot")
        figure, ax = figure_and_axes(ax)
        errors = [
            level.std / math.sqrt(2 * level.readings - 2) if level.readings > 1 else 0 for level in device.measured
        ]
        targets = [level.target for level in device.measured]
        ax.errorbar(targets, device.residuals, [2 * error for error in errors], fmt="o", color="#1f4e79", capsize=2)
        ax.axhline(0.0, color="#9db4c8")
        return self._labelled(figure, ax, "measured std - fitted sigma", legend=False)

    def __str__(self) -> str:
        """Name, range and encoding, with a digest of all numbers: equal for equal variations only."""
        device = self.device
        key = hashlib.blake2b(repr(self).encode(), digest_size=4).hexdigest()
        parts = [f"{device.name} {device.g_min:g}..{device.g_max:g} {device.unit}", str(self.encoding), f"#{key}"]
        if self.scale != 1.0:
            parts.insert(2, f"scale={self.scale!r}")
        return f"Measured({', '.join(parts)})"

    def _labelled(self, figure: Figure, ax: Axes, what: str, legend: bool = True) -> tuple[Figure, Axes]:
        unit = self.device.unit
        ax.set_xlabel(f"target {'current' if unit.endswith('A') else 'conductance'} / {unit}")
        ax.set_ylabel(f"{what} / {unit}")
        ax.set_title(self.device.name)
        if legend:
            ax.legend(fontsize="small")
        return figure, ax

    def _fraction(self, weight: Tensor, largest: Tensor) -> Tensor:
        relative = weight.to(torch.promote_types(weight.dtype, torch.float32)) / _above_zero(largest)
        return self.encoding.fraction_(relative).float()

    def _mean(self, moments: Moments, weight: Tensor, largest: Tensor) -> Tensor:
        """Mean deviation over max|W|; a pair's halves swap roles with the sign of the weight."""
        mean = moments.mean_(self._fraction(weight, largest))
        return mean.mul_(weight.sign()) if self.encoding.scheme == "differential" else mean

    def _of_devices(self, weight: Tensor, numbers: Tensor, largest: Tensor) -> Tensor:
        """Deviation over max|W| from one number for each device."""
        targets = self.encoding.conductances(weight, largest, self.device)
        errors = self.device.sigma(targets).mul_(numbers)
        if self.device.shift is not None:
            errors += self.device.shift(targets)
        return self.encoding.decode_error(errors, self.device)


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
