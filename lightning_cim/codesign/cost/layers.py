"""Shapes of layers, and the networks of the design spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Whole = int | Array
"""A whole number, or an array of them where many designs are costed at once."""

FIRST_DENSITY = 0.5
LATER_DENSITY = 0.18
"""Mean share of ones in the 8-bit two's complement inputs of NeuroSim's synthetic traces: of a first layer, whose input
is uniform in (-1, 1), and of later ones, half of whose inputs are 0 and the others half-normal with sigma 0.35. Real
models have their own: :func:`~lightning_cim.codesign.cost.hardware_cost.hardware_cost` measures them."""


@dataclass(frozen=True)
class LayerShape:
    """One layer as matrices on crossbars: per output position, ``taps c_in / groups`` rows meet ``c_out`` columns.

    Attributes:
        name: Of the layer.
        c_in: Input channels or features.
        c_out: Output channels or features.
        taps: Weights a kernel has in one channel; 9 for 3x3, 1 for a linear layer.
        positions: Output positions of one sample.
        groups: As of a grouped convolution; both channel counts are divided among them.
        bit_density: Mean share of ones among the bits of its inputs, 0 to 1.
    """

    name: str
    c_in: Whole
    c_out: Whole
    taps: Whole = 1
    positions: float | Array = 1
    groups: int = 1
    bit_density: float = LATER_DENSITY

    def __post_init__(self) -> None:
        for field in ("c_in", "c_out", "taps", "positions", "groups"):
            if not np.all(np.asarray(getattr(self, field)) > 0):
                raise ValueError(f"layer {self.name!r}: {field} must be positive, got {getattr(self, field)}")
        if not 0 <= self.bit_density <= 1:
            raise ValueError(f"layer {self.name!r}: bit_density is a share from 0 to 1, got {self.bit_density}")
        for field in ("c_in", "c_out"):
            if np.any(np.asarray(getattr(self, field)) % self.groups):
                raise ValueError(
                    f"layer {self.name!r}: {field} {getattr(self, field)} is no multiple of {self.groups} groups"
                )

    @property
    def macs(self) -> Any:
        """Multiply-accumulates of one sample."""
        return self.positions * self.taps * (self.c_in // self.groups) * self.c_out


@dataclass(frozen=True)
class Template:
    """Network of a design space.

    Six same-padded convolutions, 2x2 pooling after the 2nd, 4th and 6th, and two linear layers.

    Attributes:
        channels: Of the input image.
        side: Pixels of the square input image.
        hidden: Features between the two linear layers.
        classes: Outputs.
    """

    channels: int
    side: int
    hidden: int
    classes: int = 10


TEMPLATES = {
    "lcda": Template(channels=3, side=32, hidden=1024),
    "tab": Template(channels=3, side=32, hidden=1024),
    "digits": Template(channels=1, side=8, hidden=64),
}
"""Network of each preset of :class:`~lightning_cim.codesign.space.Space`."""


def network_of(design: Mapping[str, Any], network: str | Template = "tab") -> list[LayerShape]:
    """Layers of a design of a preset space.

    Args:
        design: With slots c1 to c6 and k1 to k6, or tied in pairs as c12, c34, c56, k12, k34, k56; slots of the
            hardware are ignored. Values may be arrays that broadcast, for many designs at once.
        network: Name of the preset, or a template of one's own.

    Raises:
        ValueError: No such preset, or a slot is missing.

    Example:
        >>> tied = dict(c12=16, c34=32, c56=64, k12=3, k34=3, k56=5)
        >>> [(layer.name, layer.c_in, layer.c_out, layer.taps, layer.positions) for layer in network_of(tied)][-3:]
        [('conv6', 64, 64, 25, 64), ('fc1', 1024, 1024, 1, 1), ('fc2', 1024, 10, 1, 1)]
    """
    if isinstance(network, str) and network not in TEMPLATES:
        raise ValueError(f"there is no network {network!r}: presets are {', '.join(TEMPLATES)}")
    template = TEMPLATES[network] if isinstance(network, str) else network
    layers: list[LayerShape] = []
    channels, side = template.channels, template.side
    for n in range(1, 7):
        pair = f"{n - 1 + n % 2}{n + n % 2}"
        c_out, kernel = (_slot(design, f"{letter}{n}", f"{letter}{pair}") for letter in "ck")
        layers.append(LayerShape(f"conv{n}", channels, c_out, kernel * kernel, side * side, 1, _density(layers)))
        channels, side = c_out, side // 2 if n % 2 == 0 else side
    layers.append(LayerShape("fc1", channels * side * side, template.hidden))
    layers.append(LayerShape("fc2", template.hidden, template.classes))
    return layers


def _density(before: Sequence[LayerShape]) -> float:
    return LATER_DENSITY if before else FIRST_DENSITY


def _slot(design: Mapping[str, Any], own: str, tied: str) -> Any:
    found = design.get(own, design.get(tied))
    if found is None:
        raise ValueError(f"the design has neither a slot {own!r} nor {tied!r}: its slots are {', '.join(design)}")
    return found
