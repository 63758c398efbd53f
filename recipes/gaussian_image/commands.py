"""What `recipes/sgi.py` does beyond fitting: files from fits, pictures from files, chips and races."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

import lightning_cim as cim
from recipes._page import Part
from recipes._tables import text
from recipes.gaussian_image import figures, report
from recipes.gaussian_image.chips import MEMORY, NETWORKS, Point, StudyOptions, row_of, study
from recipes.gaussian_image.classical import CODECS
from recipes.gaussian_image.codec import commands as codec
from recipes.gaussian_image.codec.blocks import Box
from recipes.gaussian_image.codec.decoder import decode as open_file
from recipes.gaussian_image.codec.encoder import SEEDS_PER_BLOCK
from recipes.gaussian_image.contestants import CONTESTANTS
from recipes.gaussian_image.images import load
from recipes.gaussian_image.module import load_structured
from recipes.gaussian_image.outcome import FILE, Found
from recipes.gaussian_image.race import jobs_of, race, rate_curves, time_curves
from recipes.gaussian_image.rasterizers import Backend
from recipes.gaussian_image.schedule import schedule_scale

Fit = Callable[[list[str]], Found]

FAST_STEPS = 300
"""Of a fit with ``--fast``."""
SGI = "SGI"
"""What a race calls structured Gaussians."""
PLAIN = "plain"
OWN = ("--study.", "--train.", "--out", "--fast", "--help", "-h")
"""Options of `chips` itself, by how they begin; the others are of `fit`."""


@dataclass(frozen=True)
class NoisyFits:
    """Fits under device variation, beside the plain one, which has factors of 1.

    Attributes:
        sigmas: One fit each, above 0.
        lr_factor: Of learning rates. Every step sees another chip, and smaller steps average over more of them.
        rate_factor: Of the weight of a bit. Under variation a file of the same weight would be smaller, and worse.

    Raises:
        ValueError: Numbers out of range.
    """

    sigmas: tuple[float, ...] = (0.05,)
    lr_factor: float = 0.5
    rate_factor: float = 0.55

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(self.sigmas))
        if not all(sigma > 0 for sigma in self.sigmas) or self.lr_factor <= 0 or self.rate_factor < 0:
            raise ValueError("sigmas and lr_factor must be above 0, rate_factor must not be negative")

    def options(self, sigma: float, plain: Found) -> list[str]:
        """Words of `fit`, given what the plain fit was configured to be."""
        model, steps = plain["model"], FAST_STEPS if plain["fast"] else plain["trainer"]["max_steps"]
        scale = model.get("lr_scale") or schedule_scale(steps)  # a configuration leaves out what is None
        return [
            f"--cim.sigma={sigma}",
            f"--model.lr_scale={scale * self.lr_factor}",
            f"--model.rate_weight={model['rate_weight'] * self.rate_factor}",
        ]


def encode(words: Sequence[str], fit: Fit) -> str:
    """``encode CKPT FILE``: a fit's checkpoint as a file."""
    parser = _parser("encode", "Write the file of a fit's checkpoint.")
    parser.add_argument("checkpoint", type=Path, help="The fit's last.ckpt.")
    parser.add_argument("file", type=Path, help="To write.")
    parser.add_argument("--seeds_per_block", type=int, default=SEEDS_PER_BLOCK, help="Decoded together, about.")
    options = parser.parse_args(list(words))
    options.file.parent.mkdir(parents=True, exist_ok=True)
    said = codec.encode_model(load_structured(options.checkpoint), options.file, options.seeds_per_block)
    print(said)
    return said


def decode(words: Sequence[str], fit: Fit) -> str:
    """``decode FILE PICTURE``: a file, or a part of it, at any size."""
    parser = _parser("decode", "Draw a file, or a part of it, at any size.")
    parser.add_argument("file", type=Path, help="What encode or fit wrote.")
    parser.add_argument("picture", type=Path, help="To write, such as picture.png.")
    parser.add_argument(
        "--crop", type=tuple[int, int, int, int] | None, default=None, help="[x0,y0,x1,y1] in pixels; default: all."
    )
    parser.add_argument("--scale", type=float, default=1.0, help="Pixels of the picture a pixel of the image.")
    parser.add_argument("--level", type=int | None, default=None, help="Instead: the image at a level of training.")
    parser.add_argument("--backend", type=Backend, default="auto", help="Rasterizer.")
    options = parser.parse_args(list(words))
    size = None
    if options.scale != 1.0:
        if options.level is not None:
            raise ValueError("--scale and --level exclude each other")
        size = _scaled(options.file, options.crop, options.scale)
    said = codec.decode_file(options.file, options.picture, options.crop, size, options.level, options.backend)
    print(said)
    return said


