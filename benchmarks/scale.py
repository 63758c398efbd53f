"""What many chips of a large network cost on many GPUs: constants measured here on a CPU, and the sum on paper.

    python benchmarks/scale.py [--chips 10000] [--images 50000] [--gpus 64] [--tflops 100]

Needs the extra ``timm``. Measured on ViT-B/16 with random weights: operations an image, the seconds of putting one
chip on it (evaluation chips are drawn on the CPU wherever the network runs, so that they are the same everywhere), and
what a pass by the Trainer adds to the forwards themselves. The speed of the GPU is yours to say.
"""

from __future__ import annotations

import argparse
import math
import warnings

import lightning as L
import timm
import torch
from _measure import interleave
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import lightning_cim as cim

VARIATION = cim.Gaussian(sigma=0.1)
BATCH, BATCHES = 4, 2


class Classifier(L.LightningModule):
    """ViT-B/16 for 224 pixels, logging its accuracy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("vit_base_patch16_224").eval()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        inputs, labels = batch
        self.log("acc", (self.net(inputs).argmax(1) == labels).float().mean())


def operations(net: nn.Module) -> int:
    """Floating-point operations of one image: two for each product that is added."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 224, 224))
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=50_000, help="For each chip.")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--tflops", type=float, default=100.0, help="That one GPU sustains in the forward passes.")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*chips are few.*")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Classifier()
    images, labels = torch.randn(BATCH * BATCHES, 3, 224, 224), torch.randint(0, 1000, (BATCH * BATCHES,))
    batches = DataLoader(TensorDataset(images, labels), batch_size=BATCH)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    population = cim.ChipPopulation(module, VARIATION)
    weights = sum(weight.numel() for weight in cim.chip_weights(module, population[0]).values())

    @torch.inference_mode()
    def clean() -> None:
        for inputs, _ in batches:
            module.net(inputs)

    def one_chip() -> None:
        cim.evaluate_chips(trainer, module, batches, variation=VARIATION, chips=1, k=100, progress=False)

    times = interleave(
        {
            "clean": clean,
            "pass": one_chip,
            "draw": lambda: cim.chip_weights(module, population[1]),
            "randn": lambda: torch.randn(weights),
        },
        options.rounds,
    )
    least = {name: min(sample) for name, sample in times.items()}
    added = (least["pass"] - least["draw"]) / least["clean"]
    flops = operations(module.net)
    print(f"torch {torch.__version__}, CPU time of one thread, minima of {options.rounds} rounds")
    print(f"ViT-B/16: {weights / 1e6:.1f} million weights on crossbars, {flops / 1e9:.1f} GFLOP an image")
    print(f"clean forward, an image: {least['clean'] / BATCH / BATCHES:.2f} s")
    print(f"one chip: {least['draw']:.2f} s, {least['draw'] / least['randn']:.2f} x torch.randn of as many numbers")
    print(f"a chip's pass without that / the clean forwards: {added:.3f}")
    forward = options.images * flops * max(1.0, added) / options.tflops / 1e12
    passes = math.ceil(options.chips / options.gpus)
    total = passes * (forward + least["draw"])
    print(f"\n{options.chips} chips, {options.images} images each, {options.gpus} GPUs of {options.tflops:g} TFLOP/s:")
    print(f"{passes} chips x ({forward:.1f} s of forwards + {least['draw']:.2f} s for the chip) = {total / 3600:.2f} h")


if __name__ == "__main__":
    main()
