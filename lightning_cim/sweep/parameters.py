"""What a sweep file says about one parameter, in the words of W&B."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_cim._files import is_finite, short

DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values", "normal")
"""Those that can be drawn offline."""
LARGEST_GRID = 1_000_000
_NEEDS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "normal": (),
}
_KEYS = ("value", "values", "probabilities", "min", "max", "q", "mu", "sigma", "distribution")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep.

    Attributes:
        name: As the program's command line has it, such as ``cim.sigma``.
        distribution: One of `DISTRIBUTIONS`.
        values: Of a constant or categorical parameter.
        probabilities: Of its values; empty: all alike.
        low: Least value of a uniform one; mean of a normal one.
        high: Largest value of a uniform one; standard deviation of a normal one.
        step: Grid of ``q_uniform``.
    """

    name: str
    distribution: str
    values: tuple[Any, ...] = ()
    probabilities: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 1.0
    step: float = 1.0

    @property
    def is_discrete(self) -> bool:
        """Whether a grid can go through it."""
        return self.distribution in ("constant", "categorical", "int_uniform")

    def grid(self) -> tuple[Any, ...]:
        """Its values, one after another.

        Raises:
            ValueError: It is continuous, or endless.

        Example:
            >>> Parameter.parse("cim.seed", {"min": 0, "max": 2}).grid()
            (0, 1, 2)
        """
        if not self.is_discrete:
            raise ValueError(f"parameter {self.name}: a grid needs value, values or whole numbers, not {self}")
        if not self.values and self.high - self.low >= LARGEST_GRID:
            raise ValueError(
                f"parameter {self.name}: {self} has more than {LARGEST_GRID} values; nobody runs such a grid"
            )
        return self.values or tuple(range(int(self.low), int(self.high) + 1))

    def draw(self, generator: np.random.Generator) -> Any:
        """One random value."""
        if self.values:
            return self.values[int(generator.choice(len(self.values), p=self.probabilities or None))]
        if self.distribution == "int_uniform":
            return int(generator.integers(int(self.low), int(self.high), endpoint=True))
        if self.distribution == "normal":
            return float(generator.normal(self.low, self.high))
        if self.distribution == "log_uniform_values":
            return math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        value = float(generator.uniform(self.low, self.high))
        return value if self.distribution == "uniform" else self.rounded(value)

    def rounded(self, value: float) -> float:
        """The nearest multiple of the step, without its rounding error."""
        return float(f"{round(value / self.step) * self.step:.12g}")

    @classmethod
    def parse(cls, name: str, about: Any) -> Parameter:
        """Read one entry of ``parameters``.

        Args:
            name: Of the entry.
            about: Its content.

        Raises:
            ValueError: It is not one that can be drawn offline; the message says why.

        Example:
            >>> Parameter.parse("model.lr", {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}).low
            0.0001
        """
        where = f"parameter {name}"
        if not isinstance(about, Mapping):
            raise ValueError(f"{where}: want value, values, or min and max, got {short(about)}")
        if "parameters" in about:
            raise ValueError(f"{where}: nested parameters; write dotted names such as {name}.x instead")
        unknown = [str(key)[:60] for key in about if key not in _KEYS]
        if unknown:
            raise ValueError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(_KEYS)}")
        kind = about.get("distribution") or _implied(about)
        if kind is None:
            raise ValueError(f"{where}: want value, values, or min and max, got {short(dict(about))}")
        if kind not in DISTRIBUTIONS:
            raise ValueError(f"{where}: {short(kind)} cannot be drawn offline; can be: {', '.join(DISTRIBUTIONS)}")
        for key in _NEEDS[kind]:
            if key not in about:
                raise ValueError(f"{where}: {kind} needs {key}")
        if kind in ("constant", "categorical"):
            values = (about["value"],) if kind == "constant" else tuple(_values(where, about["values"]))
            return cls(name, kind, values, _probabilities(where, about.get("probabilities"), len(values)))
        if kind == "normal":
            low, high = _number(where, about, "mu", 0.0), _number(where, about, "sigma", 1.0)
            if high < 0:
                raise ValueError(f"{where}: sigma must not be negative, got {high}")
            return cls(name, kind, low=low, high=high)
        low, high, step = (_number(where, about, key, 1.0) for key in ("min", "max", "q"))
        if low > high or step <= 0 or (kind == "log_uniform_values" and low <= 0) or not is_finite(high - low):
            raise ValueError(f"{where}: min {low}, max {high}, q {step} make no range for {kind}")
        if kind == "int_uniform" and not (low.is_integer() and high.is_integer() and max(-low, high) < 2**53):
            raise ValueError(f"{where}: int_uniform needs whole numbers below 2^53, got {low} to {high}")
        return cls(name, kind, low=low, high=high, step=step)

    def __str__(self) -> str:
        return f"{self.distribution}({self.low:g}, {self.high:g})"


def _implied(about: Mapping[str, Any]) -> str | None:
    """The distribution that W&B takes where none is named."""
    for key, kind in (("value", "constant"), ("values", "categorical"), ("mu", "normal")):
        if key in about:
            return kind
    if "min" in about and "max" in about:
        whole = all(isinstance(about[key], int) and not isinstance(about[key], bool) for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    return None


def _values(where: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{where}: values must be a list with something in it, got {short(values)}")
    return values


def _probabilities(where: str, shares: Any, count: int) -> tuple[float, ...]:
    if shares is None:
        return ()
    is_fine = isinstance(shares, list) and len(shares) == count and all(map(is_finite, shares))
    if not is_fine or min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
        raise ValueError(f"{where}: probabilities must be {count} numbers that add up to 1, got {short(shares)}")
    return tuple(float(share) for share in shares)


def _number(where: str, about: Mapping[str, Any], key: str, default: float) -> float:
    value = about.get(key, default)
    if not is_finite(value):
        raise ValueError(f"{where}: {key} must be a number, got {short(value)}")
    return float(value)
