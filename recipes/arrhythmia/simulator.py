"""Electrograms of patients that do not exist: the source that needs no download.

A patient is a draw of conducted and ventricular waveforms, rates and gain; a strip is a draw of rhythm, beat times and
noise. Beats are placed at 1 kHz, decimated to `FS`, band-passed like the sensing front end and quantised. The figures
are this recipe's own model, set by eye against class medians of recorded strips (rms, kurtosis, crossings of two
standard deviations); nothing is fitted. Baseline wander is left out: the band-pass leaves 1e-7 of it.

Strip j of patient i depends on (seed, i, j, difficulty, seconds) alone, so patients can be streamed without end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.signal import sosfreqz

from recipes.arrhythmia.records import FS, Strip, bandpass

Difficulty = Literal["default", "hard"]
Floats = NDArray[np.float32]

STRIP_SECONDS = 12.4
"""Six windows of 512 samples, so that a vote never crosses strips."""

MIX = {"SR": 0.42, "AFb": 0.05, "AFt": 0.03, "SVT": 0.06, "VPD": 0.06, "VT": 0.27, "VFb": 0.08, "VFt": 0.03}
"""Share of each rhythm among the strips."""

RATE_BPM = {
    "SR": (48, 125),
    "AFb": (70, 165),
    "AFt": (90, 160),
    "SVT": (130, 215),
    "VPD": (48, 125),
    "VT": (115, 235),
    "VFb": (200, 420),
    "VFt": (230, 320),
}
"""Range of the ventricular rate, beats a minute; each patient has one rate a rhythm, uniform in it."""

_RHYTHMS = tuple(MIX)
_CODE = {rhythm: code for code, rhythm in enumerate(_RHYTHMS)}
_VENTRICULAR = np.isin(_RHYTHMS, ("VT", "VFb", "VFt"))

# Share of patients with a wide sinus beat (bundle branch block), a narrow VT beat, an aberrant SVT beat: the overlap of
# the classes that no classifier can undo.
_ODD_SHAPES = {"default": (0.08, 0.05, 0.12), "hard": (0.15, 0.20, 0.25)}

_UP = 4  # rendering runs at _UP * FS = 1 kHz
_MARGIN = FS  # rendered and cut off at both ends: the band-pass below works on a circle
_BEAT_MS, _QRS_MS = 500, 300
_SHAPE_DRAWS = 17
_SINUS, _SVT, _VENTRICLE, _PREMATURE, _SHAPES = 0, 1, 2, 3, 4
_LSB_MV, _CLIP_MV = 1e-3, 4.1
_CHUNK = 64  # patients rendered at once; bounds the memory, changes no sample


@dataclass(frozen=True)
class _Patients:
    shapes: Floats  # (P, _SHAPES, _BEAT_MS), peak 1
    rate: Floats  # (P, rhythms), beats a minute
    gain: Floats  # (P,), mV
    ventricular_gain: Floats  # (P,)
    noise: Floats  # (P,), mV
    premature: Floats  # (P, 3): probability, coupling, flutter cycle in s
    vt_cv: Floats  # (P,)


@dataclass(frozen=True)
class _Draws:
    """Random numbers of S strips; row s belongs to patient `owner[s]`, other arrays have S rows where not said."""

    owner: NDArray[np.intp]
    uniform: Floats  # (S, 8)
    normal: Floats  # (S, beats)
    beat: Floats  # (S, beats) uniform
    gamma: Floats  # (S, beats), mean 1, coefficient of variation .22
    noise: Floats  # (S, 2, samples)
    code: NDArray[np.intp]  # (S,), index into _RHYTHMS
    fibrillation: Floats  # (strips of VFb only, beats, _SHAPE_DRAWS + 1) uniform


@dataclass(frozen=True)
class _Beats:
    """One row a beat of any strip."""

    strip: NDArray[np.intp]
    at: NDArray[np.intp]  # first sample of the waveform at 1 kHz
    waveform: Floats  # (beats, _BEAT_MS), mV


def _shapes(draws: Floats, wide: NDArray[np.bool_]) -> Floats:
    """Ventricular complexes (N, `_QRS_MS`) of peak 1: sums of first and second derivatives of Gaussians.

    Args:
        draws: Uniform numbers (N, `_SHAPE_DRAWS`).
        wide: (N,), True for activation that spreads through muscle: 2 to 4 components, fractionated.
    """
    count = np.where(wide, 2 + np.floor(3 * draws[:, 0]), 1 + np.floor(2 * draws[:, 0])).astype(np.float32)
    order, sigma, centre, height = np.moveaxis(draws[:, 1:].reshape(-1, 4, 4), 2, 0)
    w = wide[:, None]
    sigma = np.where(w, 6 + 8 * sigma, 3.5 + 4.5 * sigma).astype(np.float32)
    centre = np.where(w, 45, 10).astype(np.float32) * (2 * centre - 1)
    height = np.sign(height - 0.5) * (0.3 + 1.4 * np.abs(height - 0.5))
    height *= np.arange(4, dtype=np.float32) < count[:, None]
    t = np.arange(_QRS_MS, dtype=np.float32) - _QRS_MS / 2
    total = np.zeros((len(draws), _QRS_MS), np.float32)
    for j in range(4):
        used = np.flatnonzero(height[:, j])
        x = (t - centre[used, j, None]) / sigma[used, j, None]
        square = x * x
        poly = np.where(order[used, j, None] < 0.5, np.float32(np.exp(0.5)) * x, 1 - square)
        total[used] += height[used, j, None] * poly * np.exp(-0.5 * square)
    total /= np.abs(total).max(axis=1, keepdims=True)
    return total


def _patients(seed: int, ids: Sequence[int], difficulty: Difficulty) -> _Patients:
    streams = [np.random.default_rng([seed, i]) for i in ids]
    u = np.stack([g.random(32, dtype=np.float32) for g in streams])
    shape_draws = np.stack([g.random((_SHAPES, _SHAPE_DRAWS), dtype=np.float32) for g in streams])
    z = np.stack([g.standard_normal(3, dtype=np.float32) for g in streams])

    block, narrow_vt, aberrant = _ODD_SHAPES[difficulty]
    wide = np.stack([u[:, 0] < block, np.ones(len(u), bool), u[:, 1] >= narrow_vt, np.ones(len(u), bool)], axis=1)
    qrs = _shapes(shape_draws.reshape(-1, _SHAPE_DRAWS), wide.ravel()).reshape(len(u), _SHAPES, _QRS_MS)
    # A tachycardia from above conducts like sinus rhythm unless it is aberrant.
    qrs[:, _SVT] = np.where((u[:, 2] < aberrant)[:, None], qrs[:, _SVT], qrs[:, _SINUS])
    shapes = np.zeros((len(u), _SHAPES, _BEAT_MS), np.float32)
    shapes[..., :_QRS_MS] = qrs
    t_wave = (0.1 + 0.2 * u[:, 3]) * np.where(u[:, 4] < 0.5, -1, 1)
    shapes[..., -200:] += t_wave[:, None, None] * np.hanning(200).astype(np.float32)

    low, high = np.array([RATE_BPM[r] for r in _RHYTHMS], np.float32).T
    premature = np.stack([0.10 + 0.35 * u[:, 5], 0.5 + 0.25 * u[:, 6], 0.18 + 0.07 * u[:, 7]], axis=1)
    return _Patients(
        shapes=shapes,
        rate=low + (high - low) * u[:, 16 : 16 + len(_RHYTHMS)],
        gain=np.exp(np.log(0.45) + 0.55 * z[:, 0]).astype(np.float32),
        ventricular_gain=np.exp(0.25 + 0.35 * z[:, 1]).astype(np.float32),
        noise=np.exp(np.log(0.012) + 0.6 * z[:, 2]).astype(np.float32),
        premature=premature,
        vt_cv=np.array([0.01, 0.03, 0.08], np.float32)[(3 * u[:, 8]).astype(int)],
    )


def _draws(seed: int, ids: Sequence[int], strips: Sequence[int], samples: int, rhythm: str | None) -> _Draws:
    """Draw all random numbers of the given strips of each patient; `rhythm` overrides the drawn one."""
    beats = int(samples / FS * RATE_BPM["VFb"][1] / 60 * 1.3) + 8
    share = np.cumsum(list(MIX.values()))
    rows: list[tuple[Floats, ...]] = []
    codes: list[int] = []
    fibrillation: list[Floats] = []
    for i in ids:
        for j in strips:
            g = np.random.default_rng([seed, i, j + 1])
            u = g.random(8, dtype=np.float32)
            code = min(int(np.searchsorted(share, u[0])), len(share) - 1) if rhythm is None else _CODE[rhythm]
            rows.append(
                (
                    u,
                    g.standard_normal(beats, dtype=np.float32),
                    g.random(beats, dtype=np.float32),
                    g.standard_gamma(0.22**-2, beats, dtype=np.float32) * np.float32(0.22**2),
                    g.standard_normal((2, samples), dtype=np.float32),
                )
            )
            codes.append(code)
            if code == _CODE["VFb"]:
                fibrillation.append(g.random((beats, _SHAPE_DRAWS + 1), dtype=np.float32))
    u, z, b, gamma, noise = (np.stack(column) for column in zip(*rows, strict=True))
    empty = np.empty((0, beats, _SHAPE_DRAWS + 1), np.float32)
    vf = np.stack(fibrillation) if fibrillation else empty
    return _Draws(np.repeat(np.arange(len(ids)), len(strips)), u, z, b, gamma, noise, np.array(codes), vf)


def _intervals(p: _Patients, d: _Draws) -> tuple[Floats, NDArray[np.bool_]]:
    """Times between beats in seconds (S, beats), and which beats are premature ventricular ones."""
    rate = p.rate[d.owner, d.code][:, None]
    base = 60 / rate
    probability, coupling, cycle = (column[:, None] for column in p.premature[d.owner].T)
    early = (d.beat < probability) & (d.code == _CODE["VPD"])[:, None]
    after_early = np.pad(early[:, :-1], ((0, 0), (1, 0)))

    breaths = (0.15 + 0.2 * d.uniform[:, 1:2]) * base * np.arange(d.normal.shape[1]) + d.uniform[:, 2:3]
    sinus = 1 + 0.04 * np.sin(2 * np.pi * breaths) + 0.02 * d.normal
    # Atrial flutter conducts every k-th wave, k jumping between the two whole numbers around the mean block.
    block = base / cycle
    conducted = np.maximum(np.floor(block) + (d.beat < block - np.floor(block)), 1)
    irregular = np.clip(d.gamma, 0.4, 2.0)
    by_rhythm = {
        "SR": sinus,
        "AFb": irregular,
        "AFt": conducted * cycle / base * (1 + 0.01 * d.normal),
        "SVT": 1 + 0.015 * d.normal,
        "VPD": sinus * np.where(early, coupling, np.where(after_early, 1.4, 1.0)),
        "VT": 1 + p.vt_cv[d.owner, None] * d.normal,
        "VFb": irregular,
        "VFt": 1 + 0.02 * d.normal,
    }
    factor = np.stack([np.broadcast_to(by_rhythm[r], d.normal.shape) for r in _RHYTHMS])
    chosen = factor[d.code, np.arange(len(d.code))]
    return np.maximum(base * chosen, 0.1).astype(np.float32), early


def _beats(p: _Patients, d: _Draws, first: int, last: int) -> _Beats:
    """Beats whose waveform begins in [first, last), samples at 1 kHz."""
    rr, early = _intervals(p, d)
    seconds = np.cumsum(rr, axis=1) - rr[:, :1] * d.uniform[:, 3:4]
    at = first + np.round(1000 * seconds).astype(np.intp)
    s, k = np.nonzero(at < last)

    code, owner = d.code[s], d.owner[s]
    premature = early[s, k]
    kind = np.where(_VENTRICULAR[code], _VENTRICLE, np.where(code == _CODE["SVT"], _SVT, _SINUS))
    kind = np.where(premature, _PREMATURE, kind)
    height = p.gain[owner] * (1 + 0.05 * d.normal[s, k])
    height = np.where(_VENTRICULAR[code] | premature, height * p.ventricular_gain[owner], height)
    waveform = p.shapes[owner, kind]

    vf = np.flatnonzero(code == _CODE["VFb"])
    if len(vf):
        # Fibrillation has no template: every beat is a new wide complex of its own height, swelling and fading.
        row = np.cumsum(d.code == _CODE["VFb"])[s[vf]] - 1
        own = d.fibrillation[row, k[vf]]
        waveform[vf] = 0
        waveform[vf, :_QRS_MS] = _shapes(own[:, 1:], np.ones(len(vf), bool))
        u = d.uniform[s[vf]]
        swell = 1 + 0.25 * np.sin(2 * np.pi * (0.1 + 0.4 * u[:, 1]) * seconds[s[vf], k[vf]] + 6.28 * u[:, 2])
        height[vf] *= (0.3 + 0.8 * own[:, 0]) * swell
    return _Beats(s, at[s, k], waveform * height[:, None].astype(np.float32))


def _render(beats: Sequence[_Beats], p: _Patients, d: _Draws) -> Floats:
    """Signals in mV at `FS`, margins cut off: beats and input noise through the front end, then output noise."""
    strips, _, samples = d.noise.shape
    long = samples * _UP + _BEAT_MS
    fine = np.zeros(strips * long)
    for part in beats:
        index = (part.strip * long + part.at)[:, None] + np.arange(_BEAT_MS)
        fine += np.bincount(index.ravel(), part.waveform.ravel(), minlength=strips * long)
    fine = fine.reshape(strips, long)[:, : samples * _UP].astype(np.float32)

    u, t = d.uniform, np.arange(samples, dtype=np.float32) / FS
    device = p.noise[d.owner, None] / 2
    # Muscle noise is a passing rise of the input noise, in 15 % of the strips, 1.5 s long.
    since = (t - (t[-1] - 1.5) * u[:, 7:8]) / 1.5
    inside = (u[:, 6:7] < 0.15) & (since > 0) & (since < 1)
    muscle = np.where(inside, (0.02 + 0.4 * u[:, 6:7]) * np.sin(np.pi * since), 0)
    coarse = (device + muscle) * d.noise[:, 0]
    coarse += 0.015 * u[:, 4:5] ** 2 * np.sin(2 * np.pi * 50 * t + 6.28 * u[:, 5:6])  # mains

    # Decimation and band-pass in one product: bins above the new Nyquist frequency are dropped.
    spectrum = fft.rfft(fine, axis=1)[:, : samples // 2 + 1] / _UP + fft.rfft(coarse, axis=1)
    response = np.abs(sosfreqz(bandpass(), np.arange(samples // 2 + 1) * (FS / samples), fs=FS)[1]) ** 2
    filtered = fft.irfft(spectrum * response.astype(np.float32), samples, axis=1)
    # Half of the noise enters before the filter, all of it after.
    analogue = filtered + 2 * device * d.noise[:, 1]
    kept = np.clip(analogue[:, _MARGIN:-_MARGIN], -_CLIP_MV, _CLIP_MV)
    return np.asarray(np.round(kept / _LSB_MV) * _LSB_MV, np.float32)


def _check(seed: int, ids: Sequence[int], difficulty: str, seconds: float) -> int:
    """Check the arguments; return the even number of samples to render, margins included."""
    if seed < 0 or any(i < 0 for i in ids):
        raise ValueError(f"seed and patient numbers must be >= 0, got seed {seed}, patients from {min(ids, default=0)}")
    if difficulty not in get_args(Difficulty):
        raise ValueError(f"difficulty must be one of {get_args(Difficulty)}, not {difficulty!r}")
    if not 1 <= seconds <= 600:
        raise ValueError(f"a simulated strip lasts 1 to 600 s, not {seconds}")
    return 2 * (round(seconds * FS / 2) + _MARGIN)


def patient_name(number: int) -> str:
    """Name of simulated patient `number`, as in `Strip.patient`."""
    return f"sim{number:07d}"


def simulate(
    seed: int,
    patients: Sequence[int],
    strips: int = 6,
    difficulty: Difficulty = "default",
    seconds: float = STRIP_SECONDS,
) -> list[Strip]:
    """Simulate strips of patients, patient by patient.

    Args:
        seed: Seed of the whole population, >= 0.
        patients: Patient numbers, >= 0.
        strips: Strips a patient, >= 1; the rhythm of each is drawn from `MIX`.
        difficulty: How often a rhythm has the shape of another one.
        seconds: Length of a strip, 1 to 600 s.

    Returns:
        `strips` strips of each patient in the order given.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> few, many = simulate(0, [7], strips=2), simulate(0, range(9), strips=2)
        >>> bool((few[1].signal == many[15].signal).all()), len(few[0].signal)
        (True, 3100)
    """
    samples = _check(seed, patients, difficulty, seconds)
    if strips < 1:
        raise ValueError(f"strips must be >= 1, not {strips}")
    out: list[Strip] = []
    for start in range(0, len(patients), _CHUNK):
        ids = patients[start : start + _CHUNK]
        p = _patients(seed, ids, difficulty)
        d = _draws(seed, ids, range(strips), samples, rhythm=None)
        signals = _render([_beats(p, d, 0, samples * _UP)], p, d)
        out += [
            Strip(signal, _RHYTHMS[code], patient_name(ids[owner]))
            for signal, code, owner in zip(signals, d.code, d.owner, strict=True)
        ]
    return out


def onset_strip(
    seed: int,
    patient: int,
    rhythm: str = "VT",
    onset: int = 3100,
    difficulty: Difficulty = "default",
    seconds: float = 2 * STRIP_SECONDS,
) -> Strip:
    """Simulate one strip that turns from sinus rhythm into a ventricular arrhythmia, for detection latency.

    Args:
        seed: Seed of the population, as in `simulate`.
        patient: Patient number, >= 0.
        rhythm: `"VT"`, `"VFb"` or `"VFt"`.
        onset: Sample at `FS` from which on every new beat is ventricular; sinus complexes end before it.
        difficulty: As in `simulate`.
        seconds: Length of the strip, 1 to 600 s.

    Returns:
        A strip of that rhythm with `onset` set.

    Raises:
        ValueError: If an argument is out of range or the rhythm is not ventricular.

    Example:
        >>> strip = onset_strip(0, patient=3, rhythm="VFb", onset=1000, seconds=12.4)
        >>> strip.rhythm, strip.onset, len(strip.signal)
        ('VFb', 1000, 3100)
    """
    samples = _check(seed, [patient], difficulty, seconds)
    if rhythm not in _CODE or not _VENTRICULAR[_CODE[rhythm]]:
        raise ValueError(f"rhythm must be VT, VFb or VFt, not {rhythm!r}")
    if not 0 <= onset < samples - 2 * _MARGIN:
        raise ValueError(f"onset must lie in the strip of {samples - 2 * _MARGIN} samples, not at {onset}")
    p = _patients(seed, [patient], difficulty)
    before = _draws(seed, [patient], [0], samples, "SR")
    after = _draws(seed, [patient], [1], samples, rhythm)
    turn = (onset + _MARGIN) * _UP
    beats = [_beats(p, before, 0, turn - _QRS_MS), _beats(p, after, turn, samples * _UP)]
    return Strip(_render(beats, p, before)[0], rhythm, patient_name(patient), onset)
