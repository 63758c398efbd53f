"""Gaussian device variation, its right-censored form (TRICE) and the ablations that isolate why that one works.

Every class transforms i.i.d. standard normals z and scales them: dW = sigma * slice_factor * max|W| * f(z). The forms
f are those of the reference code of "Improving Realistic Worst-Case Performance of NVCiM DNN Accelerators through
Training with Right-Censored Gaussian Noise" (ICCAD 2023, arXiv 2307.15853).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from lightning_cim.variation.base import SigmaRef, Variation, max_abs
from lightning_cim.variation.conductance import Device
from lightning_cim.variation.device_array import UNIT_DEVICE
from lightning_cim.variation.encoding import Encoding

PUBLISHED: dict[str, dict[str, object]] = {
    "neft": {"sigma_ref": "full_scale", "weight_bits": 8, "device_bits": 2},
    "swim": {"sigma_ref": "lsb", "weight_bits": 8, "device_bits": 1},
    "trice": {"sigma_ref": "weight"},
}
"""What the authors of each paper mean by sigma. The same number differs by up to 3x between them."""


def slice_factor(sigma_ref: SigmaRef, weight_bits: int | None = None, device_bits: int | None = None) -> float:
    """Std of the weight error, over sigma * max|W|, when each weight is sliced over several devices.

    A weight of M bits lies on M/K devices of K bits; device j counts 2^(jK). With an independent error on each device

    * ``"full_scale"``: error relative to the device's whole range (NeFT_CIM): sqrt(sum_j 2^(2jK)) / sum_j 2^(jK)
    * ``"lsb"``: error relative to the device's least significant bit (SWIM): sqrt(sum_i 2^(-2iK)), i = 1..M/K
    * ``"weight"``: no slicing, sigma is relative to max|W| itself (TRICE): 1

    Args:
        sigma_ref: What sigma is relative to.
        weight_bits: M, at least 1; not for ``"weight"``.
        device_bits: K, a divisor of M; not for ``"weight"``.

    Raises:
        ValueError: Unknown convention, bits missing, or M not a multiple of K.

    Example:
        >>> [round(slice_factor("full_scale", 8, 2), 4), round(slice_factor("lsb", 8, 2), 4)]
        [0.7776, 0.2582]
    """
    if sigma_ref == "weight":
        if weight_bits is not None or device_bits is not None:
            raise ValueError(
                "weight_bits and device_bits have no effect with sigma_ref='weight'; leave them out, or choose"
                " sigma_ref='full_scale' or 'lsb'"
            )
        return 1.0
    if sigma_ref not in ("full_scale", "lsb"):
        raise ValueError(f"sigma_ref must be 'weight', 'full_scale' or 'lsb', got {sigma_ref!r}")
    if weight_bits is None or device_bits is None:
        raise ValueError(
            f"sigma_ref={sigma_ref!r} needs weight_bits and device_bits, for example 8 and 2 (NeFT) or 8 and 1 (SWIM)"
        )
    if device_bits < 1 or weight_bits < 1 or weight_bits % device_bits:
        raise ValueError(
            f"weight_bits={weight_bits} must be a positive multiple of device_bits={device_bits}: a weight lies on"
            " weight_bits / device_bits devices"
        )
    places = [2.0 ** (j * device_bits) for j in range(weight_bits // device_bits)]
    root = math.sqrt(sum(place**2 for place in places))
    return root / sum(places) if sigma_ref == "full_scale" else root / 2.0**weight_bits


def density(x: float) -> float:
    """Standard normal density phi(x)."""
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def cumulative(x: float) -> float:
    """Standard normal distribution function Phi(x)."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _tail(c: float, power: int) -> float:
    """c^power * (1 - Phi(c)), which tends to 0 for c = inf."""
    return 0.0 if math.isinf(c) else c**power * cumulative(-c)


def _edge(c: float) -> float:
    """c * phi(c), which tends to 0 for c = inf."""
    return 0.0 if math.isinf(c) else c * density(c)


