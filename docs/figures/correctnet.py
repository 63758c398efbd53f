"""What the regulariser does to kernels and to chips, on digits; three seeds each."""

import numpy as np
import torch
from _digits import BLUE, GREY, RED, Digits, is_fast, loaders, quiet, save, trained, trainer
from matplotlib.figure import Figure

import lightning_cim as cim


def singular_values(model: Digits) -> np.ndarray:
    """Of all 3 x 3 kernels of the second convolution, sorted."""
    return np.sort(torch.linalg.svdvals(model.conv2.weight.detach()).flatten().numpy())


def main() -> None:
    """Train, evaluate, draw."""
    quiet()
    epochs, chips, seeds = (1, 2, 1) if is_fast() else (10, 20, 3)
    _, _, test = loaders()
    sigmas = [0.0, 0.05, 0.1, 0.2]
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for strength, colour in ((0.0, GREY), (5e-4, BLUE), (1e-2, RED)):
        label = f"strength {strength:g}" if strength else "no regulariser"
        curves = []
        for seed in range(seeds):
            model = trained(cim.CorrectNetReg(strength), seed=seed, epochs=epochs)
            curves.append(
                [
                    cim.evaluate_chips(
                        trainer(), model, test, variation=cim.Gaussian(s), chips=chips, k=50, progress=False
                    ).mean()
                    for s in sigmas
                ]
            )
        values = singular_values(model)
        left.plot(np.linspace(0, 100, len(values)), values, color=colour, label=label)
        accuracies = 100 * np.array(curves)
        right.plot(sigmas, accuracies.mean(0), "o-", markersize=3, color=colour, label=label)
        right.fill_between(sigmas, accuracies.min(0), accuracies.max(0), color=colour, alpha=0.15, linewidth=0)
    left.axhline(1.0, color="#222222", linewidth=0.7, linestyle=":")
    left.set(xlabel="percentile", ylabel="singular values of 3 x 3 kernels")
    left.legend(frameon=False)
    right.set_xticks(sigmas)
    right.set(xlabel="sigma of the chips", ylabel="accuracy, mean over chips, %", ylim=(0, 102))
    save(figure, "method-correctnet")


if __name__ == "__main__":
    main()
