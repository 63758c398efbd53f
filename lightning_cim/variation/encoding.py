"""How a signed weight becomes the conductances of devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_cim.variation.conductance import Device

Scheme = Literal["differential", "offset"]
Mode = Literal["collapsed", "per_slice"]

CELLS = 2**16
"""Steps of the tabulated error of weights that are not sliced."""
NEGLIGIBLE = 1e-7
"""A mean error over s that float32 weights do not notice."""
MOST_BITS = 16
"""Weights are looked up by their integer, so a table of 2^16 is the largest."""


@dataclass(frozen=True)
class Encoding:
    """Which devices hold a weight w of a tensor whose largest magnitude is s.

    A fraction between 0 and 1 lies on one device, or is rounded to M bits that are sliced over M/K devices of 2^K
    levels each; a device's level d is the conductance g_min + d / (2^K - 1) (g_max - g_min).

    * ``"differential"``: a pair of columns, w = s (f+ - f-). One device of each pair holds f = |w| / s, the other one
      stays at g_min, where it has an error of its own.
    * ``"offset"``: one column, w = s (2 f - 1). The constant is subtracted exactly, behind the converter.

    Rounding to M bits decides which level a device holds, not what the weight is: quantise the weights for that.

    Attributes:
        scheme: How the sign is stored.
        weight_bits: M, bits that a fraction is sliced into, at most 16; None: not sliced, any conductance.
        device_bits: K, bits that a device stores, a divisor of M; None exactly where ``weight_bits`` is.
        mode: ``"collapsed"``: one normal number a weight, with exactly the mean and the variance that the devices'
            errors add up to. ``"per_slice"``: one for each device, slower by their number. Both have the same
            distribution where no conductance is cut at zero, as sums of independent normal numbers are normal; a device
            that must be told from another needs the latter.

    Raises:
        ValueError: An unknown word, one of the bits without the other, or M not a multiple of K.

    Example:
        >>> Encoding(weight_bits=4, device_bits=2).places
        (0.2, 0.8)
    """

    scheme: Scheme = "differential"
    weight_bits: int | None = None
    device_bits: int | None = None
    mode: Mode = "collapsed"

    def __post_init__(self) -> None:
        if self.scheme not in ("differential", "offset"):
            raise ValueError(f"Encoding: scheme must be 'differential' or 'offset', got {self.scheme!r}")
        if self.mode not in ("collapsed", "per_slice"):
            raise ValueError(f"Encoding: mode must be 'collapsed' or 'per_slice', got {self.mode!r}")
        if (self.weight_bits is None) != (self.device_bits is None):
            raise ValueError(
                "Encoding: slicing needs both weight_bits and device_bits, for example 8 and 2; leave out both for"
                " devices of any conductance"
            )
        if self.weight_bits is not None and self.device_bits is not None:
            if self.device_bits < 1 or self.weight_bits < 1 or self.weight_bits % self.device_bits:
                raise ValueError(
                    f"Encoding: weight_bits={self.weight_bits} must be a positive multiple of"
                    f" device_bits={self.device_bits}: a weight lies on weight_bits / device_bits devices"
                )
            if self.weight_bits > MOST_BITS:
                raise ValueError(f"Encoding: weight_bits must be at most {MOST_BITS}, got {self.weight_bits}")

    def __str__(self) -> str:
        sliced = "" if self.weight_bits is None else f" {self.weight_bits} bits on {self.device_bits}-bit devices"
        return self.scheme + sliced + (" per slice" if self.mode == "per_slice" else "")

    @property
    def slices(self) -> int:
        """M/K, or 1."""
        return 1 if self.weight_bits is None or self.device_bits is None else self.weight_bits // self.device_bits

    @property
    def columns(self) -> int:
        """Devices for each slice: 2 of a pair, 1 with an offset."""
        return 2 if self.scheme == "differential" else 1

    @property
    def places(self) -> tuple[float, ...]:
        """What each slice contributes to the fraction when its device is at g_max: 1 in all, least significant first.

        (2^K - 1) 2^(jK) / (2^M - 1) for j = 0 .. M/K - 1.
        """
        if self.weight_bits is None or self.device_bits is None:
            return (1.0,)
        steps, whole = 2**self.device_bits - 1, 2**self.weight_bits - 1
        return tuple(steps * 2 ** (j * self.device_bits) / whole for j in range(self.slices))

    @property
    def gain(self) -> float:
        """Change of w / s for a change of the fraction: 1 for pairs, 2 with an offset."""
        return 1.0 if self.scheme == "differential" else 2.0

    def fraction_(self, relative: Tensor) -> Tensor:
        """The fraction that devices hold, of w / s between -1 and 1; in place."""
        return relative.abs_() if self.scheme == "differential" else relative.add_(1.0).mul_(0.5)

    def digits(self, fraction: Tensor) -> Tensor:
        """The relative conductance of each slice: (slices, *shape) between 0 and 1, least significant first."""
        if self.weight_bits is None or self.device_bits is None:
            return fraction.unsqueeze(0)
        code = (fraction * (2**self.weight_bits - 1)).add_(0.5).long()  # to the nearest, as in Moments
        levels = 2**self.device_bits
        digits = [(code >> (j * self.device_bits)) % levels for j in range(self.slices)]
        return torch.stack(digits).to(fraction.dtype).div_(levels - 1)

    def conductances(self, weight: Tensor, largest: Tensor | float, device: Device) -> Tensor:
        """The targets of all devices of a tensor.

        Args:
            weight: Any shape, floating.
            largest: s, the conductance range's end, > 0.
            device: Whose range is used.

        Returns:
            (slices, columns, *shape) in the device's unit; of a pair, the column that counts positive comes first.
        """
        targets = self.digits(self.fraction_(weight / largest)).mul_(device.span).add_(device.g_min)
        if self.scheme == "offset":
            return targets.unsqueeze(1)
        unused = torch.full_like(targets, device.g_min)
        positive = weight >= 0
        return torch.stack([torch.where(positive, targets, unused), torch.where(positive, unused, targets)], 1)

    def decode(self, conductances: Tensor, largest: Tensor | float, device: Device) -> Tensor:
        """The weights that conductances of :meth:`conductances`'s shape stand for."""
        relative = self.decode_error(conductances - device.g_min, device)
        return (relative if self.scheme == "differential" else relative - 1.0) * largest

    def decode_error(self, errors: Tensor, device: Device) -> Tensor:
        """The error of w / s that errors of all devices make.

        Args:
            errors: (slices, columns, *shape) in the device's unit.
            device: Whose range is used.

        Returns:
            Of the weight's shape.
        """
        column = errors[:, 0] - errors[:, 1] if self.scheme == "differential" else errors[:, 0]
        places = torch.tensor(self.places, dtype=errors.dtype, device=errors.device)
        relative: Tensor = torch.tensordot(places, column, 1)
        return relative.mul_(self.gain / device.span)

    def decode_variance(self, variances: Tensor, device: Device) -> Tensor:
        """The variance of w / s that independent errors of all devices make; as :meth:`decode_error`."""
        places = torch.tensor(self.places, dtype=variances.dtype, device=variances.device).square_()
        relative: Tensor = torch.tensordot(places, variances.sum(1), 1)
        return relative.mul_((self.gain / device.span) ** 2)


