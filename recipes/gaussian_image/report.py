"""Tables and pages of fits, chips and races."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import lightning_cim as cim
from recipes._page import Part, write_page
from recipes._tables import Cells
from recipes.gaussian_image.chips import METRIC, PERCENTILES, K, Point, row_of
from recipes.gaussian_image.figures import Curves
from recipes.gaussian_image.race import mean_gap

Found = dict[str, Any]

CLASSICAL_NOTE = (
    "Real bytes of whole files on every side, measured in this run. What a file of structured Gaussians offers,"
    " whatever these curves say: any region is drawn at any size without the rest, and the networks of its decoder fit"
    " on a compute-in-memory chip."
)


def fit_table(found: Found) -> Cells:
    """Quality, size and time of one file."""
    structural = [(name, found[key]) for name, key in (("SSIM", "ssim"), ("MS-SSIM", "ms_ssim"))]
    body = [["PSNR", f"{found['psnr']:.2f} dB"]]
    body += [[name, found["note"] if value is None else f"{value:.4f}"] for name, value in structural]
    body += [["file", f"{found['file_bytes']} bytes"], ["rate", f"{found['bpp']:.3f} bits per pixel"]]
    for name, key in (("encode", "encode"), ("decode to numbers", "decode"), ("draw", "draw")):
        body.append([name, f"{1000 * found['cpu_seconds'][key]:.0f} ms CPU"])
    if found.get("fit_seconds") is not None:
        body.append(["fit", f"{found['fit_seconds']:.0f} s"])
    return ["of the decoded file", ""], body


def size_table(sizes: Mapping[str, int]) -> Cells:
    """What takes how much of a file."""
    total = sum(sizes.values())
    body = [[name, str(size), f"{100 * size / total:.1f}"] for name, size in sizes.items()]
    return ["part of the file", "bytes", "%"], [*body, ["total", str(total), "100.0"]]


def equal_bytes_table(bpp: float, psnr: float, curves: Curves) -> Cells:
    """What other codecs reach at the same bits per pixel, interpolated between their files.

    Args:
        bpp: Of this file.
        psnr: Of this file.
        curves: Files of each codec.
    """
    body = []
    for name, rates in curves.items():
        at, quality = zip(*sorted(rates), strict=True)
        if not at[0] <= bpp <= at[-1]:
            body.append([name, f"its files have {at[0]:.2f} to {at[-1]:.2f} bits per pixel", ""])
            continue
        reached = float(np.interp(np.log(bpp), np.log(at), quality))
        body.append([name, f"{reached:.2f}", f"{psnr - reached:+.2f}"])
    return [f"at {bpp:.3f} bits per pixel", "PSNR, dB", "this file, dB"], body


def write_fit(path: Path, found: Found, overview: Figure, rates: Figure | None, equal_bytes: Cells | None) -> None:
    """The page of one fit.

    Args:
        path: Where.
        found: What ``metrics.json`` holds.
        overview: Original, decoded picture, error and seeds.
        rates: Rate-distortion plot with other codecs, if any.
        equal_bytes: What they reach at the same size.
    """
    lead = (
        f"{found['image']}, {found['height']} x {found['width']} pixels: {found['psnr']:.2f} dB at"
        f" {found['file_bytes']} bytes, {found['bpp']:.3f} bits per pixel. Every figure is of the file, decoded again."
    )
    parts: list[Part] = [("p", lead), ("pre", found["command"]), ("figure", overview)]
    parts += [("table", fit_table(found)), ("h2", "What takes how much"), ("table", size_table(found["sizes"]))]
    if rates is not None:
        skipped = "".join(f" {name} is missing: {reason}." for name, reason in found["skipped"].items())
        parts += [("h2", "Beside other codecs"), ("note", CLASSICAL_NOTE + skipped), ("figure", rates)]
        parts.append(("table", equal_bytes))
    parts += [("h2", "Settings"), ("pre", json.dumps(found["config"], indent=1))]
    write_page(path, "A photograph as structured Gaussians", parts)


def chip_table(results: Mapping[Point, cim.ChipResult], parts: Sequence[str]) -> Cells:
    """PSNR over chips of each part, sigma and net, in dB."""
    header = ["on devices", "sigma", "net", "chips", "mean ± std", *(f"{k} %" for k in PERCENTILES)]
    header += [f"KPP {K:g} % [95 %]", "worst chip"]
    chosen = [point for part in parts for point in results if point.part == part]
    order = sorted(chosen, key=lambda point: (parts.index(point.part), point.sigma))
    body = []
    for point in order:
        row = row_of(point, results[point])
        spread = f" ± {row['std']:.2f}" if point.sigma else ""
        body.append(
            [
                point.part,
                f"{point.sigma:g}",
                point.net,
                str(row["chips"]),
                f"{row['mean']:.2f}{spread}",
                *(f"{value:.2f}" for value in row["percentiles"].values()),
                _interval(row["kpp"]) if point.sigma else "-",
                f"{row['worst']:.2f} (chip {row['worst_chip']})" if point.sigma else "-",
            ]
        )
    return header, body


def gain_table(results: Mapping[Point, cim.ChipResult], plain: str) -> Cells:
    """What other nets gain over the plain one, chip by chip: mean difference of PSNR, and the share of chips won."""
    header = ["on devices", "sigma", "net", f"mean gain over {plain}, dB", "chips won %"]
    body = []
    for point, found in results.items():
        if point.net == plain:
            continue
        gain = found.of(METRIC) - results[point._replace(net=plain)].of(METRIC)
        body.append(
            [point.part, f"{point.sigma:g}", point.net, f"{gain.mean():+.2f}", f"{100 * (gain > 0).mean():.0f}"]
        )
    return header, body


def write_chips(path: Path, found: Found, tables: Sequence[tuple[str, str, Cells]], curves: Figure) -> None:
    """The page of a study on chips.

    Args:
        path: Where.
        found: What ``metrics.json`` holds.
        tables: Heading, note and cells of each.
        curves: PSNR against sigma.
    """
    nets = [(name, text) for name, text in found["nets"].items()]
    parts: list[Part] = [("p", found["about"]), ("pre", found["command"]), ("list", nets), ("figure", curves)]
    for heading, note, cells in tables:
        parts += [("h2", heading), ("note", note), ("table", cells)]
    parts += [("h2", "Settings"), ("pre", json.dumps(found["options"], indent=1))]
    write_page(path, "Structured Gaussians on simulated chips", parts)


def race_table(rows: Sequence[Found]) -> Cells:
    """Every file of a race."""
    header = ["image", "method", "steps", "seed", "Gaussians", "bytes", "bits per pixel", "PSNR, dB", "SSIM", "MS-SSIM"]
    header += ["fit, CPU s", "encode, CPU ms", "decode, CPU ms"]
    body = []
    for row in rows:
        if row["kind"] == "skipped":
            continue
        is_fit = row["kind"] == "fit"
        body.append(
            [
                row["image"],
                row["method"],
                *(str(row[key]) if is_fit else "-" for key in ("steps", "seed", "gaussians")),
                str(row["file_bytes"]),
                f"{row['bpp']:.3f}",
                f"{row['psnr']:.2f}",
                *("-" if row[key] is None else f"{row[key]:.4f}" for key in ("ssim", "ms_ssim")),
                f"{row['fit_seconds']:.0f}" if is_fit else "-",
                f"{1000 * row['encode_seconds']:.0f}",
                f"{1000 * row['decode_seconds']:.0f}",
            ]
        )
    return header, body


def gap_table(images: Mapping[str, Curves], ours: str) -> Cells:
    """By how many dB our curve lies above each other one, on average over the rates (or times) that both cover."""
    others = [name for name in dict.fromkeys(name for curves in images.values() for name in curves) if name != ours]
    body = []
    for image, curves in images.items():
        gaps = [mean_gap(curves[ours], curves[name]) if {ours, name} <= set(curves) else None for name in others]
        body.append([image, *("nothing in common" if gap is None else f"{gap:+.2f}" for gap in gaps)])
    return ["image", *others], body


def write_race(path: Path, found: Found, parts: Sequence[Part]) -> None:
    """The page of a race.

    Args:
        path: Where.
        found: ``about`` and ``command``.
        parts: Pictures and tables.
    """
    lead: list[Part] = [("p", found["about"]), ("pre", found["command"])]
    write_page(path, "Structured Gaussians against others", [*lead, *parts])


def _interval(kpp: Sequence[float | None]) -> str:
    value, low, high = ("?" if end is None else f"{end:.2f}" for end in kpp)
    return f"{value} [{low}, {high}]"
