"""Rasterizers of sums of Gaussians: one interface, several backends.

| backend | where | what |
|---|---|---|
| ``numba`` | CPU | scanlines, exact spans, no exponential inside a row; the fast one. Extra ``sgi`` |
| ``torch`` | anywhere | tiles in plain torch; the portable one |
| ``triton`` | CUDA | tiles, binned by torch, summed by a Triton kernel; Triton comes with torch for CUDA |
| ``gsplat`` | CUDA | tiles, binned by gsplat, summed by the Triton kernel or torch. Extra ``sgi-cuda``; needs nvcc |
| ``reference`` | anywhere | every Gaussian at every pixel, float32 or float64; for tests |
| ``auto`` | anywhere | CPU: numba, else torch; CUDA: gsplat, else triton, else torch |
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

Backend = Literal["auto", "numba", "torch", "triton", "gsplat", "reference"]
Blend = Literal["sum", "alpha"]

_log = logging.getLogger(__name__)


class Rasterizer(Protocol):
    """Draws Gaussians: C(p) = sum_n c_n exp(-(p - mu_n)^T Q_n (p - mu_n) / 2), terms below weight 1/255 dropped."""

    def __call__(self, means: Tensor, conics: Tensor, colors: Tensor, height: int, width: int) -> Tensor:
        """Draw an image, differentiable in means, conics and colours.

        Args:
            means: Centres x, y in pixels, (N, 2), float32; row y, column x has its centre at (x+0.5, y+0.5).
            conics: Q11, Q12, Q22 of the inverse covariance, (N, 3), positive definite.
            colors: Colours of any sign, (N, C).
            height: Rows.
            width: Columns.

        Returns:
            The image, (height, width, C); nothing is clamped, and where no Gaussian reaches it is 0.

        Raises:
            ValueError: Wrong shapes or number formats, numbers that are not finite, conics not positive definite.
        """


def rasterizer(backend: Backend = "auto", blend: Blend = "sum") -> Rasterizer:
    """The rasterizer of a backend.

    Args:
        backend: See the table of this package. ``auto`` decides at the first call, by the tensors' device, and logs
            what it took and why.
        blend: ``sum`` for every backend; ``alpha`` for gsplat's front-to-back compositing, an ablation.

    Returns:
        A function; see :class:`Rasterizer`.

    Raises:
        ValueError: An unknown backend or blend, or ``alpha`` with another backend than ``gsplat``.
        ImportError: The backend's package is missing; the message names the extra that brings it.
        RuntimeError: The backend needs CUDA, and there is none.

    >>> draw = rasterizer("torch")
    >>> draw(torch.tensor([[1.5, 0.5]]), torch.tensor([[2.0, 0.0, 2.0]]), torch.ones(1, 1), 1, 4)[0, :, 0]
    tensor([0.3679, 1.0000, 0.3679, 0.0183])
    """
    if backend not in get_args(Backend):
        raise ValueError(f"no backend {backend!r}: take one of {', '.join(get_args(Backend))}")
    if blend not in get_args(Blend):
        raise ValueError(f"no blend {blend!r}: take 'sum' or 'alpha'")
    if blend == "alpha":
        if backend != "gsplat":
            raise ValueError(f"blend 'alpha' is gsplat's: take the backend 'gsplat', not {backend!r}")
        return _load_alpha()
    return _draw_auto if backend == "auto" else _LOADERS[backend]()


def _draw_auto(means: Tensor, conics: Tensor, colors: Tensor, height: int, width: int) -> Tensor:
    """Draw by the best backend for the tensors' device."""
    return _best(means.device.type)(means, conics, colors, height, width)


@lru_cache(maxsize=4)
def _best(device_type: str) -> Rasterizer:
    """The first backend in the order of speed that loads, told once in the log."""
    passed_over = []
    for name in _ORDER.get(device_type, ()):
        try:
            found = _LOADERS[name]()
        except (ImportError, RuntimeError) as error:
            passed_over.append(f"not {name}: {error}")
            continue
        _log.info("rasterizer: %s on %s%s", name, device_type, "".join(f"; {reason}" for reason in passed_over))
        return found
    reasons = "; ".join(passed_over) or "the only one for this device"
    _log.warning("rasterizer: torch on %s, which is slow; %s", device_type, reasons)
    return _load_torch()


def _load_reference() -> Rasterizer:
    from recipes.gaussian_image.rasterizers import reference

    return reference.rasterize


def _load_torch() -> Rasterizer:
    from recipes.gaussian_image.rasterizers import torch_tiles

    return torch_tiles.rasterize


def _load_numba() -> Rasterizer:
    try:
        from recipes.gaussian_image.rasterizers import numba_spans
    except ImportError as error:
        raise ImportError(f"the backend 'numba' needs numba ({error}): pip install 'lightning-cim[sgi]'") from error
    return numba_spans.rasterize


def _load_triton() -> Rasterizer:
    if not torch.cuda.is_available():
        raise RuntimeError("the backend 'triton' needs a CUDA GPU, and there is none: take 'numba' or 'torch'")
    try:
        from recipes.gaussian_image.rasterizers import triton_sum
    except ImportError as error:
        raise ImportError(f"the backend 'triton' needs triton ({error}): pip install triton") from error
    from recipes.gaussian_image.rasterizers import torch_tiles

    return partial(torch_tiles.rasterize, tile=16, kernel=triton_sum.TritonSum.apply)


def _load_gsplat() -> Rasterizer:
    from recipes.gaussian_image.rasterizers import gsplat_tiles, torch_tiles

    gsplat_tiles.load_gsplat()
    try:
        from recipes.gaussian_image.rasterizers.triton_sum import TritonSum
    except ImportError:
        return partial(torch_tiles.rasterize, tile=gsplat_tiles.TILE, binning=gsplat_tiles.bin_by_gsplat)
    return partial(
        torch_tiles.rasterize, tile=gsplat_tiles.TILE, binning=gsplat_tiles.bin_by_gsplat, kernel=TritonSum.apply
    )


def _load_alpha() -> Rasterizer:
    from recipes.gaussian_image.rasterizers import gsplat_tiles

    gsplat_tiles.load_gsplat()
    return gsplat_tiles.rasterize_alpha


_LOADERS: dict[str, Callable[[], Rasterizer]] = {
    "numba": _load_numba,
    "torch": _load_torch,
    "triton": _load_triton,
    "gsplat": _load_gsplat,
    "reference": _load_reference,
}
_ORDER = {"cpu": ("numba",), "cuda": ("gsplat", "triton")}
