"""The fusion-quality loss beside other ways to compute structural similarity: CPU time, and numbers.

python benchmarks/fusion_quality.py [--rounds 12] [--batch 32] [--size 96] [--threads 1]

One number is a forward and a backward pass of a training batch, the gradient with respect to the reconstruction.
Contestants take turns round by round. torchmetrics' Gaussian window cannot be 5 taps wide at sigma 1.5 (it derives the
width, 11, from sigma), so its loss is another one; the dense convolutions compute the published 5 x 5 window.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchmetrics
from _measure import interleave, show
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipes.brain_mri.fusion_quality import ALPHA, SIGMA, WINDOW, fusion_quality_map, gaussian

OURS = "fusion quality"
PEER = "torchmetrics SSIM (11 x 11)"
BAR = 0.1


def dense(x: Tensor, y: Tensor) -> Tensor:
    """The published chain: five convolutions with the 5 x 5 window."""
    row = torch.tensor(gaussian(WINDOW, SIGMA), dtype=x.dtype, device=x.device)
    kernel = (row[:, None] * row)[None, None]
    mx, my, xx, yy, xy = (functional.conv2d(a, kernel, padding=WINDOW // 2) for a in (x, y, x * x, y * y, x * y))
    ssim = (2 * mx * my + 1e-4) * (2 * (xy - mx * my) + 9e-4)
    ssim = ssim / ((mx**2 + my**2 + 1e-4) * (xx - mx**2 + yy - my**2 + 9e-4))
    return ALPHA * (1 - ssim).clamp(0, 1) / 2 + (1 - ALPHA) * (x - y).abs()


def torchmetrics_loss(x: Tensor, y: Tensor) -> Tensor:
    score = structural_similarity_index_measure(x, y, data_range=1.0, kernel_size=WINDOW, sigma=SIGMA)
    assert isinstance(score, Tensor)
    return 1 - score


CONTESTANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    OURS: fusion_quality_map,
    "the same by dense convolutions": dense,
    PEER: torchmetrics_loss,
    "l1": lambda x, y: (x - y).abs(),
}


def step(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> None:
    x.grad = None
    loss(x, y).mean().backward()


def brains(batch: int, size: int) -> Tensor:
    """Bright flat tissue with weak noise on black: where single precision loses most."""
    draw = torch.Generator().manual_seed(0)
    tissue = 0.9 + 0.02 * torch.randn(batch, 1, size, size, generator=draw)
    tissue[..., : size // 4] = 0
    return tissue.clamp(0, 1)


def accuracy(batch: int, size: int) -> None:
    """Largest error of each map in single precision, against dense convolutions in double."""
    random = torch.rand(2, batch, 1, size, size, generator=torch.Generator().manual_seed(1))
    tissue = brains(2 * batch, size)
    print(f"\n{'largest error of a map':44}{'random images':>16}{'flat bright':>14}")
    for name in (OURS, "the same by dense convolutions"):
        errors = [
            (CONTESTANTS[name](x, y).double() - dense(x.double(), y.double())).abs().max().item()
            for x, y in (random, (tissue[:batch], tissue[batch:]))
        ]
        print(f"{name:44}{errors[0]:16.1e}{errors[1]:14.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, torchmetrics {torchmetrics.__version__}, {options.threads} threads,"
        f" load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    draw = torch.Generator().manual_seed(0)
    shape = (options.batch, 1, options.size, options.size)
    x, y = torch.rand(shape, generator=draw).requires_grad_(), torch.rand(shape, generator=draw)
    steps: dict[str, Callable[[], object]] = {name: partial(step, loss, x, y) for name, loss in CONTESTANTS.items()}
    times = interleave(steps, options.rounds)
    title = f"forward and backward of {options.batch} images of {options.size} x {options.size}, CPU time of"
    show(f"{title} {PEER} = 1", times, PEER, {OURS: BAR})
    print("".join(f"\n{name:44}{1e3 * min(sample):16.1f} ms" for name, sample in times.items()))
    accuracy(options.batch, options.size)


if __name__ == "__main__":
    main()
