"""Energy, latency and area of layers on hardware: of one design in detail, of many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from lightning_cim.codesign.cost.hardware import Hardware, hardware_of
from lightning_cim.codesign.cost.isaac32 import Isaac32
from lightning_cim.codesign.cost.layers import Array, LayerShape, Template, network_of
from lightning_cim.codesign.cost.mapping import Allocation, Placement, place
from lightning_cim.codesign.cost.neurosim22 import NeuroSim22
from lightning_cim.codesign.space import Space


class CostModel(Protocol):
    """Constants of one accelerator and what they cost. All methods broadcast."""

    @property
    def name(self) -> str:
        """Of the preset."""

    @property
    def hardware(self) -> Hardware:
        """Choices and conventions where none are given."""

    @property
    def leakage_uw_per_mm2(self) -> float:
        """Microwatt per square millimetre that are not among the energies."""

    def energy_parts(self, hardware: Hardware, active_rows: Any) -> dict[str, Any]:
        """Picojoule of one conversion, by part."""

    def position_ns(self, hardware: Hardware) -> Any:
        """Nanoseconds of all input bits of one position."""

    def latency_parts(self, core_ns: Any) -> dict[str, Any]:
        """Nanoseconds by part, from those of the crossbars; without the buffer."""

    def buffer_ns(self, hardware: Hardware, bits: Any) -> Any:
        """Nanoseconds that the global buffer takes for so many bits."""

    def area_parts(self, hardware: Hardware, allocation: Allocation) -> dict[str, Any]:
        """Square millimetres by part."""

    def allocate(self, layers: Sequence[LayerShape], placements: Sequence[Placement], hardware: Hardware) -> Allocation:
        """Crossbars that the layers get."""


MODELS: dict[str, CostModel] = {"neurosim22": NeuroSim22(), "isaac32": Isaac32()}
"""Presets by name."""


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one sample.

    Attributes:
        name: Of the layer.
        macs: Multiply-accumulates.
        crossbars: That it needs, one copy.
        utilisation: Share of their cells that hold weights.
        duplicates: Copies that share its positions.
        conversions: Of columns.
        bit_density: Share of ones among its inputs' bits.
        active_rows: Mean rows of a conversion whose input bit is 1.
        energy_pj: Picojoule, dynamic.
        core_ns: Nanoseconds on its crossbars.
    """

    name: str
    macs: int
    crossbars: int
    utilisation: float
    duplicates: float
    conversions: int
    bit_density: float
    active_rows: float
    energy_pj: float
    core_ns: float


