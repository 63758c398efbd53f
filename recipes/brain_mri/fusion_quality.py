"""Fusion quality: how far a reconstruction is from its image in structure and in intensity, pixel by pixel.

FQ = alpha DSSIM + (1 - alpha) |x - y|, of "Rethinking Medical Anomaly Detection in Brain MRI: An Image Quality
Assessment Perspective" (arXiv 2408.08228). Its released code fixes the details that matter: a 5 x 5 Gaussian window of
sigma 1.5 over zero-padded images, population variances, K1 = 0.01, K2 = 0.03, and 1 - SSIM clamped to [0, 1] before it
is halved.

With d = x - y and s = x + y, all that SSIM needs are local means m and variances v of these two:

    1 - luminance = md^2 / (mx^2 + my^2 + C1),    mx^2 + my^2 = (ms^2 + md^2) / 2
    1 - contrast x structure = vd / (vx + vy + C2),    vx + vy = (vs + vd) / 2

So equal images give exactly 0. E[x^2] - E[x]^2 in single precision would be wrong by more than 1e-5 of a map in flat
bright tissue, where C2 is all that stands beside the variance; here variances are summed from differences.
"""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

Variant = Literal["reference", "unclamped"]

ALPHA = 0.84
WINDOW = 5
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def ssim_map(x: Tensor, y: Tensor, window: int = WINDOW, sigma: float = SIGMA, data_range: float = 1.0) -> Tensor:
    """Structural similarity around every pixel, images zero-padded.

    Args:
        x: Images (B, C, H, W), channels apart.
        y: Images of the same shape.
        window: Width of the Gaussian window in pixels, odd.
        sigma: Its standard deviation in pixels.
        data_range: L in C1 = (0.01 L)^2 and C2 = (0.03 L)^2.

    Returns:
        (B, C, H, W) in [-1, 1].

    Raises:
        ValueError: Shapes that differ, or a window that is not odd.

    Example:
        >>> x = torch.rand(1, 1, 8, 8)
        >>> bool((ssim_map(x, x) == 1).all())
        True
    """
    return 1 - _dissimilarity(x, y, window, sigma, data_range)


def ssim_parts(
    x: Tensor, y: Tensor, window: int = WINDOW, sigma: float = SIGMA, data_range: float = 1.0
) -> tuple[Tensor, Tensor]:
    """What SSIM loses by brightness, and what by pattern: SSIM = (1 - first) (1 - second).

    Args:
        x: Images (B, C, H, W), channels apart.
        y: Images of the same shape.
        window: Width of the Gaussian window in pixels, odd.
        sigma: Its standard deviation in pixels.
        data_range: As for :func:`ssim_map`.

    Returns:
        1 - luminance, in [0, 1], and 1 - contrast x structure, in [0, 2]; (B, C, H, W) each, at least in single
        precision, whatever autocast says.

    Raises:
        ValueError: As :func:`ssim_map`.
    """
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"want two batches of one shape (B, C, H, W), got {tuple(x.shape)} and {tuple(y.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        if x.dtype in (torch.float16, torch.bfloat16):  # too coarse for variances
            x = x.float()
        means, variances = cast(
            tuple[Tensor, Tensor], _Moments.apply(torch.stack([x + y, x - y]), gaussian(window, sigma))
        )
        (mean_s2, mean_d2), (variance_s, variance_d) = means * means, variances
        luminance = mean_d2 / ((mean_s2 + mean_d2) / 2 + (K1 * data_range) ** 2)
        structure = variance_d / ((variance_s + variance_d) / 2 + (K2 * data_range) ** 2)
        return luminance, structure


