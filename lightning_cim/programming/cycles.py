"""Write cycles, counted as published, and their normalised form (NWC)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cycles:
    """Write cycles that programming one chip took, beside what verifying every weight would have taken.

    The normalised write cycles (NWC) of SWIM (arXiv 2202.08395) leave open whether the first write of every weight
    counts, so both forms are here. They agree when everything is verified.

    Attributes:
        writing: Cycles of writing every weight once.
        verifying: Further cycles, spent on the verified weights.
        verifying_all: Further cycles, had every weight been verified.

    Example:
        >>> published_cycles(verified=10, weights=100)
        Cycles(writing=100.0, verifying=90.0, verifying_all=900.0)
        >>> published_cycles(verified=10, weights=100).nwc_total
        0.19
    """

    writing: float
    verifying: float
    verifying_all: float

    @property
    def nwc_verify_only(self) -> float:
        """Cycles spent verifying over those of verifying everything: 0 when nothing is verified."""
        return self.verifying / self.verifying_all if self.verifying_all else 0.0

    @property
    def nwc_total(self) -> float:
        """All cycles over those of writing and verifying everything."""
        return (self.writing + self.verifying) / (self.writing + self.verifying_all)


def published_cycles(
    verified: int, weights: int, cycles_per_verified_weight: float = 10.0, cycles_per_unverified: float = 1.0
) -> Cycles:
    """Cycles with a fixed price for each weight, as SWIM counts them.

    At a verified share f, ``nwc_verify_only`` is f and ``nwc_total`` is (10 f + (1 - f)) / 10 at the default prices.

    Args:
        verified: How many weights were write-verified, 0 <= verified <= weights.
        weights: How many weights there are, at least 1.
        cycles_per_verified_weight: All cycles of a verified weight, its first write among them. The 10 is recalled
            from the paper, not from its code.
        cycles_per_unverified: Cycles of a weight that is only written, at least 0.

    Raises:
        ValueError: Numbers out of range.
    """
    check_prices(cycles_per_verified_weight, cycles_per_unverified)
    if weights < 1 or not 0 <= verified <= weights:
        raise ValueError(f"verified must lie between 0 and weights, and weights be at least 1: {verified} of {weights}")
    more = float(cycles_per_verified_weight) - float(cycles_per_unverified)
    return Cycles(float(cycles_per_unverified) * weights, more * verified, more * weights)


def check_prices(cycles_per_verified_weight: float, cycles_per_unverified: float) -> None:
    """Refuse prices without meaning.

    Raises:
        ValueError: A price is negative or infinite, or verifying costs nothing.
    """
    if not 0 <= cycles_per_unverified < cycles_per_verified_weight < math.inf:
        raise ValueError(
            "a verified weight must cost more cycles than an unverified one (which costs at least 0), got"
            f" cycles_per_verified_weight={cycles_per_verified_weight}, cycles_per_unverified={cycles_per_unverified}"
        )
