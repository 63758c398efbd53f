"""Devices that were measured at several times after programming."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim.variation.conductance import Device, Level, Polynomial, Table, linear
from lightning_cim.variation.encoding import Encoding
from lightning_cim.variation.measured import Measured
from lightning_cim.variation.retention import Blend, Retention

DAY = 86400.0
WAN = [(1.0, {"time": "1 s"}), (DAY, {"time": "1 day"}), (2 * DAY, {"time": "2 days"})]
SONOS = [(day * DAY, {"day": day}) for day in range(6)]
EVERY = [*[("rram-wan2022", *pair) for pair in WAN], *[("sonos", *pair) for pair in SONOS]]


def device(level, shift=None, name="cell"):
    return Device(name, "uS", 2.0, 20.0, Polynomial((level,)), shift)


@pytest.mark.parametrize(("name", "time", "options"), EVERY)
def test_at_the_measured_times_it_is_what_was_measured(name, time, options):
    aged, measured = Measured.preset(name).at(time), Measured.preset(name, **options)
    assert aged == measured
    assert hash(aged) == hash(measured)
    assert str(aged) == str(measured)
    assert aged.at(0.0 if name == "sonos" else 1.0) == Measured.preset(name)  # the other times are not forgotten


@pytest.mark.parametrize("used", [{"g_max": 20.0}, {"on_off": 20}, {"rescale_to": 20.0}], ids=str)
def test_a_part_of_the_range_stays_the_part(used):
    encoding = Encoding("offset", 8, 2)
    aged = Measured.preset("rram-wan2022", encoding=encoding, **used).at(DAY)
    assert aged == Measured.preset("rram-wan2022", encoding=encoding, time="1 day", **used)


@given(time=st.floats(1.0, 2 * DAY), g=st.floats(0.0, 40.0))
@settings(max_examples=60, deadline=None)
def test_between_two_times_sigma_is_interpolated_in_the_logarithm(time, g):
    found = Measured.preset("rram-wan2022").at(time).device.sigma_at(g)
    index = 0 if time <= DAY else 1
    (t0, early), (t1, late) = WAN[index], WAN[index + 1]
    low, high = (Measured.preset("rram-wan2022", **options).device.sigma_at(g) for options in (early, late))
    share = math.log((1 + time) / (1 + t0)) / math.log((1 + t1) / (1 + t0))
    assert found == pytest.approx(low + share * (high - low), rel=1e-9, abs=1e-12)


@given(times=st.lists(st.floats(0.0, 5 * DAY), min_size=2, max_size=6), g=st.sampled_from([10.0, 400.0, 1600.0]))
@settings(max_examples=40, deadline=None)
def test_sonos_gets_worse_with_time(times, g):
    fresh = Measured.preset("sonos")
    found = [fresh.at(time).device.sigma_at(g) for time in sorted(times)]
    assert all(early <= late * (1 + 1e-12) for early, late in pairwise(found))
    assert fresh.device.sigma_at(g) <= found[0] * (1 + 1e-12)


@pytest.mark.parametrize(
    ("name", "time", "message"),
    [
        ("rram-wan2022", 0.5, r"0.5 s after programming was not measured; only 1 s to 2 d were"),
        ("rram-wan2022", 2 * DAY + 1, r"after programming was not measured; only 1 s to 2 d were"),
        ("sonos", 6 * DAY, r"sonos \(day=0\): 6 d after programming was not measured; only programming to 5 d were"),
        ("sonos", -1.0, r"was not measured; only programming to 5 d were"),
        ("sonos", math.nan, r"was not measured"),
    ],
)
def test_times_outside_the_measured_ones_are_refused(name, time, message):
    with pytest.raises(ValueError, match=message):
        Measured.preset(name).at(time)


def test_devices_that_were_measured_once_have_one_time():
    for name, options in (("pcm-nandakumar2019", {}), ("rram-cmo-hfox", {}), ("rram-wan2022", {"fit": "cross-sim"})):
        fresh = Measured.preset(name, **options)
        assert fresh.retention is None
        assert fresh.at(1e9) is fresh


def test_a_file_of_ones_own_ages_like_a_preset(tmp_path):
    path = tmp_path / "cell.toml"
    entries = "".join(
        f'[[programming]]\ntime = "{time}"\nsigma = {{ model = "constant", value = {sigma} }}\n'
        for time, sigma in (("1 s", 0.5), ("1 day", 0.9))
    )
    path.write_text(f'name = "cell"\n[conductance]\nunit = "uS"\nmin = 1\nmax = 50\n{entries}', encoding="utf-8")
    assert Measured.from_toml(path).at(DAY).device == Measured.from_toml(path, time="1 day").device


def test_between_two_times_it_is_a_device_that_says_so():
    between = Measured.preset("rram-wan2022").at(3600.0)
    assert between.device.name == "rram-wan2022 (fit=aihwkit, time=1 s) at 1 h"
    assert str(between) != str(Measured.preset("rram-wan2022").at(7200.0))
    weight = torch.linspace(-1.0, 1.0, 21)
    low, high = (Measured.preset("rram-wan2022").at(time).variance(weight) for time in (1.0, DAY))
    found = between.variance(weight)
    assert (found >= torch.minimum(low, high) * (1 - 1e-5)).all()
    assert (found <= torch.maximum(low, high) * (1 + 1e-5)).all()


def test_mean_errors_are_interpolated_too():
    pair = Retention(((0.0, device(0.5, linear(0.2, 0.0))), (math.e - 1, device(0.7, linear(0.0, -0.1)))))
    half = pair.at(math.exp(0.5) - 1)
    assert half.sigma_at(10.0) == pytest.approx(0.6)
    assert half.shift_at(10.0) == pytest.approx(0.5 * 0.2 + 0.5 * -1.0)
    assert half.shift_at(2.0) == pytest.approx(0.5 * 0.2 + 0.5 * -0.2)


@pytest.mark.parametrize("shifts", [(None, linear(-0.4, 0.0)), (linear(-0.4, 0.0), None)], ids=["later", "earlier"])
def test_no_mean_error_counts_as_zero(shifts):
    early, late = (device(0.5, shift) for shift in shifts)
    half = Retention(((0.0, early), (math.e - 1, late))).at(math.exp(0.5) - 1)
    assert half.shift_at(10.0) == pytest.approx(-0.2)


def test_without_mean_errors_there_is_none():
    early = replace(device(0.5), measured=(Level(10.0, 10.1, 0.5),))
    half = Retention(((0.0, early), (100.0, device(0.7)))).at(50.0)
    assert half.shift is None
    assert half.measured == ()  # the levels belong to the early device


def test_map_changes_every_time():
    pair = Retention(((0.0, device(0.5)), (100.0, device(0.7)))).map(lambda cell: cell.rescaled(10.0))
    assert [time for time, _ in pair.measured] == [0.0, 100.0]
    assert [cell.g_max for _, cell in pair.measured] == [10.0, 10.0]
    assert pair.at(100.0).sigma_at(5.0) == pytest.approx(0.35)


@pytest.mark.parametrize("times", [(), (1.0,), (1.0, 1.0), (2.0, 1.0), (0.0, 2.0, 1.0)])
def test_times_must_increase(times):
    with pytest.raises(ValueError, match="retention needs two or more increasing times"):
        Retention(tuple((time, device(0.5)) for time in times))


@given(share=st.floats(0.0, 1.0), g=st.floats(0.0, 30.0), ratio=st.floats(0.1, 10.0))
@settings(max_examples=40, deadline=None)
def test_blend(share, g, ratio):
    first, second = Polynomial((0.3, 0.1)), Table((0.0, 10.0, 30.0), (1.0, 2.0, 0.0))
    blend = Blend(first, second, share)
    expected = (1 - share) * first.at(g) + share * second.at(g)
    assert blend.at(g) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert blend.rescaled(ratio).at(ratio * g) == pytest.approx(ratio * expected, rel=1e-9, abs=1e-9)
    conductance = torch.full((2, 3), g)
    torch.testing.assert_close(blend(conductance), torch.full((2, 3), expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(conductance, torch.full((2, 3), g))
