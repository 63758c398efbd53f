"""Resolution from two half maps, corrected for what the mask itself correlates.

Chen et al., Ultramicroscopy 135 (2013): phases beyond some shell are randomised before masking. What correlates then
is the mask's doing, FSC_n, and the true correlation is (FSC_t - FSC_n) / (1 - FSC_n) of the masked FSC_t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recipes.cryo_em.fsc import HALF_MAPS, Crossing, ShellCorrelation, fourier_shell_correlation, frequency_radius

RANDOMISE_BELOW = 0.8
"""Phases are randomised from the first shell on where the FSC without a mask is lower, as RELION does."""
_TRANSITION = 2
"""Shells behind the first random one that leak over from the true ones; left uncorrected."""


@dataclass(frozen=True)
class HalfMapCorrelation:
    """FSC of two half maps, four times.

    Attributes:
        unmasked: As they are.
        masked: With the mask.
        randomised: With random phases from shell ``start`` on, and the mask.
        corrected: ``masked``, corrected by ``randomised``.
        start: First shell with random phases.
    """

    unmasked: ShellCorrelation
    masked: ShellCorrelation
    randomised: ShellCorrelation
    corrected: ShellCorrelation
    start: int

    def resolution(self, crossing: Crossing = "first") -> float:
        """Of the corrected curve at 0.143, Angstrom."""
        return float(self.corrected.resolution(HALF_MAPS, crossing))


def half_map_fsc(
    first: Tensor, second: Tensor, pixel_size: float, mask: Tensor, start: int | None = None, seed: int = 0
) -> HalfMapCorrelation:
    """FSC of two maps from one half of the particles each.

    Args:
        first: (D, D, D).
        second: (D, D, D).
        pixel_size: Angstrom.
        mask: (D, D, D) in [0, 1], with a soft edge; the same for both.
        start: First shell whose phases are randomised. Default: where the FSC without mask falls below 0.8.
        seed: Of the random phases.

    Raises:
        ValueError: Maps of different sizes, or a start outside the curve.
    """
    unmasked = fourier_shell_correlation(first, second, pixel_size)
    masked = fourier_shell_correlation(first, second, pixel_size, mask)
    shells = len(unmasked.frequency)
    if start is None:
        low = (unmasked.correlation < RANDOMISE_BELOW).nonzero()
        start = int(low[0]) if len(low) else shells
    elif not 1 <= start <= shells:
        raise ValueError(f"start={start}: phases can be randomised from shell 1 to {shells}")
    scrambled = randomise_phases(first, start, seed), randomise_phases(second, start, seed + 1)
    randomised = fourier_shell_correlation(scrambled[0], scrambled[1], pixel_size, mask)
    noise, signal = randomised.correlation, masked.correlation
    corrected = signal.clone()
    begin = start + _TRANSITION
    corrected[begin:] = (signal[begin:] - noise[begin:]) / (1 - noise[begin:]).clamp_min(1e-6)
    return HalfMapCorrelation(unmasked, masked, randomised, replace(masked, correlation=corrected.clamp(-1, 1)), start)


def randomise_phases(volume: Tensor, start: int, seed: int = 0) -> Tensor:
    """The map with random phases from a shell on; amplitudes and lower frequencies stay.

    Args:
        volume: (D, D, D).
        start: First shell, rounded as in `fsc`.
        seed: Of the phases.

    Returns:
        (D, D, D), real.
    """
    generator = torch.Generator().manual_seed(seed)
    # The transform of real white noise has random phases with the symmetry that a real map needs.
    noise = torch.fft.fftn(torch.randn(volume.shape, generator=generator, dtype=torch.float64))
    spectrum = torch.fft.fftn(volume.double().cpu())
    scrambled = spectrum.abs() * torch.exp(1j * noise.angle())
    far = frequency_radius(volume.shape[-1]) >= start - 0.5
    found: Tensor = torch.fft.ifftn(torch.where(far, scrambled, spectrum)).real
    return found.to(volume)
