"""What `recipes/cryoformer.py` does with fits: evaluate, traverse, compare maps, chips, compare with cryoDRGN."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from torch import Tensor

from recipes._tables import Cells, text
from recipes.cryo_em import chips, figures, report
from recipes.cryo_em.controls import still
from recipes.cryo_em.cryodrgn_compare import advance
from recipes.cryo_em.evaluate import Options, decode, encode
from recipes.cryo_em.fsc import HALF_MAPS, MAP_TO_TRUTH, Bins, Crossing, fourier_shell_correlation
from recipes.cryo_em.half_maps import half_map_fsc
from recipes.cryo_em.maps import read_map, write_map
from recipes.cryo_em.masks import density_mask, soft_mask
from recipes.cryo_em.movie import write_movie
from recipes.cryo_em.outcome import finish, numbers_of
from recipes.cryo_em.states import principal_components, traversal
from recipes.cryo_em.trained import as_fitted, describe, load_run

Found = dict[str, Any]
Main = Callable[[list[str]], Any]

PLAIN = "plain"
OWN = ("--study.", "--train.", "--out", "--fast", "--help", "-h")
"""Options of `on_chips` itself, by how they begin; the others are of `fit`."""


def evaluate(words: Sequence[str], main: Main) -> Found:
    """``eval RUN``: evaluate a fit again, with other options or beside its negative control."""
    parser = _parser("eval", "Score a fit, and write maps, pictures and a report.")
    parser.add_argument("run", type=Path, help="Folder of a fit.")
    parser.add_argument("--out", type=Path | None, default=None, help="Folder to write to; default: RUN/eval.")
    parser.add_argument(
        "--moving", type=Path | None, default=None, help="RUN is a control (frames=one): the fit of moving data."
    )
    parser.add_class_arguments(Options, "options")
    options = parser.parse_args(list(words))
    run = load_run(options.run)
    out = options.out or options.run / "eval"
    about: Found = {"command": _command("eval", words), "data": describe(run.data), "config": run.config}
    if options.moving is not None:
        moving = json.loads(_file(options.moving / "metrics.json").read_text(encoding="utf-8"))["scores"]
    chosen = Options(**options.options.as_dict())
    particles, pose_errors = as_fitted(run.model, run.data)
    if pose_errors is not None:
        about["pose_errors"] = pose_errors
    found = finish(run.model, particles, out, about, run.data.held_out, chosen)
    if options.moving is not None:
        found["control"] = still(found["scores"], moving)
        (out / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(
            "\namplitude of motion {still:.3f}, of moving data {moving:.3f}: ratio {ratio:.3f}".format(
                **found["control"]
            )
        )
    return found


def traverse(words: Sequence[str], main: Main) -> Found:
    """``traverse RUN``: maps along a principal component, and a movie."""
    parser = _parser("traverse", "Maps along a principal component of the latents, and a movie.")
    parser.add_argument("run", type=Path, help="Folder of a fit.")
    parser.add_argument("--out", type=Path | None, default=None, help="Default: RUN/traverse-pcN.")
    parser.add_argument("--component", type=int, default=1, help="Which, from 1.")
    parser.add_argument("--states", type=int, default=10, help="Maps, at equally spaced quantiles.")
    parser.add_argument("--nearest", type=int, default=100, help="Images whose latents are averaged for a map.")
    options = parser.parse_args(list(words))
    if options.component < 1:
        raise ValueError(f"--component={options.component}: they are counted from 1")
    run = load_run(options.run)
    out = options.out or options.run / f"traverse-pc{options.component}"
    latents = encode(run.model, as_fitted(run.model, run.data)[0], progress=True)
    components = principal_components(latents, options.component)
    states = traversal(latents, components, options.states, options.component - 1, options.nearest)
    volumes = decode(run.model, states.latents)
    files = [out / f"{number:03d}.mrc" for number in range(len(volumes))]
    for file, volume in zip(files, volumes, strict=True):
        write_map(file, volume, run.data.pixel_size)
    write_movie(out / "traversal.gif", volumes, f"along PC {options.component}")
    print(f"{len(files)} maps and traversal.gif: {out}")
    return {"files": files, "positions": states.positions.tolist(), "explained": components.explained.tolist()}


def compare_maps(words: Sequence[str], main: Main) -> Found:
    """``fsc A.mrc B.mrc``: Fourier shell correlation of two maps, or of two half maps."""
    parser = _parser("fsc", "Fourier shell correlation of two maps.")
    parser.add_argument("first", type=Path, help="An .mrc file.")
    parser.add_argument("second", type=Path, help="Another, of the same box.")
    parser.add_argument(
        "--mask", type=str | None, default=None, help="An .mrc file, or `auto`: where the mean is dense."
    )
    parser.add_argument("--half", action="store_true", help="They are half maps: 0.143, phase randomisation.")
    parser.add_argument("--threshold", type=float | None, default=None, help="Default: 0.5; with --half 0.143.")
    parser.add_argument("--bins", type=Bins, default="rounded", help="Shells: rounded, or floor as in cryoDRGN.")
    parser.add_argument("--crossing", type=Crossing, default="first", help="first, or last as in cryoDRGN.")
    parser.add_argument("--out", type=Path | None, default=None, help="Folder for fsc.png and metrics.json.")
    options = parser.parse_args(list(words))
    (first, pixel), (second, other) = read_map(options.first), read_map(options.second)
    if abs(pixel - other) > 1e-3 * pixel or not pixel > 0:
        raise ValueError(f"voxels of {pixel:g} Å in {options.first} and {other:g} in {options.second}: want the same")
    if first.shape != second.shape:
        raise ValueError(f"boxes of {len(first)} in {options.first} and {len(second)} in {options.second}")
    mask = _mask(options.mask, (first + second) / 2)
    if options.half:
        if options.threshold not in (None, HALF_MAPS) or options.bins != "rounded":
            raise ValueError("--half goes with --threshold=0.143 and --bins=rounded")
        everywhere = mask if mask is not None else density_mask((first + second) / 2)
        halves = half_map_fsc(first, second, pixel, everywhere)
        found: Found = dict(numbers_of(halves))
        curve, picture = halves.corrected, figures.fsc_of_half_maps(halves)
    else:
        threshold = MAP_TO_TRUTH if options.threshold is None else options.threshold
        curve = fourier_shell_correlation(first, second, pixel, mask, options.bins)
        found = {
            "resolution": float(curve.resolution(threshold, options.crossing)),
            "threshold": threshold,
            "auc": float(curve.auc),
        }
        picture = figures.fsc_of_pair(curve, threshold)
    found |= {"frequency": curve.frequency.tolist(), "correlation": curve.correlation.tolist()}
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        picture.savefig(options.out / "fsc.png", dpi=120)
        (options.out / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    shells = zip(found["frequency"], found["correlation"], strict=True)
    body = [["∞" if not at else f"{1 / at:.2f}", f"{value:.4f}"] for at, value in shells]
    print(f"{text((['Å', 'FSC'], body))}\n\nresolution {found['resolution']:.2f} Å")
    return found


@dataclass(frozen=True)
class NoisyFits:
    """Fits under device variation, beside the plain one.

    Attributes:
        sigmas: One fit each, above 0.

    Raises:
        ValueError: Numbers out of range.
    """

    sigmas: tuple[float, ...] = (0.2,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(self.sigmas))
        if not all(sigma > 0 for sigma in self.sigmas):
            raise ValueError("--train.sigmas must be above 0; the plain fit is always made")


def on_chips(words: Sequence[str], main: Main) -> Found:
    """``chips [--study.*] [options of fit]``: fit plain and under device variation, and measure both on chips."""
    parser = _parser("chips", "Fit plain and under variation, and measure both on chips. Takes all options of fit too.")
    parser.add_argument("--out", type=Path, default=Path("runs/cryoformer-chips"), help="A killed study continues.")
    parser.add_argument("--fast", action="store_true", help="Short fits, few chips.")
    parser.add_class_arguments(NoisyFits, "train")
    parser.add_class_arguments(chips.StudyOptions, "study")
    parsed = parser.parse_args([word for word in words if word.startswith(OWN)])
    rest = [word for word in words if not word.startswith(OWN)]
    noisy, options = NoisyFits(**parsed.train.as_dict()), chips.StudyOptions(**parsed.study.as_dict())
    if parsed.fast:
        rest, options = ["--fast", *rest], replace(options, chips=min(options.chips, 3))
    if any(word.startswith(("--cim.sigma", "--cim.variation")) for word in rest):
        raise ValueError("chips trains for --train.sigmas; leave out --cim.sigma and --cim.variation")
    folders = {PLAIN: parsed.out / PLAIN}
    main(["fit", *rest, f"--out={folders[PLAIN]}"])
    for sigma in noisy.sigmas:
        folders[f"trained at {sigma:g}"] = parsed.out / f"sigma{sigma:g}"
        main(["fit", *rest, f"--cim.sigma={sigma}", f"--out={parsed.out / f'sigma{sigma:g}'}"])
    runs = {name: load_run(folder) for name, folder in folders.items()}
    data = runs[PLAIN].data
    models: dict[str, Any] = {name: run.model for name, run in runs.items()}
    results = chips.study(models, data.train, options, parsed.out / "chips")
    return _write_study(parsed.out, results, options, describe(data), _command("chips", words))


def _write_study(
    out: Path, results: dict[chips.Point, Any], options: chips.StudyOptions, data: str, command: str
) -> Found:
    rows, gains = chips.rows_of(results), chips.gains(results, PLAIN)
    found: Found = {
        "about": f"{data}: the first {options.images} images. {options.chips} chips of population seed {options.seed},"
        " the same for every net, part and sigma; W + sigma max|W| z, one draw a chip for all images and maps. Base"
        " map, poses, attention products and projection are digital.",
        "command": command,
        "options": asdict(options),
        "rows": rows,
        "gains": gains,
        "pays": chips.judged(gains),
    }
    picture = figures.against_sigma(rows, list(chips.METRICS.items())[:3])
    picture.savefig(out / "chips.png", dpi=120)
    tables: list[tuple[str, str, Cells]] = [
        (f"On chips: {part}", "Mean ± standard deviation over chips.", chips.chip_table(rows, part))
        for part in options.parts
    ]
    if gains:
        note = "Chip r of one net against chip r of the other, which have the same random numbers."
        tables.append(("What training under variation gains", note, chips.gain_table(gains)))
    (out / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    report.write_study(out / "report.html", "CryoFormer on simulated chips", found, tables, [picture])
    for heading, _, cells in tables:
        print(f"\n{heading}\n{text(cells)}")
    print(f"\nreport: {out / 'report.html'}")
    return found


def compare(words: Sequence[str], main: Main) -> Found:
    """``compare RUN FOLDER``: the next step of a comparison with cryoDRGN; run it again after each."""
    parser = _parser("compare", "Compare a fit with cryoDRGN, a program of its own: does the next step at each call.")
    parser.add_argument("run", type=Path, help="Folder of a fit to simulated particles.")
    parser.add_argument("folder", type=Path, help="What is passed between the two programs.")
    parser.add_argument("--zdim", type=int, default=8, help="Of cryoDRGN's latents, in the command that is printed.")
    parser.add_argument("--epochs", type=int, default=8, help="Of its training, in the command that is printed.")
    parser.add_class_arguments(Options, "options")
    options = parser.parse_args(list(words))
    run, chosen = load_run(options.run), Options(**options.options.as_dict())
    step = advance(options.folder, run.data.train, run.model.support, chosen, options.zdim, options.epochs)
    print(step.done)
    if step.scores is None:
        print("\nrun, in cryoDRGN's environment:\n")
        print("\n".join(f"    {command}" for command in step.commands))
        print(f"\nthen again:\n\n    {_command('compare', words)}")
        return {"commands": list(step.commands)}
    ours = finish(
        run.model,
        as_fitted(run.model, run.data)[0],
        options.folder / "ours",
        {"data": describe(run.data)},
        options=chosen,
    )
    found: Found = {
        "about": f"{describe(run.data)}. The same images, states and mask for both; the mask is the support of"
        f" {options.run}. {report.DEFINITIONS}",
        "command": _command("compare", words),
        "ours": ours["scores"],
        "cryodrgn": dict(step.scores),
    }
    (options.folder / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    tables: list[tuple[str, str, Cells]] = [
        (report.ROWS[kind], "", report.comparison_table(found, kind)) for kind in ("states", "single", "traversal")
    ]
    report.write_study(options.folder / "report.html", "CryoFormer and cryoDRGN", found, tables)
    for heading, _, cells in tables:
        print(f"\n{heading}\n{text(cells)}")
    print(f"\nreport: {options.folder / 'report.html'}")
    return found


COMMANDS: dict[str, Callable[[Sequence[str], Main], Any]] = {
    "eval": evaluate,
    "traverse": traverse,
    "fsc": compare_maps,
    "chips": on_chips,
    "compare": compare,
}
"""Subcommands that need a fit, or maps."""


def _mask(name: str | None, mean: Tensor) -> Tensor | None:
    if name is None:
        return None
    if name == "auto":
        return density_mask(mean)
    mask = read_map(name)[0]
    if mask.shape != mean.shape or float(mask.min()) < 0 or float(mask.max()) > 1:
        raise ValueError(f"{name}: a mask has the maps' box ({len(mean)}) and values in [0, 1]")
    # A hard mask would correlate the maps at all frequencies.
    return soft_mask(mask > 0.5) if bool(((mask == 0) | (mask == 1)).all()) else mask


def _file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; is it the folder of a finished fit?")
    return path


def _command(name: str, words: Sequence[str]) -> str:
    return " ".join([f"python recipes/cryoformer.py {name}", *words])


def _parser(command: str, about: str) -> ArgumentParser:
    return ArgumentParser(prog=f"cryoformer.py {command}", description=about)
