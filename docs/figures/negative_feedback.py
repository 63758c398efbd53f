"""Injection, NeFT and its control on digits at a sigma where injection suffers; three seeds each."""

from collections.abc import Callable
from typing import Any

import numpy as np
from _digits import BLUE, is_fast, loaders, quiet, save, trained, trainer
from matplotlib.figure import Figure

import lightning_cim as cim


def main() -> None:
    """Train, evaluate, draw."""
    quiet()
    epochs, chips, seeds = (1, 2, 1) if is_fast() else (10, 20, 3)
    variation = cim.Gaussian.published("neft", 0.4)
    methods: dict[str, Callable[[], Any]] = {
        "injection": lambda: cim.VariationInjection(variation),
        "temperature\n(beta = 0)": lambda: cim.NegativeFeedback(variation, mode="ovf", beta=0.0),
        "OVF\nbeta = 0.01": lambda: cim.NegativeFeedback(variation, mode="ovf", beta=0.01),
        "IRS\nbeta = 0.01": lambda: cim.NegativeFeedback(variation, mode="irs", beta=0.01, stages=["conv1"]),
    }
    _, _, test = loaders()
    figure = Figure(figsize=(5.6, 3), layout="constrained")
    ax = figure.subplots()
    for place, make in enumerate(methods.values()):
        means = []
        for seed in range(seeds):
            model = trained(make(), seed=seed, epochs=epochs)
            found = cim.evaluate_chips(trainer(), model, test, variation=variation, chips=chips, k=50, progress=False)
            means.append(100 * found.mean())
        ax.plot([place] * len(means), means, "o", color=BLUE, alpha=0.7)
        ax.plot([place - 0.2, place + 0.2], [np.mean(means)] * 2, color="#222222")
    ax.set_xticks(range(len(methods)), methods)
    ax.set(ylabel="accuracy, mean over chips, %", title=f"chips and training at a std of {variation.std:.2f} max|W|")
    save(figure, "method-negative-feedback")


if __name__ == "__main__":
    main()
