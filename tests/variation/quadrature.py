"""Moments of conductances that are cut at zero, by summing over a fine grid: an independent reference."""

import math

import torch

STEPS = 20_001
GRID = torch.linspace(-10.0, 10.0, STEPS, dtype=torch.float64)
WEIGHTS = torch.exp(-0.5 * GRID.square()) / math.sqrt(2 * math.pi) * (20.0 / (STEPS - 1))


def cut_moments(mean, sigma):
    """Mean and std of max(mean + sigma z, 0), z standard normal; off by less than 1e-6 of sigma.

    The trapezoidal rule is exact to rounding for smooth functions here; the kink costs step^2 / 12 of its slope.
    """
    held = (mean + sigma * GRID).clamp(min=0.0)
    first = float((held * WEIGHTS).sum())
    return first, math.sqrt(float(((held - first).square() * WEIGHTS).sum()))
