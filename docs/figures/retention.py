"""What is left of a programmed conductance after a time, for two kinds of devices; 2,000 devices each."""

import numpy as np
import torch
from _digits import BLUE, RED, is_fast, quiet, save
from matplotlib.figure import Figure

import lightning_cim as cim


def main() -> None:
    """Draw."""
    quiet()
    devices = 20 if is_fast() else 2000
    times = np.logspace(0, 7.5, 16)
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    ax = figure.subplots()
    for name, aging, colour in (
        ("pcm-nandakumar2019: drift", cim.Drift.preset("pcm-nandakumar2019"), BLUE),
        ("rram-cmo-hfox: relaxation", cim.Relaxation.preset("rram-cmo-hfox"), RED),
    ):
        device = cim.Measured.preset(name.partition(":")[0])
        weight = torch.full((devices,), 0.5)
        weight[0] = 1.0  # the largest weight fixes the scale
        kept = []
        for seconds in times:
            aged = (device + aging).at(float(seconds))
            numbers = aged.draw(weight.shape, torch.Generator().manual_seed(0))
            kept.append(((weight + aged.deviation(weight, numbers)) / weight)[1:].numpy())
        values = np.array(kept)
        ax.plot(times, values.mean(1), color=colour, label=name)
        low, high = np.percentile(values, (5, 95), axis=1)
        ax.fill_between(times, low, high, color=colour, alpha=0.18, linewidth=0)
    for seconds, label in ((3600, "1 h"), (86400, "1 d"), (2.6e6, "1 mo"), (3.15e7, "1 y")):
        ax.axvline(seconds, color="#bbbbbb", linewidth=0.6)
        ax.annotate(label, (seconds, 0.02), xycoords=("data", "axes fraction"), fontsize=7, color="#777777")
    ax.set(xscale="log", xlabel="seconds since programming", ylabel="weight / target (5 to 95 % of devices)")
    ax.legend(frameon=False, fontsize=8)
    save(figure, "method-retention")


if __name__ == "__main__":
    main()
