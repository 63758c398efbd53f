"""A model on simulated chips: encoder, decoder and feature table on crossbars.

Weights deviate as W + sigma max|W| z, one draw a chip for the whole set of images: latents come from the chip's
encoder, maps from the same chip's decoder. Base map, poses, attention products and projection are digital.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_cim as cim
from recipes._tables import Cells
from recipes.cryo_em.batches import batch_of
from recipes.cryo_em.evaluate import BATCH, decode
from recipes.cryo_em.judge import Judge
from recipes.cryo_em.module import CROSSBARS
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.report import number
from recipes.cryo_em.scores import spearman
from recipes.cryo_em.states import NEAREST, STATES, label_states, principal_components

PARTS = {
    "everything": CROSSBARS,
    "encoder": cim.Mapping(targets=(), include=("model.encoder.*.weight",), exclude=("*norm*",)),
    "decoder": cim.Mapping(targets=(), include=("model.decoder.*.weight", "model.head.*.weight"), exclude=("*norm*",)),
    "feature table": cim.Mapping(targets=(), include=("model.volume.table",)),
}
"""What lies on crossbars."""
METRICS = {
    "motion": "motion correlation",
    "auc_mean": "AUC, mean",
    "auc_worst": "AUC, worst state",
    "auc_mobile": "AUC, mobile region",
    "spearman": "|rank correlation| of PC 1",
}
"""Logged by `OnChip`, all better when higher."""


class OnChip(L.LightningModule):
    """A fitted model that scores itself against the truth when tested.

    Args:
        model: Fitted, with a transformer decoder or not.
        labels: True conformations of the images that a test gives, (n,).
        judge: The true states.
        nearest: Images averaged for a state.
    """

    def __init__(self, model: nn.Module, labels: Tensor, judge: Judge, nearest: int = NEAREST) -> None:
        super().__init__()
        self.model, self.labels, self.judge, self.nearest = model, labels, judge, nearest

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Encode all images from what `CryoFormer.see` gave of them, decode the states, and log `METRICS`."""
        latents = torch.cat([self.model.latents(part).cpu() for part in torch.split(batch, BATCH)])  # type: ignore[operator]
        states = label_states(latents, self.labels, len(self.judge.labels), self.nearest)
        found = self.judge.score(decode(self.model, states.latents)).numbers()  # type: ignore[arg-type]
        first = principal_components(latents, 1).scores[:, 0]
        found["spearman"] = abs(spearman(first, self.labels.double()))
        for name in METRICS:
            value = found[name]
            self.log(name, math.nan if value is None else value, batch_size=1)


