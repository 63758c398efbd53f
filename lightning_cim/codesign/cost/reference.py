"""The cost models beside the runs and papers they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lightning_cim._tables import aligned
from lightning_cim.codesign.cost import isaac32
from lightning_cim.codesign.cost.estimate import Cost, CostModel, estimate
from lightning_cim.codesign.cost.hardware import Hardware, hardware_of
from lightning_cim.codesign.cost.layers import LayerShape
from lightning_cim.codesign.cost.mapping import allocate, place
from lightning_cim.codesign.cost.reference_networks import mini, vgg8

POST_LAYOUT = 1.23
"""Factor by which NeuroSim's TOPS/W line, but not its energies, allows for the layout."""


@dataclass(frozen=True)
class Comparison:
    """One number of a reference beside the model's.

    Attributes:
        row: What was run.
        source: Key of the file's sources.
        quantity: With its unit.
        reference: Printed number.
        model: Ours; None where the model has no such thing.
        is_fitted: Whether constants were fitted to this number.
        bound: Largest factor between the two that is accepted; None: no claim.
        note: Why there is no model value, and the like.
    """

    row: str
    source: str
    quantity: str
    reference: float
    model: float | None
    is_fitted: bool
    bound: float | None
    note: str

    @property
    def ratio(self) -> float | None:
        """Model over reference."""
        return None if self.model is None else self.model / self.reference

    @property
    def is_within(self) -> bool | None:
        """Whether the ratio is within its bound; None without one."""
        if self.ratio is None or self.bound is None:
            return None
        return 1 / self.bound <= self.ratio <= self.bound if self.bound >= 2 else abs(self.ratio - 1) <= self.bound - 1


@cache
def reference() -> dict[str, Any]:
    """The file of reference rows, as it is."""
    import yaml

    found: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "reference.yaml").read_text(encoding="utf-8"))
    return found


def setup(row: Mapping[str, Any]) -> tuple[list[LayerShape], Hardware]:
    """Network and hardware of a NeuroSim row; positions as NeuroSim evaluates them."""
    chosen = {**reference()["common"], **row["set"]}
    conventions = {key: chosen.pop(key) for key in ("mapping", "duplication", "adc", "parallel_rows") if key in chosen}
    return mini() if row["network"] == "mini" else vgg8(padded=False), hardware_of(chosen, **conventions)


def comparisons(model: str | CostModel = "neurosim22") -> list[Comparison]:
    """Every number of the reference file beside the model's.

    Args:
        model: Constants for the rows of NeuroSim.
    """
    found: list[Comparison] = []
    for row in reference()["rows"]:
        values: dict[str, float] = {}
        if "isaac" in row:
            values = _isaac(row["isaac"])
        elif "network" in row:
            values = _neurosim(row, model)
        for quantity, printed in row["printed"].items():
            found.append(
                Comparison(
                    row=row["row"],
                    source=row["source"],
                    quantity=quantity,
                    reference=float(printed),
                    model=values.get(quantity),
                    is_fitted=quantity in row.get("fitted", ()),
                    bound=_bound(row["source"], quantity),
                    note=row.get("skip", row.get("note", "computed back from a ratio" if row.get("ratio") else "")),
                )
            )
    return found


def comparison_table(model: str | CostModel = "neurosim22") -> str:
    """The comparisons as text, with the sources below."""
    rows = [["source", "run", "quantity", "reference", "model", "ratio", "sample", "bound", "note"]]
    for one in comparisons(model):
        rows.append(
            [
                one.source,
                one.row,
                one.quantity,
                f"{one.reference:g}",
                "-" if one.model is None else f"{one.model:.5g}",
                "-" if one.ratio is None else f"{one.ratio:.3f}",
                "-" if one.ratio is None else "in" if one.is_fitted else "out",
                {None: "", True: "ok", False: "OUTSIDE"}[one.is_within],
                one.note,
            ]
        )
    sources = [
        f"{name}: {about['what']}; {about['licence']}; accepted: {about['bound']}"
        for name, about in reference()["sources"].items()
    ]
    legend = "sample: in = constants were fitted to this number, out = they were not"
    return "\n".join([*aligned(rows), "", *sources, legend])


def _bound(source: str, quantity: str) -> float | None:
    """15 % are claimed for energies of our runs, a factor of 2 for chips of manuals, 0.1 % for ISAAC's sums."""
    if quantity in ("adc_read_nj", "accumulation_nj", "other_nj"):
        return None
    if source == "own":
        return 1.15 if quantity == "energy_nj" else None
    return {"manual": 2.0, "manual14": 2.0, "isaac": 1.001}.get(source)


def _isaac(what: str) -> dict[str, float]:
    part = {"ima": isaac32.total(isaac32.IMA), "tile": isaac32.tile(), "chip": isaac32.chip()}[what]
    tops = isaac32.peak_tops()
    return {
        "power_mw": part.power_mw,
        "area_mm2": part.area_mm2,
        "tops": tops,
        "tops_per_w": tops / part.power_mw * 1e3,
        "tops_per_mm2": tops / part.area_mm2,
    }


def _neurosim(row: Mapping[str, Any], model: str | CostModel) -> dict[str, float]:
    layers, hardware = setup(row)
    cost = estimate(layers, hardware, model)
    total_ns = cost.latency_ns + cost.buffer_ns
    leakage_pj = cost.leakage_uw * total_ns * 1e-3
    # Operations are counted for padded positions, which NeuroSim does not evaluate.
    operations = 2 * sum(layer.macs for layer in (vgg8(padded=True) if row["network"] == "vgg8" else layers))
    tops = operations / total_ns * 1e-3
    found = {
        "energy_nj": cost.energy_pj * 1e-3,
        "adc_read_nj": (cost.energy_parts["adc"] + cost.energy_parts["read"]) * 1e-3,
        "accumulation_nj": cost.energy_parts["accumulation"] * 1e-3,
        "other_nj": cost.energy_parts["other"] * 1e-3,
        "area_mm2": cost.area_mm2,
        "area_um2_per_crossbar": cost.area_mm2 * 1e6 / cost.crossbars,
        "crossbars": cost.crossbars,
        "utilisation": _utilisation(layers, hardware, cost),
        "core_us": cost.latency_parts["crossbars"] * 1e-3,
        "buffer_us": cost.buffer_ns * 1e-3,
        "total_us": total_ns * 1e-3,
        "leakage_uj": leakage_pj * 1e-6,
        "macs_m": cost.macs * 1e-6,
        "gop": operations * 1e-9,
        "tops": tops,
        "fps": 1e9 / total_ns,
        "tops_per_w": operations / ((cost.energy_pj + (leakage_pj if leakage_pj == leakage_pj else 0)) * POST_LAYOUT),
        "tops_per_mm2": tops / cost.area_mm2,
    }
    return {name: value for name, value in found.items() if value == value}  # SRAM has no area


def _utilisation(layers: list[LayerShape], hardware: Hardware, cost: Cost) -> float:
    """As NeuroSim prints it: the share of used cells of each layer with its copies, averaged over tiles."""
    allocation = allocate(layers, [place(layer, hardware) for layer in layers], hardware, capped=False)
    used = [
        one.utilisation * one.crossbars * copies / held * tiles
        for one, copies, held, tiles in zip(
            cost.layers, allocation.duplicates, allocation.crossbars, allocation.tiles, strict=True
        )
    ]
    return float(sum(used) / sum(allocation.tiles))
