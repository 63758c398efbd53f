"""What a module would cost on crossbars: its layers' shapes and their inputs' bits, seen by hooks in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_cim._plotting import figure_and_axes
from lightning_cim._tables import aligned
from lightning_cim._undisturbed import evaluating
from lightning_cim.codesign.cost.estimate import Cost, CostModel, estimate, model_of
from lightning_cim.codesign.cost.hardware import Hardware, cell_of
from lightning_cim.codesign.cost.layers import LayerShape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LOOKUP = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class HardwareCost:
    """Cost of one sample, see :func:`hardware_cost`.

    Attributes:
        cost: All numbers.
        hardware: That was assumed.
        shapes: Of the layers, with the bit densities measured.
        uncovered: Layers with weights that are not in the numbers: they did not run, or have no cost model.
    """

    cost: Cost
    hardware: Hardware
    shapes: tuple[LayerShape, ...]
    uncovered: tuple[str, ...]

    @property
    def energy_pj(self) -> float:
        """Picojoule a sample, dynamic."""
        return self.cost.energy_pj

    @property
    def latency_ns(self) -> float:
        """Nanoseconds a sample, without the buffer."""
        return self.cost.latency_ns

    @property
    def area_mm2(self) -> float:
        """Square millimetres."""
        return self.cost.area_mm2

    def table(self) -> str:
        """A row a layer, the totals, and what the numbers are based on."""
        head = ["layer", "MACs", "crossbars", "copies", "used", "bits 1", "conversions", "nJ", "share", "us"]
        rows = [head]
        for layer in self.cost.layers:
            share = layer.energy_pj / self.cost.energy_pj if self.cost.energy_pj else 0.0
            rows.append(
                [
                    layer.name,
                    f"{layer.macs:,}",
                    f"{layer.crossbars:,}",
                    f"{layer.duplicates:g}",
                    f"{layer.utilisation:.1%}",
                    f"{layer.bit_density:.3f}",
                    f"{layer.conversions:,}",
                    f"{layer.energy_pj * 1e-3:.4g}",
                    f"{share:.1%}",
                    f"{layer.core_ns * 1e-3:.4g}",
                ]
            )
        cost, lines = self.cost, aligned(rows)
        parts = ", ".join(f"{part} {value / cost.energy_pj:.0%}" for part, value in cost.energy_parts.items())
        area = ", ".join(f"{part} {value / cost.area_mm2:.0%}" for part, value in cost.area_parts.items())
        lines += [
            "",
            f"energy   {cost.energy_pj * 1e-3:.4g} nJ ({parts}); {cost.tops_per_w:.4g} TOPS/W",
            f"latency  {cost.latency_ns * 1e-3:.4g} us layer by layer; buffer apart, {cost.buffer_ns * 1e-3:.4g} us",
            f"area     {cost.area_mm2:.4g} mm2 in {cost.crossbars:,} crossbars ({area})",
            f"leakage  {cost.leakage_uw:.4g} uW",
            f"{cost.preset}: a formula of few constants for comparing designs, not a circuit simulation",
        ]
        if math.isnan(cost.area_mm2):
            lines.append("nan: the preset knows no area of this memory cell")
        if self.uncovered:
            lines.append(f"NOT in these numbers (no cost model, or did not run): {', '.join(self.uncovered)}")
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Energy of each layer as bars.

        Args:
            ax: Draw here instead of on a new figure.
        """
        figure, axes = figure_and_axes(ax)
        names = [layer.name for layer in self.cost.layers]
        axes.barh(range(len(names)), [layer.energy_pj * 1e-3 for layer in self.cost.layers])
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xlabel="energy a sample, nJ", title=self.cost.preset)
        return figure, axes

    def __str__(self) -> str:
        return self.table()


def hardware_cost(
    model: nn.Module,
    input: Any,
    preset: str | CostModel = "neurosim22",
    hardware: Hardware | Mapping[str, Any] | None = None,
) -> HardwareCost:
    """Cost of a model on a compute-in-memory accelerator, layer by layer.

    The model runs once on the input, in eval mode; it comes back as it was. Convolutions, transposed convolutions and
    linear layers are counted, at every call; others with weights are named in the result.

    Args:
        model: Any module.
        input: A typical batch, as energy depends on the bits of the activations: a tensor whose first dimension counts
            samples, a tuple of arguments, or a dictionary of keyword arguments.
        preset: ``"neurosim22"``, ``"isaac32"``, or constants of one's own.
        hardware: Choices; a mapping changes the preset's own, by the names of design slots (``device``, ``xbar``,
            ``adc_bits``, ...) or fields of :class:`~lightning_cim.codesign.cost.hardware.Hardware`.

    Raises:
        ValueError: Nothing to count, an input without a tensor or with NaN, or hardware outside what the preset knows.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
        >>> cost = hardware_cost(model, torch.randn(4, 3, 8, 8), hardware={"adc_bits": 6})
        >>> [(layer.name, layer.macs, layer.crossbars) for layer in cost.cost.layers]
        [('0', 27648, 1), ('3', 10240, 8)]
    """
    constants = model_of(preset)
    chosen = _chosen(constants.hardware, hardware)
    leaves = [leaf for leaf in tree_leaves(input) if isinstance(leaf, Tensor)]
    if not leaves or leaves[0].ndim == 0 or leaves[0].shape[0] == 0:
        raise ValueError(
            "input holds no tensor whose first dimension counts samples: give a batch as the model takes it"
        )
    watch = _Watch(chosen.input_bits)
    with evaluating(model), torch.no_grad(), watch.on(model):
        if isinstance(input, Mapping):
            model(**input)
        else:
            model(*(input if isinstance(input, tuple | list) else (input,)))
    shapes = watch.shapes(samples=leaves[0].shape[0])
    uncovered = tuple(name or type(model).__name__ for name in _weighted(model) if name not in watch.calls)
    if not shapes:
        raise ValueError(
            f"{type(model).__name__} ran no convolution and no linear layer: there is nothing to count"
            + (f" (not covered: {', '.join(uncovered)})" if uncovered else "")
        )
    return HardwareCost(estimate(shapes, chosen, constants), chosen, tuple(shapes), uncovered)


