"""Layers that compute on crossbars with their circuits: DAC, blocks of rows, wires, noise and ADC."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_cim.chip.circuit import Circuit
from lightning_cim.chip.converters import Converter, LayerConverters
from lightning_cim.chip.ir_drop import dropped_weight, largest_drop
from lightning_cim.chip.mapping import Mapping, Target
from lightning_cim.chip.output_noise import OutputNoise
from lightning_cim.chip.population import resolved
from lightning_cim.chip.quantise import FollowedRange
from lightning_cim.chip.tiles import mapped_layers, partial_sums, tileable_layers, tiles_of

MOST_DROP = 0.2
"""Largest share of a cell's current that first order is trusted for; its error is of the order of the square."""


class Crossbars:
    """The circuits around the layers of a model.

    Attributes:
        circuit: Their numbers.
        converters: Those of each layer by its path, with the ranges seen so far.
        noise: The source of the output noise.
        observing: Whether ranges follow the data that pass through now. The first data always set them.

    Args:
        circuit: The numbers.
    """

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.converters: dict[str, LayerConverters] = {}
        self.noise = OutputNoise(circuit.seed)
        self.observing = False
        self._forwards: list[CrossbarForward] = []
        self._hooks: list[RemovableHandle] = []

    @property
    def ranges(self) -> list[FollowedRange]:
        """All that follow the data, in the order of layers."""
        return [found for converters in self.converters.values() for found in converters.ranges]

    def attach(self, model: nn.Module, targets: list[Target]) -> None:
        """Put the circuits around the layers of the targets.

        Raises:
            ValueError: Layers that have circuits already or that none can be put around (named), ranges of other
                blocks of rows, or wires that take more than all of a cell's current.
        """
        if self.circuit.is_null:
            return
        if any(isinstance(layer.__dict__.get("forward"), CrossbarForward) for _, layer in mapped_layers(targets)):
            raise ValueError(f"{type(model).__name__} has circuits around its layers already; leave that block first")
        layers = tileable_layers(targets)
        for path, layer in layers:
            self._prepare(path, layer)
        self._forwards = [CrossbarForward(layer, path, self) for path, layer in layers]
        # In eval mode it computes with its layers' weights and does not call them, unless something has a hook.
        encoders = [module for module in model.modules() if isinstance(module, nn.TransformerEncoderLayer)]
        self._hooks = [encoder.register_forward_pre_hook(_layer_by_layer) for encoder in encoders]

    def detach(self) -> None:
        """Take the circuits away; harmless when there are none."""
        for forward in self._forwards:
            forward.unwrap()
        for hook in self._hooks:
            hook.remove()
        self._forwards, self._hooks = [], []

    def for_copy(self) -> Self:
        """The same circuits, with the same ranges, for a copy of the model."""
        twin = copy.copy(self)
        twin._forwards, twin._hooks, twin.observing = [], [], False
        twin.noise = OutputNoise(self.circuit.seed)
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Ranges of the converters by layer."""
        return {path: converters.state_dict() for path, converters in self.converters.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        for path, saved in state.items():
            self.converters[path] = LayerConverters(self.circuit, len(saved["adc"]))
            self.converters[path].load_state_dict(saved)

    def _prepare(self, path: str, layer: nn.Module) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        fresh = LayerConverters(self.circuit, len(tiles_of(layer, self.circuit.rows, weight.device)))
        known = self.converters.setdefault(path, fresh)
        if not known.adc:  # ranges were saved without an ADC
            known.adc = fresh.adc
        if len(known.adc) != len(fresh.adc):
            raise ValueError(
                f"the saved ranges of {_called(path)} are those of {len(known.adc)} blocks of rows, but with"
                f" rows={self.circuit.rows} the layer has {len(fresh.adc)}. Use the rows that they were saved with, or"
                " calibrate anew without them"
            )
        if self.circuit.wire_resistance:
            _check_drop(_called(path), largest_drop(weight, self.circuit, getattr(layer, "groups", 1)))


class CrossbarForward:
    """The forward of a layer on crossbars, set on the instance.

    Input -> DAC -> product with each block of rows, whose weights are those that the wires leave -> noise -> ADC ->
    sum -> bias. Half-precision products are read, added and given their bias in float32, and rounded once.

    Args:
        layer: A linear layer or convolution.
        path: Its name.
        crossbars: Whose converters and noise are used.
    """

    def __init__(self, layer: nn.Module, path: str, crossbars: Crossbars) -> None:
        self._layer, self._path, self._crossbars = layer, path, crossbars
        self._kept: tuple[Tensor, int, Tensor] | None = None
        self._plain: Any = layer.forward
        self._shadowed = layer.__dict__.get("forward")
        layer.__dict__["forward"] = self

    def __call__(self, input: Tensor) -> Tensor:
        """Compute the layer's output."""
        layer: Any = self._layer
        crossbars = self._crossbars
        circuit, converters = crossbars.circuit, crossbars.converters[self._path]
        again = torch._C._current_graph_task_id() != -1  # activation checkpointing computes once more, in backward
        observe = crossbars.observing and not again
        x = input if converters.dac is None else converters.dac(input, observe)
        weight = self._after_wires(layer.weight) if circuit.wire_resistance else layer.weight
        generator = None
        if circuit.output_noise:
            generator = crossbars.noise.generator(self._path, x.device, again)
        total: Tensor | None = None
        tiles = tiles_of(layer, circuit.rows, weight.device)
        for index, partial in enumerate(partial_sums(layer, x, weight, tiles)):
            dtype = partial.dtype
            found = partial.to(torch.promote_types(dtype, torch.float32))
            if converters.adc:
                found = _read(found, converters.adc[index], observe, circuit.output_noise, generator)
            total = found if total is None else total + found
        assert total is not None
        if layer.bias is not None:
            total = total + layer.bias.view(-1, *[1] * (weight.ndim - 2))
        return total.to(dtype)

    def _after_wires(self, weight: Tensor) -> Tensor:
        """The weights that the wires leave, computed once for a pass over data on one chip."""
        circuit, groups = self._crossbars.circuit, getattr(self._layer, "groups", 1)
        if torch.is_grad_enabled() or isinstance(weight, nn.Parameter):  # may be written to through .data, unseen
            return dropped_weight(weight, circuit, groups)
        version = 0 if weight.is_inference() else weight._version
        if self._kept is None or self._kept[0] is not weight or self._kept[1] != version:
            self._kept = (weight, version, dropped_weight(weight, circuit, groups))
        return self._kept[2]

    def unwrap(self) -> None:
        """Give the layer its own forward back."""
        if self._layer.__dict__.get("forward") is not self:
            return
        if self._shadowed is None:
            del self._layer.__dict__["forward"]
        else:
            self._layer.__dict__["forward"] = self._shadowed

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the layer gets its own plain forward: copies are not on crossbars."""
        layer = memo.get(id(self._layer))
        return copy.deepcopy(self._plain, memo) if layer is None else type(layer).forward.__get__(layer)

    def __reduce__(self) -> tuple[Any, ...]:
        return (getattr, (self._layer, "forward"))


@contextmanager
def on_crossbar(
    model: nn.Module, circuit: Circuit, mapping: Mapping | None = None, ranges: dict[str, Any] | None = None
) -> Iterator[Crossbars]:
    """Compute with circuits around a model's layers; outside the block the model is bit for bit what it was.

    Goes with :func:`on_chip`, in either order: the circuits take the weights as they are when a layer is called.

    Args:
        model: Any module whose mapped layers are Linear, Conv1d, Conv2d or Conv3d.
        circuit: What the circuits are.
        mapping: Which layers lie on crossbars; default: every matrix weight.
        ranges: Of the converters, from :meth:`Crossbars.state_dict`. Without them the first data set them; more data
            refine them while ``observing`` is True.

    Yields:
        The circuits.

    Raises:
        ValueError: The model has circuits already, the mapping does not fit it, layers that no circuit can be put
            around (named), or ranges of other blocks of rows.

    Example:
        >>> layer, x = nn.Linear(100, 10), torch.randn(8, 100)
        >>> with on_crossbar(layer, Circuit(rows=32, adc_bits=10)) as crossbars:
        ...     on_hardware = layer(x)
        >>> bool((on_hardware - layer(x)).abs().max() < 0.1), len(crossbars.ranges)
        (True, 4)
    """
    crossbars = Crossbars(circuit)
    crossbars.load_state_dict(ranges or {})
    crossbars.attach(model, resolved(model, mapping or Mapping()))
    try:
        yield crossbars
    finally:
        crossbars.detach()


def _read(
    partial: Tensor, adc: FollowedRange, observe: bool, output_noise: float, generator: torch.Generator | None
) -> Tensor:
    """Noise and ADC."""
    if observe or adc.range is None:
        adc.follow(partial)
    if generator is not None:
        assert adc.range is not None
        normal = torch.randn(partial.shape, generator=generator, device=partial.device, dtype=partial.dtype)
        partial = partial + normal.mul_(output_noise * adc.range.to(partial.device))
    return adc.quantise(partial) if isinstance(adc, Converter) else partial


def _called(path: str) -> str:
    return repr(path) if path else "the model itself"


def _check_drop(layer: str, drop: float) -> None:
    advice = "lower wire_resistance or g_max, or use fewer rows and cols"
    if drop >= 1:
        raise ValueError(
            f"the wires take {drop:.2g} times the current of a cell of {layer}: far beyond first order; {advice}"
        )
    if drop > MOST_DROP:
        warnings.warn(
            f"Crossbar: the wires take {drop:.0%} of the current of a cell of {layer}, of which first order may be"
            f" wrong by about {drop**2:.0%}; {advice}",
            stacklevel=2,
        )


def _layer_by_layer(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Change nothing; that it is there is enough."""
