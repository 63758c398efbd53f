"""The average intensity ratio (AIR) of lesions, and the inversion of bright brains that lets structure measures see it.

For equal structure SSIM compares means: its luminance term of (mu, r mu) is 2 r / (1 + r^2) but for C1, a function of
the intensity ratio r alone. A lesion of offset D in tissue of mean mu has |log r| of about D / mu, and D / (1 - mu)
after x -> 1 - x. So a brain is worth inverting if and only if its healthy mean is above 0.5: a rule that needs no
lesion. It is a rule of thumb, which the ablation tests.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

if TYPE_CHECKING:
    from recipes.brain_mri.volume import Volume

Mode = Literal["auto", "on", "off"]
UNSURE = 0.05
"""Distance of the healthy mean from 0.5 within which the automatic choice is reported as unsure."""


class AIRTransform(nn.Module):
    """Inversion x -> 1 - x inside the brain, background untouched. Its own inverse.

    Args:
        mode: ``"on"`` always inverts, ``"off"`` never does, ``"auto"`` decides in :meth:`fit`.

    Attributes:
        mu: Mean in-mask intensity of healthy training volumes, scalar tensor, NaN before :meth:`fit`. In checkpoints.
        inverted: Whether images are inverted, scalar bool tensor. In checkpoints.

    Raises:
        ValueError: An unknown mode.

    Example:
        >>> air = AIRTransform().fit([(np.full((4, 4), 0.7), np.ones((4, 4), bool))])
        >>> bool(air.inverted), round(air.mu.item(), 3)
        (True, 0.7)
        >>> image, mask = torch.tensor([0.0, 0.75]), torch.tensor([False, True])
        >>> air(image, mask)
        tensor([0.0000, 0.2500])
    """

    mu: Tensor
    inverted: Tensor

    def __init__(self, mode: Mode = "auto") -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(f"air must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        self.mode = mode
        self.register_buffer("mu", torch.tensor(torch.nan))
        self.register_buffer("inverted", torch.tensor(mode == "on"))

    def fit(self, volumes: Iterable[Volume | tuple[ArrayLike, ArrayLike]]) -> AIRTransform:
        """Measure the healthy mean intensity and, in mode ``auto``, decide.

        Args:
            volumes: Healthy training volumes, or pairs of an image in [0, 1] and a mask of its shape. Nothing else may
                be given here: a choice that has seen test data or lesions is no longer label-free.

        Returns:
            Itself.

        Raises:
            ValueError: No volume, or a mask without a voxel.
        """
        means = []
        for number, volume in enumerate(volumes):
            image, mask = volume if isinstance(volume, tuple) else (volume.image, volume.mask)
            inside = np.asarray(image)[np.asarray(mask, bool)]
            if inside.size == 0:
                raise ValueError(f"AIRTransform.fit: the mask of volume {number} is empty")
            means.append(float(inside.mean(dtype=np.float64)))
        if not means:
            raise ValueError("AIRTransform.fit: no volume")
        self.mu.fill_(float(np.mean(means)))
        if self.mode == "auto":
            self.inverted.fill_(bool(self.mu > 0.5))
            if abs(self.mu.item() - 0.5) < UNSURE:
                warnings.warn(
                    f"mean healthy intensity is {self.mu.item():.3f}, near 0.5: whether to invert is hardly decided by"
                    " it. Compare air=on and air=off.",
                    stacklevel=2,
                )
        return self

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Invert, or undo it.

        Args:
            image: Of any shape, in [0, 1].
            mask: The brain, of the same shape.

        Raises:
            ValueError: Mode ``auto`` before :meth:`fit`, or shapes that differ.
        """
        if image.shape != mask.shape:
            raise ValueError(f"image and mask differ in shape: {tuple(image.shape)}, {tuple(mask.shape)}")
        if self.mode == "auto" and self.mu.isnan():
            raise ValueError("air=auto has not been fitted: call AIRTransform.fit with healthy volumes, or load it")
        return torch.where(mask.bool() & self.inverted, 1 - image, image)

    def extra_repr(self) -> str:
        """Mode and what was decided."""
        return f"mode={self.mode!r}, mu={self.mu.item():.3f}, inverted={bool(self.inverted)}"

    def state(self) -> dict[str, Any]:
        """What a report says of it: mode, healthy mean, decision. The mean is None before :meth:`fit`."""
        mu = self.mu.item()
        return {"mode": self.mode, "mu": None if np.isnan(mu) else mu, "inverted": bool(self.inverted)}


def air(image: ArrayLike, mask: ArrayLike, seg: ArrayLike) -> float:
    """Average intensity ratio: mean over the lesion, divided by the mean over the rest of the brain.

    Args:
        image: Intensities, of any shape.
        mask: The brain, of the same shape.
        seg: The lesion, of the same shape.

    Returns:
        The ratio; NaN where there is no lesion, or nothing else.

    Example:
        >>> air([0.2, 0.2, 0.5, 0.9], [1, 1, 1, 0], [0, 0, 1, 0])
        2.5
    """
    values, lesion = np.asarray(image, np.float64), np.asarray(seg, bool)
    normal = np.asarray(mask, bool) & ~lesion
    if not lesion.any() or not normal.any():
        return float("nan")
    return float(values[lesion].mean() / values[normal].mean())
