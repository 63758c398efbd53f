"""How far a reconstruction is from its image: one choice for training, another for the anomaly map."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor, nn

from recipes.brain_mri.fusion_quality import dssim_map, fusion_quality_map

Kind = Literal["l1", "l2", "ssim", "fq"]
KINDS: tuple[Kind, ...] = get_args(Kind)

LARGEST: dict[Kind, float] = {"l1": 1.0, "l2": 1.0, "ssim": 0.5, "fq": 0.58}
"""Of each residual by default, for images in [0, 1]: the top of a colour scale that all pictures share."""


def residual(kind: Kind, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """The disagreement of two batches of images, pixel by pixel.

    Args:
        kind: ``"l1"`` is |x - y|, ``"l2"`` (x - y)^2, ``"ssim"`` DSSIM, ``"fq"`` fusion quality.
        x: Images (B, 1, H, W) in [0, 1].
        y: Images of the same shape.
        options: Of :func:`dssim_map` or :func:`fusion_quality_map`.

    Returns:
        (B, 1, H, W), at least 0, symmetric in x and y.

    Raises:
        ValueError: An unknown kind, options of another kind, or shapes that differ.

    Example:
        >>> import torch
        >>> residual("l2", torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))[0, 0, 0, 0].item()
        0.25
    """
    if kind not in KINDS:
        raise ValueError(f"residual must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "ssim":
        return dssim_map(x, y, **options)
    if kind == "fq":
        return fusion_quality_map(x, y, **options)
    if options:
        raise ValueError(f"{kind} has no options, got {', '.join(options)}")
    if x.shape != y.shape:
        raise ValueError(f"images and reconstructions differ in shape: {tuple(x.shape)}, {tuple(y.shape)}")
    difference = x - y
    return difference.abs() if kind == "l1" else difference * difference


class Loss(nn.Module):
    """Mean of a residual over all pixels of a batch, background included.

    Args:
        kind: As for :func:`residual`.
        options: As for :func:`residual`.

    Raises:
        ValueError: An unknown kind.
    """

    def __init__(self, kind: Kind, **options: Any) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"loss must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind = kind
        self.options = options

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """A scalar, for x and y of shape (B, 1, H, W)."""
        return residual(self.kind, x, y, **self.options).mean()

    def extra_repr(self) -> str:
        """What it averages."""
        return ", ".join([self.kind, *(f"{name}={value!r}" for name, value in self.options.items())])


def loss(kind: Kind, **options: Any) -> Loss:
    """The loss of a kind of residual.

    Example:
        >>> loss("fq", alpha=0.5)
        Loss(fq, alpha=0.5)
    """
    return Loss(kind, **options)
