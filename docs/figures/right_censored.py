"""The training noise of TRICE beside a Gaussian, and how the search for its sigma went on digits."""

import numpy as np
import torch
from _digits import BLUE, GREY, RED, is_fast, quiet, save, trained
from matplotlib.figure import Figure

import lightning_cim as cim


def main() -> None:
    """Draw both panels."""
    quiet()
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = np.linspace(-4, 4, 81)
    for noise, colour in ((cim.Gaussian(1.0), GREY), (cim.RightCensoredGaussian(1.0, cutoff=1.0), RED)):
        weight = torch.ones(200_000)
        numbers = noise.draw(weight.shape, torch.Generator().manual_seed(0))
        deviation = noise.deviation(weight, numbers)
        label = f"{type(noise).__name__}: mean {deviation.mean():.3f}, std {deviation.std():.3f}"
        left.hist(deviation.numpy(), bins=edges, density=True, histtype="step", color=colour, label=label)
    left.set(xlabel="deviation / (sigma max|W|), cutoff 1", ylabel="density", ylim=(0, 2.2))
    left.legend(frameon=False, fontsize=7)

    epochs, chips = (2, 2) if is_fast() else (10, 30)
    callback = cim.RightCensoredTraining(cim.Gaussian(0.15), chips=chips, k=10, monitor="val/acc")
    trained(callback, epochs=epochs)
    rows = callback.history.rows
    steps = np.arange(len(rows) + 1)
    low = [row.low for row in rows] + [callback.interval.low]
    high = [row.high for row in rows] + [callback.interval.high]
    right.fill_between(steps, low, high, step="post", color=BLUE, alpha=0.25, label="interval of sigma")
    right.axhline(0.15, color=GREY, linestyle=":", label="sigma of the chips")
    right.set(xlabel="selection", ylabel="training sigma", ylim=(0, 0.31))
    right.legend(frameon=False)
    save(figure, "method-right-censored")


if __name__ == "__main__":
    main()
