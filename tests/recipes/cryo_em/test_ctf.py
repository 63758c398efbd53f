import math

import pytest
import torch

from recipes.cryo_em.ctf import CTFParameters, ctf, wavelength

ASTIGMATIC = CTFParameters.of(
    2,
    defocus_u=torch.tensor([15000.0, 8000.0]),
    defocus_v=torch.tensor([9000.0, 7700.0]),
    angle=torch.tensor([25.0, 130.0]),
    voltage=torch.tensor([300.0, 200.0]),
    cs=torch.tensor([2.7, 2.0]),
    amplitude_contrast=torch.tensor([0.1, 0.07]),
    phase_shift=torch.tensor([0.0, 65.0]),
    b_factor=torch.tensor([0.0, 80.0]),
)


def slow_ctf(p, image, fy, fx):
    """One value from the electron's momentum and the phase of the lens, in Python floats and SI units."""
    h, m, e, c = 6.62607015e-34, 9.1093837015e-31, 1.602176634e-19, 299792458.0
    volts = float(p.voltage[image]) * 1e3
    length = h / math.sqrt(2 * m * e * volts * (1 + e * volts / (2 * m * c * c)))
    k, azimuth = math.hypot(fx, fy) * 1e10, math.atan2(fy, fx)
    u, v = float(p.defocus_u[image]) * 1e-10, float(p.defocus_v[image]) * 1e-10
    turned = azimuth - math.radians(float(p.angle[image]))
    defocus = u * math.cos(turned) ** 2 + v * math.sin(turned) ** 2
    chi = math.pi * length * defocus * k**2 - math.pi / 2 * float(p.cs[image]) * 1e-3 * length**3 * k**4
    chi += math.radians(float(p.phase_shift[image]))
    w = float(p.amplitude_contrast[image])
    envelope = math.exp(-float(p.b_factor[image]) * 1e-20 * k**2 / 4)
    return -envelope * math.sin(chi + math.asin(w))


@pytest.mark.parametrize("size", [16, 15])
def test_it_is_the_formula_evaluated_slowly(size):
    found = ctf(ASTIGMATIC, size, 2.0)
    rows, columns = (f(size, 2.0, dtype=torch.float64).tolist() for f in (torch.fft.fftfreq, torch.fft.rfftfreq))
    for image in range(2):
        expected = torch.tensor([[slow_ctf(ASTIGMATIC, image, fy, fx) for fx in columns] for fy in rows])
        assert (found[image] - expected).abs().max() < 1e-6


@pytest.mark.parametrize("pixel_size", [8.0, 3.0])
def test_it_is_minus_that_of_torch_ctf(pixel_size):
    """Up to its guard against a zero frequency, which takes finfo.eps from k^2 of the astigmatic part."""
    peer = pytest.importorskip("torch_ctf")
    for image in range(2):
        p = {name: float(value[image]) for name, value in ASTIGMATIC.items()}
        expected = peer.calculate_ctf_2d(
            defocus=(p["defocus_u"] + p["defocus_v"]) / 2e4,
            astigmatism=(p["defocus_u"] - p["defocus_v"]) / 2e4,
            astigmatism_angle=p["angle"],
            voltage=p["voltage"],
            spherical_aberration=p["cs"],
            amplitude_contrast=p["amplitude_contrast"],
            phase_shift=p["phase_shift"],
            pixel_size=pixel_size,
            image_shape=(32, 32),
            rfft=True,
            fftshift=False,
        )
        plain = CTFParameters.of(1, **{**p, "b_factor": 0.0})
        guard = math.pi * float(wavelength(plain.voltage)) * (p["defocus_u"] - p["defocus_v"]) * 1.2e-7
        assert guard < 5e-5
        assert (ctf(plain, 32, pixel_size)[0] + expected).abs().max() < guard + 1e-5


def test_zero_frequency_is_minus_the_amplitude_contrast_and_low_ones_are_negative():
    found = ctf(ASTIGMATIC[:1], 64, 3.0)[0]
    assert float(found[0, 0]) == pytest.approx(-0.1, abs=1e-6)
    assert (found[:3, :3] < 0).all()


def test_wavelengths_of_the_textbook():
    assert wavelength(torch.tensor([100.0, 200.0, 300.0])).tolist() == pytest.approx(
        [0.03701, 0.02508, 0.01969], abs=6e-6
    )


def test_an_index_chooses_images():
    both = ctf(ASTIGMATIC, 8, 2.0)
    assert torch.equal(ctf(ASTIGMATIC[torch.tensor([1])], 8, 2.0)[0], both[1])
    assert len(ASTIGMATIC[1:]) == 1
    assert len(ASTIGMATIC.to("cpu")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voltage": 0.0}, "kV"),
        ({"amplitude_contrast": 1.5}, "amplitude contrast"),
        ({"defocus_u": torch.tensor([1.0, float("nan")])}, "defocus_u of image 1"),
        ({"wrong": 1.0}, "no such CTF field: wrong"),
    ],
)
def test_impossible_parameters_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        CTFParameters.of(2, **{"voltage": 300.0, **change})


def test_fields_of_different_length_are_refused():
    values = dict(ASTIGMATIC.items()) | {"cs": torch.ones(3)}
    with pytest.raises(ValueError, match="cs"):
        CTFParameters(**values)
