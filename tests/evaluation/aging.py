"""A variation that grows with time by a rule that is exact, so that it can be written down by hand."""

import math
from dataclasses import dataclass, replace

import lightning_cim as cim
from lightning_cim.variation.times import label

LAST = 365 * 86400.0


@dataclass(frozen=True)
class Growing(cim.Gaussian):
    """Its sigma is 0.1 (1 + ln t), for one year."""

    sigma: float = 0.1

    def at(self, seconds):
        if seconds > LAST:
            raise ValueError(f"{label(seconds)} was not measured")
        return replace(self, sigma=0.1 * (1 + math.log(seconds)))
