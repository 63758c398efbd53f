"""Exact integer form of a trained, quantised ChipNet, and its pure-integer reference in numpy.

The chip computes each convolution as int8 weights times 8-bit activations in an int32 accumulator, then one multiply,
add and shift per channel that holds batch norm and the change of scale, ReLU by clamping at 0, and pooling:

    q_next = clamp((acc * multiplier + bias) >> shift, 0, high)

`bias` holds the half that makes the shift round. After the last convolution the products are clamped at 0, pooled and
summed over the positions before the shift; 1/positions is part of the multiplier, so the mean costs no division. The
logits come out as integers over one power of two. No float is in the path but the input quantiser and that last
scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipes._arrays import load_npz

if TYPE_CHECKING:
    import torch

    from recipes.arrhythmia.model import ChipNet

FORMAT = 1
"""Version of the npz layout."""

CONVS = ("conv1", "conv2", "conv3", "conv4")
LAYERS = (*CONVS, "fc")

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class QuantisedWeight:
    """Weight of one layer as the fake-quantised model uses it: `integers * scale`.

    Attributes:
        integers: int8 tensor of the weight's shape, within +-(2^(bits-1) - 1), or +-1 for 1 bit; zeros are allowed.
        scale: float tensor, one per output channel or a single one, at least 0.
        bits: 8, 4, 2 or 1.
    """

    integers: torch.Tensor
    scale: torch.Tensor
    bits: int


@dataclass(frozen=True)
class ActivationQuantiser:
    """Quantiser of a layer's input: q = clamp(round(x / scale), low, high), rounding halves to even.

    Example:
        >>> ActivationQuantiser(0.5).high, ActivationQuantiser(0.5, signed=True).low
        (255, -127)
    """

    scale: float
    bits: int = 8
    signed: bool = False

    def __post_init__(self) -> None:
        """Refuse scales and widths that no quantiser has."""
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(
                f"activation scale must be positive and finite, got {self.scale}: calibrate it on data first"
            )
        if not 1 <= self.bits <= 8:
            raise ValueError(f"activation bits must be from 1 to 8, got {self.bits}")

    @property
    def low(self) -> int:
        """Smallest integer; symmetric, so that no clipped value lies beyond the trained range."""
        return -self.high if self.signed else 0

    @property
    def high(self) -> int:
        """Largest integer."""
        return (1 << (self.bits - 1 if self.signed else self.bits)) - 1

    def __call__(self, x: ArrayLike) -> NDArray[np.int16]:
        """Quantise numbers of any shape, dividing in the precision of x (float32 or float64), as the model does."""
        values = np.asarray(x)
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float32)
        q: NDArray[np.int16] = np.clip(np.round(values / values.dtype.type(self.scale)), self.low, self.high).astype(
            np.int16
        )
        return q


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One layer on the chip.

    Attributes:
        weight: int8 (C_out, C_in, K); K = 1 for the classifier.
        bits: of a weight.
        multiplier: int64 (C_out,), within the chosen width.
        bias: int64 (C_out,), in units of 2^-shift of the output.
        shift: int64 (C_out,), 1 to 62.
        high: largest output; the classifier's output is not clamped and has 0.
    """

    weight: NDArray[np.int8]
    bits: int
    multiplier: Ints
    bias: Ints
    shift: Ints
    high: int

    def products(self, x: NDArray[np.int32]) -> Ints:
        """Accumulate (N, C_in, L) with same-padding in int32, then multiply and add in int64: (N, C_out, L)."""
        kernel, length = self.weight.shape[2], x.shape[2]
        padded = np.pad(x, ((0, 0), (0, 0), (kernel // 2, kernel // 2)))
        acc = np.zeros((len(x), len(self.weight), length), dtype=np.int32)
        weight = self.weight.astype(np.int32)
        for tap in range(kernel):
            acc += weight[:, :, tap] @ padded[:, :, tap : tap + length]
        return acc.astype(np.int64) * self.multiplier[:, None] + self.bias[:, None]


@dataclass(frozen=True, eq=False)
class IntegerNet:
    """An exported ChipNet that needs numpy only.

    Attributes:
        layers: conv1 to conv4 and fc.
        input_quantiser: of the window.
        length: samples in a window; the mean over positions is folded into conv4's multiplier for this length.
    """

    layers: tuple[IntegerLayer, ...]
    input_quantiser: ActivationQuantiser
    length: int

    def run_integer(self, x: ArrayLike) -> Ints:
        """Logits in units of 2^-shift of the classifier, int64 (N, 2); their argmax is the decision.

        Args:
            x: quantised windows, integers (N, length) or (N, 1, length) in the input quantiser's range.

        Raises:
            ValueError: for floats, another shape or values out of range.
        """
        q = self._checked(x)
        *convs, fc = self.layers
        for conv in convs[:-1]:
            q = _max_pool(np.clip(conv.products(q) >> conv.shift[:, None], 0, conv.high)).astype(np.int32)
        last = convs[-1]
        pooled = _max_pool(np.maximum(last.products(q), 0)).sum(axis=2)
        half = np.left_shift(np.int64(1), last.shift - 1)
        mean = np.minimum((pooled + half) >> last.shift, last.high).astype(np.int32)
        return fc.products(mean[:, :, None])[:, :, 0]

    def run(self, x: ArrayLike, batch_size: int = 256) -> NDArray[np.float64]:
        """Logits (N, 2) of quantised windows, float64; column 1 is VA. See `run_integer` for the argument."""
        q = np.asarray(x)
        parts = [self.run_integer(q[i : i + batch_size]) for i in range(0, len(q), batch_size)]
        if not parts:
            raise ValueError("no windows to run")
        return np.ldexp(np.concatenate(parts).astype(np.float64), -self.layers[-1].shift)

    def quantise(self, x: ArrayLike) -> NDArray[np.int16]:
        """Quantise windows of floats for `run`."""
        return self.input_quantiser(x)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the net to an npz that `IntegerNet.load` reads; numpy's `savez` adds `.npz` if it is missing."""
        arrays: dict[str, NDArray[np.generic]] = {
            "format": np.array(FORMAT),
            "length": np.array(self.length),
            "input_scale": np.array(self.input_quantiser.scale),
            "input_bits": np.array(self.input_quantiser.bits),
            "input_signed": np.array(self.input_quantiser.signed),
        }
        for name, layer in zip(LAYERS, self.layers, strict=True):
            for field in IntegerLayer.__dataclass_fields__:
                arrays[f"{name}_{field}"] = np.asarray(getattr(layer, field))
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | PathLike[str]) -> IntegerNet:
        """Read an npz that `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: naming the file, if it is no such export.
        """
        arrays = load_npz(path)
        try:
            if int(arrays["format"]) != FORMAT:
                raise ValueError(f"format {int(arrays['format'])}, this code reads {FORMAT}: export again")
            quantiser = ActivationQuantiser(
                float(arrays["input_scale"]), int(arrays["input_bits"]), bool(arrays["input_signed"])
            )
            return cls(tuple(_layer_from(arrays, name) for name in LAYERS), quantiser, int(arrays["length"]))
        except KeyError as error:
            raise ValueError(f"{path}: not an integer export, entry {error} is missing") from error
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path}: not an integer export that can be read: {error}") from error

    def _checked(self, x: ArrayLike) -> NDArray[np.int32]:
        q = np.asarray(x)
        if q.ndim == 2:
            q = q[:, None, :]
        if not np.issubdtype(q.dtype, np.integer):
            raise ValueError(f"windows must be integers, got {q.dtype}: use quantise(x) first")
        if q.ndim != 3 or q.shape[1:] != (1, self.length):
            raise ValueError(f"windows must be (N, {self.length}) or (N, 1, {self.length}), got {np.shape(x)}")
        low, high = self.input_quantiser.low, self.input_quantiser.high
        if q.size and (q.min() < low or q.max() > high):
            raise ValueError(f"windows hold integers outside [{low}, {high}]: use quantise(x)")
        return q.astype(np.int32)


def export_integer(
    model: ChipNet,
    weights: Mapping[str, QuantisedWeight],
    inputs: Mapping[str, ActivationQuantiser],
    length: int = 512,
    multiplier_bits: int = 28,
) -> IntegerNet:
    """Fold batch norm and all scales of a fake-quantised ChipNet into integers.

    Args:
        model: the trained net; its batch norms (running statistics) and the classifier's bias are read.
        weights: of conv1, ..., conv4 and fc.
        inputs: quantiser of the input of each of the same layers.
        length: samples in a window, a positive multiple of 16.
        multiplier_bits: width of the signed multiplier, 2 to 32. Every bit halves how often an activation rounds to the
            other side than in the float model, and one activation of fc that does can move a logit by more than 0.1 %.
            24 bits met the bar of `agreement` on the nets it was tried on, 22 did not; the default leaves a margin.

    Raises:
        ValueError: naming the layer, for missing layers, wrong shapes, integers outside their width, unusable scales or
            statistics, or a channel whose gain does not fit.
    """
    for argument, given in (("weights", weights), ("inputs", inputs)):
        if set(given) != set(LAYERS):
            raise ValueError(f"{argument} must name exactly the layers {list(LAYERS)}, got {sorted(given)}")
    if length < 16 or length % 16:
        raise ValueError(f"length must be a positive multiple of 16 (four poolings by 2), got {length}")
    if not 2 <= multiplier_bits <= 32:
        raise ValueError(f"multiplier_bits must be from 2 to 32, got {multiplier_bits}")
    layers = []
    for name, following in zip(CONVS, LAYERS[1:], strict=True):
        integers, scale = _checked_weight(name, weights[name], model.get_submodule(name).weight.shape)  # type: ignore[arg-type]
        norm = model.get_submodule(name.replace("conv", "bn"))
        mean, variance, gamma, beta = (
            _numpy(getattr(norm, field)) for field in ("running_mean", "running_var", "weight", "bias")
        )
        slope = gamma / np.sqrt(variance + norm.eps)  # type: ignore[operator]
        # The last convolution feeds the classifier by a mean over length/16 positions.
        terms = length // 16 if name == CONVS[-1] else 1
        step = inputs[following].scale * terms
        gain, offset = slope * scale * inputs[name].scale / step, (beta - slope * mean) / step
        bound = np.abs(integers).sum(axis=(1, 2)) * _magnitude(inputs[name])
        multiplier, bias, shift = _fixed_point(name, gain, offset, bound, terms, multiplier_bits)
        if terms == 1:
            bias += np.left_shift(np.int64(1), shift - 1)
        layers.append(
            IntegerLayer(integers.astype(np.int8), weights[name].bits, multiplier, bias, shift, inputs[following].high)
        )
    integers, scale = _checked_weight("fc", weights["fc"], model.fc.weight.shape)
    integers = integers[:, :, None]
    bound = np.abs(integers).sum(axis=(1, 2)) * _magnitude(inputs["fc"])
    gain, offset = scale * inputs["fc"].scale, _numpy(model.fc.bias)
    _, _, shift = _fixed_point("fc", gain, offset, bound, 1, multiplier_bits)
    # One shift for both classes, so that integer logits compare.
    shift = np.full_like(shift, shift.min())
    multiplier, bias = (np.rint(np.ldexp(v, shift)).astype(np.int64) for v in (gain, offset))
    layers.append(IntegerLayer(integers.astype(np.int8), weights["fc"].bits, multiplier, bias, shift, 0))
    return IntegerNet(tuple(layers), inputs["conv1"], length)


def agreement(logits: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """Compare integer logits with those of the fake-quantised model on the same windows, both (N, 2).

    Run the model in float64 (`model.double()`) and quantise float64 windows: in float32 the model's own rounding puts
    some activations on the other side of a quantiser's step, which no multiplier width can follow.

    Returns:
        `argmax`: share of windows with the same decision, in [0, 1]; the bar is 0.999. `max_relative`: the largest
        absolute difference of a logit over the largest absolute reference logit of all windows; the bar is 1e-3.

    Example:
        >>> agreement([[1.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 5.0]])
        {'argmax': 1.0, 'max_relative': 0.2}
    """
    got, expected = np.asarray(logits, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if got.shape != expected.shape or got.ndim != 2 or not got.size:
        raise ValueError(f"logits and reference must be (N, classes) alike, got {got.shape} and {expected.shape}")
    return {
        "argmax": float(np.mean(got.argmax(axis=1) == expected.argmax(axis=1))),
        "max_relative": float(np.abs(got - expected).max() / np.abs(expected).max()),
    }


def _fixed_point(
    name: str, gain: NDArray[np.float64], offset: NDArray[np.float64], bound: Ints, terms: int, width: int
) -> tuple[Ints, Ints, Ints]:
    """Multiplier, bias and shift per channel: acc * gain + offset ~ (acc * multiplier + bias) / 2^shift.

    Each shift is the largest at which the multiplier fits `width` bits and `terms` results cannot overflow int64 for
    any |acc| <= bound.
    """
    if not (np.isfinite(gain).all() and np.isfinite(offset).all()):
        raise ValueError(f"{name}: NaN or infinity in batch norm, bias or scale: the model did not train")
    if bound.max() >= 2**31:
        raise ValueError(f"{name}: the accumulator could exceed int32 (bound {bound.max()})")
    largest = 2 ** (width - 1) - 1
    shifts = []
    for channel, (g, o, b) in enumerate(zip(gain.tolist(), offset.tolist(), bound.tolist(), strict=True)):
        for shift in range(62, 0, -1):
            m, c = round(g * 2**shift), round(o * 2**shift)
            # 2^shift stands for the rounding half, with room to spare.
            if abs(m) <= largest and terms * (abs(m) * b + abs(c) + 2**shift) < 2**63:
                shifts.append(shift)
                break
        else:
            raise ValueError(f"{name}: gain {g:.3g} of channel {channel} does not fit a multiplier of {width} bits")
    shift_array = np.array(shifts, dtype=np.int64)
    multiplier, bias = (np.rint(np.ldexp(v, shift_array)).astype(np.int64) for v in (gain, offset))
    return multiplier, bias, shift_array


def _checked_weight(name: str, weight: QuantisedWeight, shape: torch.Size) -> tuple[Ints, NDArray[np.float64]]:
    """Integers as int64 and one float64 scale per output channel, or a ValueError naming the layer."""
    if tuple(weight.integers.shape) != tuple(shape):
        raise ValueError(f"{name}: integers have shape {tuple(weight.integers.shape)}, the weight has {tuple(shape)}")
    if weight.bits not in (8, 4, 2, 1):
        raise ValueError(f"{name}: weight bits must be 8, 4, 2 or 1, got {weight.bits}")
    integers = weight.integers.detach().cpu().numpy()
    if integers.dtype != np.int8:
        raise ValueError(f"{name}: integers must be int8, got {integers.dtype}")
    integers = integers.astype(np.int64)
    largest = max(1, 2 ** (weight.bits - 1) - 1)
    if np.abs(integers).max() > largest:
        raise ValueError(f"{name}: integers exceed +-{largest}, the range of {weight.bits} bits")
    scale = _numpy(weight.scale).reshape(-1)
    if len(scale) not in (1, shape[0]) or not np.isfinite(scale).all() or (scale < 0).any():
        raise ValueError(f"{name}: scale must be 1 or {shape[0]} finite numbers of at least 0, got {scale.tolist()}")
    return integers, np.broadcast_to(scale, shape[:1]).copy()


def _layer_from(arrays: Mapping[str, NDArray[Any]], name: str) -> IntegerLayer:
    weight = arrays[f"{name}_weight"]
    if weight.dtype != np.int8 or weight.ndim != 3:
        raise ValueError(f"{name}_weight must be int8 (C_out, C_in, K), got {weight.dtype} {weight.shape}")
    multiplier, bias, shift = (arrays[f"{name}_{field}"] for field in ("multiplier", "bias", "shift"))
    for array in (multiplier, bias, shift):
        if array.dtype != np.int64 or array.shape != weight.shape[:1]:
            raise ValueError(f"{name}: multiplier, bias and shift must be int64 ({len(weight)},), got {array.shape}")
    return IntegerLayer(weight, int(arrays[f"{name}_bits"]), multiplier, bias, shift, int(arrays[f"{name}_high"]))


def _max_pool(x: Ints) -> Ints:
    """Maximum over pairs of positions, (N, C, L) to (N, C, L // 2)."""
    half = x.shape[2] // 2
    pooled: Ints = x[:, :, : 2 * half].reshape(x.shape[0], x.shape[1], half, 2).max(axis=3)
    return pooled


def _magnitude(quantiser: ActivationQuantiser) -> int:
    return max(-quantiser.low, quantiser.high)


def _numpy(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()
