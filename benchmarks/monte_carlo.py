"""What an evaluation over chips costs: ratios to the plain loop and to N clean forwards, interleaved in one process.

    python benchmarks/monte_carlo.py [--chips 100] [--rounds 3]

CPU time of one thread for the first table; wall time for the second, which spreads chips over two worker processes.
The Trainer's own overhead is included in everything named evaluate_chips.
"""

from __future__ import annotations

import argparse
import copy
import time

import lightning as L
import torch
from _measure import interleave, ratios, show
from torch import Tensor, nn

import lightning_cim as cim

SIGMA = 0.1


class SmallConvNet(L.LightningModule):
    """conv16 - conv32 - fc64 - fc10, logging accuracy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        inputs, labels = batch
        self.log("acc", (self.net(inputs).argmax(1) == labels).float().mean())


def naive(module: SmallConvNet, batches: list[tuple[Tensor, Tensor]], chips: int) -> list[float]:
    """The loop that everybody writes: deep copy, add noise, run."""
    accuracies = []
    for _ in range(chips):
        noisy = copy.deepcopy(module.net)
        with torch.no_grad():
            for layer in noisy:
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    layer.weight.add_(torch.randn_like(layer.weight) * SIGMA * layer.weight.abs().max())
            hits = sum(int((noisy(inputs).argmax(1) == labels).sum()) for inputs, labels in batches)
        accuracies.append(hits / sum(len(labels) for _, labels in batches))
    return accuracies


@torch.inference_mode()
def clean(net: nn.Module, batches: list[tuple[Tensor, Tensor]], times: int) -> None:
    """The same number of forwards without any chip."""
    for _ in range(times):
        for inputs, _ in batches:
            net(inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    chips = options.chips
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = SmallConvNet().eval()
    images, labels = torch.randn(1000, 3, 32, 32), torch.randint(0, 10, (1000,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=250)
    batches = list(loader)
    best = copy.deepcopy(module.net).to(memory_format=torch.channels_last)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)

    def ours(workers: int = 1) -> None:
        cim.evaluate_chips(
            trainer, module, loader, variation=cim.Gaussian(SIGMA), chips=chips, k=10, workers=workers, progress=False
        )

    print(f"torch {torch.__version__}, {chips} chips, 1,000 images of 3x32x32, batch 250, {options.rounds} rounds")
    times = interleave(
        {
            "plain deepcopy-perturb-forward loop": lambda: naive(module, batches, chips),
            "evaluate_chips": ours,
            "N clean forwards, channels_last, inference": lambda: clean(best, batches, chips),
        },
        options.rounds,
    )
    show(
        "CPU time, 1 thread, against the plain loop",
        times,
        "plain deepcopy-perturb-forward loop",
        {"evaluate_chips": 0.5},
    )
    show(
        "the same runs, against N clean forwards",
        times,
        "N clean forwards, channels_last, inference",
        {"evaluate_chips": 1.1},
    )
    walls = interleave({"workers=1": ours, "workers=2": lambda: ours(2)}, options.rounds, time.perf_counter)
    least, median = (1 / number for number in ratios(walls, "workers=1")["workers=2"])
    print("\nwall time: workers=2 over workers=1, one thread each (bar: >= 1.7 x faster)")
    print(f"faster by: {least:.2f} x (ratio of minima), {median:.2f} x (median ratio)")


if __name__ == "__main__":
    main()
