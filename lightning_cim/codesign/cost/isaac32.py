"""Preset ``isaac32``: the component table of ISAAC (Shafiee et al., ISCA 2016), 32 nm, 16-bit weights and inputs.

Components marked with * were also read in the open hwcomponents library or in PUMA's simulator; the others were
reconstructed. Together they close to the published chip: 65.8 W, 85.4 mm2, 41.3 TOPS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_cim.codesign.cost.adc import ADC, adc_area_um2, adc_energy_pj
from lightning_cim.codesign.cost.hardware import Hardware
from lightning_cim.codesign.cost.layers import LayerShape
from lightning_cim.codesign.cost.mapping import Allocation, Placement, ceil_div


@dataclass(frozen=True)
class Part:
    """All components of one kind in a multiply-accumulate unit or tile.

    Attributes:
        power_mw: Milliwatt of all of them.
        area_mm2: Square millimetres of all of them.
    """

    power_mw: float
    area_mm2: float


IMA = {
    "adc*": Part(16.0, 0.0096),
    "dac*": Part(4.0, 0.00017),
    "sample and hold*": Part(0.01, 0.00004),
    "crossbar*": Part(2.4, 0.0002),
    "shift and add*": Part(0.2, 0.00024),
    "input register": Part(1.24, 0.0021),
    "output register": Part(0.23, 0.00077),
}
"""In-situ multiply-accumulate unit: 8 crossbars of 128x128 with an ADC of 8 bits and 1.2 GS/s each."""

TILE = {
    "edram*": Part(20.7, 0.083),
    "edram bus*": Part(7.0, 0.090),
    "router*": Part(42.0 / 4, 0.151 / 4),
    "sigmoid": Part(0.52, 0.0006),
    "shift and add": Part(0.05, 0.00006),
    "max pool": Part(0.4, 0.00024),
    "output register": Part(1.68, 0.0032),
}
"""What a tile has besides its 12 IMAs; four tiles share a router."""

LINKS = Part(10_400.0, 22.88)
"""Four HyperTransport links of a chip of 168 tiles."""

CROSSBARS, IMAS, TILES = 8, 12, 168
"""Crossbars of an IMA, IMAs of a tile, tiles of a chip."""

SIDE, CYCLE_NS, BITS, CELL_BITS = 128, 100.0, 16, 2
"""Rows of a crossbar, nanoseconds of a read, bits of weights and inputs, bits of a cell."""


def total(parts: dict[str, Part]) -> Part:
    """Sum of components.

    Example:
        >>> round(total(IMA).power_mw, 2), round(total(IMA).area_mm2, 5)
        (24.08, 0.01312)
    """
    return Part(sum(part.power_mw for part in parts.values()), sum(part.area_mm2 for part in parts.values()))


def tile() -> Part:
    """A tile.

    Example:
        >>> round(tile().power_mw, 1), round(tile().area_mm2, 4)
        (329.8, 0.3723)
    """
    ima, rest = total(IMA), total(TILE)
    return Part(IMAS * ima.power_mw + rest.power_mw, IMAS * ima.area_mm2 + rest.area_mm2)


def chip() -> Part:
    """A chip with its links.

    Example:
        >>> round(chip().power_mw / 1e3, 2), round(chip().area_mm2, 2)
        (65.81, 85.42)
    """
    return Part(TILES * tile().power_mw + LINKS.power_mw, TILES * tile().area_mm2 + LINKS.area_mm2)


def peak_tops() -> float:
    """Operations a second of a chip at 16 bits, in 1e12; a multiply-accumulate is two.

    Example:
        >>> round(peak_tops(), 2)
        41.29
    """
    weights = SIDE * CELL_BITS // BITS
    return CROSSBARS * IMAS * TILES * SIDE * weights * 2 / (BITS * CYCLE_NS) * 1e-3


@dataclass(frozen=True)
class Isaac32:
    """Costs at full load, from power times the 100 ns of a read.

    Crossbars of other sides scale as their components do: converters and registers with the side, the crossbar itself
    with its cells. The on-resistance, the columns that share an ADC and the activations' bits do not enter.

    Attributes:
        tech_nm: Node; no other one is known.
        adc: Kind of ADC; its energy per conversion at 8 bits is 1.67 pJ, that of the table 1.56 pJ.
    """

    tech_nm: float = 32.0
    adc: ADC = "isaac"

    name = "isaac32"

    @property
    def hardware(self) -> Hardware:
        """16-bit weights and inputs, ADCs of 8 bits."""
        return Hardware(xbar=SIDE, adc_bits=8, cell_bits=CELL_BITS, weight_bits=BITS, input_bits=BITS)

    def energy_parts(self, hardware: Hardware, active_rows: Any) -> dict[str, Any]:
        """Picojoule of one conversion, by part; `active_rows` gives the shape only."""
        self._check(hardware)
        conversions = CROSSBARS * SIDE  # of an IMA in a cycle
        each = {name: part.power_mw * CYCLE_NS / conversions for name, part in IMA.items()}
        side = np.asarray(hardware.xbar, dtype=float) / SIDE
        one = np.ones(np.shape(active_rows))
        return {
            "read": one * (each["dac*"] + each["sample and hold*"] + each["crossbar*"] * side),
            "adc": one * adc_energy_pj(hardware.adc or self.adc, hardware.adc_bits, self.tech_nm, 1.2e9),
            "accumulation": one * each["shift and add*"],
            "other": one
            * (each["input register"] + each["output register"] + total(TILE).power_mw * CYCLE_NS / conversions / IMAS),
        }

    def position_ns(self, hardware: Hardware) -> Any:
        """Nanoseconds of all input bits of one position: a read each, whose conversions hide behind the next."""
        return hardware.input_bits * CYCLE_NS

    def latency_parts(self, core_ns: Any) -> dict[str, Any]:
        """Nanoseconds by part: the rest of the pipeline adds none."""
        return {"crossbars": core_ns}

    def buffer_ns(self, hardware: Hardware, bits: Any) -> Any:
        """None: tiles have their own eDRAM, read while crossbars compute."""
        return 0.0 * bits

    def area_parts(self, hardware: Hardware, allocation: Allocation) -> dict[str, Any]:
        """Square millimetres by part, without the links of a chip."""
        self._check(hardware)
        side = np.asarray(hardware.xbar, dtype=float) / SIDE
        crossbars = sum(allocation.crossbars)
        converters = crossbars * side
        each = {name: part.area_mm2 / CROSSBARS for name, part in IMA.items()}
        registers = each["input register"] + each["output register"] + each["dac*"] + each["sample and hold*"]
        return {
            "cells": crossbars * each["crossbar*"] * side**2,
            "adc": 1e-6 * converters * adc_area_um2(hardware.adc or self.adc, hardware.adc_bits, self.tech_nm, 1.2e9),
            "accumulation": converters * each["shift and add*"],
            "other": converters * (registers + total(TILE).area_mm2 / CROSSBARS / IMAS),
        }

    @property
    def leakage_uw_per_mm2(self) -> float:
        """Part of the power above."""
        return 0.0

    def allocate(self, layers: Sequence[LayerShape], placements: Sequence[Placement], hardware: Hardware) -> Allocation:
        """Whole IMAs, none of which two layers share."""
        found = Allocation([], [], [])
        for layer, at in zip(layers, placements, strict=True):
            copies: Any = hardware.duplication
            if copies == "fill":
                copies = CROSSBARS * ceil_div(at.crossbars, CROSSBARS) // at.crossbars
            units = ceil_div(at.crossbars * copies, CROSSBARS)
            found.tiles.append(units)
            found.crossbars.append(CROSSBARS * units)
            found.duplicates.append(np.minimum(copies, layer.positions))
        return found

    def _check(self, hardware: Hardware) -> None:
        if hardware.tech_nm is not None and np.any(np.asarray(hardware.tech_nm) != self.tech_nm):
            raise ValueError(f"isaac32 is known at 32 nm only, got tech_nm={hardware.tech_nm}: leave it out")
