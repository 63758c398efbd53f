"""What time does to devices: drift and relaxation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from lightning_cim.variation.device_array import DeviceArray
from lightning_cim.variation.device_file import records
from lightning_cim.variation.effect import DeviceEffect, Order
from lightning_cim.variation.laws import Constant, Law, law_of
from lightning_cim.variation.times import seconds

Compensation = Literal["global", "column"]


@dataclass(frozen=True)
class Drift(DeviceEffect):
    """Conductances that decay by a power law: g(t) = g ((t + t0) / t0)^-nu, with an exponent for each device.

    nu is normal, with a mean and a standard deviation that may depend on the conductance; an exponent below 0 lets a
    conductance rise. With L = ln((t + t0) / t0), g(t) / g has the mean exp(-mean(nu) L + std(nu)^2 L^2 / 2).

    Attributes:
        nu: Mean exponent, or a law of it by relative conductance. Typical: 0.05 for phase-change memory.
        nu_std: Its standard deviation from device to device, >= 0, or a law.
        t0: When the conductance was g, in seconds after programming, > 0.
        time: Since then: seconds, or a text such as ``"1h"``; see :meth:`at`.
        compensation: ``"global"``: one digital factor for each tensor, mean|w(0)| / mean|w(t)|, as if the outputs to a
            known input were compared with those of t0 (global drift compensation, Joshi et al., Nature Communications
            2020). ``"column"``: one for each output, the weight's first axis. None: none.
        reference: The conductance to which laws are relative, > 0; None: the device's g_max.
        unit: Of ``reference``; empty without one.
        scale: Factor on all exponents; not 1 in warm-ups and sweeps only.

    Raises:
        ValueError: Numbers out of range, or devices in another unit.

    Example:
        >>> import lightning_cim as cim
        >>> aged = cim.Gaussian(0.05) + Drift(nu=0.05, time="1h")
        >>> month = Drift(nu=0.05, t0=20.0, time="1mo")
        >>> round(month.sample(torch.tensor([1.0]), torch.Generator()).item(), 4)  # (1 + 30 * 86400 / 20)^-0.05 - 1
        -0.4449
    """

    nu: float | Law
    nu_std: float | Law = 0.0
    t0: float = 1.0
    time: float | str = 1.0
    compensation: Compensation | None = None
    reference: float | None = None
    unit: str = ""
    scale: float = 1.0
    order: ClassVar[Order] = Order.DRIFT

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", seconds(self.time))
        for name, value in (("nu", self.nu), ("nu_std", self.nu_std)):
            least = 0.0 if name == "nu_std" else -math.inf
            if not isinstance(value, Law) and not (math.isfinite(value) and value >= least):
                raise ValueError(f"Drift: {name} must be a finite number{' >= 0' if not least else ''}, got {value!r}")
        if not (math.isfinite(self.t0) and self.t0 > 0):
            raise ValueError(f"Drift: t0 must be a time > 0 s, got {self.t0!r}")
        if self.reference is not None and not (math.isfinite(self.reference) and self.reference > 0):
            raise ValueError(f"Drift: reference must be a conductance > 0, got {self.reference!r}")
        if self.compensation not in (None, "global", "column"):
            raise ValueError(f"Drift: compensation must be 'global', 'column' or None, got {self.compensation!r}")
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"Drift: scale must be a finite number >= 0, got {self.scale!r}")

    @classmethod
    def preset(
        cls,
        name: str,
        time: float | str = 1.0,
        compensation: Compensation | None = None,
        reference: float | None = None,
    ) -> Drift:
        """The drift of a published device, to be added to :meth:`Measured.preset` of the same name.

        Args:
            name: A device with a drift law, such as ``"pcm-nandakumar2019"``.
            time: Since programming.
            compensation: As the attribute.
            reference: Conductance to which the law is relative; default: that of the fit, which does not follow the
                range in which the device is used.

        Raises:
            ValueError: No such device, or none with a drift law; names those that have one.

        Example:
            >>> pcm = Drift.preset("pcm-nandakumar2019", time="1mo", compensation="global")
            >>> pcm.t0, pcm.reference
            (20.0, 25.0)
        """
        record = records("drift", name)
        law = record["drift"]
        fitted = record["conductance"]["max"]
        return cls(
            law_of(law, "nu_mean"),
            law_of(law, "nu_std"),
            law["t0_s"],
            time,
            compensation,
            float(fitted if reference is None else reference),
            record["conductance"]["unit"],
        )

    def draw_devices(self, shape: torch.Size, generator: Generator) -> Tensor:
        """Standard normal numbers, one a device, whatever the time."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def act(self, devices: DeviceArray, numbers: Tensor) -> None:
        """Let the conductances decay, and correct the weight."""
        before = devices.weight() if self.compensation is not None else None
        relative = devices.relative_to(self.reference, self.unit)
        nu = _law(self.nu)(relative) + _law(self.nu_std)(relative).mul_(numbers.to(relative.device))
        assert isinstance(self.time, float)
        decades = math.log1p(self.time / self.t0)
        devices.held = devices.held * nu.mul_(-decades * self.scale).exp_()
        if before is not None:
            correction = self._correction(before, devices.weight())
            devices.gain = correction if devices.gain is None else devices.gain * correction

    def at(self, seconds: float) -> Drift:
        """The same devices so many seconds after programming."""
        return replace(self, time=seconds)

    def scaled(self, factor: float) -> Drift:
        """All exponents times ``factor``."""
        return replace(self, scale=self.scale * factor)

    @property
    def is_null(self) -> bool:
        """Whether all exponents are 0."""
        return self.scale == 0.0 or (self.nu == 0.0 and self.nu_std == 0.0)

    def _correction(self, before: Tensor, after: Tensor) -> Tensor:
        axes = list(range(1, before.ndim)) if self.compensation == "column" else list(range(before.ndim))
        if not axes:  # a column of one weight
            fresh, aged = before.abs(), after.abs()
        else:
            fresh, aged = before.abs().mean(axes, keepdim=True), after.abs().mean(axes, keepdim=True)
        return torch.where(aged > 0, fresh / aged, 1.0)


