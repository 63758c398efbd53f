"""What the hardware cost model costs: every design of the enumerable space, and one at a time.

    python benchmarks/codesign_cost.py [--rounds 3]

Wall time of one thread, interleaved in one process; what it should keep is 10 s for the 1,250,235 designs of ``tab``.
The last table is a warning: how far the order of designs by energy agrees between sources of ADC numbers. Model against
references: ``python -m lightning_cim.codesign.cost``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _measure import interleave

from lightning_cim.codesign.cost import cost_of, design_cost
from lightning_cim.codesign.space import Space

ONE_BY_ONE = 200
BUDGET_S = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    space = Space.preset("tab")
    rng = np.random.default_rng(0)
    designs = [space.sample(rng) for _ in range(ONE_BY_ONE)]
    codes = np.stack([rng.integers(len(slot.values), size=100_000) for slot in space.slots], axis=1)
    times = interleave(
        {
            f"all {space.cardinality:,} designs": lambda: cost_of(space),
            f"{len(codes):,} drawn designs": lambda: cost_of(space, codes),
            f"{ONE_BY_ONE} designs, one by one": lambda: [design_cost(design) for design in designs],
        },
        rounds,
        time.perf_counter,
    )
    print(f"{'neurosim22 on tab':32}{'least s':>10}{'most s':>10}{'us a design':>14}")
    for (name, sample), many in zip(times.items(), (space.cardinality, len(codes), ONE_BY_ONE), strict=True):
        print(f"{name:32}{min(sample):10.3f}{max(sample):10.3f}{min(sample) / many * 1e6:14.2f}")
    slowest = max(next(iter(times.values())))
    print(f"the whole space within {BUDGET_S:g} s: {'yes' if slowest < BUDGET_S else 'NO'}")

    kinds = ("flash", "sar", "isaac", "survey")
    energies = {kind: cost_of(space, codes, adc=kind).energy_pj for kind in kinds}
    ranks = {kind: energy.argsort().argsort() for kind, energy in energies.items()}
    print("\nrank correlation of energy between ADC sources, and the median energy of each over that of flash")
    print(f"{'':10}" + "".join(f"{kind:>10}" for kind in kinds) + f"{'energy':>10}")
    for kind in kinds:
        row = [float(np.corrcoef(ranks[kind], ranks[other])[0, 1]) for other in kinds]
        ratio = np.median(energies[kind]) / np.median(energies["flash"])
        print(f"{kind:10}" + "".join(f"{value:10.3f}" for value in row) + f"{ratio:10.2f}")


if __name__ == "__main__":
    main()
