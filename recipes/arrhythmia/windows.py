"""Windows of fixed length out of strips: what the network sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from recipes.arrhythmia.records import Strip, is_va

BALANCING_HOP = {"va": 80, "non_va": 256}
"""Hop by class, samples, at which the contest's training strips give as many VA as non-VA windows of 512."""

_STD_FLOOR_MV = 1e-3


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows as arrays of one length N.

    Attributes:
        x: float32, shape (N, L); millivolt, or unit-free if normalised.
        y: int64, shape (N,); 1 is a ventricular arrhythmia.
        patient: str, shape (N,).
        rhythm: str, shape (N,).
        strip: int64, shape (N,); index of the strip among those that were cut.
        start: int64, shape (N,); first sample of the window in its strip.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    patient: NDArray[np.str_]
    rhythm: NDArray[np.str_]
    strip: NDArray[np.int64]
    start: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse arrays of different lengths."""
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the arrays of Windows must have one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, mask: NDArray[Any]) -> Windows:
        """Select windows.

        Args:
            mask: Boolean mask of shape (N,), or integer indices.

        Returns:
            The selected windows; `strip` keeps its meaning.
        """
        return Windows(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})


def cut(
    strips: Sequence[Strip],
    length: int = 512,
    hop: int | Mapping[str, int] = 512,
    normalise: Literal["std", "none"] = "std",
) -> Windows:
    """Cut strips into windows; what is left at the end of a strip is dropped, and no window crosses strips.

    Args:
        strips: Strips; those shorter than `length` give no window.
        length: Samples a window.
        hop: Samples from one window to the next; or one hop a class under the keys `"va"` and `"non_va"`, such as
            `BALANCING_HOP`. A strip with an onset holds both classes and needs a single hop.
        normalise: `"std"` divides each window by (its standard deviation + 1e-3 mV), because amplitude tells the
            patient and the gain rather than the rhythm; `"none"` leaves millivolt.

    Returns:
        Windows in the order of strips and time. In a strip with an onset, windows that end at or before it are
        `"SR"`; the others, which hold at least one sample of the arrhythmia, have its rhythm.

    Raises:
        ValueError: If a length or hop is below 1, a key of `hop` is missing, or `normalise` is unknown.

    Example:
        >>> strip = Strip(np.sin(np.arange(3100, dtype=np.float32)), "VT", "S01")
        >>> windows = cut([strip], length=512, hop=512)
        >>> len(windows), windows.x.shape, windows.y.tolist(), windows.start[-1]
        (6, (6, 512), [1, 1, 1, 1, 1, 1], np.int64(2560))
    """
    if normalise not in ("std", "none"):
        raise ValueError(f"normalise must be 'std' or 'none', not {normalise!r}")
    hops = {"va": hop, "non_va": hop} if isinstance(hop, int) else dict(hop)
    if set(hops) != {"va", "non_va"} or min(hops.values()) < 1 or length < 1:
        raise ValueError(f"length and hop must be >= 1 and hop an int or have the keys va, non_va; got {length}, {hop}")
    x: list[NDArray[np.float32]] = [np.empty((0, length), np.float32)]
    start: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    rhythm: list[str] = []
    for i, strip in enumerate(strips):
        if strip.onset is not None and hops["va"] != hops["non_va"]:
            raise ValueError(f"strip {i} has an onset, so it holds both classes; cut it with a single hop")
        step = hops["va" if is_va(strip.rhythm) else "non_va"]
        starts = np.arange(0, max(len(strip.signal) - length + 1, 0), step)
        if len(starts):
            x.append(sliding_window_view(strip.signal, length)[::step])
        start.append(starts)
        sinus = 0 if strip.onset is None else int(np.count_nonzero(starts + length <= strip.onset))
        rhythm += ["SR"] * sinus + [strip.rhythm] * (len(starts) - sinus)
    counts = [len(starts) for starts in start[1:]]
    stacked = np.concatenate(x)
    if normalise == "std":
        stacked /= stacked.std(axis=1, keepdims=True) + np.float32(_STD_FLOOR_MV)
    va = {name: is_va(name) for name in set(rhythm)}
    return Windows(
        x=stacked,
        y=np.array([va[name] for name in rhythm], np.int64),
        patient=np.repeat(np.array([strip.patient for strip in strips], np.str_), counts),
        rhythm=np.array(rhythm, np.str_),
        strip=np.repeat(np.arange(len(strips), dtype=np.int64), counts),
        start=np.concatenate(start),
    )
