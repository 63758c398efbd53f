"""Records in the layout of the TinyML contest (ICCAD 2022), and a compact archive of the strips in them.

The layout is a folder of text files `Sxx-RHYTHM-n.txt`, 1250 lines each, one float (mV) a line: 5 s at 250 Hz.
Consecutive files of one patient and rhythm are windows that slide by 50 or 150 samples, so most samples occur many
times. `read_folder` joins them again: on overlapping segments a random split leaks, and a vote over neighbours counts
the same beats twice.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes._arrays import load_npz
from recipes.arrhythmia.records import FS, Strip, is_va

SEGMENT = 1250
"""Lines, and samples, of one file."""

HOPS = (50, 150, 25, 75, 100, 200, 250, 300, 350, 400, 450, 500, 550, 600)
"""Shifts tried between consecutive segments, samples, most frequent first."""

_TOLERANCE_MV = 1e-4
_NAME = re.compile(r"(?P<patient>S\d+)-(?P<rhythm>[A-Za-z]+)-(?P<number>\d+)\.txt")


@dataclass(frozen=True)
class _Segment:
    path: Path
    patient: str
    rhythm: str
    number: int


def _parse_name(path: Path) -> _Segment:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: the file name must have the form Sxx-RHYTHM-n.txt, such as S01-VT-12.txt")
    try:
        is_va(match["rhythm"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return _Segment(path, match["patient"], match["rhythm"], int(match["number"]))


def _first_bad_line(path: Path, lines: Sequence[str]) -> str:
    """Say which line is at fault; called only when the fast path has failed."""
    for number, line in enumerate(lines, 1):
        try:
            value = float(line)
        except ValueError:
            return f"{path}, line {number}: {line.strip()!r} is not a number"
        if not abs(value) <= float(np.finfo(np.float32).max):
            return f"{path}, line {number}: {line.strip()!r} is not a finite 32-bit number; drop the file or repair it"
    return f"{path}: unreadable numbers"


def read_segment(path: str | Path) -> NDArray[np.float32]:
    """Read one contest file.

    Args:
        path: A text file of `SEGMENT` lines, one number (mV) a line.

    Returns:
        Millivolt, shape (`SEGMENT`,).

    Raises:
        ValueError: Naming file and line, if the number of lines is another, or a line is not a finite number.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error.reason} at byte {error.start})") from None
    if len(lines) != SEGMENT:
        where = min(len(lines), SEGMENT) + 1
        raise ValueError(f"{path}, line {where}: a segment has {SEGMENT} lines, this file has {len(lines)}")
    try:
        with np.errstate(over="ignore"):
            values = np.array([float(line) for line in lines]).astype(np.float32)
    except ValueError:
        raise ValueError(_first_bad_line(path, lines)) from None
    if not np.isfinite(values).all():
        raise ValueError(_first_bad_line(path, lines))
    return values


def overlap_hop(first: NDArray[np.float32], second: NDArray[np.float32]) -> int | None:
    """Find the shift that makes one segment the continuation of another.

    Args:
        first: Shape (n,), mV.
        second: Shape (n,), mV.

    Returns:
        The first of `HOPS` by which `second` is `first` shifted, within 1e-4 mV, or None if there is none.

    Example:
        >>> wave = np.sin(np.arange(1300, dtype=np.float32))
        >>> overlap_hop(wave[:1250], wave[50:])
        50
    """
    for hop in HOPS:
        if np.abs(first[hop:] - second[: len(second) - hop]).max() < _TOLERANCE_MV:
            return hop
    return None


def _join(segments: Sequence[_Segment]) -> list[Strip]:
    """Strips of one patient and rhythm out of its segments, sorted by number."""
    strips: list[Strip] = []
    pieces: list[NDArray[np.float32]] = []
    previous: NDArray[np.float32] | None = None
    last_number = -1
    for segment in segments:
        values = read_segment(segment.path)
        # A repeated number means two recordings under one name: their order says nothing.
        repeated = segment.number == last_number
        hop = None if previous is None or repeated else overlap_hop(previous, values)
        if hop is None and pieces:
            strips.append(_strip(segments[0], pieces))
            pieces = []
        pieces.append(values if hop is None else values[-hop:])
        previous, last_number = values, segment.number
    return [*strips, _strip(segments[0], pieces)]


def _strip(segment: _Segment, pieces: Sequence[NDArray[np.float32]]) -> Strip:
    try:
        return Strip(np.concatenate(pieces), segment.rhythm, segment.patient)
    except ValueError as error:
        raise ValueError(f"{segment.path.parent}: {error}") from None


def read_index(path: str | Path) -> list[str]:
    """Read a `label,Filename` index of contest files.

    Args:
        path: A csv with a header row, then a label (0 or 1) and a file name a line.

    Returns:
        The file names in order.

    Raises:
        ValueError: Naming file and line, if a line has another form, or a label contradicts the rhythm in the name.
    """
    names: list[str] = []
    with Path(path).open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.reader(stream), 1):
            if number == 1:
                if [cell.strip().lower() for cell in row] != ["label", "filename"]:
                    raise ValueError(f"{path}, line 1: the header must be label,Filename, not {','.join(row)!r}")
                continue
            if len(row) != 2 or row[0] not in ("0", "1"):
                raise ValueError(f"{path}, line {number}: expected 0 or 1 and a file name, got {','.join(row)!r}")
            try:
                rhythm = _parse_name(Path(row[1])).rhythm
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            if is_va(rhythm) != (row[0] == "1"):
                raise ValueError(f"{path}, line {number}: label {row[0]} contradicts the rhythm {rhythm} in {row[1]}")
            names.append(row[1])
    return names


