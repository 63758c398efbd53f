"""Weights as the few integer levels that a device or a reconfigurable multiplier stores, and activations on a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingABC
from typing import Any

import torch
from torch import Tensor

from lightning_cim.chip.mapping import Mapping, Target, matches, output_dim
from lightning_cim.chip.transform import Stage, Stored, Transform

WEIGHT_BITS = (8, 4, 2, 1)
_STEP_OF_MEAN = {4: 0.4, 2: 1.4, 1: 1.0}
_LARGEST = {8: 127, 4: 7, 2: 1, 1: 1}


def quantise_weight(weight: Tensor, bits: int, dim: int = 0, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Round a weight to signed integer levels with one step for each output channel.

    8 bits: step = max|w| / 127. 4 bits: step = 0.4 mean|w|, clipped at 7. 2 bits: ternary with step 1.4 mean|w|
    (in the manner of Ternary Weight Networks, arXiv 1605.04711). 1 bit: sign(w) times mean|w|. Means are taken over
    kept weights only: counting pruned zeros would shrink the step by the density.

    Args:
        weight: Any shape with at least 2 axes.
        bits: 8, 4, 2 or 1.
        dim: The axis that counts output channels.
        mask: True where a weight was kept; None: every weight that is not exactly 0 counts as kept.

    Returns:
        The integers (the weight's dtype and shape; 0 exactly where pruned) and the steps (1 along every other axis), so
        that ``integers * steps`` is the quantised weight.

    Raises:
        ValueError: Other numbers of bits.

    Example:
        >>> levels, step = quantise_weight(torch.tensor([[0.5, -1.0, 0.0, 0.25]]), bits=2)
        >>> levels.tolist(), round(step.item(), 4)
        ([[1.0, -1.0, 0.0, 0.0]], 0.8167)
    """
    if bits not in WEIGHT_BITS:
        raise ValueError(
            f"weight bits must be one of {WEIGHT_BITS} (a reconfigurable 8/4/2/1-bit multiplier), got {bits!r}"
        )
    kept = mask if mask is not None else weight != 0
    axes = [axis for axis in range(weight.ndim) if axis != dim % weight.ndim]
    magnitude = weight.abs() * kept
    if bits == 8:
        step = magnitude.amax(axes, keepdim=True) / _LARGEST[8]
    else:
        step = _STEP_OF_MEAN[bits] * magnitude.sum(axes, keepdim=True) / kept.sum(axes, keepdim=True).clamp(min=1)
    step = torch.where(step > 0, step, torch.ones_like(step))
    levels = weight.sign() if bits == 1 else (weight / step).round().clamp(-_LARGEST[bits], _LARGEST[bits])
    return levels * kept, step


