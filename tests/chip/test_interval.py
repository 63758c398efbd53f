"""E18: the interval rule on scripted scores."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cim.chip.interval import SETS, Interval, winner_of

SCORES = {"left": (3.0, 2.0, 1.0), "mid": (1.0, 3.0, 2.0), "right": (0.0, 1.0, 2.0)}


def test_scripted_scores_shrink_as_published():
    """3/4, 1/2, 3/4; worked out on paper from [0, 1]."""
    expected = [
        ("left", (0.25, 0.5, 0.75), (0.0, 0.75)),
        ("mid", (0.1875, 0.375, 0.5625), (0.1875, 0.5625)),
        ("right", (0.28125, 0.375, 0.46875), (0.28125, 0.5625)),
        ("right", (0.3515625, 0.421875, 0.4921875), (0.3515625, 0.5625)),
        ("left", (0.404296875, 0.45703125, 0.509765625), (0.3515625, 0.509765625)),
    ]
    interval = Interval(0.0, 1.0)
    for best, sigmas, (low, high) in expected:
        assert tuple(interval.sigmas.values()) == sigmas
        winner = winner_of(dict(zip(SETS, SCORES[best], strict=True)))
        assert winner == best
        interval = interval.shrunk(winner)
        assert (interval.low, interval.high) == (low, high)


@given(
    st.floats(0, 10),
    st.floats(0.01, 10),
    st.lists(st.sampled_from(SETS), max_size=12),
)
def test_an_interval_lies_inside_the_one_before_and_keeps_the_winners_sigma(low, width, winners):
    interval = Interval(low, low + width)
    for winner in winners:
        after = interval.shrunk(winner)
        slack = 1e-12 * (1 + interval.high)
        assert interval.low <= after.low < after.high <= interval.high
        assert after.width == pytest.approx(interval.width * (0.5 if winner == "mid" else 0.75), abs=slack)
        assert after.low - slack <= interval.sigmas[winner] <= after.high + slack
        left, mid, right = interval.sigmas.values()
        assert interval.low < left < mid < right < interval.high
        interval = after


@pytest.mark.parametrize(
    ("scores", "lower_is_better", "winner"),
    [
        ((1, 2, 3), False, "right"),
        ((1, 2, 3), True, "left"),
        ((2, 2, 2), False, "mid"),
        ((2, 1, 2), False, "left"),
        ((math.nan, 1, math.nan), False, "mid"),
        ((math.nan, math.nan, 9), True, "right"),
        ((math.nan, math.nan, math.nan), False, "mid"),
    ],
)
def test_winner(scores, lower_is_better, winner):
    assert winner_of(dict(zip(SETS, scores, strict=True)), lower_is_better) == winner


def test_a_single_set_wins():
    assert winner_of({"mid": math.nan}) == "mid"


@pytest.mark.parametrize(("low", "high"), [(-0.1, 1), (1, 1), (2, 1), (0, math.inf), (math.nan, 1), (0, math.nan)])
def test_ends_out_of_order_are_refused(low, high):
    with pytest.raises(ValueError, match="0 <= low < high"):
        Interval(low, high)
