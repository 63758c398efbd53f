"""Every preset against formulas written here from the figures of the sources, and the traps that peers fell into."""

import math
from dataclasses import replace

import pytest
import torch

from lightning_cim import LevelGaussian
from lightning_cim.variation.device_file import preset_file
from lightning_cim.variation.encoding import Encoding
from lightning_cim.variation.levels import LEVEL_RATIOS
from lightning_cim.variation.measured import Measured
from tests.variation.quadrature import cut_moments

DAYS = [
    (19.88665, 176.3115),
    (25.59102, 186.85544),
    (28.72753, 193.56834),
    (31.04318, 198.90332),
    (33.76214, 204.77023),
    (34.57909, 207.34309),
]


def wan(c0, c1, c2, c3, c4):
    return lambda g: c0 + c1 * (g / 40) + c2 * (g / 40) ** 2 + c3 * (g / 40) ** 3 + c4 * (g / 40) ** 4


def hermes(g_max, c0, c1, c2, c3):
    return lambda g: c0 + c1 * (g / g_max) + c2 * (g / g_max) ** 2 + c3 * (g / g_max) ** 3


def sonos(amplitude, decay):
    return lambda current: amplitude * (1 - math.exp(-current / decay))


FORMULAS = [
    ("pcm-nandakumar2019", {}, lambda g: 0.26348 + 1.9650 * g / 25 - 1.1731 * g**2 / 625, (0.0, 12.5, 21.0, 25.0)),
    ("pcm-joshi2020", {}, lambda g: -0.00178767 * g**2 + 0.07585724 * g + 0.28638599, (0.25, 12.5, 25.0)),
    ("hermes-1", {}, hermes(10.35, 0.15781817, 2.32443916, -2.16310839, 0.68841818), (0.0, 5.0, 10.35)),
    ("hermes-2", {}, hermes(20.7, 0.16603222, 4.71806468, -8.48101252, 4.68961419), (0.0, 10.0, 20.7)),
    ("rram-wan2022", {}, wan(0.348, 16.030, -43.853, 45.393, -16.815), (0.0, 20.0, 40.0)),
    ("rram-wan2022", {"time": "1 s"}, wan(0.348, 16.030, -43.853, 45.393, -16.815), (4.0, 33.0, 40.0)),
    ("rram-wan2022", {"time": "1 day"}, wan(0.701, 22.086, -50.773, 47.095, -16.458), (0.0, 20.0, 40.0)),
    ("rram-wan2022", {"time": "2 days"}, wan(0.782, 20.274, -43.507, 37.062, -11.934), (0.0, 20.0, 40.0)),
    (
        "rram-wan2022",
        {"fit": "cross-sim"},
        lambda g: 1.536e-4 * g**3 - 1.167e-2 * g**2 + 2.374e-1 * g + 1.053,
        (0.0, 20.0, 39.26),
    ),
    ("rram-milo2021", {}, lambda g: -0.009107 * g + 4.782321, (50.0, 100.0, 225.0)),
    ("rram-cmo-hfox", {"acceptance_percent": 0.2}, lambda g: 0.00081107 + 0.00106879 * g, (9.0, 50.0, 88.2)),
    ("rram-cmo-hfox", {"acceptance_percent": 2}, lambda g: 0.0112185 + 0.0112903 * g, (9.0, 50.0, 88.2)),
    *[("sonos", {"day": day}, sonos(*pair), (10.0, 200.0, 1600.0)) for day, pair in enumerate(DAYS)],
    ("rram-om-array", {}, lambda g: 1.4113 * 0.0949, (-1.0, 0.0, 1.0)),
    ("rram-hfo2-array", {}, lambda g: 0.5841 * 0.4622, (-1.0, 0.0, 1.0)),
    ("fefet-xbtorch", {}, lambda g: 0.035 * (38 - 3), (3.0, 20.0, 38.0)),
]


@pytest.mark.parametrize(("name", "options", "formula", "points"), FORMULAS)
def test_presets_are_the_published_formulas(name, options, formula, points):
    variation = Measured.preset(name, **options)
    for g in points:
        assert variation.device.sigma_at(g) == pytest.approx(formula(g), rel=0.005)
    # The same through the weights: an offset column at g holds w = 2 (g - g_min) / (g_max - g_min) - 1.
    alone = Measured.preset(name, encoding=Encoding("offset"), **options)
    device = alone.device
    weight = torch.tensor([2 * (g - device.g_min) / device.span - 1 for g in (device.g_min, *points, device.g_max)])
    std = (alone.variance(weight).sqrt()[1:-1] * device.span / 2).tolist()
    is_conductance = device.valid_range[0] >= 0
    for g, found in zip(points, std, strict=True):
        # A conductance is cut at 0, which near 0 leaves less than sigma; 5 sigma above it, all of it.
        expected = cut_moments(g, formula(g))[1] if is_conductance else formula(g)
        assert found == pytest.approx(expected, rel=0.005, abs=1e-3)
        if g > 5 * formula(g):
            assert found == pytest.approx(formula(g), rel=0.005, abs=1e-3)