class _StraightThrough(torch.autograd.Function):
    """Forward: the quantised value, exactly. Backward: as if it were the value itself, where it passes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, quantised: Tensor, passes: Tensor | None) -> Tensor:
        ctx.save_for_backward(passes)
        return quantised.view_as(quantised)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (passes,) = ctx.saved_tensors
        return (grads[0] if passes is None else grads[0] * passes), None, None


def straight_through(value: Tensor, quantised: Tensor, passes: Tensor | None = None) -> Tensor:
    """``quantised`` bit for bit, with the gradient of ``value`` (``value + (quantised - value).detach()`` rounds).

    Args:
        value: What was quantised.
        quantised: Of the same shape.
        passes: False where the gradient stops, of the same shape; None: nowhere.
    """
    result: Tensor = _StraightThrough.apply(value, quantised, passes)
    return result


class QuantiseWeights(Transform):
    """The chain's quantiser: each mapped weight at its number of bits, straight-through gradient.

    Args:
        bits: One number for all, or numbers by name or glob of a parameter or module, first match wins; parameters
            that match none stay as they are.
        mapping: Which parameters lie on crossbars.
    """

    stage = Stage.QUANTISE

    def __init__(self, bits: int | MappingABC[str, int], mapping: Mapping | None = None) -> None:
        super().__init__(mapping)
        self._bits: dict[str, int] = dict(bits) if isinstance(bits, MappingABC) else {"*": bits}
        for pattern, number in self._bits.items():
            if number not in WEIGHT_BITS:
                raise ValueError(f"weight bits of {pattern!r} must be one of {WEIGHT_BITS}, got {number!r}")

    def bits_of(self, name: str) -> int | None:
        """Bits of one parameter; None when it is not quantised."""
        return next((number for pattern, number in self._bits.items() if matches(name, pattern)), None)

    def check(self, targets: list[Target]) -> None:
        """Refuse a pattern that fits no mapped parameter.

        Raises:
            ValueError: Names the pattern and the mapped parameters.
        """
        names = [target.name for target in targets]
        for pattern in self._bits:
            if not any(matches(name, pattern) for name in names):
                raise ValueError(
                    f"weight_bits names {pattern!r}, which fits no mapped parameter of: {', '.join(names)}"
                )

    def apply(self, stored: Stored) -> None:
        """Quantise with steps over the kept weights."""
        bits = self.bits_of(stored.name)
        if bits is None:
            return
        with torch.no_grad():
            levels, step = quantise_weight(stored.value, bits, output_dim(stored.layer), stored.mask)
        stored.value = straight_through(stored.value, levels * step)


class FollowedRange:
    """How far data reach: an exponential moving average of a high percentile of |x|, and whether any x is negative.

    Args:
        momentum: Weight of the newest batch in the moving average, in (0, 1].
        percentile: Share of |x| inside the range, in per cent.
    """

    SAMPLE = 65536  # elements looked at per batch; a percentile of more costs time and moves nothing

    def __init__(self, momentum: float = 0.1, percentile: float = 99.95) -> None:
        self.momentum, self.percentile = momentum, percentile
        self.range: Tensor | None = None
        self.signed = False

    def follow(self, x: Tensor) -> None:
        """Update the range by one batch of data."""
        flat = x.detach().flatten().float()
        stride = max(1, flat.numel() // self.SAMPLE) | 1  # odd, so that it walks over all columns of an image
        flat = flat[::stride]
        beyond = max(1, math.ceil(flat.numel() * (1 - self.percentile / 100)))
        newest = flat.abs().topk(beyond).values[-1].clamp(min=torch.finfo(torch.float32).tiny)
        self.signed = self.signed or bool((flat < 0).any())
        self.range = newest if self.range is None else self.range.to(x.device).lerp(newest, self.momentum)

    def state_dict(self) -> dict[str, Any]:
        """Range and sign, for a checkpoint."""
        return {"range": None if self.range is None else float(self.range), "signed": self.signed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.range = None if state["range"] is None else torch.tensor(state["range"])
        self.signed = bool(state["signed"])


class ActivationQuantiser(FollowedRange):
    """Puts activations on a grid of 2^bits levels whose range follows the data in training.

    Unsigned (0 .. 2^b - 1) until a negative value is seen, then signed (symmetric, 2^(b-1) - 1 each way). Gradients
    pass inside the range and stop outside.

    Args:
        bits: 2 to 16.
        momentum: Weight of the newest batch in the moving average, in (0, 1].
        percentile: Share of |x| inside the range, in per cent.
    """

    def __init__(self, bits: int, momentum: float = 0.1, percentile: float = 99.95) -> None:
        if not 2 <= bits <= 16:
            raise ValueError(f"activation bits must lie between 2 and 16, got {bits!r}")
        super().__init__(momentum, percentile)
        self.bits = bits

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest integer level."""
        high = 2 ** (self.bits - 1) - 1
        return (-high, high) if self.signed else (0, 2**self.bits - 1)

    @property
    def scale(self) -> float:
        """The step between levels, in the activation's unit.

        Raises:
            ValueError: No data was seen yet.
        """
        if self.range is None:
            raise ValueError("this activation quantiser has seen no data yet; run a training batch through the model")
        return float(self.range) / self.limits[1]

    def __call__(self, x: Tensor, observe: bool) -> Tensor:
        """Quantise; ``observe`` also updates the range (always done for the first batch)."""
        if observe or self.range is None:
            self.follow(x)
        return self.quantise(x)

    def quantise(self, x: Tensor) -> Tensor:
        """Round to the grid of a range that is known."""
        assert self.range is not None
        low, high = self.limits
        step = self.range.to(x.device, x.dtype) / high
        inside = x.clamp(low * step, high * step) if self.signed else x.clamp(torch.zeros_like(step), high * step)
        with torch.no_grad():
            quantised = (inside / step).round_().mul_(step)
        return straight_through(inside, quantised)
