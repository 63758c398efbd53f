"""What measured devices cost: drawing their errors, and a training step under them.

    python benchmarks/devices.py [--rounds 15] [--steps 5] [--widths 16 64]

CPU time of one thread, interleaved in one process. The first table compares ``draw`` and ``deviate`` of every preset
with ``torch.randn`` of as many numbers as there are weights. The second one compares training steps of ResNet-18; other
toolkits' steps stand beside ours in ``peers.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from _measure import interleave, show
from peers_ours import PCM, train_pcm
from peers_tasks import batch_of, plain_step, resnet18
from torch import Tensor

import lightning_cim as cim
from recipes.image_classification.models import count_weights

DRAWS = 5
"""Draws a round; one is too short to be timed."""
BY_RATIO = ("rram1", "fefet2", "rram4", "fefet6")
"""Presets that need a sigma."""


def drawing(variation: cim.Variation, weight: Tensor) -> Callable[[], None]:
    """A function that draws the errors of a weight and adds them."""
    generator = torch.Generator().manual_seed(0)

    def run() -> None:
        for _ in range(DRAWS):
            variation.deviate(weight, variation.draw(weight.shape, generator))

    return run


def of_every_preset(rounds: int) -> None:
    """Print what a draw of each preset costs."""
    weight = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(1)) * 0.05
    generator = torch.Generator().manual_seed(0)

    def normal() -> None:
        for _ in range(DRAWS):
            torch.randn(weight.shape, generator=generator)

    variants: dict[str, Callable[[], object]] = {"torch.randn of a million": normal}
    for name in cim.Measured.list():
        options: dict[str, Any] = {"sigma": 0.1} if name in BY_RATIO else {}
        variants[name] = drawing(cim.Measured.preset(name, **options), weight)
    bars = dict.fromkeys(list(variants)[1:], 3.0)
    for mode in ("collapsed", "per_slice"):
        encoding = cim.Encoding(weight_bits=8, device_bits=2, mode=mode)
        name = f"{PCM}, 8/2 bits, {mode}"
        variants[name] = drawing(cim.Measured.preset(PCM, encoding=encoding), weight)
    bars[f"{PCM}, 8/2 bits, collapsed"] = 3.0
    times = interleave(variants, rounds)
    least = min(times["torch.randn of a million"]) / DRAWS
    print(f"a million numbers of torch.randn: {least * 1e3:.2f} ms")
    show("errors of a million weights: draw and deviate", times, "torch.randn of a million", bars)
    print("(8/2 bits per_slice draws eight numbers a weight, one for each device of four pairs)")


def of_training(rounds: int, widths: list[int]) -> None:
    """Print what a training step costs."""
    for width in widths:
        batch = batch_of(3, 32, 32)
        variants: dict[str, Callable[[], object]] = {
            "clean step": plain_step(resnet18(width), batch).run,
            f"{PCM}, VariationInjection": train_pcm(resnet18(width), batch).run,
        }
        size = count_weights(resnet18(width)) / 1e6
        title = f"CIFAR ResNet-18, w={width} ({size:.1f} M parameters), batch {len(batch[1])}, {rounds} rounds"
        show(title, interleave(variants, rounds), "clean step", {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="of the draws")
    parser.add_argument("--steps", type=int, default=5, help="rounds of the training steps")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64], help="channels of the first stage")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, {options.rounds} rounds of {DRAWS} draws, seed 0")
    of_every_preset(options.rounds)
    of_training(options.steps, options.widths)


if __name__ == "__main__":
    main()
