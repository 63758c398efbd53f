"""A small image and quick fits of it."""

from functools import cache

import lightning as L
import torch

from recipes.gaussian_image.baselines.fitting import FitSettings, GaussianImageFit, LigFit, fit
from recipes.gaussian_image.baselines.gaussian_image import GaussianImage, GaussianImageConfig
from recipes.gaussian_image.baselines.lig import Lig


def picture(height: int = 28, width: int = 40) -> torch.Tensor:
    """Waves and an edge."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    waves = torch.stack([0.5 + 0.4 * torch.sin(9 * x + k) * torch.cos(7 * y - k) for k in range(3)], 2)
    return torch.where((x > 0.6)[..., None], 1 - waves, waves)


@cache
def fitted_gaussian_image(steps: int = 60, quantise_from: float = 0.5) -> GaussianImage:
    L.seed_everything(0, verbose=False)
    config = GaussianImageConfig(28, 40, 90, xy_bits=9, shape_bits=6, stages=2, entries=8)
    module = GaussianImageFit(GaussianImage(config), FitSettings(steps, quantise_from=quantise_from))
    fit(module, picture(), steps)
    return module.model


@cache
def fitted_lig(steps: int = 60) -> Lig:
    module = LigFit(Lig((28, 40), 90), FitSettings(steps))
    fit(module, picture(), steps)
    return module.model
