"""How the error of a device depends on the conductance it was written to, and the device that has this error."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

CUT = 8.0
"""So many sigma above 0 less than 1e-15 of all devices would be cut."""
ROUNDING = 1e-9
"""Relative slack of range checks, so that 0.3 / 3 lies in a range that ends at 0.1."""


class Curve(ABC):
    """A function of conductance, in the device's unit."""

    @abstractmethod
    def __call__(self, conductance: Tensor) -> Tensor:
        """The function of every element: floating tensor of any shape, in the device's unit; not changed."""

    @abstractmethod
    def rescaled(self, ratio: float) -> Curve:
        """The function with both axes stretched by ``ratio``: f'(g) = ratio * f(g / ratio)."""

    def at(self, conductance: float) -> float:
        """The function at one conductance, in double precision."""
        return float(self(torch.tensor(conductance, dtype=torch.float64)))


def _finite(name: str, *values: float) -> tuple[float, ...]:
    floats = tuple(float(value) for value in values)
    if not all(map(math.isfinite, floats)):
        raise ValueError(f"{name} must be finite, got {', '.join(map(str, floats))}")
    return floats


@dataclass(frozen=True)
class Polynomial(Curve):
    """sum_i c_i (g / reference)^i.

    Attributes:
        coefficients: c_0, c_1, ..., in the device's unit; lowest power first.
        reference: The conductance by which g is divided, > 0: 1 for a polynomial in g itself, g_max for one in the
            relative conductance. It belongs to the fit and does not follow the range in which a device is used.

    Raises:
        ValueError: No coefficient, a number that is not finite, or a reference that is not positive.

    Example:
        >>> pcm = Polynomial((0.26348, 1.9650, -1.1731), reference=25.0)
        >>> round(pcm.at(25.0), 3), round(pcm.at(12.5), 3)
        (1.055, 0.953)
    """

    coefficients: tuple[float, ...]
    reference: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", _finite("coefficients", *self.coefficients))
        object.__setattr__(self, "reference", *_finite("reference", self.reference))
        if not self.coefficients:
            raise ValueError("a polynomial needs one coefficient or more")
        if self.reference <= 0:
            raise ValueError(f"reference must be a conductance > 0, got {self.reference}")

    def __call__(self, conductance: Tensor) -> Tensor:
        """Horner's rule."""
        relative = conductance / self.reference
        *lower, highest = self.coefficients
        value = torch.full_like(relative, highest)
        for coefficient in reversed(lower):
            value = value.mul_(relative).add_(coefficient)
        return value

    def rescaled(self, ratio: float) -> Polynomial:
        """Coefficients and reference times ``ratio``."""
        return Polynomial(tuple(ratio * c for c in self.coefficients), ratio * self.reference)


def linear(intercept: float, slope: float) -> Polynomial:
    """intercept + slope * g.

    Example:
        >>> round(linear(4.782321, -0.009107).at(100.0), 6)
        3.871621
    """
    return Polynomial((intercept, slope))


@dataclass(frozen=True)
class SaturatingExponential(Curve):
    """amplitude * (1 - exp(-g / decay)).

    Attributes:
        amplitude: What is approached at large g, in the device's unit.
        decay: The conductance at which 63 % of it are reached, > 0.

    Raises:
        ValueError: A number that is not finite, or a decay that is not positive.

    Example:
        >>> round(SaturatingExponential(19.88665, 176.3115).at(1600.0), 3)
        19.884
    """

    amplitude: float
    decay: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "amplitude", *_finite("amplitude", self.amplitude))
        object.__setattr__(self, "decay", *_finite("decay", self.decay))
        if self.decay <= 0:
            raise ValueError(f"decay must be a conductance > 0, got {self.decay}")

    def __call__(self, conductance: Tensor) -> Tensor:
        """With ``expm1``, which keeps small conductances exact."""
        return torch.expm1(conductance / -self.decay).mul_(-self.amplitude)

    def rescaled(self, ratio: float) -> SaturatingExponential:
        """Amplitude and decay times ``ratio``."""
        return SaturatingExponential(ratio * self.amplitude, ratio * self.decay)