def on_chips(words: Sequence[str], fit: Fit) -> Found:
    """``chips [--study.*] [options of fit]``: fit plain and under device variation, and measure both on chips."""
    parser = _parser("chips", "Fit plain and under variation, and measure both on chips. Takes all options of fit too.")
    parser.add_argument("--out", type=Path, default=Path("runs/sgi-chips"), help="Folder; a killed study continues.")
    parser.add_argument("--fast", action="store_true", help="A study of a minute: short fits, few chips.")
    parser.add_class_arguments(NoisyFits, "train")
    parser.add_class_arguments(StudyOptions, "study")
    own = [word for word in words if word.startswith(OWN)]
    rest = [word for word in words if not word.startswith(OWN)]
    parsed = parser.parse_args(own)
    noisy, options, out = NoisyFits(**parsed.train.as_dict()), StudyOptions(**parsed.study.as_dict()), parsed.out
    if parsed.fast:
        rest, options = ["--fast", *rest], replace(options, chips=min(options.chips, 5))
    if any(word.startswith(("--cim.sigma", "--cim.variation")) for word in rest):
        raise ValueError("chips trains for --train.sigmas; leave out --cim.sigma and --cim.variation")
    rest = ["--codecs=[]", *rest]
    fits = {PLAIN: fit(["fit", *rest, f"--out={out / PLAIN}"])}
    folders = {PLAIN: out / PLAIN}
    for sigma in noisy.sigmas:
        name = f"trained at {sigma:g}"
        folders[name] = out / f"sigma{sigma:g}"
        fits[name] = fit(["fit", *rest, *noisy.options(sigma, fits[PLAIN]["config"]), f"--out={folders[name]}"])
    files = {name: (folder / FILE).read_bytes() for name, folder in folders.items()}
    results = study(files, load(fits[PLAIN]["image"]), options, out / "chips")
    settings = {"study": asdict(options), "train": asdict(noisy)}
    return _write_study(out, results, fits, settings, " ".join(["python recipes/sgi.py chips", *words]))


