"""Whether write-verify by pulses takes sigma 0.1 to 0.03 at about 10 cycles a weight, as SWIM is remembered to publish.

python benchmarks/write_verify.py [--out docs/images/write-verify.png] [--csv FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch

from lightning_cim import Gaussian
from lightning_cim.programming.write_verify import WriteVerify
from lightning_cim.programming.write_verify_curve import WriteVerifyCurve, write_verify_curve

FIRST_WRITE = Gaussian(0.1)
STEPS = [0.002, 0.003, 0.004, 0.0055, 0.008, 0.012, 0.02, 0.03, 0.06, 0.09]
PRESETS = ("rram-om-array", "rram-hfo2-array")
# A pulse that is noisier than the first write itself would be no way to correct it.
NOISES = {"step_noise": [0.0, 0.5, 1.0, 2.0, 4.0], "write_noise": [0.0, 0.01, 0.02, 0.05, 0.1]}


def best_at_ten(tolerance: float) -> str:
    """The smallest residual at 9 to 11 writes a weight that any of many kinds of pulses leaves."""
    grid = {"tolerance": [tolerance], "step": STEPS[:7], "read_noise": [0.0, 0.01], "max_cycles": [200], **NOISES}
    points = write_verify_curve(FIRST_WRITE, grid, weights=torch.linspace(-1.0, 1.0, 5001)).points
    near = [point for point in points if 9 <= point.writes <= 11]
    best = min(near, key=lambda point: point.std)
    return (
        f"tolerance {tolerance:g}: {best.std:.4f} ± {best.std_error:.1g} at {best.writes:.1f} writes"
        f" ({len(near)} of {len(points)} settings take 9 to 11), by {best.loop}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/write-verify.png"))
    parser.add_argument("--csv", type=Path, help="write each curve into this folder too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    mpl.use("Agg")
    curves: dict[str, WriteVerifyCurve] = {
        "tolerance": write_verify_curve(FIRST_WRITE, {"tolerance": [0.06, 0.045, 0.036, 0.03], "step": STEPS}),
        "noise": write_verify_curve(
            FIRST_WRITE,
            [
                *(WriteVerify(tolerance=0.06, step=step, step_noise=4.0) for step in STEPS[:7]),
                *(WriteVerify(read_noise=0.01, step=step) for step in STEPS),
            ],
        ),
        "devices": write_verify_curve(FIRST_WRITE, {"step_d2d": [0.0, 0.3, 0.5, 0.8]}),
        "redraw": write_verify_curve(FIRST_WRITE, {"form": ["redraw"], "tolerance": [0.06, 0.036]}),
        **{
            name: write_verify_curve(
                FIRST_WRITE, [WriteVerify.preset(name, tolerance=tolerance) for tolerance in (0.06, 0.036)]
            )
            for name in PRESETS
        },
    }
    for name, curve in curves.items():
        print(f"\n{name}\n{curve}")
        if options.csv is not None:
            curve.to_csv(options.csv / f"{name}.csv")
    print("\nsmallest residual at 9 to 11 writes")
    for tolerance in (0.06, 0.036):
        print(best_at_ten(tolerance))
    figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
    for name in ("tolerance", "noise"):
        curves[name].plot(ax)
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)
    print(f"\nwrote {options.out}")


if __name__ == "__main__":
    main()
