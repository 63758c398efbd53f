"""Counting write cycles (E16)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cim.programming.cycles import Cycles, published_cycles


def test_nothing_verified_costs_nothing_or_the_first_writes():
    cycles = published_cycles(0, 1000)
    assert cycles.nwc_verify_only == 0.0
    assert cycles.nwc_total == 0.1


def test_everything_verified_costs_one():
    cycles = published_cycles(1000, 1000)
    assert cycles.nwc_verify_only == 1.0
    assert cycles.nwc_total == 1.0


@given(st.integers(1, 10**8), st.data())
def test_published_formula_between_the_ends(weights, data):
    verified = data.draw(st.integers(0, weights))
    f = verified / weights
    cycles = published_cycles(verified, weights)
    assert cycles.nwc_verify_only == pytest.approx(f, abs=1e-12)
    assert cycles.nwc_total == pytest.approx((10 * f + (1 - f)) / 10, abs=1e-12)


def test_monotone_in_what_is_verified():
    found = [published_cycles(verified, 137) for verified in range(138)]
    for name in ("nwc_verify_only", "nwc_total"):
        values = [getattr(cycles, name) for cycles in found]
        assert values == sorted(values)
        assert len(set(values)) == 138


def test_other_prices():
    cycles = published_cycles(25, 100, cycles_per_verified_weight=5, cycles_per_unverified=2)
    assert cycles == Cycles(writing=200, verifying=75, verifying_all=300)
    assert cycles.nwc_total == (25 * 5 + 75 * 2) / 500
    assert cycles.nwc_verify_only == 0.25


def test_a_loop_with_nothing_to_do_has_no_verify_cycles():
    assert Cycles(100, 0, 0).nwc_verify_only == 0.0
    assert Cycles(100, 0, 0).nwc_total == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 4), "5 of 4"),
        ((-1, 4), "-1 of 4"),
        ((0, 0), "0 of 0"),
        ((1, 4, 1.0, 1.0), "must cost more cycles"),
        ((1, 4, 10.0, -1.0), "must cost more cycles"),
        ((1, 4, float("inf"), 1.0), "must cost more cycles"),
    ],
)
def test_numbers_without_meaning_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        published_cycles(*arguments)