@dataclass(frozen=True)
class Table(Curve):
    """Straight lines between measured levels; constant beyond the first and the last.

    Attributes:
        conductances: Two or more levels, increasing.
        values: One value a level.

    Raises:
        ValueError: Fewer than two levels, levels that do not increase, as many values as levels not given, or a number
            that is not finite.

    Example:
        >>> Table((10.0, 20.0, 40.0), (1.0, 2.0, 0.0)).at(30.0)
        1.0
    """

    conductances: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "conductances", _finite("conductances", *self.conductances))
        object.__setattr__(self, "values", _finite("values", *self.values))
        levels = self.conductances
        if len(levels) < 2 or len(levels) != len(self.values):
            raise ValueError(
                f"a table needs two or more levels and one value for each, got {len(levels)} levels and"
                f" {len(self.values)} values"
            )
        apart = ROUNDING * max(map(abs, levels))
        for low, high in pairwise(levels):
            if not high - low > apart:
                raise ValueError(f"the levels of a table must increase, got {high} after {low}")

    def __call__(self, conductance: Tensor) -> Tensor:
        """Linear interpolation."""
        levels, values = conductance.new_tensor(self.conductances), conductance.new_tensor(self.values)
        inside = conductance.clamp(levels[0], levels[-1])
        right = torch.bucketize(inside, levels[1:-1], right=True) + 1
        left = right - 1
        slope = (values[1:] - values[:-1]) / (levels[1:] - levels[:-1])
        return values[left] + slope[left] * (inside - levels[left])

    def rescaled(self, ratio: float) -> Table:
        """Levels and values times ``ratio``."""
        return Table(tuple(ratio * g for g in self.conductances), tuple(ratio * value for value in self.values))


@dataclass(frozen=True)
class Level:
    """What was measured of devices that were written to one conductance.

    Attributes:
        target: The conductance aimed at.
        mean: Mean conductance read.
        std: Standard deviation of the readings (divisor n - 1).
        readings: How many; 0 where that is not known.
    """

    target: float
    mean: float
    std: float
    readings: int = 0

    def rescaled(self, ratio: float) -> Level:
        """All conductances times ``ratio``."""
        return Level(ratio * self.target, ratio * self.mean, ratio * self.std, self.readings)