def _write_study(
    out: Path, results: Mapping[Point, cim.ChipResult], fits: Mapping[str, Found], settings: Found, command: str
) -> Found:
    first, options = fits[PLAIN], settings["study"]
    found: Found = {
        "about": f"{first['image']}, {first['height']} x {first['width']} pixels. {options['chips']} chips of"
        f" population seed {options['seed']}, the same for every net, part and sigma; one draw a chip for the whole"
        " picture. The entropy model and its hash grid are digital. Percentiles and worst chips are of PSNR in dB.",
        "command": command,
        "nets": {
            name: f"{fitted['psnr']:.2f} dB at {fitted['bpp']:.3f} bits per pixel without noise"
            for name, fitted in fits.items()
        },
        "options": settings,
        "rows": [row_of(point, result) for point, result in results.items()],
    }
    curves = figures.against_sigma(results)
    curves.savefig(out / "psnr-against-sigma.png", dpi=120)
    tables = []
    networks = [part for part in options["parts"] if part in NETWORKS]
    memory = [part for part in options["parts"] if part in MEMORY]
    for heading, note, parts in (
        ("Networks on crossbars", "Weights W + sigma max|W| z; biases are digital.", networks),
        ("Attributes in analog memory", "Attributes x + sigma std(x) z; networks are digital.", memory),
    ):
        if parts:
            tables.append((heading, note, report.chip_table(results, parts)))
    if len(fits) > 1:
        note = "Chip r of one net against chip r of the other, which have the same random numbers."
        tables.append(("What training under variation gains", note, report.gain_table(results, PLAIN)))
    (out / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    report.write_chips(out / "report.html", found, tables, curves)
    for heading, _, cells in tables:
        print(f"\n{heading}\n{text(cells)}")
    print(f"\nreport: {out / 'report.html'}")
    return found


def compete(words: Sequence[str], fit: Fit) -> Found:
    """``race``: fits of several methods, sizes and lengths, beside classical codecs."""
    parser = _parser("race", "Structured Gaussians against others at equal bytes, and at equal time.")
    parser.add_argument("--images", type=list[str], default=["astronaut512"], help="Names or files.")
    parser.add_argument(
        "--methods", type=list[str], default=[SGI, "GaussianImage", "LIG fp16"], help=", ".join(CONTESTANTS)
    )
    parser.add_argument("--bpps", type=list[float], default=[0.6, 1.2, 2.4], help="Wanted bits per pixel.")
    parser.add_argument("--steps", type=list[int], default=[2500], help="Of fits; several make curves against time.")
    parser.add_argument("--seeds", type=list[int], default=[0], help="Of fits.")
    parser.add_argument("--processes", type=int, default=1, help="Fits side by side, one thread each.")
    parser.add_argument("--codecs", type=list[str], default=list(CODECS), help="Classical ones; [] for none.")
    parser.add_argument("--out", type=Path, default=Path("runs/sgi-race"), help="Folder; a killed race continues.")
    parser.add_argument("--fast", action="store_true", help=f"Fits of {FAST_STEPS} steps.")
    options = parser.parse_args(list(words))
    steps = [FAST_STEPS] if options.fast else options.steps
    jobs = jobs_of(options.images, options.methods, options.bpps, steps, options.seeds)
    rows = race(jobs, options.out, options.processes, options.codecs)
    found: Found = {
        "about": f"Real bytes of whole files. Fits of {', '.join(map(str, steps))} steps, seeds"
        f" {', '.join(map(str, options.seeds))}, one thread each, {options.processes} at a time. Curves over bytes are"
        " of the longest fits.",
        "command": " ".join(["python recipes/sgi.py race", *words]),
        "rows": rows,
    }
    rates = rate_curves(rows)
    picture = figures.rate_distortion(rates, dashed=options.codecs)
    picture.savefig(options.out / "rate-distortion.png", dpi=120)
    parts: list[Part] = [("figure", picture), ("note", report.CLASSICAL_NOTE)]
    tables = []
    if SGI in options.methods:
        tables.append((f"{SGI} minus others at equal bytes, mean dB", report.gap_table(rates, SGI)))
    if len(steps) > 1:
        for bpp in options.bpps:
            times = time_curves(rows, bpp)
            curves = figures.against_time(times)
            curves.savefig(options.out / f"psnr-against-time-{bpp:g}bpp.png", dpi=120)
            parts += [("h2", f"Against time, files of about {bpp:g} bits per pixel"), ("figure", curves)]
            if SGI in options.methods:
                heading = f"{SGI} minus others at equal time, about {bpp:g} bits per pixel, mean dB"
                tables.append((heading, report.gap_table(times, SGI)))
    tables.append(("Every file", report.race_table(rows)))
    for heading, cells in tables:
        parts += [("h2", heading), ("table", cells)]
        print(f"\n{heading}\n{text(cells)}")
    missing = [f"{row['method']} on {row['image']}: {row['note']}" for row in rows if row["kind"] == "skipped"]
    parts += [("note", f"Skipped: {'; '.join(missing)}")] if missing else []
    report.write_race(options.out / "report.html", found, parts)
    print(f"\nreport: {options.out / 'report.html'}")
    return found


COMMANDS: dict[str, Callable[[Sequence[str], Fit], Any]] = {
    "encode": encode,
    "decode": decode,
    "chips": on_chips,
    "race": compete,
}
"""Subcommands beside those of `cim.CIMCLI`."""


def _scaled(path: Path, crop: Box | None, scale: float) -> tuple[int, int]:
    """Height and width of a scaled picture."""
    if not 0 < scale < 1000:
        raise ValueError(f"--scale={scale}: want a number above 0, such as 0.5 or 2")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if crop is None:
        config = open_file(path.read_bytes()).config
        crop = (0, 0, config.width, config.height)
    x0, y0, x1, y1 = crop
    return max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale))


def _parser(command: str, about: str) -> ArgumentParser:
    return ArgumentParser(prog=f"sgi.py {command}", description=about)
