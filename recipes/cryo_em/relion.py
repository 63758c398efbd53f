"""Particles in RELION's STAR files, versions 3.0 (one table) and 3.1 to 5 (optics groups and particles)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from recipes.cryo_em.ctf import CTFParameters
from recipes.cryo_em.geometry import euler_from_matrix, matrix_from_euler
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.stack import MrcStack, pixel_size_of
from recipes.cryo_em.star import Table, read_star, write_star

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")

EXPECTED = {
    "rlnMagMat00": 1.0,
    "rlnMagMat01": 0.0,
    "rlnMagMat10": 0.0,
    "rlnMagMat11": 1.0,
    "rlnBeamTiltX": 0.0,
    "rlnBeamTiltY": 0.0,
    "rlnCtfScalefactor": 1.0,
}
"""What a column has to hold for images to be what `ctf` describes: no further aberration, one magnification."""
ABERRATIONS = ("rlnOddZernike", "rlnEvenZernike")
REFUSED = ("rlnCtfDataAreCtfPremultiplied", "rlnTomoName", "rlnTomoParticleName", "rlnTomoVisibleFrames")
"""Data of another kind: images multiplied by their CTF, tilt series."""


def read_relion(path: Path | str, datadir: Path | str | None = None, ignore_aberrations: bool = False) -> Particles:
    """Particles of a STAR file; their images are read when asked for.

    Args:
        path: The file.
        datadir: Where its images' paths begin. None tries the file's folder, its parents, and the working folder.
        ignore_aberrations: Read data with beam tilt, Zernike aberrations or anisotropic magnification as if without,
            which costs little at the resolutions of this recipe.

    Raises:
        ValueError: If something needed is missing or damaged, or the data is of a kind that would be misread.
    """
    path = Path(path)
    table, optics = _tables(path, read_star(path))
    _refuse_what_would_be_misread(table, optics, ignore_aberrations)
    stack = _images(table, path, None if datadir is None else Path(datadir))
    count = len(table)
    pixel_size = _pixel_size(table, optics, stack)
    if optics is not None and "rlnImageSize" in optics:
        sizes = set(optics.numbers("rlnImageSize").tolist())
        if sizes != {float(stack.size)}:
            raise ValueError(f"{path}: optics say images of {sorted(sizes)} pixels; the files hold {stack.size}")
    missing = [label for label in ANGLES if label not in table]
    if missing:
        raise ValueError(f"{path}: no column _{missing[0]}; particles need angles, from a 3D refinement")
    angles = torch.stack([table.numbers(label) for label in ANGLES], 1)
    origins = []
    for axis in "XY":
        if f"rlnOrigin{axis}Angst" in table:
            origins.append(table.numbers(f"rlnOrigin{axis}Angst") / pixel_size)
        else:
            origins.append(table.numbers(f"rlnOrigin{axis}", 0.0))
    half = table.numbers("rlnRandomSubset").long() if "rlnRandomSubset" in table else None
    return Particles(
        images=stack,
        rotations=matrix_from_euler(angles).float(),
        shifts=-torch.stack(origins, 1).float(),
        ctf=_ctf(table, optics, count),
        pixel_size=pixel_size,
        half=half,
    )


def _tables(path: Path, tables: dict[str, Table]) -> tuple[Table, Table | None]:
    if "particles" in tables:
        table, optics = tables["particles"], tables.get("optics")
    elif len(tables) == 1:
        table, optics = next(iter(tables.values())), None
    else:
        raise ValueError(f"{path}: tables {', '.join(tables)}; data_particles is expected")
    if len(table) == 0:
        raise ValueError(f"{path}: table data_{table.name} has no rows")
    return table, optics


def _per_particle(label: str, table: Table, optics: Table | None, default: float | None = None) -> Tensor:
    """A value that stands with the particles or with their optics group."""
    if label in table or optics is None or label not in optics:
        return table.numbers(label, default)
    return optics.numbers(label)[_group_rows(table, optics)]


def _group_rows(table: Table, optics: Table) -> Tensor:
    if "rlnOpticsGroup" not in table or "rlnOpticsGroup" not in optics:
        if len(optics) == 1:
            return torch.zeros(len(table), dtype=torch.long)
        raise ValueError(f"{table.path}: several optics groups, but no column _rlnOpticsGroup in both tables")
    row_of = {word: row for row, word in enumerate(optics.text("rlnOpticsGroup"))}
    words = table.text("rlnOpticsGroup")
    unknown = next((row for row, word in enumerate(words) if word not in row_of), None)
    if unknown is not None:
        raise ValueError(f"{table.path}:{table.lines[unknown]}: optics group {words[unknown]} is not in data_optics")
    return torch.tensor([row_of[word] for word in words])


def _refuse_what_would_be_misread(table: Table, optics: Table | None, ignore_aberrations: bool) -> None:
    for here in (table, optics) if optics is not None else (table,):
        for label in REFUSED:
            is_flag = label == "rlnCtfDataAreCtfPremultiplied"
            if label in here and (not is_flag or bool(here.numbers(label).any())):
                what = "images multiplied by their CTF" if is_flag else "a tilt series"
                raise ValueError(f"{here.path}: column _{label}: {what}; only single-particle images as taken are read")
        if "rlnImageDimensionality" in here and bool((here.numbers("rlnImageDimensionality") != 2).any()):
            raise ValueError(f"{here.path}: _rlnImageDimensionality is not 2; only images are read, no subtomograms")
        if ignore_aberrations:
            continue
        wrong = [label for label, value in EXPECTED.items() if bool((here.numbers(label, value) != value).any())]
        wrong += [label for label in ABERRATIONS if label in here and _has_aberration(here.text(label))]
        if wrong:
            raise ValueError(
                f"{here.path}: _{wrong[0]} asks for a correction that is not made here; "
                "set ignore_aberrations to read the images without it"
            )


def _has_aberration(lists: list[str]) -> bool:
    return any(word not in ("", "None") and float(word) != 0 for text in lists for word in text.strip("[]").split(","))


def _images(table: Table, path: Path, datadir: Path | None) -> MrcStack:
    names, numbers, places = dict[str, int](), [], []
    for row, word in enumerate(table.text("rlnImageName")):
        place, at, name = word.rpartition("@")
        if at and not place.isdigit():
            raise ValueError(f"{path}:{table.lines[row]}: image name {word!r}; 000001@stack.mrcs is expected")
        numbers.append(names.setdefault(name, len(names)))
        places.append(int(place) - 1 if at else 0)
    files = [find_images(name, path, datadir) for name in names]
    return MrcStack(files, torch.tensor(numbers), torch.tensor(places))


def find_images(name: str, path: Path, datadir: Path | None) -> Path:
    """Where the images lie that ``path`` calls ``name``.

    Raises:
        ValueError: If nowhere that was tried.
    """
    folders = [datadir] if datadir is not None else [*path.absolute().parents[:4], Path.cwd()]
    tried = [folder / name for folder in folders] + [folders[0] / Path(name).name]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise ValueError(f"{path}: no images {name} at {tried[0]}; say with datadir where its paths begin")


def _pixel_size(table: Table, optics: Table | None, stack: MrcStack) -> float:
    for label in ("rlnImagePixelSize", "rlnPixelSize"):
        if label in table or (optics is not None and label in optics):
            values = _per_particle(label, table, optics)
            break
    else:
        if "rlnDetectorPixelSize" in table and "rlnMagnification" in table:
            values = table.numbers("rlnDetectorPixelSize") * 1e4 / table.numbers("rlnMagnification")
        else:
            values = torch.tensor([pixel_size_of(stack.files[0])], dtype=torch.float64)
    if float(values.max() - values.min()) > 1e-4 * float(values.max()):
        raise ValueError(f"{table.path}: pixel sizes from {values.min():g} to {values.max():g}; one is expected")
    if not 0 < float(values[0]) < float("inf"):
        raise ValueError(f"{table.path}: no pixel size in the file or in its images' header")
    return float(values[0])


def _ctf(table: Table, optics: Table | None, count: int) -> CTFParameters | None:
    if "rlnDefocusU" not in table:
        return None
    u = table.numbers("rlnDefocusU")
    v = table.numbers("rlnDefocusV") if "rlnDefocusV" in table else u
    is_astigmatic = bool((u != v).any())
    return CTFParameters.of(
        count,
        defocus_u=u,
        defocus_v=v,
        angle=table.numbers("rlnDefocusAngle", None if is_astigmatic else 0.0),
        voltage=_per_particle("rlnVoltage", table, optics),
        cs=_per_particle("rlnSphericalAberration", table, optics),
        amplitude_contrast=_per_particle("rlnAmplitudeContrast", table, optics),
        phase_shift=_per_particle("rlnPhaseShift", table, optics, 0.0),
        b_factor=_per_particle("rlnCtfBfactor", table, optics, 0.0),
    )


def write_relion(path: Path | str, particles: Particles, images: str, version: str = "3.1") -> None:
    """Write particles whose images lie in one file, in order.

    Args:
        path: The STAR file.
        particles: Their poses and microscopes.
        images: What the file calls the .mrcs file.
        version: "3.0" writes one table and shifts in pixels, "3.1" optics groups and shifts in Angstrom.

    Raises:
        ValueError: If the version is another, or particles differ in voltage, Cs or amplitude contrast (3.1).
    """
    if version not in ("3.0", "3.1"):
        raise ValueError(f"STAR files are written as version 3.0 or 3.1, not {version}")
    count, columns = len(particles), dict[str, list[object]]()
    columns["rlnImageName"] = [f"{number:06d}@{images}" for number in range(1, count + 1)]
    angles = euler_from_matrix(particles.rotations.double())
    columns |= {label: angles[:, place].tolist() for place, label in enumerate(ANGLES)}
    unit, suffix = (particles.pixel_size, "Angst") if version == "3.1" else (1.0, "")
    for place, axis in enumerate("XY"):
        columns[f"rlnOrigin{axis}{suffix}"] = (-particles.shifts[:, place].double() * unit).tolist()
    group: dict[str, list[object]] = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnImagePixelSize": [float(particles.pixel_size)],
        "rlnImageSize": [particles.size],
        "rlnImageDimensionality": [2],
    }
    if particles.ctf is not None:
        fields = {name: value.double() for name, value in particles.ctf.items()}
        columns |= {
            "rlnDefocusU": fields["defocus_u"].tolist(),
            "rlnDefocusV": fields["defocus_v"].tolist(),
            "rlnDefocusAngle": fields["angle"].tolist(),
            "rlnPhaseShift": fields["phase_shift"].tolist(),
            "rlnCtfBfactor": fields["b_factor"].tolist(),
        }
        of_microscope = {
            "rlnVoltage": fields["voltage"],
            "rlnSphericalAberration": fields["cs"],
            "rlnAmplitudeContrast": fields["amplitude_contrast"],
        }
        for label, values in of_microscope.items():
            if version == "3.0":
                columns[label] = values.tolist()
            elif bool((values != values[0]).any()):
                raise ValueError(f"_{label} differs between particles; version 3.0 can write that")
            else:
                group[label] = [float(values[0])]
    if particles.half is not None:
        columns["rlnRandomSubset"] = particles.half.tolist()
    if version == "3.0":
        columns["rlnDetectorPixelSize"] = [float(particles.pixel_size)] * count
        columns["rlnMagnification"] = [10000.0] * count
        write_star(path, {"": columns})
    else:
        columns["rlnOpticsGroup"] = [1] * count
        write_star(path, {"optics": group, "particles": columns})
