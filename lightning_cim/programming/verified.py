"""Chips on which some devices were write-verified."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_cim.chip.population import Chip, draw_seed
from lightning_cim.programming.write_verify import WriteVerify, Written, default_residual
from lightning_cim.variation.base import Variation

_Residual = Variation | WriteVerify


@dataclass(frozen=True, eq=False)
class VerifiedChip(Chip):
    """A chip some of whose weights were write-verified; the others are as on the plain chip of the same number.

    Verified weights deviate by the residual, which has a random stream of its own: verifying more weights changes no
    weight that was verified before, and none that was not. Works wherever a chip does. Where the variation is null the
    first write is exact, and there is nothing to verify. Only errors of writing are repaired: a device that is stuck
    stays stuck, and what was verified drifts and is read like everything else.

    Attributes:
        verified: bool masks by parameter name, True where the weight was verified; parameters without one were not.
        residual: How verified weights deviate: a variation, or the loop that is simulated from each weight's first
            write. Default: ``Gaussian(0.03)`` in the convention of ``variation``.

    Example:
        >>> from lightning_cim import Gaussian, chip_weights
        >>> model = torch.nn.Linear(3, 2)
        >>> first = {"weight": torch.tensor([[True, False, False]] * 2)}
        >>> chip = VerifiedChip(Gaussian(0.3), seed=0, index=0, verified=first)
        >>> plain = chip_weights(model, Chip(Gaussian(0.3), seed=0, index=0))["weight"]
        >>> (chip_weights(model, chip)["weight"] == plain).tolist()
        [[False, True, True], [False, True, True]]
    """

    verified: MappingABC[str, Tensor] = field(default_factory=dict)
    residual: _Residual | None = None
    settled: dict[str, Written] | None = field(default=None, repr=False)
    """Keeps what the simulated loop left, while the weights stay what they are; None: simulate at each opening."""

    # Two chips with different masks are different chips, and tensors do not compare to a truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.residual is None:
            object.__setattr__(self, "residual", default_residual(self.variation))

    def verify(self, verified: MappingABC[str, Tensor]) -> VerifiedChip:
        """The same chip with these weights verified."""
        return replace(self, verified=verified)

    def rewritten(self) -> VerifiedChip:
        """The same chip programmed once more, and verified anew."""
        return replace(self, write=self.write + 1, settled=None if self.settled is None else {})

    def draw(self, name: str, weight: Tensor) -> tuple[Any, Any]:
        """The random numbers of the first write, and those of the residual; None for the latter where none is."""
        raw = super().draw(name, weight)
        if name not in self.verified or not bool(self.verified[name].any()):
            return raw, None
        if not isinstance(self.residual, Variation):
            return raw, raw  # the loop starts from the first write
        return raw, self.residual.draw(weight.shape, self._generator(name, weight))

    def deviate(self, name: str, weight: Tensor, numbers: tuple[Any, Any]) -> Tensor:
        """The weights as written, and as verified where they were."""
        raw, own = numbers
        written = super().deviate(name, weight, raw)
        if own is None:
            return written
        found = weight + self._deviation(name, weight.detach(), raw, own).to(weight)
        if self.variation.written is not self.variation:
            return found  # faults and time may tell on all weights: a compensation of drift is a factor on all
        return torch.where(self.verified[name].to(weight.device), found, written)

    def deviation(self, name: str, weight: Tensor) -> Tensor:
        """The deviation of one parameter on this chip: float32, of the shape and device of ``weight``."""
        raw, own = self.draw(name, weight)
        weight = weight.detach()
        return self.variation.deviation(weight, raw) if own is None else self._deviation(name, weight, raw, own)

    def read_std(self, name: str, weight: Tensor, numbers: tuple[Any, Any]) -> Tensor | None:
        """Std of a reading, of verified weights as of the others."""
        return super().read_std(name, weight, numbers[0])

    def _deviation(self, name: str, weight: Tensor, raw: Any, own: Any) -> Tensor:
        """Of verified and other weights; faults and time act on both."""
        if isinstance(self.residual, Variation):
            settled = self.residual.deviation(weight, own)
        else:
            settled = self.settle(name, weight, raw).error.to(weight)
        return self.variation.rewritten(weight, raw, self.verified[name].to(weight.device), settled)

    def settle(self, name: str, weight: Tensor, raw: Any = None) -> Written:
        """What the simulated loop makes of every weight of a parameter, were it verified.

        Args:
            name: The parameter's name.
            weight: Its target values.
            raw: The random numbers of the first write; drawn if not given.

        Raises:
            TypeError: The residual is a variation: it was not simulated.
        """
        if not isinstance(self.residual, WriteVerify):
            raise TypeError(f"{self.residual} is no WriteVerify, so no loop was simulated and there are no cycles")
        if self.settled is not None and name in self.settled:
            return self.settled[name]
        wide = weight.detach().float()
        raw = super().draw(name, weight) if raw is None else raw
        error = self.variation.written
        numbers = self.variation.written_numbers(raw)
        first = error.deviation(wide, numbers)
        written = self.residual.settle(wide, first, error, self._generator(name, weight), numbers)
        if self.settled is not None:
            self.settled[name] = written
        return written

    @property
    def _stream(self) -> str:
        """Of what verifying leaves: another write is verified anew."""
        return f"{self.stream}/verified" + (f"{self.write}" if self.write else "")

    def _generator(self, name: str, weight: Tensor) -> torch.Generator:
        generator = torch.Generator(torch.device("cpu") if self.portable else weight.device)
        return generator.manual_seed(draw_seed(self.seed, self._stream, self.index, name))
