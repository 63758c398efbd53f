"""Classical optimizers of a design search behind one ask and tell; ``llm`` holds those that ask a language model."""

from lightning_cim.codesign.optimizers.base import Optimizer, Proposal, make_optimizer

__all__ = ["Optimizer", "Proposal", "make_optimizer"]
