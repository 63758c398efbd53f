"""Noise that is redrawn at every forward pass and yet is the same in every run."""

from __future__ import annotations

import torch

from lightning_cim.chip.population import draw_seed


class OutputNoise:
    """Generators for the noise of each layer's n-th forward pass since the last restart.

    The global random state is neither used nor changed.

    Args:
        seed: The noise is a pure function of it, of the restart's arguments, of the layer and of n.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.restart("", 0)

    def restart(self, stream: str, index: int) -> None:
        """Count forward passes from 0 again.

        Args:
            stream: What the passes are for.
            index: Which of them: the batch, or the chip.
        """
        self._stream, self._index = stream, index
        self._passes: dict[str, int] = {}

    def generator(self, layer: str, device: torch.device, again: bool = False) -> torch.Generator:
        """The source of one forward pass's noise.

        Args:
            layer: Its name.
            device: Where the noise is drawn.
            again: The last pass is computed once more and needs the same noise.

        Example:
            >>> noise, cpu = OutputNoise(0), torch.device("cpu")
            >>> first, second, repeated = (noise.generator("fc", cpu, again=n == 2).initial_seed() for n in range(3))
            >>> first == second, second == repeated
            (False, True)
        """
        passes = self._passes.get(layer, 0) + (not again)
        self._passes[layer] = passes
        generator = torch.Generator(device)
        generator.manual_seed(draw_seed(self._seed, f"output/{self._stream}/{self._index}", passes, layer))
        return generator
