"""Cost of a 1-D CNN on a sparse mixed-bit accelerator: operations, memory, cycles, energy, power, CiM cells.

The array has 2 input channels x 16 output channels x 16 output positions = 512 processing elements and skips pruned
weights; multipliers take 8, 4, 2 or 1 bit. It is a counting model: it orders networks, it does not predict a chip. In
`aspdac2025()` even the leakage is calibrated, not predicted: it is what makes one reference workload draw the published
10.60 uW (arXiv 2410.17395, abstract), so average powers of other networks are relative to that point only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, log2

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

BITS = (8, 4, 2, 1)


@dataclass(frozen=True)
class Accelerator:
    """Constants of the array, each editable with `dataclasses.replace`.

    Attributes:
        input_parallel: input channels at a time.
        output_parallel: output channels at a time.
        position_parallel: output positions at a time.
        clock_hz: hertz. An assumption: no source gives the clock; this one makes 512 elements at half density reach the
            published 150 GOPS, counting skipped zeros.
        window_s: seconds between inferences; 512 samples at 250 Hz.
        area_mm2: square millimetres; the published 10.60 uW over 0.57 uW/mm2.
        mac_pj: picojoule of one 8 x 8-bit multiply-accumulate, scaled by both bit widths. A round number for 45 nm.
        weight_pj_per_bit: picojoule to read one bit of weight or index memory. A round number for small SRAM.
        activation_pj_per_bit: picojoule to read one bit of activation memory. A round number for small SRAM.
        leakage_uw: microwatt drawn all the time.
        activation_bits: bits of every layer's input.
        cell_bits: bits one non-volatile cell holds, for the CiM cell count.
        note: printed under the table.
    """

    input_parallel: int = 2
    output_parallel: int = 16
    position_parallel: int = 16
    clock_hz: float = 150e9 / (2 * 512 * 2)
    window_s: float = 512 / 250
    area_mm2: float = 10.60 / 0.57
    mac_pj: float = 0.25
    weight_pj_per_bit: float = 0.15
    activation_pj_per_bit: float = 0.15
    leakage_uw: float = 0.0
    activation_bits: int = 8
    cell_bits: int = 4
    note: str = "power holds no leakage: set leakage_uw or use aspdac2025()"

    def __post_init__(self) -> None:
        """Refuse constants that no array can have."""
        for name, value in asdict(self).items():
            if isinstance(value, str):
                continue
            may_be_zero = name.endswith(("_pj", "_per_bit", "leakage_uw"))
            if value < 0 or (value == 0 and not may_be_zero):
                raise ValueError(f"{name} must be {'at least 0' if may_be_zero else 'positive'}, got {value}")

    def power_uw(self, energy_uj: float) -> float:
        """Average power in microwatt when every window costs `energy_uj` microjoule."""
        return energy_uj / self.window_s + self.leakage_uw


REFERENCE_MOP = 5.25
"""Operations of one published inference, in millions: 0.035 ms (talk slides) times 150 GOPS (abstract)."""
REFERENCE_POWER_UW = 10.60
"""Published power in microwatt (abstract), read as the average over windows; no source says over what it was taken."""


def reference_energy_uj(accelerator: Accelerator) -> float:
    """Microjoule of the reference workload: 5.25 MOP dense, half of the weights pruned, 8 bits, arithmetic only."""
    effective_mac = REFERENCE_MOP * 1e6 / 2 * 0.5
    return effective_mac * accelerator.mac_pj * 1e-6


def aspdac2025(**constants: float) -> Accelerator:
    """The array with its leakage calibrated to the published 10.60 uW.

    `leakage_uw` is set so that the reference workload (`reference_energy_uj`) draws exactly 10.60 uW on average. It
    therefore stands for leakage, memory and clock together, and no power computed with it is a prediction.

    Args:
        **constants: fields of `Accelerator` to set before the calibration.

    Example:
        >>> chip = aspdac2025()
        >>> round(chip.power_uw(reference_energy_uj(chip)), 2), round(chip.leakage_uw, 2)
        (10.6, 10.44)
    """
    if "leakage_uw" in constants:
        raise ValueError("aspdac2025 calibrates leakage_uw itself: to set it, use Accelerator(leakage_uw=...)")
    base = replace(Accelerator(), **constants)  # type: ignore[arg-type]
    leakage = REFERENCE_POWER_UW - reference_energy_uj(base) / base.window_s
    note = "leakage calibrated so that 5.25 MOP at half density draw 10.60 uW: power is relative, not predicted"
    return replace(base, leakage_uw=leakage, note=note)


@dataclass(frozen=True)
class LayerShape:
    """One Conv1d or Linear layer as traced.

    Attributes:
        name: in `model.named_modules()`.
        c_in: input channels or features.
        c_out: output channels or features.
        kernel: taps, 1 for Linear.
        positions: output positions of one window, before any pooling.
        inputs: input elements of one window.
    """

    name: str
    c_in: int
    c_out: int
    kernel: int
    positions: int
    inputs: int

    @property
    def weights(self) -> int:
        """Number of weights, zeros included."""
        return self.c_in * self.c_out * self.kernel

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of one window."""
        return self.weights * self.positions


