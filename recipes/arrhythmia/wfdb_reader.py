"""WFDB records with rhythm annotations (VFDB, CUDB, MIT-BIH and their like) as strips.

What the annotations do not say is unknown, not normal: the stretch before the first rhythm, noise, asystole, high-grade
ectopy and rhythms this recipe has no name for are left out. Reading needs `wfdb`, an optional dependency.
"""

from __future__ import annotations

import csv
import logging
import warnings
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly, sosfiltfilt

from recipes.arrhythmia.records import BAND_HZ, FS, MAX_FLAT_S, Strip, bandpass, flat_mask

log = logging.getLogger(__name__)

RHYTHMS = {
    "N": "SR",
    "NSR": "SR",
    "SBR": "SR",
    "AF": "AFb",
    "AFIB": "AFb",
    "AFL": "AFt",
    "SVTA": "SVT",
    "B": "VPD",
    "T": "VPD",
    "VT": "VT",
    "VF": "VFb",
    "VFIB": "VFb",
    "VFL": "VFt",
    "AB": "AB",
    "BI": "BLOCK",
    "BII": "BLOCK",
    "NOD": "NOD",
    "P": "PACED",
    "PM": "PACED",
    "PREX": "PREX",
    "VER": "VER",
    "IVR": "VER",
}
"""Rhythm annotation, without its bracket, to rhythm of a strip; any other annotation is dropped."""

CHANNELS = ("II", "MLII", "ECG")
"""Names of the channel to read, in order of preference; without any of them it is the first channel."""

SAME_PATIENT = {"202": "201"}
"""MIT-BIH records of one subject."""

_MILLIVOLT = {"mV": 1.0, "uV": 1e-3, "V": 1e3}
_NAMES = sorted(set(RHYTHMS.values()))
_UNKNOWN = -1


@dataclass(frozen=True)
class _Annotations:
    sample: NDArray[np.int64]
    symbol: list[str]
    note: list[str]


def _wfdb() -> ModuleType:
    try:
        import wfdb
    except ImportError as error:
        raise ImportError("reading WFDB records needs wfdb: pip install 'lightning_cim[ecg]'") from error
    return wfdb  # type: ignore[no-any-return]


def read_patient_map(path: str | Path) -> dict[str, str]:
    """Read which patient each record is of.

    Args:
        path: A csv with the header `record,patient`.

    Raises:
        ValueError: Naming file and line, if a line has another form or a record occurs twice.
    """
    patients: dict[str, str] = {}
    with Path(path).open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.reader(stream), 1):
            cells = [cell.strip() for cell in row]
            if number == 1:
                if cells != ["record", "patient"]:
                    raise ValueError(f"{path}, line 1: the header must be record,patient, not {','.join(row)!r}")
            elif len(cells) != 2 or not all(cells):
                raise ValueError(f"{path}, line {number}: expected a record and a patient, got {','.join(row)!r}")
            elif cells[0] in patients:
                raise ValueError(f"{path}, line {number}: record {cells[0]} is listed twice")
            else:
                patients[cells[0]] = cells[1]
    return patients


