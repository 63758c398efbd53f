"""Reconstruction models of healthy brains."""

from recipes.brain_mri.models.base import Reconstructor, TrainingPass
from recipes.brain_mri.models.zoo import ARCHS, Arch, learning_rate, network

__all__ = ["ARCHS", "Arch", "Reconstructor", "TrainingPass", "learning_rate", "network"]
