"""Accuracy against the sigma of the chips, for networks trained at several sigmas; three seeds each."""

import numpy as np
from _digits import BLUE, GREY, RED, is_fast, loaders, quiet, save, trained, trainer
from matplotlib.figure import Figure

import lightning_cim as cim


def main() -> None:
    """Train, evaluate, draw."""
    quiet()
    epochs, chips, seeds = (1, 2, 1) if is_fast() else (10, 20, 3)
    _, _, test = loaders()
    sigmas = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3]
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    ax = figure.subplots()
    for sigma, colour in ((0.0, GREY), (0.1, BLUE), (0.2, RED)):
        curves = []
        for seed in range(seeds):
            model = trained(cim.VariationInjection(cim.Gaussian(sigma)), seed=seed, epochs=epochs)
            curves.append(
                [
                    cim.evaluate_chips(
                        trainer(), model, test, variation=cim.Gaussian(s), chips=chips, k=50, progress=False
                    ).mean()
                    for s in sigmas
                ]
            )
        values = 100 * np.array(curves)
        label = f"trained at sigma {sigma:g}" if sigma else "trained without"
        ax.plot(sigmas, values.mean(0), "o-", color=colour, markersize=3, label=label)
        ax.fill_between(sigmas, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
    ax.set(xlabel="sigma of the chips", ylabel="accuracy, mean over chips, %", ylim=(0, 102))
    ax.legend(frameon=False)
    save(figure, "method-variation-injection")


if __name__ == "__main__":
    main()
