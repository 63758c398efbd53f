"""Dense, slow definitions in float64, straight from the formulas."""

import numpy as np


def ssim(x, y, window=5, sigma=1.5, data_range=1.0):
    """SSIM of two images (H, W), zero-padded, one pixel and one window after the other."""
    at = np.arange(window) - window // 2
    weights = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    x, y = (np.pad(np.asarray(image, np.float64), window // 2) for image in (x, y))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    out = np.empty((x.shape[0] - window + 1, x.shape[1] - window + 1))
    for i, j in np.ndindex(*out.shape):
        a, b = x[i : i + window, j : j + window], y[i : i + window, j : j + window]
        mx, my = (weights * a).sum(), (weights * b).sum()
        vx = (weights * a * a).sum() - mx**2
        vy = (weights * b * b).sum() - my**2
        c = (weights * a * b).sum() - mx * my
        out[i, j] = (2 * mx * my + c1) * (2 * c + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return out


def fusion_quality(x, y, alpha=0.84, **options):
    """FQ of two images (H, W), clamped as published."""
    return alpha * np.clip(1 - ssim(x, y, **options), 0, 1) / 2 + (1 - alpha) * np.abs(x - y)
