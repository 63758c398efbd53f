"""Scaling between technology nodes, as NeuroSim's small network does from 22 to 45 nm."""

from __future__ import annotations

import numpy as np

from lightning_cim.codesign.cost.layers import Array

NODES_NM = (22.0, 32.0, 45.0)
ENERGY = (1.0, 1.59, 2.82)
AREA = (1.0, 2.15, 4.49)
CLOCK = (1.0, 2.49 / 2.04, 3.12 / 2.04)
"""Measured with NeuroSim V1.3 at these nodes, relative to 22 nm."""


def energy_scale(tech_nm: float | Array) -> Array:
    """Energy at a node relative to 22 nm; between the nodes of the runs, a power law.

    Raises:
        ValueError: The node is not within 22 to 45 nm.

    Example:
        >>> round(float(energy_scale(45)), 2), round(float(energy_scale(28)), 2)
        (2.82, 1.35)
    """
    return _between(tech_nm, ENERGY)


def area_scale(tech_nm: float | Array) -> Array:
    """Area, in the same way."""
    return _between(tech_nm, AREA)


def clock_scale(tech_nm: float | Array) -> Array:
    """Clock period, in the same way."""
    return _between(tech_nm, CLOCK)


def _between(tech_nm: float | Array, values: tuple[float, ...]) -> Array:
    node = np.asarray(tech_nm, dtype=float)
    if not np.all((node >= NODES_NM[0]) & (node <= NODES_NM[-1])):
        raise ValueError(f"technology scaling is known from {NODES_NM[0]:g} to {NODES_NM[-1]:g} nm, got {tech_nm}")
    return np.asarray(np.exp(np.interp(np.log(node), np.log(NODES_NM), np.log(values))))
