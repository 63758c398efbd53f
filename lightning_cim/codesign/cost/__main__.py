"""Print the cost models beside their references: ``python -m lightning_cim.codesign.cost``."""

from __future__ import annotations

import argparse

from lightning_cim.codesign.cost.fit import fit
from lightning_cim.codesign.cost.reference import comparison_table


def main(argv: list[str] | None = None) -> None:
    """Print the table of model against reference, or the constants that least squares gives.

    Args:
        argv: Words of the command line; None: those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_cim.codesign.cost", description=__doc__)
    parser.add_argument("--fit", action="store_true", help="print the constants of neurosim22 as fitted anew")
    if parser.parse_args(argv).fit:
        print("\n".join(f"{name:24} {value:.6g}" for name, value in fit().items()))
    else:
        print(comparison_table())


if __name__ == "__main__":
    main()
