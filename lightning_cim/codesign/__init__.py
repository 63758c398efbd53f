"""Search over networks and compute-in-memory hardware together."""

from lightning_cim.codesign.cost import hardware_cost

__all__ = ["hardware_cost"]
