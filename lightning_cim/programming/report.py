"""What a programming run found, and the programmed chips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from lightning_cim._tables import aligned
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.scope import chip_weights, on_chip
from lightning_cim.programming.curve import Axis, ProgrammingCurve
from lightning_cim.programming.score import interval
from lightning_cim.programming.selection import Ranking
from lightning_cim.programming.verified import VerifiedChip
from lightning_cim.programming.write_verify import WriteVerify
from lightning_cim.variation.base import Variation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class NWC(NamedTuple):
    """Normalised write cycles, mean over chips: without and with the first write of every weight."""

    verify_only: float
    total: float


@dataclass(frozen=True, eq=False)
class HeldOutScores:
    """Scores on test data of the chips as they were left; nothing was chosen by them.

    Attributes:
        ideal: Without any deviation.
        scores: One a chip.
    """

    ideal: float
    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class ProgrammingReport:
    """Chips programmed with selective write-verify. Printing it prints :meth:`table`.

    Attributes:
        curve: Score against write cycles, on the data by which it was decided when to stop.
        ranking: The order in which weights were verified.
        stops: How many weights were verified on each chip.
        max_drop: The accuracy (or loss) that could be given up; None where the fraction was given instead.
        met: On which chips the drop was within ``max_drop`` at the end.
        test: Scores on the test data, if there were any.
        variation: How weights deviate that were only written.
        residual: How verified weights deviate, or the loop that was simulated.
        seed: Of the chips.
        mapping: Which parameters lie on crossbars.
    """

    curve: ProgrammingCurve
    ranking: Ranking
    stops: np.ndarray
    max_drop: float | None
    met: np.ndarray
    test: HeldOutScores | None
    variation: Variation
    residual: Variation | WriteVerify
    seed: int
    mapping: Mapping

    @property
    def fractions(self) -> np.ndarray:
        """Share of weights that were verified on each chip."""
        return np.asarray(self.stops / self.ranking.weights)

    @property
    def fraction(self) -> float:
        """Share of weights that were verified, mean over chips."""
        return float(self.fractions.mean())

    @property
    def nwc(self) -> NWC:
        """Normalised write cycles, mean over chips."""
        return NWC(float(self.curve.nwc_verify_only[-1].mean()), float(self.curve.nwc_total[-1].mean()))

    @property
    def scores(self) -> np.ndarray:
        """Score of each chip as it was left, on the data by which it was decided when to stop."""
        return np.asarray(self.curve.scores[-1])

    @property
    def score(self) -> float:
        """Mean of :attr:`scores`."""
        return float(self.scores.mean())

    @property
    def share(self) -> dict[str, float]:
        """Share of each parameter's weights that were verified, mean over chips."""
        counts, chips = np.unique(self.stops, return_counts=True)
        found = {name: 0.0 for name in self.ranking.shapes}
        for count, number in zip(counts, chips, strict=True):
            for name, share in self.ranking.share(int(count)).items():
                found[name] += share * float(number) / len(self.stops)
        return found

    def verified(self, r: int = 0) -> dict[str, Tensor]:
        """Which weights were verified on chip ``r``: bool masks by parameter name, on the CPU."""
        return self.ranking.masks(int(self.stops[self._index(r)]))

    def chip(self, r: int = 0) -> VerifiedChip:
        """Chip ``r`` as it was left; works wherever a chip does."""
        return VerifiedChip(
            self.variation,
            self.seed,
            self._index(r),
            self.mapping,
            verified=self.verified(r),
            residual=self.residual,
        )

    def weights(self, model: nn.Module, r: int = 0) -> dict[str, Tensor]:
        """The mapped weights of the model as chip ``r`` holds them, by parameter name."""
        return chip_weights(model, self.chip(r))

    def export(self, model: nn.Module, r: int = 0) -> dict[str, Any]:
        """Everything that is needed to use chip ``r`` elsewhere; ``torch.save`` it.

        Returns:
            ``"state_dict"``: the model's own keys, with the weights that the chip holds; loads strictly where
            ``lightning_cim`` is not installed. ``"verified"``: bool masks by parameter name. ``"chip"`` and ``"seed"``.
        """
        with on_chip(model, self.chip(r)):
            state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return {"state_dict": state, "verified": self.verified(r), "chip": r, "seed": self.seed}

    def table(self) -> str:
        """The curve, what was reached on how many chips, and each layer's share."""
        lines = [self.curve.table(), "", self.summary(), ""]
        rows = [["parameter", "weights", "verified"]]
        for name, share in self.share.items():
            verified = "no devices" if math.isnan(share) else f"{100 * share:.1f} %"
            rows.append([name, str(self.ranking.shapes[name].numel()), verified])
        return "\n".join([*lines, *aligned(rows)])

    def summary(self) -> str:
        """A few sentences: how many weights were verified, at what cost, with what score, and whether that suffices."""
        name = self.curve.score_name
        lines = [
            f"verified {100 * self.fraction:.1f} % of {self.ranking.weights} weights{self._spread()}; NWC"
            f" {self.nwc.verify_only:.3f} (verifying only), {self.nwc.total:.3f} (all writes)",
            f"{name} {_with_interval(self.scores)}, ideal {self.curve.ideal:.4f}",
        ]
        if self.test is not None:
            lines.append(f"test {name} {_with_interval(self.test.scores)}, ideal {self.test.ideal:.4f}")
        if self.max_drop is not None:
            missed = int((~self.met).sum())
            if missed:
                worst = np.abs(self.curve.ideal - self.scores[~self.met]).max()
                lines.append(
                    f"BUDGET NOT MET on {missed} of {self.curve.chips} chips: with every weight verified {name} still"
                    f" drops by up to {worst:.4f}, more than max_drop={self.max_drop:g}. The residual ({self.residual})"
                    " is too large for this network: verify more tightly, train under variation, or allow more."
                )
            else:
                lines.append(f"drop within max_drop={self.max_drop:g} on all {self.curve.chips} chips")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def plot(
        self, ax: Axes | None = None, *, axis: Axis = "nwc_verify_only", label: str | None = None
    ) -> tuple[Figure, Axes]:
        """The curve; see :meth:`ProgrammingCurve.plot`. Give the same axes to several reports to compare them."""
        return self.curve.plot(ax, axis=axis, label=label)

    def to_csv(self, path: str | Path) -> None:
        """Write the curve, one row a chip and point."""
        self.curve.to_csv(path)

    def _index(self, r: int) -> int:
        if not 0 <= r < len(self.stops):
            raise IndexError(f"chips 0 to {len(self.stops) - 1} were programmed, not {r}")
        return r

    def _spread(self) -> str:
        low, high = self.fractions.min(), self.fractions.max()
        return "" if low == high else f" ({100 * low:.1f} to {100 * high:.1f} % over chips)"


def _with_interval(scores: np.ndarray) -> str:
    half = float(interval(scores))
    return f"{scores.mean():.4f}" + ("" if math.isnan(half) else f" ± {half:.4f}")
