import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cim.sweep import Parameter


@pytest.mark.parametrize(
    ("about", "distribution"),
    [
        ({"value": 3}, "constant"),
        ({"values": [1, 2]}, "categorical"),
        ({"min": 1, "max": 4}, "int_uniform"),
        ({"min": 1, "max": 4.0}, "uniform"),
        ({"mu": 1.0, "sigma": 2.0}, "normal"),
    ],
)
def test_the_distribution_is_implied_as_by_wandb(about, distribution):
    assert Parameter.parse("x", about).distribution == distribution


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        (3, "want value, values, or min and max"),
        ({}, "want value, values, or min and max"),
        ({"parameters": {}}, "dotted names"),
        ({"vales": [1]}, "unknown key vales"),
        ({"values": []}, "something in it"),
        ({"values": 3}, "something in it"),
        ({"distribution": "beta", "min": 0, "max": 1}, "cannot be drawn offline"),
        ({"distribution": "uniform", "min": 0}, "uniform needs max"),
        ({"min": 2, "max": 1}, "no range"),
        ({"min": float("nan"), "max": 1.0}, "min must be a number"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "no range"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 1}, "whole numbers"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "add up to 1"),
        ({"mu": 0, "sigma": -1}, "must not be negative"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(about, reason):
    with pytest.raises(ValueError, match=reason) as error:
        Parameter.parse("model.lr", about)
    assert "model.lr" in str(error.value)


@given(
    st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.sampled_from(["uniform", "log_uniform_values"]), st.integers(0, 9)
)
def test_draws_stay_in_range(a, b, distribution, seed):
    low, high = min(a, b), max(a, b)
    parameter = Parameter.parse("x", {"distribution": distribution, "min": low, "max": high})
    assert low * (1 - 1e-9) <= parameter.draw(np.random.default_rng(seed)) <= high * (1 + 1e-9)


def test_draws_follow_their_distributions():
    generator = np.random.default_rng(0)

    def drawn(about):
        parameter = Parameter.parse("x", about)
        return np.array([parameter.draw(generator) for _ in range(4000)])

    logs = np.log10(drawn({"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0}))
    assert logs.mean() == pytest.approx(-2, abs=0.1)
    assert logs.std() == pytest.approx(4 / 12**0.5, abs=0.05)
    assert drawn({"mu": 3.0, "sigma": 2.0}).std() == pytest.approx(2.0, abs=0.1)
    assert (drawn({"values": [0, 1], "probabilities": [0.9, 0.1]}) == 1).mean() == pytest.approx(0.1, abs=0.02)
    assert set(drawn({"min": 2, "max": 4})) == {2, 3, 4}
    assert set(drawn({"distribution": "q_uniform", "min": 0, "max": 0.3, "q": 0.1})) == {0.0, 0.1, 0.2, 0.3}


def test_a_grid_needs_whole_numbers_or_values():
    assert Parameter.parse("x", {"values": ["a", None]}).grid() == ("a", None)
    with pytest.raises(ValueError, match="a grid needs"):
        Parameter.parse("x", {"min": 0.0, "max": 1.0}).grid()
