import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.arrhythmia.records import NON_VA, VA_RHYTHMS, Strip, flat_mask, is_va


def wave(n=500):
    return np.sin(np.arange(n, dtype=np.float32))


def test_the_two_classes_are_disjoint_and_told_apart():
    assert not VA_RHYTHMS & NON_VA
    assert all(is_va(rhythm) for rhythm in VA_RHYTHMS)
    assert not any(is_va(rhythm) for rhythm in NON_VA)


def test_unknown_rhythm_names_itself_and_the_known_ones():
    with pytest.raises(ValueError, match=r"'XYZ'.*VFb.*SR"):
        is_va("XYZ")


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 5))
def test_flat_mask_equals_a_slow_count(values, longest):
    x = np.array(values, dtype=float)
    expected = []
    for i in range(len(x)):
        first = last = i
        while first > 0 and x[first - 1] == x[i]:
            first -= 1
        while last + 1 < len(x) and x[last + 1] == x[i]:
            last += 1
        expected.append(last - first + 1 > longest)
    assert flat_mask(x, longest).tolist() == expected


def test_a_strip_may_be_flat_for_a_fifth_of_a_second_but_no_longer():
    signal = wave()
    signal[100:150] = 1
    Strip(signal, "SR", "S01")
    signal[150] = 1
    with pytest.raises(ValueError, match=r"flat.*sample 100"):
        Strip(signal, "SR", "S01")


def broken(position, value):
    signal = wave()
    signal[position] = value
    return signal


@pytest.mark.parametrize(
    ("signal", "rhythm", "onset", "message"),
    [
        (wave(0), "SR", None, "empty"),
        (broken(7, np.nan), "SR", None, "sample 7 is not finite"),
        (broken(9, np.inf), "SR", None, "sample 9 is not finite"),
        (wave().astype(np.float64), "SR", None, "float32"),
        (wave().reshape(2, -1), "SR", None, "shape"),
        (wave(), "sinus", None, "unknown rhythm"),
        (wave(), "VT", 500, "onset 500"),
        (wave(), "VT", -1, "onset -1"),
    ],
)
def test_unusable_strips_are_refused(signal, rhythm, onset, message):
    with pytest.raises(ValueError, match=message):
        Strip(signal, rhythm, "S01", onset)