def dssim_map(
    x: Tensor,
    y: Tensor,
    window: int = WINDOW,
    sigma: float = SIGMA,
    variant: Variant = "reference",
    data_range: float = 1.0,
) -> Tensor:
    """Structural dissimilarity around every pixel.

    Args:
        x: Images (B, C, H, W), channels apart.
        y: Images of the same shape.
        window: Width of the Gaussian window in pixels, odd.
        sigma: Its standard deviation in pixels.
        variant: ``"reference"`` is clamp(1 - SSIM, 0, 1) / 2: wherever SSIM is below 0 it stays at 0.5 and has no
            gradient. ``"unclamped"`` is (1 - SSIM) / 2.
        data_range: As for :func:`ssim_map`.

    Returns:
        (B, C, H, W) in [0, 0.5], unclamped in [0, 1].

    Raises:
        ValueError: As :func:`ssim_map`, or an unknown variant.
    """
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be one of {get_args(Variant)}, got {variant!r}")
    dissimilarity = _dissimilarity(x, y, window, sigma, data_range)
    return (dissimilarity.clamp(0, 1) if variant == "reference" else dissimilarity) / 2


def fusion_quality_map(
    x: Tensor,
    y: Tensor,
    alpha: float = ALPHA,
    window: int = WINDOW,
    sigma: float = SIGMA,
    variant: Variant = "reference",
    data_range: float = 1.0,
) -> Tensor:
    """Fusion quality of every pixel: alpha DSSIM + (1 - alpha) |x - y|.

    The released diffusion models train on images in [-1, 1] with L still 1: that is this function of ``2 * x - 1`` and
    ``2 * y - 1``. Their test maps, and everything here, are of images in [0, 1].

    Args:
        x: Images (B, C, H, W), channels apart, nominally in [0, 1].
        y: Images of the same shape. The result is symmetric in x and y.
        alpha: Weight of structure, in [0, 1].
        window: Width of the Gaussian window in pixels, odd.
        sigma: Its standard deviation in pixels.
        variant: As for :func:`dssim_map`.
        data_range: As for :func:`ssim_map`.

    Returns:
        (B, C, H, W) in [0, 0.42 + 0.16] by default. 0 where a neighbourhood is equal.

    Raises:
        ValueError: As :func:`dssim_map`, or an alpha outside [0, 1].

    Example:
        >>> black, white = torch.zeros(1, 1, 9, 9), torch.ones(1, 1, 9, 9)
        >>> fusion_quality_map(black, white)[0, 0, 4, 4].item()  # luminance differs, l1 is 1
        0.579...
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    structure = dssim_map(x, y, window, sigma, variant, data_range)
    return alpha * structure + (1 - alpha) * (x - y).abs()


class FusionQuality(nn.Module):
    """Mean fusion quality over all pixels of a batch, background included: a loss.

    Args:
        alpha: Weight of structure, in [0, 1].
        window: Width of the Gaussian window in pixels, odd.
        sigma: Its standard deviation in pixels.
        variant: As for :func:`dssim_map`.
        data_range: As for :func:`ssim_map`.

    Example:
        >>> x = torch.rand(2, 1, 8, 8)
        >>> FusionQuality()(x, x).item()
        0.0
    """

    def __init__(
        self,
        alpha: float = ALPHA,
        window: int = WINDOW,
        sigma: float = SIGMA,
        variant: Variant = "reference",
        data_range: float = 1.0,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.window = window
        self.sigma = sigma
        self.variant: Variant = variant
        self.data_range = data_range

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """A scalar, for x and y of shape (B, C, H, W)."""
        return fusion_quality_map(x, y, self.alpha, self.window, self.sigma, self.variant, self.data_range).mean()

    def extra_repr(self) -> str:
        """Its options."""
        return f"alpha={self.alpha}, window={self.window}, sigma={self.sigma}, variant={self.variant!r}"


class FusionQualityMetric(Metric):
    """Mean fusion quality over all pixels of all batches.

    Args:
        quality: What to average. Default: :class:`FusionQuality` as published.
        kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> metric = FusionQualityMetric()
        >>> x = torch.rand(2, 1, 8, 8)
        >>> metric.update(x, x)
        >>> metric.compute().item()
        0.0
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    total: Tensor
    pixels: Tensor

    def __init__(self, quality: FusionQuality | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.quality = quality or FusionQuality()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pixels", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch of images (B, C, H, W) and their reconstructions."""
        self.total += self.quality(x, y).double() * x.numel()
        self.pixels += x.numel()

    def compute(self) -> Tensor:
        """The mean so far, a scalar; NaN before the first batch."""
        return (self.total / self.pixels).float()


def _dissimilarity(x: Tensor, y: Tensor, window: int, sigma: float, data_range: float) -> Tensor:
    """1 - SSIM, never below 0 but for rounding."""
    luminance, structure = ssim_parts(x, y, window, sigma, data_range)
    return luminance + structure - luminance * structure  # 1 - (1 - luminance)(1 - structure)


def gaussian(window: int, sigma: float) -> tuple[float, ...]:
    """The weights of a window, which sum to 1.

    Args:
        window: Their number, odd.
        sigma: Standard deviation in pixels, above 0.

    Raises:
        ValueError: An even window, or a sigma that is not above 0.

    Example:
        >>> [round(weight, 4) for weight in gaussian(5, 1.5)]
        [0.1201, 0.2339, 0.2921, 0.2339, 0.1201]
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and at least 1, got {window}")
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    at = torch.arange(window, dtype=torch.float64) - window // 2
    weights = torch.exp(-0.5 * (at / sigma) ** 2)
    return tuple((weights / weights.sum()).tolist())


class _Moments(torch.autograd.Function):
    """Mean and population variance under a separable symmetric window, zeros around rows and columns."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, maps: Tensor, weights: tuple[float, ...]
    ) -> tuple[Tensor, Tensor]:
        # The law of total variance: of rows under columns, E[Var] + Var[E].
        rows, within = _moments_along(maps, weights, -1)
        mean, between = _moments_along(rows, weights, -2)
        ctx.save_for_backward(maps, mean)
        ctx.weights = weights  # type: ignore[attr-defined]
        return mean, between.add_(_mean_along(within, weights, -2))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        of_mean, of_variance = gradients
        maps, mean = ctx.saved_tensors  # type: ignore[attr-defined]
        weights: tuple[float, ...] = ctx.weights  # type: ignore[attr-defined]
        # d/dx of G[x^2] - G[x]^2; G is symmetric, so its adjoint is G itself.
        both = torch.stack([of_variance, of_mean - 2 * of_variance * mean])
        spread, shift = _mean_along(_mean_along(both, weights, -1), weights, -2)
        return 2 * maps * spread + shift, None