@dataclass(frozen=True)
class Cost:
    """Cost of a network for one sample, layer by layer in time.

    Attributes:
        energy_pj: Picojoule, dynamic.
        latency_ns: Nanoseconds of crossbars and accumulation. The buffer is apart: with it, a ranking of designs would
            be a ranking of buffers.
        area_mm2: Square millimetres; NaN where the preset has no area of the memory cell.
        leakage_uw: Microwatt drawn all the time, not in `energy_pj`.
        buffer_ns: Nanoseconds of the global buffer.
        crossbars: That the network gets, unused ones of its tiles included.
        energy_parts: Picojoule by part; read, adc, accumulation, other.
        latency_parts: Nanoseconds by part.
        area_parts: Square millimetres by part.
        layers: Of each layer.
        preset: Name of the cost model.
    """

    energy_pj: float
    latency_ns: float
    area_mm2: float
    leakage_uw: float
    buffer_ns: float
    crossbars: int
    energy_parts: dict[str, float]
    latency_parts: dict[str, float]
    area_parts: dict[str, float]
    layers: tuple[LayerCost, ...]
    preset: str

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the positions that are computed."""
        return sum(layer.macs for layer in self.layers)

    @property
    def tops_per_w(self) -> float:
        """Operations, two a multiply-accumulate, per dynamic energy: 1e12 a joule."""
        return 2 * self.macs / self.energy_pj

    @property
    def fps(self) -> float:
        """Samples a second, one after the other, without the buffer."""
        return 1e9 / self.latency_ns


class Costs(NamedTuple):
    """Costs of many designs, one entry each; as those of :class:`Cost`."""

    energy_pj: Array
    latency_ns: Array
    area_mm2: Array
    leakage_uw: Array
    buffer_ns: Array


class _Sums(NamedTuple):
    """Everything about a network, before it is cast to floats or left as arrays."""

    placements: list[Placement]
    allocation: Allocation
    layer_energy: list[Any]
    layer_core: list[Any]
    energy: dict[str, Any]
    latency: dict[str, Any]
    area: dict[str, Any]
    buffer: Any


def estimate(
    layers: Sequence[LayerShape], hardware: Hardware | None = None, preset: str | CostModel = "neurosim22"
) -> Cost:
    """Cost of layers for one sample.

    Args:
        layers: Shapes.
        hardware: That of the preset if None.
        preset: ``"neurosim22"``, ``"isaac32"``, or constants of one's own.

    Raises:
        ValueError: No layers, no such preset, or hardware outside what it knows.

    Example:
        >>> cost = estimate([LayerShape("conv", 64, 128, taps=9, positions=196)])
        >>> cost.crossbars, round(cost.latency_parts["crossbars"])
        (64, 12795)
    """
    model = model_of(preset)
    if not layers:
        raise ValueError("there are no layers to cost")
    hardware = hardware or model.hardware
    sums = _sums(layers, hardware, model)
    rows = tuple(
        LayerCost(
            name=layer.name,
            macs=int(layer.macs),
            crossbars=int(at.crossbars),
            utilisation=float(at.utilisation),
            duplicates=float(copies),
            conversions=int(at.conversions),
            bit_density=layer.bit_density,
            active_rows=float(at.active_rows),
            energy_pj=float(energy),
            core_ns=float(core),
        )
        for layer, at, copies, energy, core in zip(
            layers, sums.placements, sums.allocation.duplicates, sums.layer_energy, sums.layer_core, strict=True
        )
    )
    energy, latency, area = (
        {k: float(v) for k, v in parts.items()} for parts in (sums.energy, sums.latency, sums.area)
    )
    return Cost(
        energy_pj=sum(energy.values()),
        latency_ns=sum(latency.values()),
        area_mm2=sum(area.values()),
        leakage_uw=model.leakage_uw_per_mm2 * sum(area.values()),
        buffer_ns=float(sums.buffer),
        crossbars=int(sum(sums.allocation.crossbars)),
        energy_parts=energy,
        latency_parts=latency,
        area_parts=area,
        layers=rows,
        preset=model.name,
    )


def design_cost(
    design: Mapping[str, Any],
    network: str | Template = "tab",
    preset: str | CostModel = "neurosim22",
    **conventions: Any,
) -> Cost:
    """Cost of a design of a preset space.

    Args:
        design: See :func:`~lightning_cim.codesign.cost.layers.network_of` and
            :func:`~lightning_cim.codesign.cost.hardware.hardware_of`.
        network: Name of the space, or a template of one's own.
        preset: As of :func:`estimate`.
        conventions: Fields of :class:`~lightning_cim.codesign.cost.hardware.Hardware` that the design does not choose.

    Raises:
        ValueError: As these.
    """
    return estimate(network_of(design, network), hardware_of(design, **conventions), preset)


def cost_of(
    space: Space,
    codes: Array | None = None,
    network: str | Template | None = None,
    preset: str | CostModel = "neurosim22",
    **conventions: Any,
) -> Costs:
    """Costs of many designs of a space at once, equal to :func:`design_cost` of each.

    Args:
        space: A preset, or one with the same slots.
        codes: ``[designs, slots]``; None: all designs of the space, in the order of its ``designs()``.
        network: Name of the preset whose network it is; None: the name of the space.
        preset: As of :func:`estimate`.
        conventions: Fields of :class:`~lightning_cim.codesign.cost.hardware.Hardware` that the space does not choose.

    Raises:
        ValueError: As :func:`design_cost`, or codes of another shape.

    Example:
        >>> space = Space.preset("digits")
        >>> cost_of(space).energy_pj.shape, cost_of(space, np.zeros((2, 10), dtype=int)).area_mm2.shape
        ((98415,), (2,))
    """
    values = [np.asarray(slot.values) for slot in space.slots]
    if codes is None:
        columns = list(np.meshgrid(*values, indexing="ij", sparse=True))
        shape: tuple[int, ...] = tuple(len(found) for found in values)
    else:
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != len(values):
            raise ValueError(f"codes have shape [designs, {len(values)}] for {space.name!r}, got {list(codes.shape)}")
        columns = [found[column] for found, column in zip(values, codes.T, strict=True)]
        shape = (len(codes),)
    design = dict(zip(space.names, columns, strict=True))
    model = model_of(preset)
    sums = _sums(network_of(design, network or space.name), hardware_of(design, **conventions), model)
    energy, latency, area = (sum(parts.values()) for parts in (sums.energy, sums.latency, sums.area))
    found = (energy, latency, area, model.leakage_uw_per_mm2 * area, sums.buffer)
    return Costs(*(np.broadcast_to(np.asarray(column, dtype=float), shape).reshape(-1) for column in found))


def model_of(preset: str | CostModel) -> CostModel:
    """The constants of a preset, or those given.

    Raises:
        ValueError: No such preset.
    """
    if not isinstance(preset, str):
        return preset
    if preset not in MODELS:
        raise ValueError(f"there is no cost preset {preset!r}: presets are {', '.join(MODELS)}")
    return MODELS[preset]


def _sums(layers: Sequence[LayerShape], hardware: Hardware, model: CostModel) -> _Sums:
    placements = [place(layer, hardware) for layer in layers]
    allocation = model.allocate(layers, placements, hardware)
    energy: dict[str, Any] = {}
    layer_energy, layer_core = [], []
    bits: Any = 0
    for layer, at, copies in zip(layers, placements, allocation.duplicates, strict=True):
        parts = {part: at.conversions * each for part, each in model.energy_parts(hardware, at.active_rows).items()}
        energy = {part: energy.get(part, 0.0) + value for part, value in parts.items()}
        layer_energy.append(sum(parts.values()))
        layer_core.append(layer.positions / copies * model.position_ns(hardware))
        # Every position reads the inputs under its kernel and writes its outputs.
        bits = bits + layer.positions * hardware.input_bits * (layer.taps * layer.c_in + layer.c_out)
    return _Sums(
        placements=placements,
        allocation=allocation,
        layer_energy=layer_energy,
        layer_core=layer_core,
        energy=energy,
        latency=model.latency_parts(sum(layer_core)),
        area=model.area_parts(hardware, allocation),
        buffer=model.buffer_ns(hardware, bits),
    )