@dataclass(frozen=True)
class StudyOptions:
    """What is measured.

    Attributes:
        sigmas: Of the weights, above 0; 0 is always measured.
        chips: For each sigma and part, at least 10 for an error worth the name.
        seed: Of the population.
        parts: Some of `PARTS`.
        images: Of the particles, the first so many.
        states: By true label.
        nearest: Images averaged for a state.

    Raises:
        ValueError: Numbers out of range, or an unknown part.
    """

    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    chips: int = 10
    seed: int = 0
    parts: tuple[str, ...] = tuple(PARTS)
    images: int = 1500
    states: int = STATES
    nearest: int = NEAREST

    def __post_init__(self) -> None:
        for name in ("sigmas", "parts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.chips < 1 or self.states < 2 or self.nearest < 1 or self.images < self.states:
            raise ValueError(
                f"chips={self.chips}, states={self.states}, nearest={self.nearest}, images={self.images}: want at least"
                " 1, 2, 1, and as many images as states"
            )
        if not all(math.isfinite(sigma) and sigma > 0 for sigma in self.sigmas):
            raise ValueError("sigmas must be above 0; the model without any noise is always measured")
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise ValueError(f"unknown parts {unknown}; there are {list(PARTS)}")


class Point(NamedTuple):
    """What was measured where.

    Attributes:
        net: Name of the model.
        part: Of `PARTS`.
        sigma: 0 without noise.
    """

    net: str
    part: str
    sigma: float


def study(
    models: Mapping[str, nn.Module], particles: Particles, options: StudyOptions, out: Path, progress: bool = False
) -> dict[Point, cim.ChipResult]:
    """Measure models on chips. Chips are on disk as soon as they are done; a killed study goes on at the next one.

    Chip r is the same draw for every model, part and sigma, so that differences are paired.

    Args:
        models: Fitted, by name.
        particles: Simulated, standardised as in training.
        options: What is measured.
        out: Folder of one CSV a model, part and sigma.
        progress: Whether to show a bar for each of these.

    Returns:
        The scores of every chip.

    Raises:
        ValueError: Particles without labels or truth, or a CSV of another study.
    """
    if particles.labels is None:
        raise ValueError("chips are scored against the truth: these particles were not simulated")
    some = particles.subset(slice(0, options.images))
    labels, parts = particles.labels[: len(some)], torch.split(torch.arange(len(some)), BATCH)
    found = {}
    for net, model in models.items():
        judge = Judge.of(some, model.support, options.states)  # type: ignore[arg-type]
        # Base map, poses and projection are digital: what encoders see is the same on every chip.
        seen = torch.cat([model.see(batch_of(some, rows)) for rows in parts])  # type: ignore[operator]
        module = OnChip(model, labels, judge, options.nearest)
        for part in options.parts:
            for sigma in (0.0, *options.sigmas):
                csv = out / f"{net}-{part.replace(' ', '-')}-{sigma:g}.csv"
                csv.parent.mkdir(parents=True, exist_ok=True)
                chips = options.chips if sigma else 1  # without noise all chips are alike
                found[Point(net, part, sigma)] = cim.evaluate_chips(
                    _trainer(),
                    module,
                    DataLoader([seen], batch_size=None),  # type: ignore[arg-type]
                    variation=cim.Gaussian(sigma),
                    chips=chips,
                    seed=options.seed,
                    mapping=PARTS[part],
                    csv=csv,
                    progress=progress,
                )
    return found


def _trainer() -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def rows_of(results: Mapping[Point, cim.ChipResult]) -> list[dict[str, Any]]:
    """Lines of ``metrics.json``: mean, std, percentiles and worst of every point and metric."""
    rows = []
    for point, result in results.items():
        for metric in METRICS:
            sample = result.of(metric)
            rows.append(
                {
                    **point._asdict(),
                    "metric": metric,
                    "chips": len(sample),
                    "mean": float(sample.mean()),
                    "std": float(sample.std(ddof=1)) if len(sample) > 1 else 0.0,
                    "p5": float(np.percentile(sample, 5)),
                    "p95": float(np.percentile(sample, 95)),
                    "worst": float(sample.min()),
                }
            )
    return rows


def chip_table(rows: Sequence[Mapping[str, Any]], part: str) -> Cells:
    """Mean and standard deviation over chips of every metric, for one part."""
    body = []
    for net, sigma in dict.fromkeys((row["net"], row["sigma"]) for row in rows if row["part"] == part):
        of = {row["metric"]: row for row in rows if (row["net"], row["part"], row["sigma"]) == (net, part, sigma)}
        cells = [
            number(row["mean"]) + (f" ± {number(row['std'])}" if row["chips"] > 1 else "")
            for row in (of[metric] for metric in METRICS)
        ]
        body.append([net, f"{sigma:g}", str(next(iter(of.values()))["chips"]), *cells])
    return ["net", "sigma", "chips", *METRICS.values()], body


def gains(results: Mapping[Point, cim.ChipResult], plain: str, metric: str = "motion") -> list[dict[str, Any]]:
    """What other models gain over the plain one, chip by chip.

    Returns:
        For each other model, part and sigma: mean ``gain``, its standard error ``se`` over chips (0 for one chip).
    """
    found = []
    for point, result in results.items():
        if point.net == plain:
            continue
        difference = result.of(metric) - results[point._replace(net=plain)].of(metric)
        error = float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else 0.0
        found.append({**point._asdict(), "metric": metric, "gain": float(difference.mean()), "se": error})
    return found


def gain_table(found: Sequence[Mapping[str, Any]]) -> Cells:
    """The same as text."""
    body = [
        [
            row["net"],
            row["part"],
            f"{row['sigma']:g}",
            f"{row['gain']:+.3f}",
            f"{row['se']:.3f}" if row["sigma"] else "-",
        ]
        for row in found
    ]
    return ["net", "on chips", "sigma", "gain in motion correlation", "standard error"], body


def judged(found: Sequence[Mapping[str, Any]], sigma: float = 0.2, part: str = "everything") -> dict[str, bool]:
    """Whether training under variation paid, by net.

    It did where it gains more than two standard errors at ``sigma`` and loses at most 0.02 without noise.
    """
    verdict = {}
    for net in dict.fromkeys(row["net"] for row in found):
        at = {row["sigma"]: row for row in found if (row["net"], row["part"]) == (net, part)}
        if sigma in at and 0.0 in at:
            verdict[net] = at[sigma]["gain"] > 2 * at[sigma]["se"] and at[0.0]["gain"] >= -0.02
    return verdict
