"""The worst of many random chips within a bound, and what a search finds within the same bound."""

from _digits import BLUE, GREY, RED, is_fast, loaders, quiet, save, trained, trainer
from matplotlib.figure import Figure

import lightning_cim as cim


def main() -> None:
    """Train, search, draw."""
    quiet()
    train, _, test = loaders()
    model = trained(epochs=1 if is_fast() else 15)
    bounds = [0.03] if is_fast() else [0.005, 0.01, 0.02, 0.03, 0.06, 0.1]
    chips = 2 if is_fast() else 100
    random, found = [], []
    for bound in bounds:
        drawn = cim.evaluate_chips(
            trainer(), model, test, variation=cim.Uniform(bound), chips=chips, k=50, progress=False
        )
        random.append(100 * drawn.worst())
        result = cim.worst_case(model, train, bound=bound, evaluate_on=test, progress=False)
        found.append(100 * result.worst)
    figure = Figure(figsize=(5.6, 3), layout="constrained")
    ax = figure.subplots()
    ax.plot(bounds, random, "o-", color=BLUE, label=f"worst of {chips} random chips")
    ax.plot(bounds, found, "o-", color=RED, label="worst chip found by search")
    ax.axvspan(0.03, 0.06, color=GREY, alpha=0.15, label="bounds of write-verify")
    ax.set(xlabel="bound on |dW| / max|W|", ylabel="test accuracy, %", ylim=(0, 102))
    ax.legend(frameon=False)
    save(figure, "method-worst-case")


if __name__ == "__main__":
    main()
