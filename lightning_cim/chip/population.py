"""Chips: reproducible draws of every deviation of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cim.chip.mapping import Mapping, Target, check_finite
from lightning_cim.variation.base import Variation


@lru_cache(maxsize=4096)
def _key(seed: int, stream: str, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}/{name}".encode(), digest_size=4).digest(), "little")


def draw_seed(seed: int, stream: str, index: int, name: str) -> int:
    """The 32-bit generator seed of one parameter of one chip.

    torch's CPU generator uses 32 bits of its seed, so hashing everything into 64 bits would let chips collide unseen.
    Here the index is added to a hash of the rest and mixed by a bijection (the finaliser of MurmurHash3): two chips of
    one parameter never share a seed.

    Args:
        seed: The population's seed.
        stream: What the draw is for, so that training chips differ from evaluation chips.
        index: The chip's number, >= 0.
        name: The parameter's name.

    Example:
        >>> len({draw_seed(0, "chip", r, "fc.weight") for r in range(1000)})
        1000
    """
    value = (_key(seed, stream, name) + index) & 0xFFFFFFFF
    value ^= value >> 16
    value = (value * 0x85EBCA6B) & 0xFFFFFFFF
    value ^= value >> 13
    value = (value * 0xC2B2AE35) & 0xFFFFFFFF
    return value ^ (value >> 16)


@dataclass(frozen=True)
class Chip:
    """One draw of every deviation: a pure function of (seed, index, parameter name).

    A chip holds no tensors. Its unit deviations are drawn when a scope opens and are scaled by the weights found
    there, so that one chip means the same thing for a model before and after an epoch of training.

    Attributes:
        variation: What devices do to a value.
        seed: The population's seed.
        index: The chip's number, >= 0.
        mapping: Which parameters lie on crossbars.
        stream: What the draw is for; chips of different streams are independent.
        portable: Draw on the CPU, so that the chip is the same on every device. Training chips draw where the weights
            are instead, which spares the transfer.
        write: The number of the programming, >= 0; see :meth:`rewritten`.

    Raises:
        ValueError: A negative ``write``.
    """

    variation: Variation
    seed: int
    index: int
    mapping: Mapping = field(default_factory=Mapping)
    stream: str = "chip"
    portable: bool = True
    # By keyword only, so that subclasses' own arguments keep their places.
    write: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.write < 0:
            raise ValueError(f"writes of a chip are numbered from 0, got {self.write}")

    def rewritten(self) -> Chip:
        """The same chip, programmed once more.

        What belongs to its devices stays: faults, drift exponents, the device-to-device part of
        :class:`~lightning_cim.DeviceAndCycle`. What differs from write to write is drawn anew, which is all the rest.
        """
        return replace(self, write=self.write + 1)

    def draw(self, name: str, weight: Tensor) -> Any:
        """The random numbers of one parameter on this chip.

        Args:
            name: The parameter's name in the model.
            weight: The parameter; only its shape and device count.

        Returns:
            What the variation's ``deviation`` and ``deviate`` take.
        """
        generator = _generator(torch.device("cpu") if self.portable else weight.device)
        generator.manual_seed(draw_seed(self.seed, self.stream, self.index, name))
        numbers = self.variation.draw(weight.shape, generator)
        if not self.write:
            return numbers
        generator.manual_seed(draw_seed(self.seed, f"{self.stream}/write{self.write}", self.index, name))
        return self.variation.redraw(weight.shape, numbers, generator)

    def deviate(self, name: str, weight: Tensor, numbers: Any) -> Tensor:
        """What the devices hold when one parameter was written to this chip.

        Args:
            name: The parameter's name in the model; a chip whose devices differ from layer to layer looks at it.
            weight: The target values, float32 or wider.
            numbers: What :meth:`draw` gave for this parameter.

        Returns:
            Weight plus deviation, with the gradient of the weight itself.
        """
        return self.variation.deviate(weight, numbers)

    def deviation(self, name: str, weight: Tensor) -> Tensor:
        """The deviation of one parameter on this chip: float32, of the shape and device of ``weight``."""
        return self.variation.deviation(weight.detach(), self.draw(name, weight))

    def read_std(self, name: str, weight: Tensor, numbers: Any) -> Tensor | None:
        """Std of the error of a single reading of one parameter; None where all readings are alike.

        Args:
            name: The parameter's name in the model.
            weight: The target values.
            numbers: What :meth:`draw` gave for this parameter.

        Returns:
            float32, broadcastable to the weight's shape and in its units.
        """
        return self.variation.read_std(weight.detach(), numbers)

    def reading(self, number: int, device: torch.device) -> torch.Generator:
        """The source of the errors of one reading of the whole chip, a pure function of the chip and the number.

        Args:
            number: 0 for the first pass of a batch through the model, 1 for the next.
            device: Where the weights are.
        """
        generator = torch.Generator(torch.device("cpu") if self.portable else device)
        return generator.manual_seed(draw_seed(self.seed, f"{self.stream}/read/{self.index}", number, ""))


@dataclass(frozen=True)
class ChipPopulation:
    """The chips 0, 1, 2, ... of one seed, drawn when used. ``population[r]`` is chip r.

    Attributes:
        model: The model to be put on chips; it is checked here, and not changed.
        variation: What devices do to a value.
        seed: Chip r of seed S is the same on every device, batch size, rank and process.
        mapping: Which parameters lie on crossbars; default: every matrix weight.

    Raises:
        ValueError: The mapping fits no parameter, or a mapped weight is NaN, infinite or not yet initialised.

    Example:
        >>> from lightning_cim import ChipPopulation, Gaussian, on_chip
        >>> model = nn.Linear(4, 2)
        >>> population = ChipPopulation(model, Gaussian(sigma=0.1), seed=0)
        >>> with on_chip(model, population[7]):
        ...     outputs = model(torch.ones(1, 4))
    """

    model: nn.Module
    variation: Variation
    seed: int = 0
    mapping: Mapping | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.variation, Variation):
            raise ValueError(f"variation must be a Variation such as Gaussian(sigma=0.1), got {self.variation!r}")
        check_finite(self.model, resolved(self.model, self.mapping or Mapping()))

    def __getitem__(self, index: int) -> Chip:
        if index < 0:
            raise IndexError(f"chips are numbered from 0, got {index}")
        return Chip(self.variation, self.seed, index, self.mapping or Mapping())

    def __iter__(self) -> Iterator[Chip]:
        index = 0
        while True:
            yield self[index]
            index += 1


def resolved(model: nn.Module, mapping: Mapping) -> list[Target]:
    """The mapping's targets, after a check that no parameter is still uninitialised.

    Raises:
        ValueError: A lazy layer has not seen data yet.
    """
    lazy = [name for name, parameter in model.named_parameters() if nn.parameter.is_lazy(parameter)]
    if lazy:
        raise ValueError(
            f"{type(model).__name__}: {', '.join(lazy)} are not initialised yet. Run one batch through the model (a"
            " lazy layer takes its shape from its first input), then put it on a chip."
        )
    return mapping.resolve(model)


@lru_cache(maxsize=16)
def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device=device)
