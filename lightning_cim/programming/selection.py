"""Which weights to write-verify first: one ranking over all mapped weights of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_cim.chip.mapping import Mapping, check_finite
from lightning_cim.chip.population import resolved
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.transform import Stage, Stored, Transform
from lightning_cim.variation.base import Variation, max_abs

SelectionMethod = Literal["swim", "magnitude", "random"]
METHODS = ("swim", "magnitude", "random")


@dataclass(frozen=True)
class DeviceWeights:
    """The target values of one mapped parameter's devices.

    Attributes:
        value: What is to be written: the weight after pruning and quantisation, detached.
        exists: True where there is a device; None: everywhere.
    """

    value: Tensor
    exists: Tensor | None = None


def device_weights(model: nn.Module, mapping: Mapping) -> dict[str, DeviceWeights]:
    """What is written to the devices of a model, by parameter name; tied weights appear once.

    Masks and quantisation that callbacks have put on the model apply.

    Raises:
        ValueError: The model is on a chip, the mapping does not fit it, or a weight is NaN or infinite.
    """
    check_finite(model, resolved(model, mapping))
    scope = scope_of(model)
    if scope.is_open:
        raise ValueError(f"{type(model).__name__} is on a chip already; leave that block, or this training step, first")
    probe = _Probe(mapping)
    scope.add(probe)
    try:
        scope.transformed()
    finally:
        scope.remove(probe)
    return probe.found


class _Probe(Transform):
    """Stands at the end of the chain and takes down what arrives there."""

    stage = Stage.LAYOUT

    def __init__(self, mapping: Mapping) -> None:
        super().__init__(mapping)
        self.found: dict[str, DeviceWeights] = {}

    def apply(self, stored: Stored) -> None:
        exists = stored.mask if self.mapping.pruned == "absent" else None
        self.found[stored.name] = DeviceWeights(stored.value.detach(), exists)


@dataclass(frozen=True, eq=False)
class Ranking:
    """All weights of a model, the one to verify first in front.

    Attributes:
        order: Positions in the concatenation of all parameters, flattened; int64, on the CPU. Pruned weights, which
            have no device, are left out.
        shapes: The parameters' shapes by name, in the order of the concatenation.
        method: How it was ranked.
    """

    order: Tensor
    shapes: MappingABC[str, torch.Size]
    method: str

    @property
    def weights(self) -> int:
        """How many weights have devices."""
        return self.order.numel()

    def count(self, fraction: float) -> int:
        """How many weights a fraction in 0 .. 1 is, rounded to the nearest."""
        return math.floor(fraction * self.weights + 0.5)

    def masks(self, count: int) -> dict[str, Tensor]:
        """The first ``count`` weights of the ranking.

        Returns:
            bool masks by parameter name, on the CPU.
        """
        chosen = torch.zeros(sum(self._sizes), dtype=torch.bool)
        chosen[self.order[:count]] = True
        return self._split(chosen)

    def share(self, count: int) -> dict[str, float]:
        """The share of each parameter's devices among the first ``count`` weights; NaN where it has no device."""
        chosen, existing = self.masks(count), self.masks(self.weights)
        return {
            name: int(mask.sum()) / devices if (devices := int(existing[name].sum())) else math.nan
            for name, mask in chosen.items()
        }

    def in_order(self, values: MappingABC[str, Tensor]) -> Tensor:
        """One value for each weight, in the order of the ranking."""
        return torch.cat([values[name].flatten().cpu() for name in self.shapes])[self.order]

    @cached_property
    def _sizes(self) -> list[int]:
        return [shape.numel() for shape in self.shapes.values()]

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        parts = torch.split(flat, self._sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


def rank(
    weights: MappingABC[str, DeviceWeights],
    method: SelectionMethod = "swim",
    *,
    sensitivity: MappingABC[str, Tensor] | None = None,
    variation: Variation | None = None,
    seed: int = 0,
) -> Ranking:
    """Rank all weights of a model in one list.

    * ``"swim"``: by the expected rise of the loss, H * Var(dw): the Hessian's diagonal times the variance that the
      variation gives *this* weight. The variance carries the square of each layer's scale, so a rescaled network has
      the same ranking, and with level-dependent variation the score is that of U-SWIM (arXiv 2401.05357). Equal scores
      are ranked by magnitude.
    * ``"magnitude"``: largest |w| / max|W| of its tensor first.
    * ``"random"``: a permutation.

    Args:
        weights: What :func:`device_weights` found.
        method: ``"swim"``, ``"magnitude"`` or ``"random"``.
        sensitivity: For ``"swim"``: the diagonal of the Hessian by parameter name.
        variation: For ``"swim"``: what devices do to a value that is not verified.
        seed: For ``"random"``.

    Raises:
        ValueError: Unknown method, or a sensitivity that is missing, has another shape or is NaN.

    Example:
        >>> weights = {"a": DeviceWeights(torch.tensor([[0.1, -2.0, 1.0]]))}
        >>> rank(weights, "magnitude").order.tolist()
        [1, 2, 0]
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    shapes = {name: found.value.shape for name, found in weights.items()}
    magnitude = _joined({name: _relative(found.value) for name, found in weights.items()})
    if method == "random":
        order = torch.randperm(magnitude.numel(), generator=torch.Generator().manual_seed(seed))
    else:
        order = torch.argsort(magnitude, descending=True, stable=True)
    if method == "swim":
        if sensitivity is None or variation is None:
            raise ValueError("method='swim' ranks by sensitivity and variation; give both")
        score = _joined(_scores(weights, sensitivity, variation))
        order = order[torch.argsort(score[order], descending=True, stable=True)]
    exists = _joined({name: _existing(found) for name, found in weights.items()})
    return Ranking(order[exists[order]], shapes, method)


def _scores(
    weights: MappingABC[str, DeviceWeights], sensitivity: MappingABC[str, Tensor], variation: Variation
) -> dict[str, Tensor]:
    missing = [name for name in weights if name not in sensitivity]
    if missing:
        raise ValueError(f"the sensitivity has no values for {', '.join(missing)}; compute it with the same mapping")
    scores = {}
    for name, found in weights.items():
        values = sensitivity[name].detach().cpu().double()
        if values.shape != found.value.shape:
            raise ValueError(
                f"the sensitivity of {name!r} has the shape {tuple(values.shape)}, its weight"
                f" {tuple(found.value.shape)}; compute it on this model"
            )
        if bool(values.isnan().any()):
            raise ValueError(f"the sensitivity of {name!r} has NaN values; look for a loss that is NaN")
        scores[name] = values * variation.variance(found.value).cpu().double()
    return scores


def _relative(value: Tensor) -> Tensor:
    largest = max_abs(value)
    return value.abs().cpu().double() / (largest.cpu().double() if float(largest) else 1.0)


def _existing(found: DeviceWeights) -> Tensor:
    return torch.ones(found.value.shape, dtype=torch.bool) if found.exists is None else found.exists.cpu()


def _joined(values: MappingABC[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])