def trace(model: nn.Module, input_shape: Sequence[int]) -> list[LayerShape]:
    """Shapes of all Conv1d and Linear layers, in the order they run, from one dummy window of zeros.

    The model's training mode, parameters and buffers are left as they were.

    Args:
        model: any module of Conv1d, Linear and weightless or normalisation layers.
        input_shape: shape of one window without the batch, e.g. `(1, 512)`.

    Raises:
        ValueError: if the model has a weight layer of another kind, a grouped convolution, a layer that runs twice, or
            no layer at all.
    """
    for name, module in model.named_modules():
        matrices = [p for p in module.parameters(recurse=False) if p.ndim >= 2]
        if matrices and not isinstance(module, nn.Conv1d | nn.Linear):
            raise ValueError(f"layer {name!r} ({type(module).__name__}) has no cost model: only Conv1d and Linear have")
        if isinstance(module, nn.Conv1d) and module.groups != 1:
            raise ValueError(f"layer {name!r} has groups={module.groups}: the array needs groups=1")
    shapes: list[LayerShape] = []

    def record(name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
        if any(shape.name == name for shape in shapes):
            raise ValueError(f"layer {name!r} runs more than once in a window: give each use its own layer")
        if isinstance(module, nn.Conv1d):
            c_in, c_out, kernel = module.in_channels, module.out_channels, module.kernel_size[0]
        else:
            c_out, c_in = module.weight.shape  # type: ignore[misc]
            kernel = 1
        shapes.append(LayerShape(name, int(c_in), int(c_out), kernel, y.numel() // int(c_out), x.numel()))

    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            handles.append(module.register_forward_hook(lambda m, args, y, name=name: record(name, m, args[0], y)))
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters(), torch.empty(0))
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    if not shapes:
        raise ValueError("the model ran no Conv1d or Linear layer: there is nothing to count")
    return shapes


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one window; the total row has the sums.

    Attributes:
        name: of the layer.
        bits: of a weight; 0 in the total row.
        density: share of weights kept.
        macs: dense multiply-accumulates.
        effective_macs: those with a kept weight.
        ops: dense operations, two per MAC.
        weight_bits: memory of the kept weights (no biases, no normalisation).
        index_bits: memory of the positions of kept weights.
        cycles: of the array.
        latency_us: microseconds.
        gops: dense operations per second, in 1e9; skipped zeros count.
        effective_gops: performed operations per second, in 1e9.
        energy_uj: microjoule: arithmetic, weight and index memory, activation memory.
        cells: differential non-volatile cells when pruned weights have none.
        cells_dense: the same when every weight, zeros too, has a pair.
    """

    name: str
    bits: int
    density: float
    macs: int
    effective_macs: int
    ops: int
    weight_bits: int
    index_bits: int
    cycles: int
    latency_us: float
    gops: float
    effective_gops: float
    energy_uj: float
    cells: int
    cells_dense: int


@dataclass(frozen=True)
class HardwareReport:
    """Cost of a network, layer by layer; see `hardware_report`.

    Attributes:
        layers: one entry a layer, in the order they run.
        accelerator: the constants used.
    """

    layers: tuple[LayerCost, ...]
    accelerator: Accelerator

    @property
    def total(self) -> LayerCost:
        """The whole network as one row; its density is effective over dense MACs."""
        rows, clock = self.layers, self.accelerator.clock_hz
        macs, effective = sum(row.macs for row in rows), sum(row.effective_macs for row in rows)
        cycles = sum(row.cycles for row in rows)
        return LayerCost(
            name="total",
            bits=0,
            density=effective / macs,
            macs=macs,
            effective_macs=effective,
            ops=2 * macs,
            weight_bits=sum(row.weight_bits for row in rows),
            index_bits=sum(row.index_bits for row in rows),
            cycles=cycles,
            latency_us=cycles / clock * 1e6,
            gops=2 * macs * clock / cycles / 1e9,
            effective_gops=2 * effective * clock / cycles / 1e9,
            energy_uj=sum(row.energy_uj for row in rows),
            cells=sum(row.cells for row in rows),
            cells_dense=sum(row.cells_dense for row in rows),
        )

    @property
    def power_uw(self) -> float:
        """Average power in microwatt at one inference a window; calibrated, see the module's docstring."""
        return self.accelerator.power_uw(self.total.energy_uj)

    @property
    def power_density_uw_per_mm2(self) -> float:
        """Average power over the area, microwatt per square millimetre."""
        return self.power_uw / self.accelerator.area_mm2

    def rows(self) -> list[dict[str, str | int | float]]:
        """One dictionary a layer and one for the total, ready for json or csv."""
        return [asdict(row) for row in (*self.layers, self.total)]

    def table(self) -> str:
        """The rows as aligned text, then power and the note on its calibration."""
        head = ("layer", "bits", "dens.", "MAC", "eff. MAC", "MOP", "w bits", "idx bits", "cycles", "us", "GOPS", "nJ",
                "cells", "cells dense")  # fmt: skip
        lines = [head]
        for r in (*self.layers, self.total):
            lines.append(
                (r.name, str(r.bits or ""), f"{r.density:.3f}", f"{r.macs:,}", f"{r.effective_macs:,}",
                 f"{r.ops / 1e6:.3f}", f"{r.weight_bits:,}", f"{r.index_bits:,}", f"{r.cycles:,}",
                 f"{r.latency_us:.2f}", f"{r.gops:.1f}", f"{r.energy_uj * 1e3:.2f}", f"{r.cells:,}",
                 f"{r.cells_dense:,}")
            )  # fmt: skip
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        a = self.accelerator
        text.append(
            f"clock {a.clock_hz / 1e6:.3f} MHz (assumed), one window each {a.window_s:.3f} s, GOPS dense-equivalent"
        )
        text.append(f"average power {self.power_uw:.2f} uW, {self.power_density_uw_per_mm2:.3f} uW/mm2; {a.note}")
        return "\n".join(text)


def hardware_report(
    model: nn.Module,
    input_shape: Sequence[int],
    bits: Mapping[str, int] | None = None,
    density: Mapping[str, float] | None = None,
    pattern: Mapping[str, tuple[int, int]] | None = None,
    accelerator: Accelerator | None = None,
) -> HardwareReport:
    """Count what one window costs.

    Per layer: cycles = ceil(C_out/16) ceil(C_in/2) ceil(positions/16) K density, rounded up; energy = effective MACs x
    mac_pj x weight bits/8 x activation bits/8 + (weight + index bits) read once + input bits read once.

    Args:
        model: see `trace`.
        input_shape: of one window without the batch, e.g. `(1, 512)`.
        bits: weight bits of each layer, 8, 4, 2 or 1; a layer not named has 8.
        density: share of weights kept in each layer, in (0, 1]; a layer not named is dense.
        pattern: `(n, m)` of each layer pruned n:m, whose kept weights need ceil(log2 m) index bits each; a layer that
            is pruned but has no pattern stores each position in its row of C_in K weights.
        accelerator: constants; default `aspdac2025()`.

    Raises:
        ValueError: for unknown layers or values out of range, or if `trace` refuses the model.
    """
    chip = accelerator or aspdac2025()
    shapes = trace(model, input_shape)
    bits, density, pattern = dict(bits or {}), dict(density or {}), dict(pattern or {})
    known = [shape.name for shape in shapes]
    for argument, given in (("bits", bits), ("density", density), ("pattern", pattern)):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"{argument} names layers {unknown} that the model does not have: its layers are {known}")
    rows = (_cost(s, bits.get(s.name, 8), density.get(s.name, 1.0), pattern.get(s.name), chip) for s in shapes)
    return HardwareReport(tuple(rows), chip)


def _cost(
    shape: LayerShape, bits: int, density: float, pattern: tuple[int, int] | None, chip: Accelerator
) -> LayerCost:
    if bits not in BITS:
        raise ValueError(f"layer {shape.name!r}: weight bits must be one of {BITS}, got {bits}")
    if not 0 < density <= 1:
        raise ValueError(f"layer {shape.name!r}: density must be in (0, 1], got {density}")
    if pattern is not None and not 1 <= pattern[0] <= pattern[1]:
        raise ValueError(f"layer {shape.name!r}: pattern (n, m) needs 1 <= n <= m, got {pattern}")
    kept = round(density * shape.weights)
    if kept == 0:
        raise ValueError(f"layer {shape.name!r}: density {density} keeps none of its {shape.weights} weights")
    group = pattern[1] if pattern else shape.c_in * shape.kernel
    index_bits = kept * ceil(log2(group)) if density < 1 else 0
    effective = kept * shape.positions
    tiles = (
        ceil(shape.c_out / chip.output_parallel)
        * ceil(shape.c_in / chip.input_parallel)
        * ceil(shape.positions / chip.position_parallel)
    )
    # The kept count is a whole number: without it 0.1 * 30 would round up to 4 cycles.
    cycles = ceil(tiles * shape.kernel * kept / shape.weights)
    weight_bits = kept * bits
    energy_pj = (
        effective * chip.mac_pj * (bits / 8) * (chip.activation_bits / 8)
        + (weight_bits + index_bits) * chip.weight_pj_per_bit
        + shape.inputs * chip.activation_bits * chip.activation_pj_per_bit
    )
    # Sign by the pair of cells, so b bits need b - 1 of magnitude; a 1-bit weight still needs its pair.
    pair = 2 * max(1, ceil((bits - 1) / chip.cell_bits))
    return LayerCost(
        name=shape.name,
        bits=bits,
        density=kept / shape.weights,
        macs=shape.macs,
        effective_macs=effective,
        ops=2 * shape.macs,
        weight_bits=weight_bits,
        index_bits=index_bits,
        cycles=cycles,
        latency_us=cycles / chip.clock_hz * 1e6,
        gops=2 * shape.macs * chip.clock_hz / cycles / 1e9,
        effective_gops=2 * effective * chip.clock_hz / cycles / 1e9,
        energy_uj=energy_pj * 1e-6,
        cells=pair * kept,
        cells_dense=pair * shape.weights,
    )
