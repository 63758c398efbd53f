"""The unit every data source speaks: one continuous stretch of one rhythm of one patient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter

FS = 250
"""Sample rate of every strip, Hz: the rate of the implantable defibrillator."""

BAND_HZ = (15.0, 55.0)
"""Pass band of the sensing front end, Hz; the contest records were taken behind it."""

VA_RHYTHMS = frozenset({"VT", "VFb", "VFt"})
"""Ventricular arrhythmias, the positive class: tachycardia, fibrillation, flutter."""

NON_VA = frozenset({"SR", "AFb", "AFt", "SVT", "VPD", "AB", "BLOCK", "NOD", "PACED", "PREX", "VER"})
"""Every other rhythm: sinus, atrial fibrillation and flutter, supraventricular tachycardia, ventricular premature
beats. The rest occurs in annotated databases only: atrial bigeminy, heart block, nodal, paced, pre-excitation,
ventricular escape."""

MAX_FLAT_S = 0.2
"""Longest run of equal or missing samples, seconds, that a strip may hold: beyond it nothing was recorded."""


def is_va(rhythm: str) -> bool:
    """Tell whether a rhythm is a ventricular arrhythmia.

    Args:
        rhythm: A name of `VA_RHYTHMS` or `NON_VA`.

    Raises:
        ValueError: If the rhythm is in neither set.

    Example:
        >>> is_va("VFb"), is_va("SR")
        (True, False)
    """
    if rhythm in VA_RHYTHMS:
        return True
    if rhythm in NON_VA:
        return False
    raise ValueError(
        f"unknown rhythm {rhythm!r}: VA rhythms are {sorted(VA_RHYTHMS)}, non-VA rhythms are {sorted(NON_VA)}"
    )


def flat_mask(signal: NDArray[np.floating], max_samples: int) -> NDArray[np.bool_]:
    """Mark the samples inside runs of equal values that are longer than allowed.

    Args:
        signal: Samples, shape (n,), any unit.
        max_samples: Longest run of equal samples that still counts as signal.

    Returns:
        Shape (n,), True where the sample belongs to a longer run. NaN differs from everything, NaN included.

    Example:
        >>> flat_mask(np.array([0.0, 1.0, 1.0, 1.0, 2.0]), 2).tolist()
        [False, True, True, True, False]
    """
    n = len(signal)
    edges = np.concatenate([[0], np.flatnonzero(signal[1:] != signal[:-1]) + 1, [n]])
    runs = np.diff(edges)
    return np.repeat(runs > max_samples, runs)


@cache
def bandpass() -> NDArray[np.float64]:
    """Butterworth band-pass of order 2 over `BAND_HZ` as second-order sections; to be run forwards and backwards."""
    return np.asarray(butter(2, BAND_HZ, btype="bandpass", fs=FS, output="sos"))


@dataclass(frozen=True, eq=False)
class Strip:
    """One continuous stretch of one rhythm of one patient at `FS`.

    Attributes:
        signal: Millivolt, float32, shape (n,), finite.
        rhythm: A name of `VA_RHYTHMS` or `NON_VA`.
        patient: Identity of the patient; every split is made on it.
        onset: Sample at which `rhythm` begins, where that is known; before it the strip is sinus rhythm. None: it is
            `rhythm` throughout.

    Raises:
        ValueError: If the signal is empty, not one-dimensional, not finite, flat for more than `MAX_FLAT_S` seconds, if
            the rhythm is unknown, or the onset lies outside the strip.

    Example:
        >>> Strip(np.sin(np.arange(500, dtype=np.float32)), "SR", "S01").seconds
        2.0
    """

    signal: NDArray[np.float32]
    rhythm: str
    patient: str
    onset: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no later step could use."""
        where = f"strip of patient {self.patient!r}, rhythm {self.rhythm!r}"
        is_va(self.rhythm)
        if self.signal.ndim != 1 or self.signal.dtype != np.float32:
            raise ValueError(
                f"{where}: signal must be float32 of shape (n,), not {self.signal.dtype} of shape {self.signal.shape}"
            )
        n = len(self.signal)
        if n == 0:
            raise ValueError(f"{where}: the signal is empty")
        finite = np.isfinite(self.signal)
        if not finite.all():
            raise ValueError(f"{where}: sample {int(np.argmin(finite))} is not finite; cut the strip there")
        flat = flat_mask(self.signal, round(MAX_FLAT_S * FS))
        if flat.any():
            raise ValueError(
                f"{where}: flat for more than {MAX_FLAT_S} s from sample {int(np.argmax(flat))}; cut the strip there"
            )
        if self.onset is not None and not 0 <= self.onset < n:
            raise ValueError(f"{where}: onset {self.onset} lies outside the strip of {n} samples")

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.signal) / FS