def test_pcm_at_its_two_known_points():
    device = Measured.preset("pcm-nandakumar2019").device
    assert device.sigma_at(25.0) == pytest.approx(1.055, rel=0.01)
    assert device.sigma_at(12.5) == pytest.approx(0.953, rel=0.01)


def test_cross_checks_between_sources():
    joshi, nandakumar = Measured.preset("pcm-joshi2020").device, Measured.preset("pcm-nandakumar2019").device
    assert joshi.sigma_at(25.0) == pytest.approx(1.066, abs=5e-4)
    assert joshi.sigma_at(25.0) == pytest.approx(nandakumar.sigma_at(25.0), rel=0.011)
    kit, other = (Measured.preset("rram-wan2022", fit=fit).device for fit in ("aihwkit", "cross-sim"))
    assert (round(kit.sigma_at(20.0), 2), round(other.sigma_at(20.0), 2)) == (2.02, 2.36)
    assert 1 - kit.sigma_at(20.0) / other.sigma_at(20.0) == pytest.approx(0.14, abs=0.005)
    assert "14 %" in preset_file("rram-wan2022").record["source"]["disagreement"]


@pytest.mark.parametrize(
    "name", [name for name in Measured.list() if name not in ("rram1", "fefet2", "rram4", "fefet6")]
)
def test_every_preset_is_complete_and_draws(name):
    file = preset_file(name)
    assert file.name == name
    assert {"paper", "read_from", "read_from_licence", "data_licence"} <= set(file.record["source"])
    assert file.source
    keys, values = list(file.options), list(file.options.values())
    choices = [dict(zip(keys, pick, strict=True)) for pick in zip(*values, strict=False)] or [{}]
    for choice in choices if len(keys) < 2 else [{}]:
        variation = Measured.preset(name, **choice)
        assert 0 < variation.std < 1
        assert variation.sample(torch.randn(7, 3), torch.Generator()).isfinite().all()


@pytest.mark.parametrize("name", [name for name in Measured.list() if preset_file(name).level_preset is None])
@pytest.mark.parametrize("encoding", [Encoding(), Encoding("offset", 8, 2)], ids=str)
def test_both_modes_have_one_mean_and_std(name, encoding):
    """Within 2 %, also near 0 where conductances are cut: a std of 40000 draws has a standard error of 0.35 %."""
    weight = torch.tensor([1.0, 0.3, 0.003, 0.0, -0.7])
    for mode in (encoding, replace(encoding, mode="per_slice")):
        variation = Measured.preset(name, encoding=mode)
        sample = variation.sample(weight.expand(40_000, 5), torch.Generator().manual_seed(0)).double()
        std = variation.variance(weight).double().sqrt()
        torch.testing.assert_close(sample.std(0), std, rtol=0.02, atol=0)
        assert ((sample.mean(0) - variation.mean_deviation(weight)).abs() < 5 * std / 200).all()


def test_every_measurement_of_every_file_can_be_had():
    for name in ("sonos", "rram-cmo-hfox", "rram-wan2022"):
        for entry in preset_file(name).record["programming"]:
            chosen = {key: value for key, value in entry.items() if key in preset_file(name).options}
            device = Measured.preset(name, **chosen).device
            assert all(str(value) in device.name for value in chosen.values())


@pytest.mark.parametrize(
    ("name", "published"), [("rram1", "RRAM1"), ("fefet2", "FeFET2"), ("rram4", "RRAM4"), ("fefet6", "FeFET6")]
)
def test_ratio_presets_are_level_gaussians(name, published):
    assert preset_file(name).record["ratio"] == LEVEL_RATIOS[published]
    options = {"sigma_ref": "full_scale", "weight_bits": 8, "device_bits": 2, "level_mode": "per_slice"}
    assert Measured.preset(name, sigma=0.1, **options) == LevelGaussian.preset(published, 0.1, **options)
    with pytest.raises(ValueError, match=f"{name} is known by the ratio of its levels only: give sigma"):
        Measured.preset(name)
    with pytest.raises(ValueError, match=r"so g_max, encoding mean nothing; give sigma"):
        Measured.preset(name, sigma=0.1, g_max=1.0, encoding=Encoding())


def test_trap_the_reference_stays_with_the_fit():
    """One peer's Wan model has 2.02 uS at half of g_max = 40 uS and at half of g_max = 20 uS."""
    at_40 = Measured.preset("rram-wan2022")
    assert at_40.device.sigma_at(20.0) == pytest.approx(2.02, abs=0.005)
    # Used up to 20 uS, the device is what was measured there.
    part = Measured.preset("rram-wan2022", g_max=20.0)
    assert part.device.sigma_at(10.0) == at_40.device.sigma_at(10.0)
    unused = 0.348 * math.sqrt(0.5 - 0.5 / math.pi)  # at 0 uS, where half of the devices are cut
    expected = math.hypot(wan(0.348, 16.030, -43.853, 45.393, -16.815)(10.0), unused) / 20
    assert part.variance(torch.tensor([1.0, 0.5])).sqrt()[1].item() == pytest.approx(expected, rel=1e-3)
    # Rescaled to 20 uS, it has half the error at half the conductance.
    scaled = Measured.preset("rram-wan2022", rescale_to=20.0)
    assert scaled.device.sigma_at(10.0) == pytest.approx(at_40.device.sigma_at(20.0) / 2)
    weight = torch.linspace(-1, 1, 21)
    torch.testing.assert_close(scaled.variance(weight), at_40.variance(weight))
    assert not torch.allclose(part.variance(weight), at_40.variance(weight), rtol=0.05)


