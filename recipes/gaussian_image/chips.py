"""A decoder on simulated chips: its two networks on crossbars, or its seeds' attributes in analog memory.

Weights deviate as W + sigma max|W| z. Attributes deviate as x + sigma std(x) z, with the standard deviation of the
features, scalings or offsets of all seeds. A chip is drawn once for a whole picture. The entropy model and its hash
grid are digital in every case: a bit that is wrong there would make the rest of the file unreadable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_cim as cim
from recipes.gaussian_image.codec.decoder import DecodedImage, decode
from recipes.gaussian_image.module import CROSSBARS, psnr
from recipes.gaussian_image.rasterizers import Rasterizer, rasterizer
from recipes.gaussian_image.structured import KINDS, Attributes

NETWORKS = {
    "both networks": CROSSBARS,
    "colour network": cim.Mapping(targets=(), include=("structured.color_mlp",)),
    "covariance network": cim.Mapping(targets=(), include=("structured.shape_mlp",)),
}
"""What lies on crossbars."""
MEMORY = {"attributes": cim.Mapping(targets=(), include=("memory.*",))}
"""What lies in analog memory."""

METRIC = "psnr"
PERCENTILES = (1, 5, 25, 50, 75, 95)
K = 5.0
"""Percentile that stands for a realistic worst case."""


@dataclass(frozen=True)
class OfSpread(cim.Variation):
    """Independent Gaussian deviation of every value, relative to how far values spread: dx ~ N(0, (sigma std(x))^2).

    Attributes:
        sigma: At least 0.

    Raises:
        ValueError: A negative sigma, or one that is not finite.

    Example:
        >>> x = torch.tensor([99.0, 101.0])
        >>> round(OfSpread(0.5).variance(x).item(), 3)
        0.25
    """

    sigma: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ValueError(f"OfSpread: sigma must be a finite number >= 0, got {self.sigma!r}")

    def draw(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Standard normals."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def deviation(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """Sigma times the spread times the normals."""
        return numbers.to(weight.device) * self.variance(weight).sqrt()

    def variance(self, weight: Tensor) -> Tensor:
        """(sigma std(x))^2, the same for every value."""
        return (self.sigma * weight.detach().float().std(correction=0)) ** 2

    def scaled(self, factor: float) -> OfSpread:
        """At ``factor`` times sigma."""
        return OfSpread(self.sigma * factor)

    @property
    def mean(self) -> float:
        """0."""
        return 0.0

    @property
    def std(self) -> float:
        """NaN unless sigma is 0: relative to the largest value it depends on the tensor; see :meth:`variance`."""
        return 0.0 if self.sigma == 0 else math.nan


class Decoder(L.LightningModule):
    """A decoded file as hardware holds it. Logs the picture's ``psnr`` when tested.

    Args:
        image: The file.
        draw: Rasterizer. Default: the best for the CPU.

    Attributes:
        structured: The networks, rounded to half precision as in the file.
        memory: The attributes ``f``, ``s`` and ``d`` of all seeds.
    """

    def __init__(self, image: DecodedImage, draw: Rasterizer | None = None) -> None:
        super().__init__()
        self.structured = image.model
        stored = zip(KINDS, image.attributes, strict=True)
        self.memory = nn.ParameterDict({kind: nn.Parameter(part, requires_grad=False) for kind, part in stored})
        self.draw = draw or rasterizer("auto")

    def forward(self) -> Tensor:
        """The picture at full size, (H, W, 3), not clamped to [0, 1]."""
        attributes = Attributes(*(self.memory[kind] for kind in KINDS))
        return self.structured.render(attributes, 0, self.draw)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Log the PSNR against the original, (H, W, 3) in [0, 1]."""
        self.log(METRIC, psnr(self(), batch))