@dataclass(frozen=True)
class GaussianFamily(Variation):
    """What the Gaussian and its cut forms share: the scale and its conventions.

    Attributes:
        sigma: Relative std of the underlying Gaussian, at least 0. Typical: 0.01 (good RRAM) to 0.4 (stress test).
        sigma_ref: What sigma is relative to: ``"weight"`` (max|W| of the tensor), ``"full_scale"`` or ``"lsb"`` (the
            device; see :func:`slice_factor`).
        weight_bits: M, bits a weight is sliced into; only with ``"full_scale"`` and ``"lsb"``.
        device_bits: K, bits a device stores; only with ``"full_scale"`` and ``"lsb"``.
    """

    sigma: float
    sigma_ref: SigmaRef = field(default="weight", kw_only=True)
    weight_bits: int | None = field(default=None, kw_only=True)
    device_bits: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ValueError(f"{name}: sigma must be a finite number >= 0, got {self.sigma!r}")
        slice_factor(self.sigma_ref, self.weight_bits, self.device_bits)
        cutoff = getattr(self, "cutoff", 1.0)
        if not cutoff > 0:  # also refuses NaN
            raise ValueError(
                f"{name}: cutoff is in units of sigma and must be > 0 (inf: no cut; 2.0 is TRICE's), got {cutoff!r}"
            )

    @property
    def scale(self) -> float:
        """Std of the uncut deviation in units of max|W|: sigma times the slicing factor."""
        return self.sigma * slice_factor(self.sigma_ref, self.weight_bits, self.device_bits)

    @property
    def mean(self) -> float:
        """Closed-form expected deviation in units of max|W|."""
        return self.scale * self.unit_moments()[0]

    @property
    def std(self) -> float:
        """Closed-form standard deviation in units of max|W|."""
        first, second = self.unit_moments()
        return self.scale * math.sqrt(max(0.0, second - first**2))  # tiny cutoffs round to just below 0

    @property
    def devices(self) -> tuple[Device, Encoding] | None:
        """Differential pairs of each slice where the weight is sliced; their sigma is not simulated slice by slice."""
        if self.weight_bits is None:
            return None
        return UNIT_DEVICE, Encoding(weight_bits=self.weight_bits, device_bits=self.device_bits, mode="per_slice")

    @property
    def is_null(self) -> bool:
        """Whether sigma is 0."""
        return self.sigma == 0.0

    def deviation(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """The unit deviation times scale times max|W|."""
        return numbers.to(weight.device) * (max_abs(weight) * self.scale)

    def deviate(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """Weight and deviation in one pass over memory."""
        return torch.addcmul(weight, numbers.to(weight.device, weight.dtype), max_abs(weight) * self.scale)

    def scaled(self, factor: float) -> GaussianFamily:
        """The same variation at ``factor`` times sigma."""
        return replace(self, sigma=self.sigma * factor)

    def draw(self, shape: torch.Size, generator: Generator) -> Tensor:
        """Deviations in units of ``scale``: float32 f(z) of the given shape on the generator's device."""
        return self.cut_(torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32))

    def cut_(self, z: Tensor) -> Tensor:
        """Turn standard normals into the unit deviation f(z), in place; no cut unless a subclass makes one."""
        return z

    @abstractmethod
    def unit_moments(self) -> tuple[float, float]:
        """Closed-form E[f(z)] and E[f(z)^2]."""


@dataclass(frozen=True)
class Gaussian(GaussianFamily):
    """Independent Gaussian deviation of every weight: dW ~ N(0, (sigma * slice_factor * max|W|)^2).

    The model of device-to-device variation that NeFT, TRICE and SWIM all evaluate on.

    Example:
        >>> Gaussian(sigma=0.1).std
        0.1
        >>> round(Gaussian.published("neft", sigma=0.1).std, 5)
        0.07776
    """

    @classmethod
    def published(cls, paper: str, sigma: float) -> Gaussian:
        """Sigma as the authors of a paper mean it.

        Args:
            paper: ``"neft"`` (8-bit weights on 2-bit devices, relative to the device's full scale), ``"swim"`` (8 on 1
                bit, relative to the LSB) or ``"trice"`` (relative to max|W|).
            sigma: The paper's sigma.

        Raises:
            ValueError: Unknown paper.
        """
        if paper not in PUBLISHED:
            raise ValueError(f"paper must be one of {sorted(PUBLISHED)}, got {paper!r}")
        return cls(sigma, **PUBLISHED[paper])  # type: ignore[arg-type]

    def unit_moments(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0


@dataclass(frozen=True)
class RightCensoredGaussian(GaussianFamily):
    """Right-censored Gaussian: f(z) = min(z, cutoff), the training noise of TRICE (arXiv 2307.15853).

    Only the upper tail of the *signed* deviation is cut, whatever the weight's sign, and its mass is piled at the
    cut; the mean is therefore negative and is not corrected. With ``cutoff=inf`` it equals :class:`Gaussian` bit for
    bit.

    Attributes:
        cutoff: c, in units of sigma, > 0. Mass at the cut is 1 - Phi(c): 2.28 % at the default 2.0.

    Example:
        >>> rc = RightCensoredGaussian(sigma=1.0, cutoff=1.0)
        >>> round(rc.mean, 4), round(rc.std, 4)
        (-0.0833, 0.8667)
    """

    cutoff: float = 2.0

    def cut_(self, z: Tensor) -> Tensor:
        """min(z, c)."""
        return z.clamp_(max=self.cutoff)

    def unit_moments(self) -> tuple[float, float]:
        """c (1 - Phi(c)) - phi(c), and Phi(c) - c phi(c) + c^2 (1 - Phi(c))."""
        c = self.cutoff
        return _tail(c, 1) - density(c), cumulative(c) - _edge(c) + _tail(c, 2)


@dataclass(frozen=True)
class LeftCensoredGaussian(GaussianFamily):
    """Ablation: f(z) = max(z, -cutoff), the mirror image of :class:`RightCensoredGaussian`.

    Attributes:
        cutoff: c, in units of sigma, > 0.
    """

    cutoff: float = 2.0

    def cut_(self, z: Tensor) -> Tensor:
        """max(z, -c)."""
        return z.clamp_(min=-self.cutoff)

    def unit_moments(self) -> tuple[float, float]:
        """The right-censored mean with its sign turned, the same second moment."""
        first, second = RightCensoredGaussian(1.0, self.cutoff).unit_moments()
        return -first, second


@dataclass(frozen=True)
class TwoSidedCensoredGaussian(GaussianFamily):
    """Ablation: f(z) = clamp(z, -cutoff, cutoff); no mean shift, both tails cut.

    Attributes:
        cutoff: c, in units of sigma, > 0.
    """

    cutoff: float = 2.0

    def cut_(self, z: Tensor) -> Tensor:
        """clamp(z, -c, c)."""
        return z.clamp_(-self.cutoff, self.cutoff)

    def unit_moments(self) -> tuple[float, float]:
        """0, and 2 Phi(c) - 1 - 2 c phi(c) + 2 c^2 (1 - Phi(c))."""
        c = self.cutoff
        return 0.0, 2.0 * (cumulative(c) - _edge(c) + _tail(c, 2)) - 1.0


@dataclass(frozen=True)
class RightTruncatedGaussian(GaussianFamily):
    """Ablation: z given z <= cutoff. Mass above the cut is spread over the rest instead of piled at the cut.

    Attributes:
        cutoff: c, in units of sigma, > 0.
    """

    cutoff: float = 2.0

    def draw(self, shape: torch.Size, generator: Generator) -> Tensor:
        """Inverse-CDF samples: Phi^-1(u Phi(c)) for u uniform in (0, 1); float64 keeps the lower tail."""
        u = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        smallest = torch.finfo(torch.float64).tiny
        z: Tensor = torch.special.ndtri(u.clamp_(min=smallest).mul_(cumulative(self.cutoff)))
        return z.float()

    def unit_moments(self) -> tuple[float, float]:
        """-phi(c) / Phi(c), and 1 - c phi(c) / Phi(c)."""
        c = self.cutoff
        return -density(c) / cumulative(c), 1.0 - _edge(c) / cumulative(c)


@dataclass(frozen=True)
class UnbiasedRightCensoredGaussian(GaussianFamily):
    """Ablation: the right-censored Gaussian with its mean subtracted; only the shape of the cut is left.

    Attributes:
        cutoff: c, in units of sigma, > 0.
    """

    cutoff: float = 2.0

    def cut_(self, z: Tensor) -> Tensor:
        """min(z, c) - E[min(z, c)]."""
        return z.clamp_(max=self.cutoff).sub_(RightCensoredGaussian(1.0, self.cutoff).unit_moments()[0])

    def unit_moments(self) -> tuple[float, float]:
        """0, and the right-censored variance."""
        first, second = RightCensoredGaussian(1.0, self.cutoff).unit_moments()
        return 0.0, second - first**2


@dataclass(frozen=True)
class ShiftedGaussian(GaussianFamily):
    """Ablation: an uncut Gaussian with the mean of the right-censored one; only the shift is left.

    Attributes:
        cutoff: c of the right-censored Gaussian whose mean is taken, in units of sigma, > 0.
    """

    cutoff: float = 2.0

    def cut_(self, z: Tensor) -> Tensor:
        """Shift by E[min(z, c)]."""
        return z.add_(RightCensoredGaussian(1.0, self.cutoff).unit_moments()[0])

    def unit_moments(self) -> tuple[float, float]:
        """The right-censored mean m, and 1 + m^2."""
        first = RightCensoredGaussian(1.0, self.cutoff).unit_moments()[0]
        return first, 1.0 + first**2
