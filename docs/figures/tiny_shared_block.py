"""Eight chips of one network before and after each got a shared block."""

from _digits import BLUE, GREY, RED, Digits, is_fast, loaders, quiet, save, trained, trainer
from matplotlib.figure import Figure

import lightning_cim as cim


def main() -> None:
    """Train, repair, draw."""
    quiet()
    train, val, _ = loaders()
    variation = cim.Gaussian(0.2)
    weights = trained(epochs=1 if is_fast() else 15).state_dict()
    figure = Figure(figsize=(5.6, 3), layout="constrained")
    ax = figure.subplots()
    chips = 1 if is_fast() else 8
    reports = []
    for chip in range(chips):
        model = Digits()
        model.load_state_dict(weights)
        repair = cim.TinySharedBlock(variation, chip=chip, at=["conv1", "conv2"], monitor="val/acc")
        trainer(repair, epochs=1 if is_fast() else 8).fit(model, train, val)
        assert repair.report is not None
        reports.append(repair.report)
    before, after = ([100 * getattr(report, name) for report in reports] for name in ("before", "after"))
    ax.vlines(range(chips), before, after, color=GREY, linewidth=1)
    ax.plot(range(chips), before, "o", color=RED, label="before")
    ax.plot(range(chips), after, "o", color=BLUE, label="after")
    ax.axhline(100 * reports[0].clean, color="#222222", linestyle=":", label="no deviation")
    ax.set(xlabel="chip", ylabel="validation accuracy, %", ylim=(0, 102))
    ax.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    save(figure, "method-tiny-shared-block")


if __name__ == "__main__":
    main()
