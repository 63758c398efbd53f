"""From a scan that is stripped of its skull to the working grid of the networks.

The order is that of pDDPM (Behrendt et al., MIDL 2023) and of the fusion-quality paper: crop or pad to
192 x 192 x 100 mm, bring percentiles 1 and 99 of the brain to 0 and 1, then resample to the working grid, 96 x 96 x 50
at 2 mm by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.brain_mri._ndimage import ndimage
from recipes.brain_mri.volume import depth_of

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Affine = NDArray[np.float64]

FIELD_MM = 192
"""Width and length of the working grid."""


@dataclass(frozen=True)
class Window:
    """A linear map of intensities, low to 0 and high to 1, clamped."""

    low: float
    high: float

    def __call__(self, image: Floats) -> Floats:
        """Apply it; zeros outside the brain stay whatever `low` makes of them, 0 if `low` is not negative."""
        scaled: Floats = np.clip((image - self.low) / (self.high - self.low), 0, 1).astype(np.float32)
        return scaled


def percentile_window(image: Floats, mask: Flags, low: float = 1, high: float = 99) -> Window:
    """The window between two percentiles inside a mask.

    Raises:
        ValueError: The mask is empty, or the image constant inside it.

    Example:
        >>> image = np.arange(101, dtype=np.float32).reshape(101, 1, 1)
        >>> percentile_window(image, image >= 0)
        Window(low=1.0, high=99.0)
    """
    if not mask.any():
        raise ValueError("the brain mask is empty")
    bottom, top = (float(value) for value in np.percentile(image[mask], (low, high)))
    if not top > bottom:
        raise ValueError(f"percentiles {low:g} and {high:g} inside the mask are both {bottom:g}: nothing to rescale")
    return Window(bottom, top)


def curvature_flow(image: Floats, iterations: int = 3, step: float = 0.125) -> Floats:
    """Smoothing along level sets: dI/dt = mean curvature times gradient magnitude (Sethian 1996); edges stay.

    Args:
        image: (X, Y, Z).
        iterations: Number of explicit steps.
        step: Length of each; up to 1/8 it is stable in 3-D.

    Returns:
        (X, Y, Z) float32.
    """
    current: Floats = image.astype(np.float32)
    for _ in range(iterations):
        gx, gy, gz = np.gradient(current)
        gxx, gxy, gxz = np.gradient(gx)
        _, gyy, gyz = np.gradient(gy)
        gzz = np.gradient(gz, axis=2)
        top = (gy**2 + gz**2) * gxx + (gx**2 + gz**2) * gyy + (gx**2 + gy**2) * gzz
        top -= 2 * (gx * gy * gxy + gx * gz * gxz + gy * gz * gyz)
        squared = gx**2 + gy**2 + gz**2
        change = np.where(squared > 1e-12, top / np.maximum(squared, 1e-12), 0)
        current = (current + step * change).astype(np.float32)
    return current


def working_affine(affine: Affine, mask: Flags, size: int) -> Affine:
    """The working grid of a scan: cubes of 192/size mm along the scan's own axes, centred on the brain's box.

    Published code centres on the file, whose black borders have been cut; centring on the brain does the same to such
    files and right by others.

    Args:
        affine: (4, 4), of the scan in canonical (RAS) order.
        mask: (X, Y, Z), its brain.
        size: H and W of the working grid.

    Raises:
        ValueError: The mask is empty.
    """
    if not mask.any():
        raise ValueError("the brain mask is empty")
    occupied = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    middle = np.array([(found[0] + found[-1]) / 2 for found in occupied])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    result = np.eye(4)
    result[:3, :3] = affine[:3, :3] / spacing * (FIELD_MM / size)
    shape = np.array([size, size, depth_of(size)])
    result[:3, 3] = affine[:3, :3] @ middle + affine[:3, 3] - result[:3, :3] @ ((shape - 1) / 2)
    return result


def resample(
    image: NDArray[Any], source: Affine, target: Affine, shape: tuple[int, int, int], order: int
) -> NDArray[Any]:
    """An image on another grid; zero outside its own.

    Args:
        image: (X, Y, Z).
        source: (4, 4), its indices to millimetres.
        target: (4, 4), the other grid's.
        shape: Of the other grid.
        order: 0 nearest (masks, lesions), 1 linear (maps), 3 cubic B-spline (scans).
    """
    matrix = np.linalg.inv(source) @ target
    result: NDArray[Any] = ndimage.affine_transform(
        image, matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=order, mode="constant", cval=0
    )
    return result


def to_working_grid(
    image: Floats, mask: Flags, seg: Flags | None, affine: Affine, size: int
) -> tuple[Floats, Flags, Flags | None, Affine]:
    """A scan on the working grid, in [0, 1].

    The window is taken inside the part of the brain that the working grid covers. The B-spline overshoots; its result
    is clamped. Masks and lesions go by nearest neighbour.

    Args:
        image: (X, Y, Z) in canonical order.
        mask: (X, Y, Z), the brain.
        seg: (X, Y, Z), lesions, or None.
        affine: (4, 4).
        size: H and W of the working grid.

    Returns:
        Image (size, size, D), mask, lesions, and the working grid's affine.

    Raises:
        ValueError: The mask is empty, or the image constant inside it.
    """
    target = working_affine(affine, mask, size)
    shape = (size, size, depth_of(size))
    covered = _covered(mask, affine, target, shape)
    window = percentile_window(image, covered)
    scaled = window(image * mask) if window.low >= 0 else window(image) * mask
    small = np.clip(resample(scaled, affine, target, shape, order=3), 0, 1).astype(np.float32)
    small_mask = resample(mask.astype(np.uint8), affine, target, shape, order=0) > 0
    small_seg = None if seg is None else resample(seg.astype(np.uint8), affine, target, shape, order=0) > 0
    return small, small_mask, small_seg, target


def _covered(mask: Flags, affine: Affine, target: Affine, shape: tuple[int, int, int]) -> Flags:
    """The part of the mask that lies inside the target grid, whose axes are the source's."""
    to_source = np.linalg.inv(affine) @ target
    scale, offset = np.diag(to_source)[:3], to_source[:3, 3]
    low = np.clip(np.ceil(offset - scale / 2), 0, None).astype(int)
    high = np.floor(offset + scale * (np.array(shape) - 0.5)).astype(int) + 1
    inside = np.zeros_like(mask)
    box = tuple(slice(a, max(int(b), int(a))) for a, b in zip(low, high, strict=True))
    inside[box] = mask[box]
    return inside
