"""Both tiles of aihwkit as contestants. Marked lines are the user's.

Inputs and outputs are ideal and a layer is one tile however large, so that noise means the same as everywhere else.
"""

from __future__ import annotations

from typing import Any

import torch
from peers_tasks import SIGMA, Batch, Chips, Step, accuracy, plain_step
from torch import Tensor, nn


def train_torch_tile(network: nn.Module, batch: Batch) -> Step:
    """A step on the tile that is written in PyTorch; draws its noise in every forward pass."""
    # >>> train-torch
    from aihwkit.nn.conversion import convert_to_analog
    from aihwkit.simulator.configs import TorchInferenceRPUConfig
    from aihwkit.simulator.parameters.enums import WeightModifierType

    config = TorchInferenceRPUConfig()
    config.forward.is_perfect = config.backward.is_perfect = True
    config.mapping.max_input_size = config.mapping.max_output_size = 0
    config.modifier.type = WeightModifierType.ADD_NORMAL
    config.modifier.std_dev = SIGMA
    network = convert_to_analog(network, config)
    # <<<
    return plain_step(network, batch)


def train_compiled_tile(network: nn.Module, batch: Batch) -> Step:
    """A step on the compiled tile; draws its noise after every update."""
    # >>> train-compiled
    from aihwkit.nn.conversion import convert_to_analog
    from aihwkit.optim import AnalogSGD
    from aihwkit.simulator.configs import InferenceRPUConfig
    from aihwkit.simulator.parameters.enums import WeightModifierType

    config = InferenceRPUConfig()
    config.forward.is_perfect = config.backward.is_perfect = True
    config.mapping.max_input_size = config.mapping.max_output_size = 0
    config.modifier.type = WeightModifierType.ADD_NORMAL
    config.modifier.std_dev = SIGMA
    network = convert_to_analog(network, config)
    optimizer = AnalogSGD(network.parameters(), lr=1e-3, momentum=0.9)
    optimizer.regroup_param_groups(network)
    # <<<
    return plain_step(network, batch, optimizer)


def train_pcm(network: nn.Module, batch: Batch) -> Step:
    """A step on the compiled tile under its polynomial of the same phase-change memory (PCMNoise needs a GPU)."""
    from aihwkit.nn.conversion import convert_to_analog
    from aihwkit.optim import AnalogSGD
    from aihwkit.simulator.configs import InferenceRPUConfig
    from aihwkit.simulator.parameters.enums import WeightModifierType

    config = InferenceRPUConfig()
    config.forward.is_perfect = config.backward.is_perfect = True
    config.mapping.max_input_size = config.mapping.max_output_size = 0
    config.modifier.type = WeightModifierType.POLY
    config.modifier.std_dev = 1.0  # a factor on the polynomial
    network = convert_to_analog(network, config)
    optimizer = AnalogSGD(network.parameters(), lr=1e-3, momentum=0.9)
    optimizer.regroup_param_groups(network)
    return plain_step(network, batch, optimizer)


def evaluate_torch_tile(network: nn.Module, batches: list[Batch]) -> Chips:
    """Program, run, program again: ``program_analog_weights`` in a loop of the user's, on the PyTorch tile."""
    from aihwkit.simulator.configs import TorchInferenceRPUConfig

    return _evaluate(network, batches, TorchInferenceRPUConfig())


def evaluate_compiled_tile(network: nn.Module, batches: list[Batch]) -> Chips:
    """The same on the compiled tile."""
    from aihwkit.simulator.configs import InferenceRPUConfig

    return _evaluate(network, batches, InferenceRPUConfig())


def _evaluate(network: nn.Module, batches: list[Batch], config: Any) -> Chips:
    # >>> evaluate
    from aihwkit.inference import BaseNoiseModel
    from aihwkit.nn.conversion import convert_to_analog

    class Additive(BaseNoiseModel):
        def apply_programming_noise(self, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
            return weights + SIGMA * weights.abs().max() * torch.randn_like(weights), []

    config.noise_model = Additive()
    config.drift_compensation = None
    config.forward.is_perfect = True
    config.mapping.max_input_size = config.mapping.max_output_size = 0
    analog = convert_to_analog(network, config).eval()
    # <<<

    def run(chips: int) -> list[float]:
        # >>> evaluate
        accuracies = []
        for _ in range(chips):
            analog.program_analog_weights()
            accuracies.append(accuracy(analog, batches))
        # <<<
        return accuracies

    return Chips(run, analog)