@dataclass(frozen=True)
class StudyOptions:
    """What to measure.

    Attributes:
        sigmas: Of the networks' weights, above 0.
        memory_sigmas: Of the attributes, above 0.
        chips: For each sigma and part. The 5 % percentile wants 200.
        seed: Of the population of chips.
        parts: Some of ``NETWORKS`` and ``MEMORY``.

    Raises:
        ValueError: Numbers out of range, or an unknown part.
    """

    sigmas: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1)
    memory_sigmas: tuple[float, ...] = (0.01, 0.03, 0.1)
    chips: int = 200
    seed: int = 0
    parts: tuple[str, ...] = (*NETWORKS, *MEMORY)

    def __post_init__(self) -> None:
        for name in ("sigmas", "memory_sigmas", "parts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.chips < 1:
            raise ValueError(f"chips={self.chips}: want at least 1")
        if not all(math.isfinite(sigma) and sigma > 0 for sigma in (*self.sigmas, *self.memory_sigmas)):
            raise ValueError("sigmas and memory_sigmas must be above 0; the file without any noise is always measured")
        unknown = [part for part in self.parts if part not in {*NETWORKS, *MEMORY}]
        if unknown:
            raise ValueError(f"unknown parts {unknown}; there are {[*NETWORKS, *MEMORY]}")


class Point(NamedTuple):
    """What was measured where.

    Attributes:
        net: Name of the file.
        part: Of ``NETWORKS`` or ``MEMORY``.
        sigma: 0 without noise.
    """

    net: str
    part: str
    sigma: float


def study(
    files: Mapping[str, bytes], pixels: Tensor, options: StudyOptions, out: Path, draw: Rasterizer | None = None
) -> dict[Point, cim.ChipResult]:
    """Measure files on chips. Chips are on disk as soon as they are done; a killed study goes on at the next one.

    Chip r is the same draw for every file, part and sigma, so that differences are paired.

    Args:
        files: Encoded images by name.
        pixels: The original, (H, W, 3) in [0, 1].
        options: What to measure.
        out: Folder of one CSV a file, part and sigma.
        draw: Rasterizer. Default: the best for the CPU.

    Returns:
        PSNR of every chip.

    Raises:
        ValueError: An image of another size than a file's, or a CSV of another study.
    """
    found = {}
    for net, data in files.items():
        image = decode(data)
        if tuple(pixels.shape[:2]) != image.config.size(0):
            raise ValueError(
                f"{net}: the file's image is {image.config.size(0)}, the original {tuple(pixels.shape[:2])}"
            )
        decoder = Decoder(image, draw)
        for part in options.parts:
            in_memory = part in MEMORY
            for sigma in (0.0, *(options.memory_sigmas if in_memory else options.sigmas)):
                variation = OfSpread(sigma) if in_memory else cim.Gaussian(sigma)
                csv = out / f"{net}-{part.replace(' ', '-')}-{sigma:g}.csv"
                chips = options.chips if sigma else 1  # without noise all chips are alike
                mapping = MEMORY.get(part) or NETWORKS[part]
                found[Point(net, part, sigma)] = on_chips(decoder, pixels, variation, mapping, chips, options.seed, csv)
    return found


def on_chips(
    decoder: Decoder,
    pixels: Tensor,
    variation: cim.Variation,
    mapping: cim.Mapping,
    chips: int,
    seed: int = 0,
    csv: Path | None = None,
) -> cim.ChipResult:
    """PSNR of a decoder on chips.

    Args:
        decoder: Given back as it was.
        pixels: The original, (H, W, 3) in [0, 1].
        variation: What devices do to a value.
        mapping: What lies on devices.
        chips: How many.
        seed: Of the population.
        csv: Where each chip goes as soon as it is done.
    """
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    once = DataLoader([pixels], batch_size=None)  # type: ignore[arg-type]
    return cim.evaluate_chips(
        trainer,
        decoder,
        once,
        variation=variation,
        chips=chips,
        seed=seed,
        mapping=mapping,
        k=K,
        csv=csv,
        progress=False,
    )


def row_of(point: Point, result: cim.ChipResult) -> dict[str, Any]:
    """One line of ``metrics.json``: statistics of a result, in dB."""
    sample, mark = result.of(METRIC), result.kpp(METRIC, K)
    return {
        **point._asdict(),
        "chips": len(sample),
        "mean": result.mean(METRIC),
        "std": result.std(METRIC) if len(sample) > 1 else 0.0,
        "percentiles": {str(k): float(np.percentile(sample, k)) for k in PERCENTILES},
        "kpp": [value if math.isfinite(value) else None for value in (mark.value, mark.low, mark.high)],
        "worst": result.worst(METRIC),
        "worst_chip": result.worst_chip(METRIC),
    }