def test_trap_explicit_references():
    """Giving the reference explicitly raises AttributeError in a peer; here it is one of the curve's own numbers."""
    pcm = Measured.preset("pcm-nandakumar2019", rescale_to=25.0)
    assert pcm.device.sigma_at(25.0) == pytest.approx(1.05538)
    assert pcm.device.sigma.reference == 25.0
    assert Measured.preset("pcm-nandakumar2019", rescale_to=50.0).device.sigma.reference == 50.0


@pytest.mark.parametrize("acceptance", [2e-2, 0.2001, "2", None])
def test_trap_an_acceptance_range_that_was_not_measured(acceptance):
    """The peer's default of 2e-2 is no key of its table and silently becomes 0.2 %."""
    with pytest.raises(
        ValueError, match=r"acceptance_percent must be one of 0.2, 2, as nothing else was measured; got"
    ):
        Measured.preset("rram-cmo-hfox", acceptance_percent=acceptance)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pcm-nandakumar2019", {"g_max": 26.0}, r"g_max is 26 uS, but the error was measured between 0 and 25 uS only"),
        ("rram-milo2021", {"g_min": 10.0}, r"g_min is 10 uS, but the error was measured between 50 and 225 uS only"),
        ("rram-milo2021", {"on_off": 10}, r"g_min is 22.5 uS"),
        ("rram-wan2022", {"fit": "cross-sim", "g_max": 40.0}, r"g_max is 40 uS, .* between 0 and 39.26 uS only"),
        ("rram-wan2022", {"fit": "cross-sim", "time": "1 day"}, r"not measured: fit=cross-sim, time=1 day; measured: "),
        ("rram-wan2022", {"time": "1 hour"}, r"time must be one of '1 s', '1 day', '2 days'"),
        ("sonos", {"day": 6}, r"day must be one of 0, 1, 2, 3, 4, 5"),
        ("sonos", {"days": 1}, r"unknown option 'days'; its options are day"),
        ("pcm-joshi2020", {"time": "1 s"}, r"unknown option 'time'; it has no options"),
        ("pcm-joshi", {}, r"unknown device 'pcm-joshi'; did you mean pcm-joshi2020"),
        ("PCM-Joshi2020", {}, r"did you mean pcm-joshi2020"),
        ("???", {}, r"unknown device '\?\?\?'; known: fefet-xbtorch, "),
    ],
)
def test_what_was_not_measured_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        Measured.preset(name, **options)


def test_on_off_ratio_of_presets():
    assert Measured.preset("pcm-joshi2020").device.g_min == pytest.approx(25.0 / 100)
    sonos_device = Measured.preset("sonos").device
    assert sonos_device.g_max / sonos_device.g_min == pytest.approx(1e7)
    low = Measured.preset("pcm-nandakumar2019", on_off=5)
    assert low.device.g_min == 5.0
    # A smaller window makes the same error count for more.
    one = torch.ones(1)
    assert low.variance(one) > Measured.preset("pcm-nandakumar2019").variance(one)


def test_the_list_is_names_and_a_table():
    names = Measured.list()
    assert len(names) == 15
    assert sorted(names) == list(names)
    table = str(names).splitlines()
    assert len(table) == 2 + 15
    assert repr(names) == str(names)
    sonos_line = next(line for line in table if line.startswith("sonos"))
    assert "1600 nA" in sonos_line
    assert "day=0|1|2|3|4|5" in sonos_line
    assert "Fig. 10(a)" in sonos_line


def test_numbers_for_later_effects_are_kept():
    record = preset_file("pcm-nandakumar2019").record
    assert record["drift"]["nu_mean"] == {"log_slope": -0.0155, "intercept": 0.0244, "low": 0.049, "high": 0.1}
    assert record["read_noise"]["t_read_s"] == 250e-9
    for name, t0, edge in (("hermes-1", 200.0, 0.3039), ("hermes-2", 300.0, 0.3055)):
        drift = preset_file(name).record["drift"]
        assert (drift["t0_s"], drift["nu_std_below"]["r"]) == (t0, edge)
        assert drift["nu_mean_above"] == [0.0736, -0.0126, -0.0436]
    assert preset_file("rram-cmo-hfox").record["decay"]["std_intercept"] == 0.41183342
    for name, figures in (("rram-om-array", (0.7829, 0.4158)), ("rram-hfo2-array", (0.7125, 0.2174))):
        update = preset_file(name).record["update"]
        assert (update["device_to_device"], update["cycle_to_cycle"]) == figures
