from decimal import Context, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.gaussian_image.codec import fixed_point as fp


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**9))
def test_division_rounds_to_the_nearest_integer(numerator, denominator):
    quotient = fp.divide_round(np.array([numerator]), np.array([denominator])).item()
    distance = Fraction(numerator, denominator) - quotient
    assert Fraction(-1, 2) <= distance < Fraction(1, 2)


@given(st.integers(-(10**15), 10**15), st.integers(1, 40))
def test_shift_is_division_by_a_power_of_two(value, bits):
    assert fp.shift_round(np.array([value]), bits).item() == fp.divide_round(np.array([value]), np.array([1 << bits]))


def test_linear_equals_python_integers_at_the_largest_values():
    rng = np.random.default_rng(0)
    inputs = rng.integers(-(1 << 20) + 1, 1 << 20, (3, fp.MAX_WIDTH))
    inputs[0] = (1 << 20) - 1
    weight = rng.uniform(-200, 200, (4, fp.MAX_WIDTH)).astype(np.float16)
    weight[0] = 200
    bias = np.array([1.5, -2.0, 300.0, 0.1], dtype=np.float16)
    limit = (1 << 21) - 1
    fixed = [[min(max(round(float(w) * (1 << 14)), -limit), limit) for w in row] for row in weight]
    offset = [min(max(round(float(b) * (1 << 14)), -limit), limit) << 12 for b in bias]

    def rounded(row, out, start):
        return (sum(int(x) * w for x, w in zip(row, out, strict=True)) + start + (1 << 13)) >> 14

    expected = [[rounded(row, out, start) for out, start in zip(fixed, offset, strict=True)] for row in inputs]
    assert fp.linear(inputs, weight, bias).tolist() == expected


def test_linear_is_the_float_layer_up_to_rounding():
    rng = np.random.default_rng(1)
    inputs, weight, bias = rng.uniform(-1, 1, (50, 48)), rng.normal(0, 0.2, (32, 48)), rng.normal(0, 0.2, 32)
    exact = fp.linear(fp.to_fixed(inputs, 12), weight, bias) / 4096
    assert np.abs(exact - (inputs @ weight.T + bias)).max() < 48 * (2.0**-13 * 0.8 + 2.0**-15) + 2.0**-12


def test_linear_refuses_more_inputs_than_are_exact():
    width = fp.MAX_WIDTH + 1
    with pytest.raises(ValueError, match="2049 inputs"):
        fp.linear(np.zeros((1, width), dtype=np.int64), np.zeros((1, width)), np.zeros(1))


def test_tables_follow_the_functions():
    x = np.arange(-40 * 4096, 40 * 4096, 7)
    assert np.abs(fp.softplus(x) / 2**20 - np.logaddexp(0, x / 4096)).max() < 1e-5
    assert np.abs(fp.one_plus_tanh(x) / 2**20 - 1 - np.tanh(x / 4096)).max() < 1e-4


def test_tables_are_what_every_machine_computes():
    x = np.array([-70000, -4096, -1, 0, 33, 4096, 70000])
    assert fp.softplus(x).tolist() == [0, 328479, 726690, 726817, 731058, 1377055, 17920000]
    assert fp.one_plus_tanh(x).tolist() == [0, 249987, 1048320, 1048576, 1057023, 1847165, 2097152]


def test_tables_do_not_depend_on_the_decimal_context():
    before = fp._knots("softplus").tolist()
    fp._knots.cache_clear()
    with localcontext(Context(prec=2, rounding="ROUND_UP")):
        assert fp._knots("softplus").tolist() == before
