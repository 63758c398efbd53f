"""How drift and read noise depend on a device's relative conductance r, in the forms that papers fit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_cim.variation.conductance import Polynomial

SMALLEST = 1e-12
"""Relative conductances below are this one, where a logarithm is taken."""


class Law(ABC):
    """A number for each relative conductance."""

    @abstractmethod
    def __call__(self, relative: Tensor) -> Tensor:
        """The law of every element: floating tensor of any shape; not changed."""


@dataclass(frozen=True)
class Constant(Law):
    """The same whatever the conductance."""

    value: float

    def __call__(self, relative: Tensor) -> Tensor:
        """The value, in the shape of ``relative``."""
        return torch.full_like(relative, self.value)


@dataclass(frozen=True)
class ClampedLog(Law):
    """clamp(log_slope ln r + intercept, low, high).

    Example:
        >>> law = ClampedLog(-0.0155, 0.0244, 0.049, 0.1)  # mean drift exponent of Nandakumar's PCM
        >>> [round(float(law(torch.tensor(r))), 4) for r in (0.001, 0.1, 1.0)]
        [0.1, 0.0601, 0.049]
    """

    log_slope: float
    intercept: float
    low: float
    high: float

    def __call__(self, relative: Tensor) -> Tensor:
        """Zero conductance is at the end where the logarithm goes to minus infinity."""
        log = relative.clamp(min=SMALLEST).log()
        return log.mul_(self.log_slope).add_(self.intercept).clamp_(self.low, self.high)


@dataclass(frozen=True)
class ClampedPower(Law):
    """min(scale / max(r^power, smallest), largest)."""

    scale: float
    power: float
    smallest: float
    largest: float

    def __call__(self, relative: Tensor) -> Tensor:
        """Negative conductances count as 0."""
        return self.scale / relative.clamp(min=0.0).pow(self.power).clamp_(min=self.smallest).clamp(
            min=self.scale / self.largest
        )


@dataclass(frozen=True)
class Split(Law):
    """One law below a relative conductance, a polynomial in r from there on."""

    r: float
    below: Law
    above: Polynomial

    def __call__(self, relative: Tensor) -> Tensor:
        """Both, and the one that holds."""
        return torch.where(relative < self.r, self.below(relative), self.above(relative))


def law_of(record: Mapping[str, Any], name: str) -> Law:
    """A law from a preset's table: ``name`` itself, or ``name_below`` and ``name_above``."""
    if name in record:
        found = dict(record[name])
        return ClampedPower(**found) if "power" in found else ClampedLog(**found)
    below = dict(record[f"{name}_below"])
    return Split(below.pop("r"), ClampedLog(**below), Polynomial(tuple(record[f"{name}_above"])))
