"""Tables and pages of fits, chips and comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recipes._page import Part, write_page
from recipes._tables import Cells

Found = dict[str, Any]

ROWS = {
    "states": "states by true label",
    "single": "one image a state",
    "traversal": "along PC 1",
    "homogeneous": "one map for all, same mask",
}
"""What is scored against the truth."""
SCORES = {
    "motion": "motion correlation",
    "auc_worst": "AUC, worst state",
    "auc_mobile": "AUC, mobile region",
    "auc_mean": "AUC, mean",
    "resolution": "FSC 0.5, first, Å",
    "resolution_last": "FSC 0.5, last, Å",
}
DEFINITIONS = (
    "Motion correlation: of how maps differ from their mean with how the true ones do, over all states and voxels; 0"
    " for any single map. AUC: mean Fourier shell correlation. States lie at the middles of equal bins of the true"
    " conformation, each the mean latent of the nearest images; along PC 1 labels give the sign alone. FSC 0.5 does not"
    " see the motion: a good average map reaches it too."
)


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none.

    Example:
        >>> number(0.12345), number(None), number(math.inf)
        ('0.123', '-', '∞')
    """
    if value is None or math.isnan(value):
        return "-"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def score_table(scores: Found) -> Cells:
    """Scores against the truth; without one, what is known of the maps."""
    known = [name for name in ROWS if scores.get(name)]
    if not known:
        return ["maps without a truth", ""], [
            ["half maps at 0.143, corrected for the mask", f"{number(scores['half_maps']['resolution'], 2)} Å"],
            ["amplitude of motion, of the mean map", number(scores["amplitude"])],
        ]
    body = [
        [ROWS[name], *(number(scores[name][key], 2 if "resolution" in key else 3) for key in SCORES)] for name in known
    ]
    return ["against the truth", *SCORES.values()], body


def comparison_table(found: Found, kind: str) -> Cells:
    """Two programs, and one map for all, on one kind of states; ``order`` is the rank correlation of PC 1."""
    body = []
    for name, of in (("CryoFormer", "ours"), ("cryoDRGN", "cryodrgn")):
        scores = found[of]
        row = [number(scores[kind][key], 2 if "resolution" in key else 3) for key in SCORES]
        body.append([name, *row, number(scores["spearman"])])
    single = found["ours"]["homogeneous"]
    if kind == "states":
        body.append(
            [ROWS["homogeneous"], *(number(single[key], 2 if "resolution" in key else 3) for key in SCORES), "-"]
        )
    return ["", *SCORES.values(), "order"], body


def facts(scores: Found) -> list[tuple[str, str]]:
    """What else was measured, in words."""
    said = []
    if "spearman" in scores:
        said.append(("order", f"rank correlation of PC 1 with the true conformation {number(scores['spearman'])}"))
    if "held_out" in scores:
        found = scores["held_out"]
        text = f"{number(found['seen'])} of images that were fitted, {number(found['unseen'])} of images that were not"
        said.append(("unseen images", text))
    if "shuffled" in scores:
        found = scores["shuffled"]
        said.append(("control", f"motion correlation with shuffled latents {number(found['motion'])}"))
    if "amplitude" in scores:
        true = f", true {number(scores['true_amplitude'])}" if "true_amplitude" in scores else ""
        said.append(("amplitude", f"of motion, relative to the mean map, {number(scores['amplitude'])}{true}"))
    for name, what in (("density", "spread of decoded density"), ("attention", "spread of attention")):
        if found := scores.get("flexibility", {}).get(name):
            text = f"AUROC of the mobile voxels {number(found['auroc'])}, rank correlation with the true spread"
            said.append((what, f"{text} {number(found['spearman'])}"))
    if "half_maps" in scores:
        found = scores["half_maps"]
        text = (
            f"{number(found['resolution'], 2)} Å at 0.143, corrected for the mask; {number(found['masked'], 2)} masked"
        )
        said.append(("half maps", f"of the consensus, {text}, {number(found['unmasked'], 2)} without a mask"))
    return said


def pose_facts(found: Found) -> list[tuple[str, str]]:
    """How far off poses are, where they were not taken as given and the true ones are known."""
    if "pose_errors" not in found:
        return []
    off = found["pose_errors"]
    said = f"off by {off['angle']:.2f} degrees and {off['shift']:.2f} pixels, root mean square"
    said += f"; given off by {off['angle_given']:.2f} and {off['shift_given']:.2f}"
    if "angle_own_frame" in off:
        said += f"; {off['angle_own_frame']:.2f} and {off['shift_own_frame']:.2f} beyond a motion of the whole map"
        said += " with the conformation, which images cannot tell from wrong poses"
    if "angle_bound" in off:
        said += f"; who knows map and conformations is left with {off['angle_bound']:.2f} and {off['shift_bound']:.2f}"
    return [("poses", said)]


def write_fit(path: Path, found: Found, pictures: Mapping[str, Figure]) -> None:
    """The page of one fit.

    Args:
        path: Where.
        found: What ``metrics.json`` holds.
        pictures: As of `outcome.draw`.
    """
    scores = found["scores"]
    lead = f"{found.get('data', 'particle images')}: {scores['particles']} images."
    if "fit_seconds" in found:
        lead += f" Fitted in {found['fit_seconds']:.0f} s."
    parts: list[Part] = [("p", lead), ("pre", found.get("command", ""))]
    parts += [("table", score_table(scores))]
    if scores.get("states"):
        parts.append(("note", DEFINITIONS))
    parts += [("list", facts(scores) + pose_facts(found))]
    for name, heading, note in (
        ("latents", "Latents", ""),
        (
            "sections",
            "Maps",
            "All maps have the same greys, all changes the same colours. traversal.gif shows all views.",
        ),
        ("fsc", "Against the truth", ""),
        ("half-maps", "Half maps of the consensus", "One map of the images with even numbers, one of the others."),
        (
            "flexibility",
            "Where density moves",
            "Largest value along each axis. Attention is shown, nothing is claimed.",
        ),
    ):
        if name in pictures:
            parts.append(("h2", heading))
            parts += [("note", note)] if note else []
            parts.append(("figure", pictures[name]))
    parts += [("h2", "Settings"), ("pre", json.dumps(found.get("config", {}), indent=1))]
    write_page(path, "A continuous family of maps", parts)


def write_study(
    path: Path, title: str, found: Found, tables: Sequence[tuple[str, str, Cells]], pictures: Sequence[Figure] = ()
) -> None:
    """The page of a study on chips, or of a comparison.

    Args:
        path: Where.
        title: Of the page.
        found: ``about`` and ``command``.
        tables: Heading, note and cells of each.
        pictures: Above the tables.
    """
    parts: list[Part] = [("p", found["about"]), ("pre", found["command"])]
    parts += [("figure", picture) for picture in pictures]
    for heading, note, cells in tables:
        parts += [("h2", heading), ("note", note), ("table", cells)]
    write_page(path, title, parts)
