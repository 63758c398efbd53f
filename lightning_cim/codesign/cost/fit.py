"""The constants of ``neurosim22`` from the reference rows that are marked as fitted, by least squares.

``python -m lightning_cim.codesign.cost --fit`` prints them; the preset holds them rounded, and a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lightning_cim.codesign.cost.layers import Array
from lightning_cim.codesign.cost.mapping import allocate, place
from lightning_cim.codesign.cost.reference import reference, setup

CELL_UM2 = 48 * 0.022**2
"""Area of NeuroSim's 1T1R cell at 22 nm."""


def fit() -> dict[str, float]:
    """Constants by name: fields of ``NeuroSim22``, and the ADC's as ``flash_pj_0`` and the like."""
    areas = _areas()
    return {**areas, **_energies(lambda bits: areas["flash_um2_0"] * math.exp(areas["flash_um2_1"] * bits))}


def _rows(quantity: str, adc: str = "flash", node: int = 22) -> list[dict[str, Any]]:
    rows = [row for row in reference()["rows"] if quantity in row.get("fitted", ())]
    return [row for row in rows if row["set"].get("adc", "flash") == adc and row["set"].get("tech", 22) == node]


def _counts(row: dict[str, Any]) -> dict[str, float]:
    """Conversions, active rows over all of them, and the choices of a run."""
    layers, hardware = setup(row)
    placements = [place(layer, hardware) for layer in layers]
    conversions = sum(float(at.conversions) for at in placements)
    return {
        "conversions": conversions,
        "rows": sum(float(at.conversions * at.active_rows) for at in placements),
        "ohm": float(hardware.cell.on_ohm),
        "mux": float(hardware.mux),
        "bits": float(hardware.adc_bits),
        "side": float(hardware.xbar),
        "crossbars": float(sum(allocate(layers, placements, hardware).crossbars)),
    }


def _solve(rows: list[dict[str, Any]], quantity: str, terms: Callable[[dict[str, float]], Sequence[float]]) -> Array:
    """Least squares of relative errors."""
    printed = np.array([row["printed"][quantity] for row in rows])
    matrix = np.array([terms(_counts(row)) for row in rows]) / printed[:, None]
    return np.asarray(np.linalg.lstsq(matrix, np.ones(len(rows)), rcond=None)[0])


def _areas() -> dict[str, float]:
    bits, um2 = (np.array(list(part), dtype=float) for part in zip(*reference()["adc_um2"].items(), strict=True))
    slope, start = np.polyfit(bits, np.log(um2), 1)
    adder = float(np.mean([area / adcs for adcs, area in reference()["accumulation_um2"].items()]))

    def known(at: dict[str, float], adc_um2: float) -> float:
        """mm2 of cells, converters and adders."""
        return at["crossbars"] * 1e-6 * (at["side"] ** 2 * CELL_UM2 + at["side"] / at["mux"] * (adc_um2 + adder))

    wiring, per_row, chip = _solve(
        _rows("area_mm2"),
        "area_mm2",
        lambda at: (known(at, math.exp(start + slope * at["bits"])), at["crossbars"] * at["side"] * 1e-6, 1e-6),
    )
    sar = []
    for row in _rows("area_mm2", adc="sar"):
        at = _counts(row)
        rest = wiring * known(at, 0.0) + per_row * at["crossbars"] * at["side"] * 1e-6 + chip * 1e-6
        sar.append((at["bits"], (row["printed"]["area_mm2"] - rest) / wiring / (known(at, 1.0) - known(at, 0.0))))
    sar_slope, sar_start = np.polyfit([bits for bits, _ in sar], [um2 for _, um2 in sar], 1)
    return {
        "flash_um2_0": float(np.exp(start)),
        "flash_um2_1": float(slope),
        "sar_um2_0": float(sar_start),
        "sar_um2_1": float(sar_slope),
        "adder_um2": adder,
        "wiring": float(wiring),
        "other_um2_per_row": float(per_row / wiring),
        "chip_um2": float(chip / wiring),
    }


def _energies(adc_um2: Callable[[float], float]) -> dict[str, float]:
    """Energies in nJ, hence the factors of 1000; `adc_um2` is the area of a flash ADC by bits."""
    flash = _solve(
        _rows("adc_read_nj"),
        "adc_read_nj",
        lambda at: (
            at["conversions"] * 1e-3,
            at["conversions"] * 2 ** at["bits"] * 1e-3,
            at["rows"] / at["ohm"] * 1e-3,
            at["rows"] * at["mux"] / at["ohm"] * 1e-3,
        ),
    )
    accumulation = _solve(
        _rows("accumulation_nj"),
        "accumulation_nj",
        lambda at: (at["conversions"] * 1e-3, at["conversions"] * at["bits"] * 1e-3),
    )
    other = _solve(
        _rows("other_nj"),
        "other_nj",
        lambda at: tuple(at["conversions"] * 1e-3 * factor for factor in (1, adc_um2(at["bits"]), at["mux"] ** 2)),
    )
    sar = []
    for row in _rows("adc_read_nj", adc="sar"):
        at = _counts(row)
        read = at["rows"] / at["ohm"] * (flash[2] + flash[3] * at["mux"])
        sar.append((row["printed"]["adc_read_nj"] * 1e3 - read) / at["conversions"] / at["bits"])
    (sram,) = (row for row in _rows("energy_nj") if row["set"].get("device") == "sram")
    at = _counts(sram)
    each = (
        flash[0]
        + flash[1] * 2 ** at["bits"]
        + accumulation[0]
        + accumulation[1] * at["bits"]
        + float(other @ np.array([1, adc_um2(at["bits"]), at["mux"] ** 2]))
    )
    return {
        "flash_pj_0": float(flash[0]),
        "flash_pj_1": float(flash[1]),
        "read_v2s": float(flash[2]),
        "read_mux_v2s": float(flash[3]),
        "accumulate_pj": float(accumulation[0]),
        "accumulate_pj_per_bit": float(accumulation[1]),
        "other_pj": float(other[0]),
        "other_pj_per_um2": float(other[1]),
        "other_pj_per_mux2": float(other[2]),
        "sar_pj_per_bit": float(np.mean(sar)),
        "sram_read_pj": float((sram["printed"]["energy_nj"] * 1e3 - each * at["conversions"]) / at["rows"]),
    }
