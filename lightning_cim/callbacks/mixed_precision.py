"""Quantisation-aware training with a number of bits for each layer."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.calibrated import CalibratedCallback
from lightning_cim.chip.mapping import Mapping, Target, output_dim
from lightning_cim.chip.quantise import ActivationQuantiser, QuantiseWeights, quantise_weight
from lightning_cim.chip.tiles import mapped_layers


class MixedPrecision(CalibratedCallback):
    """Compute with weights of 8, 4, 2 or 1 bits and activations on a grid; optimise the full-precision ones.

    Weights are rounded with one step per output channel, over kept weights only when :class:`StructuredSparsity` is
    there too; activations are rounded at the *input* of each mapped layer, in a range that follows the training data.
    Gradients pass straight through. Checkpoints hold the full-precision weights under their own names; the activation
    ranges are in the callback's state. :func:`export_state_dict` gives the weights as stored on the chip.

    Args:
        weight_bits: One number for all mapped layers, or numbers by name or glob of a layer (first match wins; layers
            that match none keep full precision), each 8, 4, 2 or 1.
        activation_bits: 2 to 16, or None to leave activations alone.
        mapping: Which parameters lie on crossbars; default: every matrix weight.

    Raises:
        MisconfigurationException: Bits out of range, or a name that fits no mapped layer.

    Example:
        >>> import lightning_cim as cim
        >>> quantised = cim.MixedPrecision(weight_bits={"conv1": 8, "*": 4}, activation_bits=8)
    """

    ranges_of = "activation"

    def __init__(
        self,
        weight_bits: int | dict[str, int] = 8,
        activation_bits: int | None = 8,
        mapping: Mapping | None = None,
    ) -> None:
        super().__init__(mapping)
        try:
            self._weights = QuantiseWeights(weight_bits, self.mapping)
            self._probe = ActivationQuantiser(activation_bits) if activation_bits is not None else None
        except ValueError as error:
            raise MisconfigurationException(f"MixedPrecision: {error}") from error
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.activations: dict[str, ActivationQuantiser] = {}
        self._hooks: list[RemovableHandle] = []

    @property
    def settings(self) -> str:
        """Bits and mapping."""
        return f"{self.weight_bits}, {self.activation_bits}, {self.mapping}"

    @property
    def has_ranges(self) -> bool:
        """Whether activations are quantised."""
        return self.activation_bits is not None

    @property
    def ranges(self) -> list[ActivationQuantiser]:
        """Those of the activations, by layer."""
        return list(self.activations.values())

    def make_transform(self) -> QuantiseWeights:
        """The quantising link."""
        return self._weights

    def attach(self, trainer: Any, pl_module: Any) -> None:
        """Attach, after a check that every name in ``weight_bits`` fits a layer."""
        if isinstance(self.weight_bits, MappingABC) and self._attached is not pl_module:
            try:
                self._weights.check(self.mapping.resolve(pl_module))
            except ValueError as error:
                raise MisconfigurationException(f"MixedPrecision: {error}") from error
        super().attach(trainer, pl_module)

    def on_attach(self, trainer: Any, pl_module: Any, targets: list[Target]) -> None:
        """Put a quantiser before each mapped layer."""
        if self.activation_bits is None:
            return
        for path, layer in mapped_layers(targets):
            quantiser = self.activations.setdefault(path, ActivationQuantiser(self.activation_bits))
            self._hooks.append(layer.register_forward_pre_hook(self._quantise_input(quantiser, layer)))

    def for_evaluation(self) -> Self:
        """Share the ranges, not the hooks."""
        twin = super().for_evaluation()
        twin._hooks = []
        return twin

    def on_detach(self, pl_module: Any) -> None:
        """Take the quantisers away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def integers(self, model: nn.Module, masks: MappingABC[str, torch.Tensor] | None = None) -> dict[str, Any]:
        """The integer weights and steps of each quantised layer, for an export.

        Args:
            model: The module, outside any scope.
            masks: True where a weight was kept, by parameter name (:attr:`StructuredSparsity.masks`).

        Returns:
            By parameter name: ``(integers, steps, bits)``; see :func:`lightning_cim.chip.quantise.quantise_weight`.
        """
        found = {}
        for target in self.mapping.resolve(model):
            bits = self._weights.bits_of(target.name)
            weight = target.sites[0].parameter
            if bits is None or weight is None:
                continue
            mask = None if masks is None else masks.get(target.name)
            value = weight.detach() if mask is None else weight.detach() * mask
            found[target.name] = (*quantise_weight(value, bits, output_dim(target.layer), mask), bits)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Ranges of the activations."""
        return {"activations": {name: quantiser.state_dict() for name, quantiser in self.activations.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the ranges."""
        for name, state in state_dict["activations"].items():
            quantiser = self.activations.setdefault(name, ActivationQuantiser(self.activation_bits or 8))
            quantiser.load_state_dict(state)

    def _quantise_input(self, quantiser: ActivationQuantiser, owner: nn.Module) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if layer is not owner:  # a copy of the module, made during the run, got a copy of the hook
                return None
            if not inputs or not isinstance(inputs[0], torch.Tensor) or not inputs[0].is_floating_point():
                return None
            return (quantiser(inputs[0], observe=self._training), *inputs[1:])

        return hook
