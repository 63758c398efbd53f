"""Preset ``neurosim22``: few constants fitted to what DNN+NeuroSim V1.3 prints (22 nm, current-mode flash ADCs).

The numbers come from our own runs of it; none of its code is here (it is CC BY-NC). Agreement with a tool is not
agreement with silicon. ``python -m lightning_cim.codesign.cost`` prints model against reference, and ``--fit`` fits the
constants anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_cim.codesign.cost.adc import ADC, adc_area_um2, adc_energy_pj
from lightning_cim.codesign.cost.hardware import Hardware
from lightning_cim.codesign.cost.layers import LayerShape
from lightning_cim.codesign.cost.mapping import Allocation, Placement, allocate
from lightning_cim.codesign.cost.scaling import area_scale, clock_scale, energy_scale


@dataclass(frozen=True)
class NeuroSim22:
    """Constants at 22 nm; energies are per conversion of a column.

    Attributes:
        read_v2s: pJ ohm per active row: the current of the read pulse itself.
        read_mux_v2s: The same per column that shares the ADC: cells of waiting columns conduct, too.
        accumulate_pj: Adders and shift registers, pJ: constant.
        accumulate_pj_per_bit: The same per bit of the ADC.
        other_pj: Decoders, multiplexers, buffers and interconnect, pJ: constant.
        other_pj_per_um2: The same per um2 of an ADC, which lengthens the wires.
        other_pj_per_mux2: The same per square of the columns that share an ADC.
        clock_ns: Cycle of a flash ADC.
        sar_ns_per_bit: Cycle of a SAR ADC, per bit (8.85 ns printed at 5 bits; proportional by assumption).
        accumulate_cycles: Time of accumulation over that of the crossbars, as printed for VGG-8.
        bus_bits: Bits a clock that the global buffer moves; fitted to VGG-8's 1.00 ms.
        adder_um2: Accumulation circuits of an ADC.
        other_um2_per_row: Other circuits of a crossbar, per row.
        chip_um2: Circuits of a chip that no crossbar owns.
        wiring: Area over the sum of the parts; the rest is interconnect.
        leakage_uw_per_mm2: Leakage of the whole chip: 850 uW of VGG-8's 58.73 mm2.
        tech_nm: Node of the constants.
        adc: Kind of ADC the constants were fitted with.
    """

    read_v2s: float = 23.96
    read_mux_v2s: float = 1.815
    accumulate_pj: float = 0.02055
    accumulate_pj_per_bit: float = 0.004617
    other_pj: float = 0.08239
    other_pj_per_um2: float = 4.556e-5
    other_pj_per_mux2: float = 1.767e-4
    clock_ns: float = 2.04
    sar_ns_per_bit: float = 8.85 / 5
    accumulate_cycles: float = 2.0
    bus_bits: float = 38.6
    adder_um2: float = 87.24
    other_um2_per_row: float = 41.51
    chip_um2: float = 4.524e5
    wiring: float = 1.0871
    leakage_uw_per_mm2: float = 850 / 58.73
    tech_nm: float = 22.0
    adc: ADC = "flash"

    name = "neurosim22"

    @property
    def hardware(self) -> Hardware:
        """That of the runs, except for their mapping."""
        return Hardware()

    def energy_parts(self, hardware: Hardware, active_rows: Any) -> dict[str, Any]:
        """Picojoule of one conversion, by part."""
        tech = self._tech(hardware)
        cell = hardware.cell
        read = active_rows * ((self.read_v2s + self.read_mux_v2s * hardware.mux) / cell.on_ohm + cell.read_pj)
        other = (
            self.other_pj
            + self.other_pj_per_um2 * adc_area_um2(self._adc(hardware), hardware.adc_bits, 22, 1e9 / self.clock_ns)
            + self.other_pj_per_mux2 * np.asarray(hardware.mux, dtype=float) ** 2
        )
        return {
            "read": energy_scale(tech) * read,
            "adc": adc_energy_pj(self._adc(hardware), hardware.adc_bits, tech, 1e9 / self._clock_ns(hardware)),
            "accumulation": energy_scale(tech)
            * (self.accumulate_pj + self.accumulate_pj_per_bit * np.asarray(hardware.adc_bits, dtype=float)),
            "other": energy_scale(tech) * other,
        }

    def position_ns(self, hardware: Hardware) -> Any:
        """Nanoseconds of all input bits of one position on crossbars that hold the whole layer."""
        return hardware.input_bits * hardware.mux * self._clock_ns(hardware)

    def latency_parts(self, core_ns: Any) -> dict[str, Any]:
        """Nanoseconds by part, without the buffer."""
        return {"crossbars": core_ns, "accumulation": self.accumulate_cycles * core_ns}

    def buffer_ns(self, hardware: Hardware, bits: Any) -> Any:
        """Nanoseconds that the global buffer takes for so many bits."""
        return bits / self.bus_bits * self.clock_ns * clock_scale(self._tech(hardware))

    def area_parts(self, hardware: Hardware, allocation: Allocation) -> dict[str, Any]:
        """Square millimetres by part."""
        tech, side = self._tech(hardware), np.asarray(hardware.xbar, dtype=float)
        crossbars = 1e-6 * sum(allocation.crossbars)
        scale, adcs = area_scale(tech), side / hardware.mux
        parts = {
            "cells": crossbars * side**2 * hardware.cell.cell_f2 * (np.asarray(tech) * 1e-3) ** 2,
            "adc": crossbars
            * adcs
            * adc_area_um2(self._adc(hardware), hardware.adc_bits, tech, 1e9 / self._clock_ns(hardware)),
            "accumulation": crossbars * adcs * self.adder_um2 * scale,
            "other": (crossbars * self.other_um2_per_row * side + 1e-6 * self.chip_um2) * scale,
        }
        return {**parts, "interconnect": (self.wiring - 1) * sum(parts.values())}

    def allocate(self, layers: Sequence[LayerShape], placements: Sequence[Placement], hardware: Hardware) -> Allocation:
        """Crossbars in whole tiles."""
        return allocate(layers, placements, hardware)

    def _adc(self, hardware: Hardware) -> ADC:
        return hardware.adc or self.adc

    def _tech(self, hardware: Hardware) -> Any:
        return self.tech_nm if hardware.tech_nm is None else hardware.tech_nm

    def _clock_ns(self, hardware: Hardware) -> Any:
        flash = self._adc(hardware) != "sar"
        cycle = self.clock_ns if flash else self.sar_ns_per_bit * np.asarray(hardware.adc_bits, dtype=float)
        return cycle * clock_scale(self._tech(hardware))