def _rhythm_codes(
    notes: _Annotations, step: Fraction, length: int, record: str, dropped: Counter[str]
) -> NDArray[np.int8]:
    """Index into `_NAMES` of each of `length` samples at `FS`, `_UNKNOWN` where the annotations give no rhythm."""
    # Rounded up, in whole numbers: a product of floats may lie just above the sample it means.
    at = np.minimum(-(-notes.sample * step.numerator // step.denominator), length)
    codes = np.full(length, _UNKNOWN, np.int8)
    changes = [i for i, symbol in enumerate(notes.symbol) if symbol == "+"]
    for i, following in zip(changes, [*changes[1:], None], strict=True):
        name = notes.note[i].rstrip("\x00 ").removeprefix("(")
        end = length if following is None else at[following]
        if name in RHYTHMS:
            codes[at[i] : end] = _NAMES.index(RHYTHMS[name])
        else:
            dropped[name or "(no rhythm)"] += int(end - at[i])
    start: int | None = None
    for i, symbol in enumerate(notes.symbol):
        if symbol == "[":
            start = int(at[i])
        elif symbol == "]" and start is None:
            warnings.warn(f"{record}: ']' at sample {notes.sample[i]} ends no fibrillation; ignored", stacklevel=2)
        elif symbol == "]":
            codes[start : at[i]] = _NAMES.index("VFb")
            start = None
    if start is not None:
        codes[start:] = _NAMES.index("VFb")
    # Beats are annotated as far as somebody looked; where only rhythm changes are (VFDB), the last one holds on.
    if len(changes) < len(notes.symbol):
        codes[int(at.max()) :] = _UNKNOWN
    return codes


def _step(rate: float) -> Fraction:
    """Samples at `FS` a sample of the record."""
    return Fraction(FS / rate).limit_denominator(10_000)


def _channel(names: list[str]) -> int:
    return next((names.index(name) for name in CHANNELS if name in names), 0)


def _condition(raw: NDArray[np.float64], rate: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Resample to `FS` and band-pass; also mark the samples in a gap or flat stretch of more than `MAX_FLAT_S`."""
    missing = np.isnan(raw)
    known = np.flatnonzero(~missing)
    if not len(known):
        return np.zeros(0, np.float32), np.zeros(0, np.bool_)
    marked = np.where(missing, raw[known].max() + 1, raw)
    bad = flat_mask(marked, round(MAX_FLAT_S * rate))
    filled = np.interp(np.arange(len(raw)), known, raw[known])
    step = _step(rate)
    even = resample_poly(filled - filled.mean(), step.numerator, step.denominator)
    nearest = np.minimum(np.round(np.arange(len(even)) * (rate / FS)).astype(np.int64), len(raw) - 1)
    sos = bandpass()
    if len(even) <= 3 * (2 * len(sos) + 1):
        return np.zeros(0, np.float32), np.zeros(0, np.bool_)
    return sosfiltfilt(sos, even).astype(np.float32), bad[nearest]


def read_record(path: str | Path, patient: str | None = None, dropped: Counter[str] | None = None) -> list[Strip]:
    """Read one record.

    Args:
        path: The record without extension; `path.hea` and `path.atr` must exist.
        patient: Identity of the patient; default is the record's name, known doubles merged.
        dropped: Counts, in samples at `FS`, what annotations without a rhythm covered.

    Returns:
        One strip for every unbroken stretch of one rhythm, at `FS`, band-passed as a whole record first.

    Raises:
        ImportError: If `wfdb` is missing.
        ValueError: Naming the record, if wfdb cannot read it, its unit is no voltage, or its rate is too low.
    """
    path = Path(path)
    wfdb = _wfdb()
    try:
        header = wfdb.rdheader(str(path), rd_segments=True)
        channel = _channel(list(header.get_sig_name() if hasattr(header, "get_sig_name") else header.sig_name))
        record = wfdb.rdrecord(str(path), channels=[channel])
        annotation = wfdb.rdann(str(path), "atr")
    except Exception as error:  # wfdb raises whatever its parsing runs into
        raise ValueError(f"{path}: wfdb cannot read this record ({type(error).__name__}: {error})") from error
    unit, rate = record.units[0], float(record.fs)
    if unit not in _MILLIVOLT:
        raise ValueError(f"{path}.hea: unit {unit!r} of channel {channel} is not one of {list(_MILLIVOLT)}")
    if rate <= 2 * BAND_HZ[1]:
        raise ValueError(f"{path}.hea: {rate} Hz cannot carry the band up to {BAND_HZ[1]} Hz")
    signal, bad = _condition(record.p_signal[:, 0] * _MILLIVOLT[unit], rate)
    notes = _Annotations(annotation.sample.astype(np.int64), list(annotation.symbol), list(annotation.aux_note))
    codes = _rhythm_codes(notes, _step(rate), len(signal), str(path), Counter() if dropped is None else dropped)
    codes[bad] = _UNKNOWN
    name = patient or SAME_PATIENT.get(path.name, path.name)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1, [len(codes)]])
    return [
        Strip(signal[start:end], _NAMES[codes[start]], name)
        for start, end in pairwise(edges)
        if end > start and codes[start] != _UNKNOWN
    ]


def read_folder(root: str | Path, patient_map: str | Path | None = None) -> list[Strip]:
    """Read every record of a folder that has annotations (`.hea` and `.atr`).

    Args:
        root: Folder of WFDB records.
        patient_map: Optional csv `record,patient`; records it does not name are patients of their own.

    Returns:
        Strips, by record name and time.

    Raises:
        ImportError: If `wfdb` is missing.
        ValueError: If no record has annotations, no stretch has a known rhythm, or a record cannot be read.
    """
    root = Path(root)
    patients = {} if patient_map is None else read_patient_map(patient_map)
    headers = [header for header in sorted(root.glob("*.hea")) if header.with_suffix(".atr").is_file()]
    if not headers:
        raise ValueError(f"{root}: no record with a .hea and an .atr file")
    dropped: Counter[str] = Counter()
    strips = [
        strip for header in headers for strip in read_record(header.with_suffix(""), patients.get(header.stem), dropped)
    ]
    for name, samples in dropped.most_common():
        log.info("%s: dropped %.0f s annotated %s", root, samples / FS, name)
    if not strips:
        raise ValueError(
            f"{root}: no stretch of signal has a known rhythm; known are {sorted(RHYTHMS)}, and '[' ... ']'"
        )
    return strips
