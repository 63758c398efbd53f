"""Which files belong together: folders as IXI, BraTS and MSLUB come, plain folders, and csv tables."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_CONTRAST_WORDS = {
    "t1": {"t1", "t1w", "t1n"},
    "t2": {"t2", "t2w"},
    "flair": {"flair", "t2f"},
    "t1ce": {"t1ce", "t1c", "t1wks", "t1gd"},
    "pd": {"pd", "pdw"},
}
_MASK_WORDS = {"mask", "brainmask", "brain"}
_SEG_WORDS = {"seg", "gt", "consensus", "label", "labels", "lesion", "lesions"}
_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Scan:
    """The files of one scan.

    Attributes:
        name: Unique among the scans that were found together.
        image: The scan, without skull.
        mask: The brain; None where there is no such file.
        seg: Its lesions; None where there is no such file.
    """

    name: str
    image: Path
    mask: Path | None = None
    seg: Path | None = None


@dataclass(frozen=True)
class _Named:
    """What a file's name says: whose it is, what it shows."""

    key: tuple[str, ...]
    role: str  # "image", "mask" or "seg"
    contrast: str | None


def find_scans(
    images: Path, masks: Path | None = None, segs: Path | None = None, contrast: str = "flair"
) -> list[Scan]:
    """Scans of one contrast in a folder, a csv table or a file.

    In a folder, at any depth, a file's name says what it is: a contrast (``t2``, ``T2W``, ``flair``, ``t2f``, ...), a
    mask (``mask``, ``brainmask``), or lesions (``seg``, ``gt``, ...); what is left of the name, and the folder, say
    whose. So these are understood as they are unpacked::

        IXI002-Guys-0828-T2.nii.gz                                          IXI
        BraTS2021_00000/BraTS2021_00000_{flair,t2,seg}.nii.gz               BraTS 2021, and -t2f, -t2w, -seg of 2023
        patient01/{FLAIR,T2W,brainmask,consensus_gt}.nii.gz                 MSLUB, and with patient01_ in front

    A name without a contrast counts as the wanted one, so any folder of one contrast will do.

    Args:
        images: Folder, csv table or one NIfTI file.
        masks: Folder of brain masks, if they lie apart; every scan must have one there.
        segs: Folder of lesions, if they lie apart; every scan must have one there.
        contrast: "t1", "t2" or "flair".

    Returns:
        At least one scan, by name.

    Raises:
        ValueError: Nothing there, nothing of that contrast, two files of one scan, or one without mask or lesions.
    """
    if not images.exists():
        raise ValueError(f"{images}: no such file or folder")
    if images.is_file():
        if images.suffix == ".csv":
            if masks or segs:
                raise ValueError(f"{images}: a table names masks and lesions itself; give no folders beside it")
            return read_table(images)
        if not images.name.endswith(_SUFFIXES):
            raise ValueError(f"{images}: neither a folder, a .csv table nor a NIfTI file (.nii, .nii.gz)")
        return [Scan(_stem(images), images, *(_one(which, what) for which, what in ((masks, "mask"), (segs, "seg"))))]
    named = _named_files(images)
    wanted: dict[tuple[str, ...], Path] = {}
    for path, about in named:
        if about.role == "image" and about.contrast in (None, contrast):
            _put(wanted, about.key, path)
    if not wanted:
        there = Counter(about.contrast or "unnamed" for _, about in named if about.role == "image")
        listing = ", ".join(f"{count} {name}" for name, count in sorted(there.items())) or "no NIfTI image at all"
        raise ValueError(f"{images}: no image of contrast {contrast}; there are: {listing}")
    brain, lesion = (_companions(images, apart, role) for apart, role in ((masks, "mask"), (segs, "seg")))
    scans = []
    for key, path in sorted(wanted.items()):
        for apart, found, what in ((masks, brain, "mask"), (segs, lesion, "lesions")):
            if apart and key not in found:
                raise ValueError(f"{path}: {apart} has no {what} for it; names must agree up to contrast and kind")
        scans.append(Scan("-".join(key) or _stem(path), path, brain.get(key), lesion.get(key)))
    return scans


