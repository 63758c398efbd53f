"""Converters between a crossbar and the digital world, with ranges that follow the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_cim.chip.circuit import Circuit
from lightning_cim.chip.quantise import ActivationQuantiser, FollowedRange, straight_through


class Converter(ActivationQuantiser):
    """A DAC or ADC: 2^bits levels up to full scale, 2^bits - 1 when it is signed, with 0 among them.

    Its gradient passes wherever the code is not clipped. It computes the values of an :class:`ActivationQuantiser` with
    a backward pass of a quarter of the time, because a layer has as many partial sums as arrays. Half-precision values
    are converted in float32 and rounded once.
    """

    def quantise(self, x: Tensor) -> Tensor:
        """Round to the grid of a range that is known."""
        assert self.range is not None
        low, high = self.limits
        with torch.no_grad():
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            step = self.range.to(wide.device, wide.dtype) / high
            code = (wide / step).round_()
            clipped = code.clamp(low, high)
            passes = code == clipped if x.requires_grad else None
            converted = clipped.mul_(step).to(x.dtype)
        return straight_through(x, converted, passes)


class LayerConverters:
    """The converters of one layer.

    Attributes:
        dac: Drives all word lines of the layer; None: ideal.
        adc: One for each block of rows, which all its columns (and groups) share. With output noise but an ideal ADC
            only its range is known, which the noise is relative to. Empty when there is neither.

    Args:
        circuit: Bits, noise, momentum and percentile.
        tiles: Blocks of rows.
    """

    def __init__(self, circuit: Circuit, tiles: int) -> None:
        following = (circuit.momentum, circuit.percentile)
        self.dac = None if circuit.dac_bits is None else Converter(circuit.dac_bits, *following)
        self.adc: list[FollowedRange] = []
        if circuit.adc_bits is not None:
            self.adc = [Converter(circuit.adc_bits, *following) for _ in range(tiles)]
        elif circuit.output_noise:
            self.adc = [FollowedRange(*following) for _ in range(tiles)]

    @property
    def ranges(self) -> list[FollowedRange]:
        """All that follow the data."""
        return [*([] if self.dac is None else [self.dac]), *self.adc]

    def state_dict(self) -> dict[str, Any]:
        """Range and sign of each converter."""
        return {
            "dac": None if self.dac is None else self.dac.state_dict(),
            "adc": [adc.state_dict() for adc in self.adc],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the ranges of the converters that this circuit and the saved one both have."""
        if self.dac is not None and state["dac"] is not None:
            self.dac.load_state_dict(state["dac"])
        if state["adc"]:
            for adc, saved in zip(self.adc, state["adc"], strict=bool(self.adc)):
                adc.load_state_dict(saved)
