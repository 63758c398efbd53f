"""Models by name."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from recipes.brain_mri.models.autoencoder import AutoEncoder
from recipes.brain_mri.models.base import Reconstructor
from recipes.brain_mri.models.denoising import DenoisingAutoEncoder
from recipes.brain_mri.models.diffusion import PatchDiffusion

Arch = Literal["ae", "ae-spatial", "vae", "dae", "pddpm", "pddpm-lite"]
ARCHS: tuple[Arch, ...] = get_args(Arch)
WIDTHS: dict[Arch, int] = {"dae": 8, "pddpm": 128}


def network(arch: Arch, size: int = 96, width: int | None = None) -> Reconstructor:
    """An untrained model.

    Args:
        arch: Autoencoders: ``ae`` (dense bottleneck), ``ae-spatial``, ``vae``. ``dae``: a U-Net that removes coarse
            noise. ``pddpm``: patch diffusion with the authors' U-Net, for a GPU; ``pddpm-lite``: with a small one.
        size: Side of the square slices.
        width: Channels of the first level, even; default: 16, of ``dae`` 8, of ``pddpm`` 128.

    Raises:
        ValueError: An unknown name, or a size or width that does not fit.

    Example:
        >>> network("ae", 32)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 1, 32, 32])
    """
    if arch not in ARCHS:
        raise ValueError(f"arch={arch!r}: there are {', '.join(ARCHS)}")
    width = WIDTHS.get(arch, 16) if width is None else width
    if width < 2 or width % 2:
        raise ValueError(f"width={width}: want an even number of channels, at least 2")
    # oneDNN's convolutions with few channels are faster so, by a tenth to a third.
    return _network(arch, size, width).to(memory_format=torch.channels_last)


def _network(arch: Arch, size: int, width: int) -> Reconstructor:
    if arch == "dae":
        return DenoisingAutoEncoder(size, width)
    if arch == "pddpm":
        return PatchDiffusion(size, width)
    if arch == "pddpm-lite":
        return PatchDiffusion(size, width, (1, 2, 4), 1, attention=False)
    kinds: dict[str, Literal["dense", "spatial", "variational"]] = {
        "ae": "dense",
        "ae-spatial": "spatial",
        "vae": "variational",
    }
    return AutoEncoder(size, width, kinds[arch])


def learning_rate(arch: Arch) -> float:
    """What Adam starts from: 1e-4 for ``pddpm``, as its authors; 1e-3 for U-Nets; 3e-3 for bottlenecks.

    With 1e-3 and batches of 32, ``ae`` spends eight epochs of 2,000 slices on the mean image before it learns more:
    where SSIM is negative its clamp leaves no gradient. With 3e-3 and batches of 8 it takes one (healthy validation
    loss on subjects that no table uses). ``dae`` is sometimes lost at that rate and returns its input for good.
    """
    if arch == "pddpm":
        return 1e-4
    return 1e-3 if arch in ("dae", "pddpm-lite") else 3e-3