@dataclass(frozen=True)
class Device:
    """A device with its range of conductance and its error when it was written once.

    Attributes:
        name: What it is called in tables and messages.
        unit: Of all conductances and errors here; a current at the read voltage (``"nA"``) serves as well.
        g_min: Conductance that stands for 0.
        g_max: Conductance that stands for the largest weight, > ``g_min``.
        sigma: Standard deviation of the conductance by the target.
        shift: Mean of conductance minus target by the target; None: zero.
        valid: Range in which the curves were measured; default: from ``g_min`` to ``g_max``.
        source: Paper and figure.
        measured: The levels to which the curves were fitted, where they are known.

    Raises:
        ValueError: An empty range, one outside the valid one, or a sigma that is negative in it.
    """

    name: str
    unit: str
    g_min: float
    g_max: float
    sigma: Curve
    shift: Curve | None = None
    valid: tuple[float, float] | None = None
    source: str = ""
    measured: tuple[Level, ...] = ()

    def __post_init__(self) -> None:
        for end in ("g_min", "g_max"):
            object.__setattr__(self, end, *_finite(f"{self.name}: {end}", getattr(self, end)))
        low, high = _finite(f"{self.name}: valid", *(self.valid or (self.g_min, self.g_max)))
        object.__setattr__(self, "valid", (low, high))
        slack = ROUNDING * max(abs(low), abs(high))
        if self.g_max - self.g_min <= slack:
            raise ValueError(f"{self.name}: g_max={self.g_max:g} must be larger than g_min={self.g_min:g} {self.unit}")
        for end in ("g_min", "g_max"):
            self._check(end, getattr(self, end))
        grid = self.grid(1025)
        sigma = self.sigma(grid)
        shift = torch.zeros(()) if self.shift is None else self.shift(grid)
        if not (sigma.isfinite().all() and shift.isfinite().all()):
            raise ValueError(f"{self.name}: the error is not finite between {low:g} and {high:g} {self.unit}")
        if (sigma < 0).any():
            worst = int(sigma.argmin())
            raise ValueError(
                f"{self.name}: sigma is {float(sigma[worst]):.3g} {self.unit} at {float(grid[worst]):.4g}"
                f" {self.unit}; a standard deviation cannot be negative. Use a lower degree, a table, or a smaller"
                " range"
            )

    @property
    def valid_range(self) -> tuple[float, float]:
        """``valid``, which is never None once the device exists."""
        assert self.valid is not None
        return self.valid

    @property
    def span(self) -> float:
        """g_max - g_min."""
        return self.g_max - self.g_min

    def grid(self, points: int) -> Tensor:
        """Evenly spaced conductances over the valid range, in double precision."""
        return torch.linspace(*self.valid_range, points, dtype=torch.float64)

    def sigma_at(self, conductance: float) -> float:
        """Standard deviation of a device written to one conductance, in the unit.

        Args:
            conductance: Target in the unit, within :attr:`valid`.

        Raises:
            ValueError: Outside the valid range.
        """
        self._check("the conductance", conductance)
        return self.sigma.at(conductance)

    def shift_at(self, conductance: float) -> float:
        """Mean error of a device written to one conductance, in the unit; see :meth:`sigma_at`."""
        self._check("the conductance", conductance)
        return 0.0 if self.shift is None else self.shift.at(conductance)

    @property
    def floor(self) -> float:
        """What no conductance goes below: 0, and minus infinity for a normalised range that itself begins below 0."""
        return 0.0 if self.valid_range[0] >= 0 else -math.inf

    def write_moments(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of the error of devices that are written once, in the unit.

        A conductance that would come out below the :attr:`floor` of 0 is 0, so X = max(g + shift + sigma z, 0): with
        m = g + shift and a = m / sigma, E[X] = m Phi(a) + sigma phi(a) and
        E[X^2] = (m^2 + sigma^2) Phi(a) + m sigma phi(a).

        Args:
            targets: Conductances aimed at, any shape, double precision.
        """
        mean = targets if self.shift is None else targets + self.shift(targets)
        sigma = self.sigma(targets)
        if math.isinf(self.floor):
            return mean - targets, sigma
        ratio = mean / torch.where(sigma > 0, sigma, 1.0)
        above = torch.special.ndtr(ratio)
        density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
        first = mean * above + sigma * density
        second = (mean.square() + sigma.square()) * above + mean * sigma * density
        spread = (second - first.square()).clamp(min=0.0).sqrt()
        # Far above 0 nothing is cut, and differences of large squares would only round.
        uncut = (ratio > CUT) | (sigma == 0)
        return torch.where(uncut, mean.clamp(min=0.0), first) - targets, torch.where(uncut, sigma, spread)

    def between(self, g_min: float | None = None, g_max: float | None = None, on_off: float | None = None) -> Device:
        """The same device used over another part of its range; its error at a conductance stays what was measured.

        Args:
            g_min: Conductance that stands for 0; default: as before.
            g_max: Conductance that stands for the largest weight; default: as before.
            on_off: g_max / g_min, > 1; instead of ``g_min``.

        Raises:
            ValueError: Outside the valid range, both ``g_min`` and ``on_off``, or an ``on_off`` of at most 1.
        """
        top = self.g_max if g_max is None else g_max
        if on_off is not None:
            if g_min is not None:
                raise ValueError(f"{self.name}: give g_min or on_off, not both")
            if not on_off > 1:
                raise ValueError(f"{self.name}: on_off is g_max / g_min and must be > 1, got {on_off!r}")
            g_min = top / on_off
        return replace(self, g_min=self.g_min if g_min is None else g_min, g_max=top)

    def rescaled(self, g_max: float) -> Device:
        """A device that is alike but larger or smaller: ranges and errors times g_max / the measured g_max.

        This is an assumption, not a measurement: the relative error sigma(r g_max) / g_max stays what it is. To use a
        measured device over a part of its range, take :meth:`between`.

        Args:
            g_max: Where the measured g_max comes to lie, > 0 in the unit.

        Raises:
            ValueError: ``g_max`` is not positive.
        """
        if not (math.isfinite(g_max) and g_max > 0):
            raise ValueError(f"{self.name}: g_max must be a conductance > 0 {self.unit}, got {g_max!r}")
        ratio = g_max / self.g_max
        low, high = self.valid_range
        return replace(
            self,
            g_min=ratio * self.g_min,
            g_max=g_max,
            sigma=self.sigma.rescaled(ratio),
            shift=None if self.shift is None else self.shift.rescaled(ratio),
            valid=(ratio * low, ratio * high),
            measured=tuple(level.rescaled(ratio) for level in self.measured),
        )

    @property
    def residuals(self) -> tuple[float, ...]:
        """Measured std minus sigma, one a measured level, in the unit."""
        return tuple(level.std - self.sigma.at(level.target) for level in self.measured)

    def _check(self, what: str, conductance: float) -> None:
        low, high = self.valid_range
        slack = ROUNDING * max(abs(low), abs(high))
        if not low - slack <= conductance <= high + slack:
            raise ValueError(
                f"{self.name}: {what} is {conductance:g} {self.unit}, but the error was measured between {low:g} and"
                f" {high:g} {self.unit} only"
            )
