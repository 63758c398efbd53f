"""Hardware cost models: energy, latency and area of networks on compute-in-memory accelerators.

``neurosim22`` is fitted to what NeuroSim prints, ``isaac32`` sums a published component table. Both are transparent
formulas of a few constants: they rank designs, they do not replace a circuit simulator.
"""

from lightning_cim.codesign.cost.adc import adc_area_um2, adc_energy_pj, lossless_bits
from lightning_cim.codesign.cost.estimate import (
    MODELS,
    Cost,
    CostModel,
    Costs,
    LayerCost,
    cost_of,
    design_cost,
    estimate,
)
from lightning_cim.codesign.cost.hardware import CELLS, Hardware, MemoryCell, hardware_of
from lightning_cim.codesign.cost.hardware_cost import HardwareCost, bit_density, hardware_cost
from lightning_cim.codesign.cost.isaac32 import Isaac32
from lightning_cim.codesign.cost.layers import TEMPLATES, LayerShape, Template, network_of
from lightning_cim.codesign.cost.mapping import Allocation, Placement, place
from lightning_cim.codesign.cost.neurosim22 import NeuroSim22

__all__ = [
    "CELLS",
    "MODELS",
    "TEMPLATES",
    "Allocation",
    "Cost",
    "CostModel",
    "Costs",
    "Hardware",
    "HardwareCost",
    "Isaac32",
    "LayerCost",
    "LayerShape",
    "MemoryCell",
    "NeuroSim22",
    "Placement",
    "Template",
    "adc_area_um2",
    "adc_energy_pj",
    "bit_density",
    "cost_of",
    "design_cost",
    "estimate",
    "hardware_cost",
    "hardware_of",
    "lossless_bits",
    "network_of",
    "place",
]
