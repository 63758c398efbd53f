"""The numbers of a circuit."""

import math

import pytest

from lightning_cim.chip.circuit import Circuit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "rows must be an integer >= 1, or None for an ideal circuit, got 0"),
        ({"rows": 64.0}, r"rows must be an integer >= 1, .* got 64.0"),
        ({"cols": -1}, "cols must be an integer >= 1, .* got -1"),
        ({"cols": True}, "cols must be an integer >= 1, .* got True"),
        ({"adc_bits": 1}, "adc_bits must be an integer from 2 to 16, .* got 1"),
        ({"dac_bits": 17}, "dac_bits must be an integer from 2 to 16, .* got 17"),
        ({"output_noise": -0.1}, "output_noise must be a finite number >= 0, got -0.1"),
        ({"output_noise": math.inf}, "output_noise must be a finite number >= 0, got inf"),
        ({"wire_resistance": -1.0, "g_max": 1e-6}, "wire_resistance must be a finite number >= 0, got -1.0"),
        ({"wire_resistance": 1.0}, "wire_resistance=1.0 ohm needs the conductance of the devices: give g_max"),
        ({"g_max": 1e-6, "g_min": 1e-6}, "g_max must be .* larger than g_min=1e-06, got 1e-06"),
        ({"g_max": math.nan}, "g_max must be a finite conductance"),
        ({"momentum": 0.0}, r"momentum must lie in \(0, 1\], got 0.0"),
        ({"percentile": 101.0}, r"percentile must lie in \(0, 100\], got 101.0"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Circuit(**arguments)


@pytest.mark.parametrize(
    ("arguments", "is_null", "has_ranges"),
    [
        ({}, True, False),
        ({"cols": 8, "g_max": 1e-6}, True, False),
        ({"rows": 8}, False, False),
        ({"adc_bits": 8}, False, True),
        ({"dac_bits": 8}, False, True),
        ({"output_noise": 0.1}, False, True),
        ({"wire_resistance": 1.0, "g_max": 1e-6}, False, False),
    ],
)
def test_what_is_off(arguments, is_null, has_ranges):
    circuit = Circuit(**arguments)
    assert circuit.is_null is is_null
    assert circuit.has_ranges is has_ranges
