"""Patch diffusion that predicts the clean image in one step (pDDPM, Behrendt et al., MIDL 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recipes.brain_mri.models.base import Reconstructor, TrainingPass, begin_black
from recipes.brain_mri.models.simplex import simplex_noise
from recipes.brain_mri.models.unet import UNet

STEPS = 1000
"""Of the diffusion."""
CELLS = 4
"""Patches of the fixed grid of 2 x 2, each half a side."""


def signal(step: Tensor) -> Tensor:
    """Share of the signal's power that is left after a step, with the cosine schedule and s = 0.008.

    (Nichol and Dhariwal 2021; betas are below 0.999, which matters at the last step only.)

    Args:
        step: (B,), 0 to 999.

    Returns:
        (B,), in (0, 1).

    Example:
        >>> [round(x, 2) for x in signal(torch.tensor([0, 499, 749])).tolist()]
        [1.0, 0.49, 0.14]
    """
    angle = ((torch.arange(STEPS + 1, dtype=torch.float64) / STEPS + 0.008) / 1.008) * math.pi / 2
    power = angle.cos() ** 2
    alphas = (power[1:] / power[:-1]).clamp(min=0.001)
    return alphas.cumprod(0).float().to(step.device)[step]


class PatchDiffusion(Reconstructor):
    """Sees a slice of which one quarter is noise and paints that quarter.

    In training one random quarter of each slice is replaced by its noised version at a random step, and the network's
    output replaces that quarter; the loss is over the whole slice. At test time each quarter is painted once, from a
    fixed step, and the four are put together. There is no sampling over many steps.

    The noise of test slice i is the same in every call, so a volume given whole has one result.

    Args:
        size: Side of the slices; its half must be a multiple of the network's halvings.
        width: Channels of the first level.
        multipliers: Channels of the levels, in widths.
        blocks: Residual blocks a level.
        attention: In the middle of the network.
        test_step: The noise at test time, 0 to 999.
        chunk: Patches that go through the network at once at test time.

    Raises:
        ValueError: A step out of range.
    """

    def __init__(
        self,
        size: int = 96,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 3,
        attention: bool = True,
        test_step: int = 749,
        chunk: int = 64,
    ) -> None:
        if not 0 <= test_step < STEPS:
            raise ValueError(f"test_step={test_step}: want 0 to {STEPS - 1}")
        net = UNet(width, multipliers, blocks, timed=True, attention=attention)
        super().__init__(size, max(net.factor, 2))
        begin_black(net.out, -1.0)
        self.net, self.test_step, self.chunk = net, test_step, chunk

    def reconstruct(self, image: Tensor) -> Tensor:
        """Four quarters, each from a slice whose other three are clean; clamped to [0, 1]."""
        noise = simplex_noise(len(image), self.size, torch.Generator().manual_seed(0)).to(image)
        parts = []
        for begin in range(0, len(image), max(1, self.chunk // CELLS)):
            some = slice(begin, begin + max(1, self.chunk // CELLS))
            parts.append(self._quarters(image[some], noise[some]))
        return torch.cat(parts).clamp(0, 1) if parts else image.clone()

    def _quarters(self, image: Tensor, noise: Tensor) -> Tensor:
        batch = len(image)
        cell = torch.arange(CELLS, device=image.device).repeat(batch)
        step = torch.full_like(cell, self.test_step)
        painted = self._paint(image.repeat_interleave(CELLS, 0), noise.repeat_interleave(CELLS, 0), cell, step)
        mask = self._cell_mask(cell)
        return (painted * mask).view(batch, CELLS, 1, self.size, self.size).sum(1)

    def training_pass(self, image: Tensor, generator: torch.Generator) -> TrainingPass:
        """One random quarter of each slice, at one random step each."""
        batch = len(image)
        cell = torch.randint(CELLS, (batch,), generator=generator).to(image.device)
        step = torch.randint(STEPS, (batch,), generator=generator).to(image.device)
        noise = simplex_noise(batch, self.size, generator).to(image)
        return TrainingPass(self._paint(image, noise, cell, step), image.new_zeros(()))

    def _paint(self, image: Tensor, noise: Tensor, cell: Tensor, step: Tensor) -> Tensor:
        """Slices with one cell each replaced by what the network makes of its noised version.

        The network works in [-1, 1], where noise of variance 1 fits the schedule.
        """
        left = signal(step)[:, None, None, None]
        clean, mask = 2 * image - 1, self._cell_mask(cell)
        noisy = left.sqrt() * clean + (1 - left).sqrt() * noise
        painted = self.net(torch.where(mask, noisy, clean), step)
        return torch.where(mask, (painted + 1) / 2, image)

    def _cell_mask(self, cell: Tensor) -> Tensor:
        """(B, 1, H, W), true in the cell: 0 and 1 are the upper two, 2 and 3 the lower."""
        half = torch.arange(self.size, device=cell.device) >= self.size // 2
        rows = half == (cell >= 2)[:, None]
        columns = half == (cell % 2 == 1)[:, None]
        return (rows[:, :, None] & columns[:, None, :])[:, None]