@dataclass(frozen=True)
class Relaxation(DeviceEffect):
    """Conductances that diffuse whatever they were: after t seconds, a normal error that grows with ln t.

    Its mean is ``mean_slope`` ln t and its standard deviation ``std_slope`` ln t + ``std_intercept`` (0 where that is
    negative), t >= 1 s; a conductance does not fall below 0.

    Attributes:
        mean_slope: In ``unit``.
        std_slope: In ``unit``.
        std_intercept: In ``unit``.
        unit: Of these; empty: relative to the device's g_max - g_min.
        time: Since programming: seconds, or a text such as ``"1h"``, at least 1 s; see :meth:`at`.
        scale: Factor on all errors; not 1 in warm-ups and sweeps only.

    Raises:
        ValueError: Numbers out of range, a time below 1 s, or devices in another unit.

    Example:
        >>> cell = Relaxation(mean_slope=-0.01, time=math.e)
        >>> round(cell.sample(torch.tensor([1.0]), torch.Generator()).item(), 6)
        -0.01
    """

    mean_slope: float
    std_slope: float = 0.0
    std_intercept: float = 0.0
    unit: str = ""
    time: float | str = 1.0
    scale: float = 1.0
    order: ClassVar[Order] = Order.DRIFT

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", seconds(self.time))
        for name in ("mean_slope", "std_slope", "std_intercept"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"Relaxation: {name} must be finite, got {getattr(self, name)!r}")
        assert isinstance(self.time, float)
        if self.time < 1.0:
            raise ValueError(f"Relaxation: the law goes with ln t and holds from 1 s on, got {self.time:g} s")
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"Relaxation: scale must be a finite number >= 0, got {self.scale!r}")

    @classmethod
    def preset(cls, name: str, time: float | str = 1.0) -> Relaxation:
        """The relaxation of a published device, to be added to :meth:`Measured.preset` of the same name.

        Args:
            name: A device with such a law, such as ``"rram-cmo-hfox"``.
            time: Since programming.

        Raises:
            ValueError: No such device, or none with this law; names those that have one.
        """
        record = records("decay", name)
        law = record["decay"]
        return cls(law["mean_slope"], law["std_slope"], law["std_intercept"], record["conductance"]["unit"], time)

    def draw_devices(self, shape: torch.Size, generator: Generator) -> Tensor:
        """Standard normal numbers, one a device, whatever the time."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def act(self, devices: DeviceArray, numbers: Tensor) -> None:
        """Add the error."""
        assert isinstance(self.time, float)
        log, unit = math.log(self.time), devices.unit_of(self.unit)
        std = max(0.0, self.std_slope * log + self.std_intercept)
        errors = numbers.to(devices.held.device) * (std * unit * self.scale) + self.mean_slope * log * unit * self.scale
        devices.held = (devices.held + errors).clamp_(min=devices.device.floor)

    def at(self, seconds: float) -> Relaxation:
        """The same devices so many seconds after programming."""
        return replace(self, time=seconds)

    def scaled(self, factor: float) -> Relaxation:
        """All errors times ``factor``."""
        return replace(self, scale=self.scale * factor)

    @property
    def is_null(self) -> bool:
        """Whether there is no error at any time."""
        return self.scale == 0.0 or not (self.mean_slope or self.std_slope or self.std_intercept)


def _law(value: float | Law) -> Law:
    return value if isinstance(value, Law) else Constant(float(value))