def _mean_along(maps: Tensor, weights: tuple[float, ...], dim: int) -> Tensor:
    """Weighted mean along one axis, as shifted sums: on a CPU faster than a convolution, on a GPU never in TF32."""
    size, middle = maps.shape[dim], len(weights) // 2
    mean = maps * weights[middle]
    for shift in range(1, min(middle, size - 1) + 1):
        near, far = maps.narrow(dim, 0, size - shift), maps.narrow(dim, shift, size - shift)
        mean.narrow(dim, shift, size - shift).add_(near, alpha=weights[middle + shift])
        mean.narrow(dim, 0, size - shift).add_(far, alpha=weights[middle + shift])
    return mean


def _moments_along(maps: Tensor, weights: tuple[float, ...], dim: int) -> tuple[Tensor, Tensor]:
    """Weighted mean and variance along one axis, from differences to the middle: nothing large is subtracted."""
    size, middle = maps.shape[dim], len(weights) // 2
    margin = [middle, middle, 0, 0] if dim == -1 else [0, 0, middle, middle]
    padded = functional.pad(maps, margin)
    drift, square = torch.zeros_like(maps), torch.zeros_like(maps)
    for tap, weight in enumerate(weights):
        if tap != middle:
            step = padded.narrow(dim, tap, size) - maps
            drift.add_(step, alpha=weight)
            square.addcmul_(step, step, value=weight)
    return maps + drift, square.addcmul_(drift, drift, value=-1)