class Moments:
    """Mean and std of a weight's error over s, tabulated by w / s.

    Looking up costs a CPU less than drawing normal numbers does, whatever the curve and the encoding. The table of
    sliced weights has an entry for each integer and is exact. The other one takes the nearest of 65537 evenly spaced
    values, which are off by at most 1/65536.

    Args:
        device: Range and error of one device.
        encoding: Which devices hold a weight.
        where: The device of the tensors to be looked up.

    Attributes:
        has_mean: Whether any weight has a mean error.
    """

    def __init__(self, device: Device, encoding: Encoding, where: torch.device) -> None:
        self._cells = CELLS
        self._symmetric = encoding.scheme == "differential" and encoding.weight_bits is not None
        if encoding.weight_bits is not None:
            self._cells = (2**encoding.weight_bits - 1) * (2 if self._symmetric else 1)
        relative = torch.linspace(-1.0, 1.0, self._cells + 1, dtype=torch.float64)
        mean, std = device.write_moments(encoding.conductances(relative, 1.0, device))
        self._std = encoding.decode_variance(std.square(), device).sqrt().float().to(where)
        decoded = encoding.decode_error(mean, device)
        self.has_mean = bool(decoded.abs().max() > NEGLIGIBLE)
        self._mean = decoded.float().to(where)

    def cells_(self, relative: Tensor) -> Tensor:
        """Table entries of float32 w / s, flat, for :meth:`std` and :meth:`mean`; ``relative`` is overwritten.

        NaN has no entry; clamped, it gives some error here and NaN in the weight that it is added to.
        """
        half = 0.5 * self._cells
        flat = relative.reshape(-1).mul_(half)
        if self._symmetric:  # a device's digits are those of |w|, halves rounded up
            return flat.add_(torch.copysign(flat.new_tensor(0.5), flat)).int().add_(int(half)).clamp_(0, self._cells)
        return flat.add_(half + 0.5).int().clamp_(0, self._cells)

    def std(self, cells: Tensor, out: Tensor) -> Tensor:
        """Std over s, written to ``out`` (flat): a large new tensor costs more than the work."""
        return torch.index_select(self._std, 0, cells, out=out)

    def mean(self, cells: Tensor) -> Tensor:
        """Mean over s."""
        return torch.index_select(self._mean, 0, cells)