def read_folder(root: str | Path, index: str | Path | None = None) -> list[Strip]:
    """Read contest files and join those that overlap.

    Args:
        root: Folder of `Sxx-RHYTHM-n.txt` files; other files that end in .txt are an error.
        index: Optional `label,Filename` csv: read only the files it lists.

    Returns:
        Strips, sorted by patient, rhythm and time.

    Raises:
        ValueError: Naming file and line, if a file or its name has another form, or there is no file at all.
    """
    root = Path(root)
    if index is None:
        paths = sorted(root.glob("*.txt"))
    else:
        paths = [root / name for name in read_index(index)]
        for path in paths:
            if not path.is_file():
                raise ValueError(f"{index}: {path.name} is listed but is not in {root}")
    if not paths:
        raise ValueError(f"{root}: no Sxx-RHYTHM-n.txt file to read")
    groups: dict[tuple[str, str], list[_Segment]] = defaultdict(list)
    for path in paths:
        segment = _parse_name(path)
        groups[segment.patient, segment.rhythm].append(segment)
    return [
        strip
        for key in sorted(groups)
        for strip in _join(sorted(groups[key], key=lambda segment: (segment.number, segment.path.name)))
    ]


def save_strips(path: str | Path, strips: Sequence[Strip], lsb_mv: float = 1e-4) -> None:
    """Write strips into one compressed npz.

    Args:
        path: File to write.
        strips: Strips without onset.
        lsb_mv: Resolution, mV; a sample is stored as int16 multiples of it.

    Raises:
        ValueError: If a sample does not fit into int16 at that resolution, or a strip has an onset: it has no field.
    """
    if not strips:
        raise ValueError(f"{path}: no strip to save")
    if any(strip.onset is not None for strip in strips):
        raise ValueError(f"{path}: strips with an onset cannot be saved; split them there")
    peak = max(float(np.abs(strip.signal).max()) for strip in strips)
    if peak > 32767 * lsb_mv:
        raise ValueError(f"{path}: {peak:.4g} mV does not fit int16 at {lsb_mv} mV; use lsb_mv >= {peak / 32767:.3g}")
    codes = [np.round(strip.signal / np.float64(lsb_mv)).astype(np.int16) for strip in strips]
    with Path(path).open("wb") as stream:
        np.savez_compressed(
            stream,
            signal=np.concatenate(codes),
            lsb_mv=np.float32(lsb_mv),
            offsets=np.cumsum([0, *map(len, codes)]),
            patient=np.array([strip.patient for strip in strips]),
            rhythm=np.array([strip.rhythm for strip in strips]),
            sample_rate_hz=np.float32(FS),
        )


def load_strips(path: str | Path) -> list[Strip]:
    """Read strips that `save_strips` wrote.

    Args:
        path: An npz with `signal` (int16, strips one after another), `offsets` (n + 1), `lsb_mv`, `patient` and
            `rhythm` (n), and optionally `sample_rate_hz`.

    Returns:
        The strips in order.

    Raises:
        ValueError: Naming the file and the field or strip, if a field is missing or the fields contradict each other.
    """
    data = load_npz(path)
    missing = {"signal", "offsets", "lsb_mv", "patient", "rhythm"} - data.keys()
    if missing:
        raise ValueError(f"{path}: the fields {sorted(missing)} are missing; save_strips writes such a file")
    rate = float(data.get("sample_rate_hz", FS))
    if rate != FS:
        raise ValueError(f"{path}: sampled at {rate} Hz; strips must be resampled to {FS} Hz first")
    signal, offsets, lsb = data["signal"], data["offsets"], float(data["lsb_mv"])
    patient, rhythm = data["patient"], data["rhythm"]
    if signal.dtype != np.int16 or signal.ndim != 1:
        raise ValueError(f"{path}: signal must be int16 of shape (n,), not {signal.dtype} of shape {signal.shape}")
    if not len(offsets) == len(patient) + 1 == len(rhythm) + 1:
        raise ValueError(
            f"{path}: {len(offsets)} offsets, {len(patient)} patients, {len(rhythm)} rhythms; expected n + 1, n and n"
        )
    if offsets[0] != 0 or offsets[-1] != len(signal) or (np.diff(offsets) <= 0).any():
        raise ValueError(f"{path}: offsets must rise from 0 to the {len(signal)} samples of signal")
    strips: list[Strip] = []
    for i, (start, end) in enumerate(pairwise(offsets)):
        try:
            strips.append(Strip((signal[start:end] * lsb).astype(np.float32), str(rhythm[i]), str(patient[i])))
        except ValueError as error:
            raise ValueError(f"{path}, strip {i}: {error}") from None
    return strips
