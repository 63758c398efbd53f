"""Fits of Gaussian images without structure: a LightningModule whose data is the one image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipes.gaussian_image.baselines.gaussian_image import GaussianImage
from recipes.gaussian_image.baselines.lig import Lig
from recipes.gaussian_image.baselines.plane import Plane
from recipes.gaussian_image.rasterizers import Rasterizer, rasterizer

QUANTISER_LR = 1e-3
"""Learning rate of the levels of shapes, in pixels; the published one of quantisation-aware fitting."""


@dataclass(frozen=True)
class FitSettings:
    """How to fit.

    Attributes:
        steps: In all.
        color_lr: Learning rate of colours and codebooks.
        xy_lr: Of positions, in distances between neighbours.
        shape_lr: Of Cholesky factors in distances between neighbours, of covariances in squares of these.
        beta2: Of Adam.
        decay_from: Share of the steps after which learning rates fall to 0 along half a cosine.
        quantise_from: Share of the steps after which a `GaussianImage` is fitted as its file will show it.
        coarse_share: Share of the steps in which a `Lig` fits its coarse level; published: half.

    Raises:
        ValueError: Numbers out of range.
    """

    steps: int = 800
    color_lr: float = 0.05
    xy_lr: float = 0.05
    shape_lr: float = 0.02
    beta2: float = 0.95
    decay_from: float = 0.4
    quantise_from: float = 0.6
    coarse_share: float = 0.2

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: want at least 1")
        for name in ("decay_from", "quantise_from", "coarse_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: want a share, 0 to 1")

    def lr_factor(self, step: int) -> float:
        """Factor of the learning rates at a step, counted from 0.

        Example:
            >>> [round(FitSettings(steps=100).lr_factor(step), 3) for step in (0, 40, 70)]
            [1.0, 1.0, 0.5]
        """
        past = step / self.steps - self.decay_from
        return 1.0 if past <= 0 else 0.5 + 0.5 * math.cos(math.pi * past / (1 - self.decay_from))


class ImageData(Dataset[Tensor]):
    """One image, as often as there are steps.

    Args:
        image: (H, W, 3).
        steps: How often.
    """

    def __init__(self, image: Tensor, steps: int) -> None:
        self.image = image
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Tensor:
        return self.image


class GaussianImageFit(L.LightningModule):
    """Fits a `GaussianImage`, in its last part through its quantisers."""

    def __init__(self, model: GaussianImage, settings: FitSettings, draw: Rasterizer | None = None) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.draw = draw or rasterizer("auto")

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Mean squared error, from `quantise_from` on of the quantised picture."""
        if self.global_step < self._quantise_at:
            return (self.model.render(self.model.plane.values(), self.draw) - batch).square().mean()
        if self.global_step == self._quantise_at:
            self.model.start_quantisers()
        picture = self.model.render(self.model.quantised(), self.draw)
        return (picture - batch).square().mean() + self.model.commitment()

    def configure_optimizers(self) -> Any:
        """Adam; what the quantisers learn begins when they do."""
        settings, model = self.settings, self.model
        groups = plane_groups(model.plane, settings)
        groups += [
            {"params": [model.colors.books], "lr": settings.color_lr},
            {"params": list(model.shapes.parameters()), "lr": QUANTISER_LR},
        ]
        return adam(groups, settings)

    @property
    def _quantise_at(self) -> int:
        return round(self.settings.quantise_from * self.settings.steps)


class LigFit(L.LightningModule):
    """Fits the levels of a `Lig`, one after the other."""

    def __init__(self, model: Lig, settings: FitSettings, draw: Rasterizer | None = None) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.draw = draw or rasterizer("auto")
        self._target: tuple[int, Tensor] | None = None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Mean squared error of the level's picture from the level's target."""
        level = int(self.global_step >= round(self.settings.coarse_share * self.settings.steps))
        if self._target is None or self._target[0] != level:
            self._target = level, self.model.start_level(level, batch, self.draw)
        plane = self.model.planes[level]
        return (plane.render(plane.values(), self.draw) - self._target[1]).square().mean()

    def configure_optimizers(self) -> Any:
        """Adam over both levels; a level that is not fitted has no gradient and rests."""
        return adam(
            [group for plane in self.model.planes for group in plane_groups(plane, self.settings)], self.settings
        )


def plane_groups(plane: Plane, settings: FitSettings) -> list[dict[str, Any]]:
    """Parameter groups of a plane."""
    rates = {"shift": settings.xy_lr, "shape": settings.shape_lr, "color": settings.color_lr}
    return [{"params": [getattr(plane, name)], "lr": lr} for name, lr in rates.items()]


def adam(groups: list[dict[str, Any]], settings: FitSettings) -> Any:
    """Adam and its schedule, for Lightning."""
    optimizer = torch.optim.Adam(groups, betas=(0.9, settings.beta2), eps=1e-15)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.lr_factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(module: L.LightningModule, image: Tensor, steps: int) -> None:
    """Fit to an image (H, W, 3) on the CPU, without logs or files.

    Args:
        module: Whose batches are images.
        image: The only one.
        steps: How many.
    """
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(ImageData(image, steps), batch_size=None))
