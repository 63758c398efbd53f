import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.arrhythmia.records import Strip
from recipes.arrhythmia.windows import BALANCING_HOP, Windows, cut


def strip(n, rhythm="SR", patient="S01", onset=None, seed=0):
    return Strip(np.random.default_rng(seed).standard_normal(n).astype(np.float32), rhythm, patient, onset)


@given(
    st.lists(st.tuples(st.integers(1, 400), st.sampled_from(["SR", "VT"])), max_size=4),
    st.integers(1, 120),
    st.integers(1, 150),
    st.integers(1, 150),
)
def test_windows_equal_a_slow_cut(lengths, length, hop_va, hop_non_va):
    strips = [strip(n, rhythm, f"S{i}", seed=i) for i, (n, rhythm) in enumerate(lengths)]
    got = cut(strips, length, {"va": hop_va, "non_va": hop_non_va}, "none")
    expected = []
    for i, s in enumerate(strips):
        position = 0
        while position + length <= len(s.signal):
            expected.append(
                (i, position, s.rhythm, s.patient, int(s.rhythm == "VT"), s.signal[position : position + length])
            )
            position += hop_va if s.rhythm == "VT" else hop_non_va
    assert len(got) == len(expected)
    assert got.x.shape == (len(expected), length)
    for k, (i, position, rhythm, patient, label, values) in enumerate(expected):
        assert (got.strip[k], got.start[k], got.rhythm[k], got.patient[k], got.y[k]) == (
            i,
            position,
            rhythm,
            patient,
            label,
        )
        assert np.array_equal(got.x[k], values)
    assert (got.x.dtype, got.y.dtype) == (np.float32, np.int64)


def test_normalised_windows_forget_the_gain_and_leave_the_strip_alone():
    one = strip(1024)
    many = Strip(one.signal * 7, "SR", "S01")
    before = one.signal.copy()
    np.testing.assert_allclose(cut([one]).x, cut([many]).x, rtol=2e-3)
    np.testing.assert_allclose(cut([one]).x[0], before[:512] / (before[:512].std() + 1e-3), rtol=1e-5)
    assert np.array_equal(one.signal, before)


def test_default_cut_gives_six_windows_of_a_simulated_strip_and_balancing_hop_more_va():
    assert cut([strip(3100)]).start.tolist() == [0, 512, 1024, 1536, 2048, 2560]
    windows = cut([strip(5000), strip(5000, "VFt")], hop=BALANCING_HOP)
    assert (windows.y == 1).sum() > 3 * (windows.y == 0).sum()


def test_windows_of_a_strip_with_onset_turn_where_it_turns():
    windows = cut([strip(2560, "VFb", onset=1024)])
    assert windows.y.tolist() == [0, 0, 1, 1, 1]
    assert windows.rhythm.tolist() == ["SR", "SR", "VFb", "VFb", "VFb"]
    straddling = cut([strip(2560, "VFb", onset=1023)])
    assert straddling.y.tolist() == [0, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="strip 0 has an onset"):
        cut([strip(2560, "VFb", onset=1024)], hop=BALANCING_HOP)


def test_subset_takes_masks_and_indices():
    windows = cut([strip(1600), strip(1600, "VT", "S02")])
    va = windows.subset(windows.y == 1)
    assert len(va) == 3
    assert set(va.patient) == {"S02"}
    assert set(va.strip) == {1}
    assert windows.subset(np.array([5, 0])).start.tolist() == [1024, 0]


def test_no_window_at_all_is_an_empty_result():
    windows = cut([strip(100)])
    assert len(windows) == 0
    assert windows.x.shape == (0, 512)


@pytest.mark.parametrize(
    "arguments", [{"length": 0}, {"hop": 0}, {"hop": {"va": 5}}, {"hop": {"va": 5, "non_va": 0}}, {"normalise": "max"}]
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        cut([strip(1000)], **arguments)


def test_arrays_of_different_lengths_are_refused():
    windows = cut([strip(1600)])
    with pytest.raises(ValueError, match="one length"):
        Windows(windows.x, windows.y[:1], windows.patient, windows.rhythm, windows.strip, windows.start)