def read_table(path: Path) -> list[Scan]:
    """Scans of a csv table with columns ``img_path`` and, if there are any, ``mask_path``, ``seg_path``, ``img_name``.

    These are the columns of pDDPM's tables; others are ignored. A path that does not exist as it stands is looked for
    below the table's folder. An empty cell means that there is no such file.

    Args:
        path: The table.

    Raises:
        ValueError: No ``img_path`` column, no row, a file that is not there, or two scans of one name.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a csv table in UTF-8 ({error})") from error
    if "img_path" not in columns:
        raise ValueError(f"{path}:1: no column img_path; there are: {', '.join(columns) or 'none'}")
    scans: list[Scan] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        at = f"{path}:{line}"
        image, mask, seg = (_cell(path, at, column, row) for column in ("img_path", "mask_path", "seg_path"))
        if image is None:
            raise ValueError(f"{at}: img_path is empty")
        name = _stem(Path(row.get("img_name") or image.name))
        if name in lines:
            raise ValueError(f"{at}: {name} is in line {lines[name]} already; tell them apart by img_name")
        lines[name] = line
        scans.append(Scan(name, image, mask, seg))
    if not scans:
        raise ValueError(f"{path}: no rows below the header")
    return scans


def _cell(table: Path, at: str, column: str, row: dict[str, str]) -> Path | None:
    text = (row.get(column) or "").strip()
    if not text or text.lower() in ("nan", "none"):
        return None
    below = table.parent / text.lstrip("/")
    try:
        for path in (Path(text), below):
            if path.is_file():
                return path
    except (OSError, ValueError) as error:  # too long for a path, or with a NUL in it
        raise ValueError(f"{at}: {column} is no path ({error})") from error
    raise ValueError(f"{at}: {column} {text}: no such file, nor {below}")


def _stem(path: Path) -> str:
    for suffix in _SUFFIXES:
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def _named_files(folder: Path) -> list[tuple[Path, _Named]]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = sorted(path for path in folder.rglob("*.nii*") if path.name.endswith(_SUFFIXES) and path.is_file())
    return [(path, _read_name(path, folder)) for path in files]


def _read_name(path: Path, root: Path) -> _Named:
    words = [word for word in re.split(r"[^A-Za-z0-9]+", _stem(path)) if word]
    lower = {word.lower() for word in words}
    # "T2_FLAIR" is FLAIR, and "brain" says mask only beside "mask": alone it says that the skull is gone.
    contrast = next((name for name in ("flair", "t1ce", "t1", "t2", "pd") if lower & _CONTRAST_WORDS[name]), None)
    role = "seg" if lower & _SEG_WORDS else "mask" if lower & (_MASK_WORDS - {"brain"}) else "image"
    said = set().union(_MASK_WORDS, _SEG_WORDS, *_CONTRAST_WORDS.values())
    own = [word for word in words if word.lower() not in said]
    folders = [part for part in path.parent.relative_to(root).parts if part.lower() not in said]
    if own and folders and "-".join(own).lower() == re.sub(r"[^a-z0-9]+", "-", folders[-1].lower()):
        folders.pop()  # BraTS and MSLUB say the patient twice
    return _Named((*folders, *own), role, contrast)


def _put(files: dict[tuple[str, ...], Path], key: tuple[str, ...], path: Path) -> None:
    if key in files:
        raise ValueError(f"{path}: {files[key]} is of the same scan; keep one, or list the files in a csv table")
    files[key] = path


def _companions(images: Path, apart: Path | None, role: str) -> dict[tuple[str, ...], Path]:
    """Masks or lesions by scan; in a folder of their own every file is one, whatever its name."""
    found: dict[tuple[str, ...], Path] = {}
    for path, about in _named_files(apart or images):
        if apart is not None or about.role == role:
            _put(found, about.key, path)
    return found


def _one(path: Path | None, what: str) -> Path | None:
    if path is not None and not path.is_file():
        raise ValueError(f"{path}: no such {what} file")
    return path
