"""Accuracy against the share of verified weights, for three rankings of the same digits network."""

from typing import Literal

from _digits import BLUE, GREY, RED, is_fast, loaders, quiet, save, trained
from matplotlib.figure import Figure

import lightning_cim as cim


def main() -> None:
    """Train, program, draw."""
    quiet()
    train, val, _ = loaders()
    model = trained(epochs=1 if is_fast() else 15)
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    ax = figure.subplots()
    rankings: dict[Literal["swim", "magnitude", "random"], str] = {"swim": RED, "magnitude": BLUE, "random": GREY}
    for method, colour in rankings.items():
        report = cim.program(
            model,
            train,
            cim.Gaussian(0.2),
            verify_fraction=1.0,
            granularity=0.5 if is_fast() else 0.1,
            method=method,
            validation=val,
            chips=2 if is_fast() else 20,
            progress=False,
        )
        curve = report.curve
        scores, verified = 100 * curve.scores, 100 * curve.fraction.mean(1)
        ax.plot(verified, scores.mean(1), "o-", markersize=3, color=colour, label=method)
        ax.fill_between(verified, scores.min(1), scores.max(1), color=colour, alpha=0.12, linewidth=0)
    ax.axhline(100 * curve.ideal, color="#222222", linestyle=":", label="no deviation")
    ax.set(xlabel="verified weights, %", ylabel="validation accuracy, %")
    ax.legend(frameon=False)
    save(figure, "method-swim")


if __name__ == "__main__":
    main()
