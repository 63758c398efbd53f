"""A model on simulated hardware. Needs torch only."""

from lightning_cim.chip.criterion import criterion_call
from lightning_cim.chip.feedback import feedback_logits
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip, ChipPopulation
from lightning_cim.chip.scope import chip_weights, on_chip

__all__ = ["Chip", "ChipPopulation", "Mapping", "chip_weights", "criterion_call", "feedback_logits", "on_chip"]