def bit_density(x: Tensor, bits: int, largest: float | None = None) -> float:
    """Mean share of ones when values are fed bit by bit.

    Values with a negative one among them are two's complement, others unsigned.

    Args:
        x: Values.
        bits: Of each.
        largest: Magnitude of the largest code; None: the largest among the values.

    Returns:
        0 to 1; 0 for no values or zeros only.

    Raises:
        ValueError: NaN or infinity among the values.

    Example:
        >>> bit_density(torch.tensor([0.0, 1.0, 3.0]), bits=2), bit_density(torch.tensor([-1.0, 1.0]), bits=8)
        (0.5, 0.5625)
    """
    if x.numel() == 0:
        return 0.0
    values = x.detach().float()
    top = float(values.abs().max()) if largest is None else largest
    if not math.isfinite(top) or not bool(torch.isfinite(values).all()):
        raise ValueError("NaN or infinity among the values: their bits cannot be counted")
    if top == 0:
        return 0.0
    signed = bool((values < 0).any())
    levels = 2 ** (bits - signed) - 1
    codes = (values / top * levels).round().clamp(-levels - 1 if signed else 0, levels).to(torch.int64)
    ones = sum(int(((codes >> bit) & 1).sum()) for bit in range(bits))
    return float(ones / (bits * codes.numel()))


class _Call:
    """What a layer did in all its calls."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.positions = 0.0
        self.ones = 0.0
        self.inputs = 0


class _Watch:
    """Hooks on all layers that have a cost model."""

    def __init__(self, bits: int) -> None:
        self.calls: dict[str, _Call] = {}
        self._bits = bits
        self._names: dict[nn.Module, str] = {}

    def on(self, model: nn.Module) -> _Hooks:
        """A block in which the hooks are there."""
        self._names = {module: name for name, module in model.named_modules() if _is_covered(module)}
        return _Hooks(self)

    def record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> None:
        """Forward hook."""
        name = self._names[module]
        x = args[0] if args else kwargs["input"]
        call = self.calls.setdefault(name, _Call(module))
        moving, channels = (x, _channels(module)[0]) if isinstance(module, _TRANSPOSED) else (y, _channels(module)[1])
        call.positions += moving.numel() / channels
        try:
            call.ones += bit_density(x, self._bits) * x.numel()
        except ValueError as error:
            raise ValueError(f"the input of layer {name!r}: {error}") from error
        call.inputs += x.numel()

    def shapes(self, samples: int) -> list[LayerShape]:
        """In the order the layers ran first."""
        found = []
        for name, call in self.calls.items():
            if not call.inputs:
                continue
            c_in, c_out = _channels(call.module)
            kernel = math.prod(call.module.kernel_size) if not isinstance(call.module, nn.Linear) else 1  # type: ignore[arg-type]
            transposed = isinstance(call.module, _TRANSPOSED)
            positions = call.positions / samples
            found.append(
                LayerShape(
                    name=name or type(call.module).__name__,
                    c_in=c_in,
                    # A transposed convolution multiplies each input position with all taps of its kernel.
                    c_out=c_out * kernel if transposed else c_out,
                    taps=1 if transposed else kernel,
                    positions=int(positions) if positions.is_integer() else positions,
                    groups=int(getattr(call.module, "groups", 1)),
                    bit_density=call.ones / call.inputs,
                )
            )
        return found


class _Hooks:
    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        self._handles = [
            module.register_forward_hook(self._watch.record, with_kwargs=True) for module in self._watch._names
        ]

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


def _is_covered(module: nn.Module) -> bool:
    return isinstance(module, (*_CONV, *_TRANSPOSED, nn.Linear))


def _channels(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return int(module.in_channels), int(module.out_channels)  # type: ignore[arg-type]


def _weighted(model: nn.Module) -> list[str]:
    """Modules that hold a matrix of their own, except tables that are looked up."""
    return [
        name
        for name, module in model.named_modules()
        if not isinstance(module, _LOOKUP) and any(p.ndim >= 2 for p in module.parameters(recurse=False))
    ]


def _chosen(default: Hardware, given: Hardware | Mapping[str, Any] | None) -> Hardware:
    if isinstance(given, Hardware):
        return given
    words = dict(given or {})
    names = {field.name for field in fields(Hardware)}
    own = {key: words.pop(key) for key in list(words) if key in names}
    if unknown := sorted(set(words) - {"device", "tech"}):
        raise ValueError(f"hardware has no {', '.join(unknown)}: it has device, tech, {', '.join(sorted(names))}")
    if "device" in words:
        own["cell"] = cell_of(words["device"])
    if "tech" in words:
        own["tech_nm"] = words["tech"]
    return replace(default, **own)
