"""aihwkit-lightning as a contestant (which has nothing to do with PyTorch Lightning). Marked lines are the user's."""

from __future__ import annotations

import torch
from peers_tasks import SIGMA, Batch, Chips, Step, accuracy, plain_step
from torch import nn


def train(network: nn.Module, batch: Batch) -> Step:
    """A step of the converted network; inputs and outputs are ideal by default."""
    # >>> train
    from aihwkit_lightning.nn.conversion import convert_to_analog
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig, WeightNoiseInjectionType

    config = TorchInferenceRPUConfig()
    config.modifier.noise_type = WeightNoiseInjectionType.ADD_NORMAL
    config.modifier.std_dev = SIGMA
    network = convert_to_analog(network, config)
    # <<<
    return plain_step(network, batch)


def evaluate(network: nn.Module, batches: list[Batch]) -> Chips:
    """By hand: it injects noise in training only and has no way to make a chip."""
    # >>> evaluate
    from aihwkit_lightning.nn import AnalogConv2d, AnalogLinear
    from aihwkit_lightning.nn.conversion import convert_to_analog
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig

    analog = convert_to_analog(network, TorchInferenceRPUConfig()).eval()
    weights = [layer.weight for layer in analog.modules() if isinstance(layer, (AnalogConv2d, AnalogLinear))]
    clean = [weight.detach().clone() for weight in weights]
    # <<<

    def run(chips: int) -> list[float]:
        # >>> evaluate
        accuracies = []
        for _ in range(chips):
            with torch.no_grad():
                for weight, value in zip(weights, clean, strict=True):
                    weight.copy_(value + SIGMA * value.abs().max() * torch.randn_like(value))
            accuracies.append(accuracy(analog, batches))
        # <<<
        return accuracies

    return Chips(run, analog)
