"""From the jobs' results to one table per sigma."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes._tables import Cells
from recipes.image_classification.methods import METHODS

Found = dict[str, Any]

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % points of Student's t for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Over:
    """One figure over training seeds.

    Attributes:
        values: One a seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """Sample standard deviation over seeds; NaN for one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan

    @property
    def half(self) -> float:
        """Half width of the mean's 95 % interval over seeds (Student's t); NaN for one seed.

        Example:
            >>> round(Over((1.0, 2.0, 3.0)).half, 3)
            2.484
        """
        seeds = len(self.values)
        if seeds < 2:
            return math.nan
        freedom = seeds - 1
        t = T95[freedom - 1] if freedom <= len(T95) else 1.96 + 2.372 / freedom + 2.823 / freedom**2
        return t * self.spread / math.sqrt(seeds)

    def text(self, scale: float = 1.0, digits: int = 1) -> str:
        """``mean ± spread``."""
        shown = f"{scale * self.mean:.{digits}f}"
        return shown if math.isnan(self.spread) else f"{shown} ± {scale * self.spread:.{digits}f}"


def row_of(method: str, sigma: float, runs: Sequence[Found]) -> Found:
    """Everything about one method at one sigma, over training seeds.

    Args:
        method: Its name.
        sigma: Of the chips.
        runs: What the jobs found, one a seed, each with this sigma.
    """
    at = [run["at"][f"{sigma:g}"] for run in runs]
    row: Found = {"method": method, "sigma": sigma, "seeds": [run["job"]["seed"] for run in runs]}
    row["chips"] = min(found["chips"] for found in at)
    for name in ("mean", "std", "kpp", "kpp_low", "kpp_high", "worst", "ekl", "ekl_fitted"):
        row[name] = [found.get(name) for found in at]
    for name in ("clean", "worst_case", "train_seconds", "epochs", "beta"):
        row[name] = [run[name] for run in runs]
    for name in ("nwc", "nwc_total", "met"):
        row[name] = [None if found["write"] is None else found["write"][name] for found in at]
    row["tune_seconds"] = [found.get("tune_seconds") for found in at]
    row["curve"] = [run["curve"] for run in runs]
    row["accuracy"] = [found["accuracy"] for found in at]
    return row


def main_table(rows: Sequence[Found]) -> Cells:
    """The comparison at one sigma."""
    header = ["method", "clean %", "chips: mean %", "std over chips", "KPP 1 % [95 %]", "worst chip %"]
    header += ["worst case %", "EKL", "EKL, T fitted", "training CPU s", "write cycles (NWC)"]
    return header, [_line(row) for row in rows]


def _line(row: Found) -> list[str]:
    tuned = METHODS[row["method"]].tune is not None
    return [
        METHODS[row["method"]].label,
        _cell(row["clean"], 100),
        _cell(row["mean"], 100),
        _cell(row["std"], 100),
        _kpp(row) if row["chips"] >= 100 else "-",
        _cell(row["worst"], 100),
        _cell(row["worst_case"], 100),
        _cell(row["ekl"], 1, 3),
        _cell(row["ekl_fitted"], 1, 3),
        _seconds(row["train_seconds"]) + (f" + {np.mean(row['tune_seconds']):.1f} a chip" if tuned else ""),
        _cycles(row),
    ]


def _cell(values: Sequence[float | None], scale: float = 1.0, digits: int = 1) -> str:
    known = tuple(value for value in values if value is not None)
    return Over(known).text(scale, digits) if known else "-"


def _seconds(values: Sequence[float]) -> str:
    return _cell(values, 1, 0 if np.mean(values) >= 20 else 1)


def _kpp(row: Found) -> str:
    low, high = (np.mean(row[name]) for name in ("kpp_low", "kpp_high"))
    ends = ", ".join(f"{100 * end:.1f}" if math.isfinite(end) else "?" for end in (low, high))
    return f"{_cell(row['kpp'], 100)} [{ends}]"


def _cycles(row: Found) -> str:
    """Write cycles; a budget that some chips cannot meet with every weight verified is said so."""
    if row["nwc"][0] is None:
        return "-"
    met = np.mean(row["met"])
    missed = "" if met == 1 else f" ({100 * met:.0f} % met)"
    return _cell(row["nwc"], 1, 3 if np.mean(row["nwc"]) >= 0.01 else 4) + missed


def difference(row: Found, other: Found) -> Over:
    """Mean accuracy of a method minus that of another, on the same chips and with the same training seeds.

    A method that was measured on fewer chips is compared on those.
    """
    seeds = [seed for seed in row["seeds"] if seed in other["seeds"]]
    values = []
    for seed in seeds:
        mine, theirs = (r["accuracy"][r["seeds"].index(seed)] for r in (row, other))
        chips = min(len(mine), len(theirs))
        values.append(float(np.mean(mine[:chips]) - np.mean(theirs[:chips])))
    return Over(tuple(values))


REFERENCES = ("none", "gaussian", "temperature")


def difference_table(rows: Sequence[Found]) -> Cells | None:
    """Paired differences of the mean over chips from the baselines; None where there is nothing to compare.

    An interval that excludes 0 is marked with ``*``.
    """
    by_method = {row["method"]: row for row in rows}
    references = [name for name in REFERENCES if name in by_method]
    if len(rows) < 2 or not references:
        return None
    header = ["method", *(f"against {METHODS[name].label}" for name in references)]
    body = []
    for row in rows:
        line = [METHODS[row["method"]].label]
        for name in references:
            line.append("" if name == row["method"] else _signed(difference(row, by_method[name])))
        body.append(line)
    return header, body


def _signed(found: Over) -> str:
    text = f"{100 * found.mean:+.1f}"
    if math.isnan(found.half):
        return text
    clear = "*" if abs(found.mean) > found.half else ""
    return f"{text} ± {100 * found.half:.1f}{clear}"


def rows_by_sigma(
    runs: dict[tuple[str, float | None], list[Found]], methods: Sequence[str], sigmas: Sequence[float]
) -> dict[float, list[Found]]:
    """Rows of every sigma, in the order of the methods; a method without a finished job has no row.

    Args:
        runs: Finished jobs by method and the sigma trained for, one a seed.
        methods: In the order of the table.
        sigmas: Of the tables.
    """
    tables: dict[float, list[Found]] = {}
    for sigma in sigmas:
        tables[sigma] = []
        for method in methods:
            trained_for = None if METHODS[method].sigma_free else sigma
            measured = [run for run in runs.get((method, trained_for), []) if f"{sigma:g}" in run["at"]]
            if measured:
                tables[sigma].append(row_of(method, sigma, measured))
    return tables
