import numpy as np
import pytest

from recipes.arrhythmia.records import is_va
from recipes.arrhythmia.simulator import _SHAPE_DRAWS, MIX, RATE_BPM, _shapes, onset_strip, simulate


@pytest.fixture(scope="module")
def population():
    return simulate(0, range(160), strips=6)


def crossings(x):
    """Upward crossings of two standard deviations."""
    above = x > 2 * x.std()
    return int(np.count_nonzero(above[1:] & ~above[:-1]))


def kurtosis(x):
    return float(((x - x.mean()) ** 4).mean() / x.var() ** 2)


def of(strips, *rhythms):
    return [strip.signal for strip in strips if strip.rhythm in rhythms]


@pytest.mark.parametrize(("ids", "strips"), [(range(40, 50), 6), ([49, 3, 45], 6), ([45], 3), (range(130, 30, -1), 2)])
def test_a_patient_does_not_depend_on_company_order_or_number_of_strips(population, ids, strips):
    got = simulate(0, ids, strips=strips)
    expected = [population[6 * i + j] for i in ids for j in range(strips)]
    for one, other in zip(got, expected, strict=True):
        assert (one.rhythm, one.patient) == (other.rhythm, other.patient)
        assert np.array_equal(one.signal, other.signal)


def test_seed_patient_strip_and_difficulty_each_change_the_draw(population):
    signals = [s.signal for s in population[:12]] + [s.signal for s in simulate(1, [0])]
    assert len({signal.tobytes() for signal in signals}) == len(signals)
    easy, hard = simulate(0, range(60), 1), simulate(0, range(60), 1, "hard")
    changed = sum(not np.array_equal(a.signal, b.signal) for a, b in zip(easy, hard, strict=True))
    assert 0 < changed < 60  # only patients whose shape became another rhythm's


def test_strips_hold_six_windows_and_look_like_a_converter_made_them(population):
    for strip in population:
        assert 6 * 512 <= len(strip.signal) == 3100
        assert np.abs(strip.signal).max() <= 4.1001
        assert np.abs(strip.signal / 1e-3 - np.round(strip.signal / 1e-3)).max() < 1e-3


def test_rhythms_occur_in_their_shares(population):
    n = len(population)
    for rhythm, share in MIX.items():
        found = len(of(population, rhythm)) / n
        assert abs(found - share) < 5 * np.sqrt(share * (1 - share) / n)
    assert sum(MIX.values()) == pytest.approx(1)


def test_classes_differ_in_rate_size_and_shape_but_overlap(population):
    def medians(signals):
        return np.median([[x.std(), kurtosis(x), crossings(x)] for x in signals], axis=0)

    sinus, tachycardia = medians(of(population, "SR")), medians(of(population, "VT", "VFb", "VFt"))
    assert tachycardia[0] > 1.5 * sinus[0]
    assert tachycardia[1] < 0.6 * sinus[1]
    assert tachycardia[2] > 1.5 * sinus[2]
    # No single count separates them: the best threshold on it still errs on more than one strip in twenty.
    counts = np.array([crossings(strip.signal) for strip in population])
    va = np.array([is_va(strip.rhythm) for strip in population])
    accuracy = max(((counts > threshold) == va).mean() for threshold in range(100))
    assert accuracy < 0.95


def test_regular_tachycardia_repeats_at_a_rate_of_its_range():
    def period(x):
        spectrum = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
        correlation = np.fft.irfft(spectrum)[: len(x)]
        low = 60  # .24 s, below the shortest VT interval
        return low + int(np.argmax(correlation[low:150]))

    strips = [s for s in simulate(3, range(40), 6) if s.rhythm == "VT"]
    rates = np.array([60 * 250 / period(s.signal) for s in strips])
    slowest, fastest = RATE_BPM["VT"]
    assert np.mean((rates > 0.95 * slowest) & (rates < 1.05 * fastest)) > 0.9


def test_the_front_end_passes_its_band_only():
    signals = np.stack(of(simulate(5, range(40), 6), "VT"))
    power = (np.abs(np.fft.rfft(signals)) ** 2).sum(axis=0)
    hertz = np.fft.rfftfreq(signals.shape[1], 1 / 250)
    share = power / power.sum()
    assert share[hertz < 5].sum() < 0.01
    assert share[(hertz > 12) & (hertz < 60)].sum() > 0.85


def test_complexes_equal_a_slow_sum_of_derivatives():
    rng = np.random.default_rng(0)
    draws = rng.random((20, _SHAPE_DRAWS), dtype=np.float32)
    wide = np.arange(20) % 2 == 0
    got = _shapes(draws, wide)
    for u, is_wide, shape in zip(draws, wide, got, strict=True):
        count = 2 + int(3 * u[0]) if is_wide else 1 + int(2 * u[0])
        slow = np.zeros(300)
        for order, width, place, height in u[1:].reshape(4, 4)[:count]:
            sigma = 6 + 8 * width if is_wide else 3.5 + 4.5 * width
            centre = (45 if is_wide else 10) * (2 * place - 1)
            amplitude = np.sign(height - 0.5) * (0.3 + 1.4 * abs(height - 0.5))
            for t in range(300):
                x = (t - 150 - centre) / sigma
                poly = x * np.exp(0.5) if order < 0.5 else 1 - x * x
                slow[t] += amplitude * poly * np.exp(-x * x / 2)
        np.testing.assert_allclose(shape, slow / np.abs(slow).max(), atol=1e-4)


@pytest.mark.parametrize("rhythm", ["VT", "VFb", "VFt"])
def test_onset_turns_sinus_into_arrhythmia(rhythm):
    before, after = [], []
    for patient in range(12):
        strip = onset_strip(0, patient, rhythm, onset=3100)
        assert (strip.rhythm, strip.onset, len(strip.signal)) == (rhythm, 3100, 6200)
        before.append(kurtosis(strip.signal[:3050]))
        after.append(kurtosis(strip.signal[3100:]))
    assert np.median(before) > 1.5 * np.median(after)


def test_moving_the_onset_leaves_the_sinus_part_alone():
    early, late = onset_strip(0, 4, "VT", onset=2000), onset_strip(0, 4, "VT", onset=4000)
    # The band-pass looks a little ahead.
    assert np.abs(early.signal[:1800] - late.signal[:1800]).max() <= 1.001e-3
    assert np.abs(early.signal[2000:3000] - late.signal[2000:3000]).max() > 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate(-1, [0]), "seed"),
        (lambda: simulate(0, [-3]), "patient"),
        (lambda: simulate(0, [0], strips=0), "strips"),
        (lambda: simulate(0, [0], difficulty="easy"), "difficulty"),
        (lambda: simulate(0, [0], seconds=0.1), "1 to 600 s"),
        (lambda: onset_strip(0, 0, "SR"), "VT, VFb or VFt"),
        (lambda: onset_strip(0, 0, "VT", onset=99999), "onset"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
