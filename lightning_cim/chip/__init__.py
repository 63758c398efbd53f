"""A model on simulated hardware. Needs torch only."""

from lightning_cim.chip.circuit import Circuit
from lightning_cim.chip.criterion import criterion_call
from lightning_cim.chip.crossbar import on_crossbar
from lightning_cim.chip.deployed import ReadBackChip, deployed_chip
from lightning_cim.chip.feedback import feedback_logits
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip, ChipPopulation
from lightning_cim.chip.scope import chip_weights, on_chip
from lightning_cim.chip.shared_block import SharedBlock, insert_shared_block, remove_shared_block
from lightning_cim.chip.stages import named_blocks, snapshot_paths, trace_blocks

__all__ = [
    "Chip",
    "ChipPopulation",
    "Circuit",
    "Mapping",
    "ReadBackChip",
    "SharedBlock",
    "chip_weights",
    "criterion_call",
    "deployed_chip",
    "feedback_logits",
    "insert_shared_block",
    "named_blocks",
    "on_chip",
    "on_crossbar",
    "remove_shared_block",
    "snapshot_paths",
    "trace_blocks",
]
