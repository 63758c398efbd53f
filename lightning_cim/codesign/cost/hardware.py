"""What a crossbar accelerator is built of, as a designer chooses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from lightning_cim.codesign.cost.adc import ADC
from lightning_cim.codesign.cost.layers import Array


@dataclass(frozen=True)
class MemoryCell:
    """A memory cell as the cost model sees it.

    Attributes:
        on_ohm: On-resistance in ohm; infinite for SRAM, which is read in another way.
        cell_f2: Area in squares of the node's feature size; NaN where no source gives it, and so is then the area of a
            chip.
        read_pj: Energy to read one active row of one column apart from the on-resistance, pJ at 22 nm.
    """

    on_ohm: float | Array
    cell_f2: float | Array = 48.0
    read_pj: float | Array = 0.0


CELLS = {
    "rram": MemoryCell(on_ohm=6e3),
    "rram-hrs": MemoryCell(on_ohm=100e3),
    "fefet": MemoryCell(on_ohm=240e3),
    "sram": MemoryCell(on_ohm=float("inf"), cell_f2=float("nan"), read_pj=0.002025),
}
"""Devices by name. 48 F2 is the area of NeuroSim's 1T1R cell, taken for the FeFET too. SRAM stores one bit a cell."""


@dataclass(frozen=True)
class Hardware:
    """Choices of a design and conventions of the report. The first six may be arrays that broadcast.

    Attributes:
        xbar: Rows and columns of a crossbar.
        adc_bits: Resolution of the ADCs.
        cell_bits: Bits stored in a cell.
        cell: The memory cell.
        mux: Columns that share an ADC.
        tech_nm: Technology node, nm; None: the preset's own.
        adc: Source of the ADC's numbers; None: the preset's own.
        weight_bits: Of a weight.
        input_bits: Of an input, one a cycle.
        mapping: ``"im2col"`` unrolls a kernel over rows; ``"kernel-split"`` gives each of its taps crossbars of its own
            (NeuroSim's novel mapping), except where a whole kernel fits into one crossbar.
        signed: ``"offset"`` stores weights shifted, ``"differential"`` in pairs of cells.
        parallel_rows: Rows read at once; None: all.
        duplication: Copies of each layer's crossbars, which share its positions; ``"fill"``: as many as fit into the
            tiles that the layer occupies anyway.

    Raises:
        ValueError: A value that no hardware can have.
    """

    xbar: int | Array = 128
    adc_bits: int | Array = 5
    cell_bits: int | Array = 2
    cell: MemoryCell = CELLS["rram"]
    mux: int | Array = 8
    tech_nm: float | Array | None = None
    adc: ADC | None = None
    weight_bits: int = 8
    input_bits: int = 8
    mapping: Literal["im2col", "kernel-split"] = "im2col"
    signed: Literal["offset", "differential"] = "offset"
    parallel_rows: int | None = None
    duplication: int | Literal["fill"] = "fill"

    def __post_init__(self) -> None:
        for name, low in (("xbar", 2), ("mux", 1), ("cell_bits", 1), ("weight_bits", 1), ("input_bits", 1)):
            if not np.all(np.asarray(getattr(self, name)) >= low):
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for name, words in (("mapping", ("im2col", "kernel-split")), ("signed", ("offset", "differential"))):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is one of {', '.join(words)}, got {getattr(self, name)!r}")
        if self.parallel_rows is not None and self.parallel_rows < 1:
            raise ValueError(f"parallel_rows must be at least 1, got {self.parallel_rows}")
        if not (self.duplication == "fill" or (isinstance(self.duplication, int) and self.duplication >= 1)):
            raise ValueError(f"duplication is 'fill' or at least 1, got {self.duplication!r}")
        if np.any(np.asarray(self.cell.read_pj) > 0) and np.any(np.asarray(self.cell_bits) > 1):
            raise ValueError(f"an SRAM cell stores one bit: set cell_bits=1, got {self.cell_bits}")


_SLOTS = {"xbar": "xbar", "adc_bits": "adc_bits", "cell_bits": "cell_bits", "mux": "mux", "tech": "tech_nm"}


def hardware_of(design: Mapping[str, Any], **conventions: Any) -> Hardware:
    """Hardware of a design with slots xbar, adc_bits, cell_bits, device, mux and tech; others are ignored.

    Args:
        design: Slots it lacks have the defaults of :class:`Hardware`. Values may be arrays that broadcast.
        conventions: Fields of :class:`Hardware`.

    Raises:
        ValueError: An unknown device or field, or values that no hardware can have.

    Example:
        >>> found = hardware_of({"adc_bits": 6, "device": "fefet"}, mapping="kernel-split")
        >>> found.adc_bits, found.cell.on_ohm, found.mapping
        (6, 240000.0, 'kernel-split')
    """
    known = {field.name for field in fields(Hardware)}
    if unknown := sorted(set(conventions) - known):
        raise ValueError(f"hardware has no {', '.join(unknown)}: it has {', '.join(sorted(known))}")
    chosen = {field: design[slot] for slot, field in _SLOTS.items() if slot in design}
    if "device" in design:
        chosen["cell"] = cell_of(design["device"])
    return Hardware(**{**chosen, **conventions})


def cell_of(device: str | Array) -> MemoryCell:
    """The memory cell of a device, or of an array of them.

    Raises:
        ValueError: An unknown device.
    """
    names = np.asarray(device)
    if unknown := sorted(set(names.ravel().tolist()) - set(CELLS)):
        raise ValueError(f"there is no device {unknown[0]!r}: known are {', '.join(CELLS)}")
    if names.ndim == 0:
        return CELLS[str(names)]
    kinds, place = np.unique(names, return_inverse=True)
    cells = [CELLS[str(kind)] for kind in kinds]
    place = place.reshape(names.shape)
    return MemoryCell(*(np.array([getattr(cell, field.name) for cell in cells])[place] for field in fields(MemoryCell)))
