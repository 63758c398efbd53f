"""The contrast transfer function of an electron microscope.

With the wavelength ``l`` [Angstrom] and the frequency ``k`` [1/Angstrom] at angle ``a`` from the image's x axis to y::

    defocus(a) = (U + V + (U - V) cos 2(a - angle)) / 2
    chi        = pi l defocus k^2 - (pi / 2) Cs l^3 k^4 + phase_shift
    CTF        = -(sqrt(1 - w^2) sin chi + w cos chi) exp(-B k^2 / 4)

the form RELION and cryoDRGN share (Rohou & Grigorieff 2015, with positive underfocus). It is negative at low frequency:
positive density makes dark particles.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CTFParameters:
    """What the microscope did to each of ``n`` images; each field is a float32 tensor (n,).

    Args:
        defocus_u: Larger defocus [Angstrom], positive for underfocus.
        defocus_v: Defocus across it [Angstrom].
        angle: Angle of ``defocus_u`` from the image's x axis towards y [degree].
        voltage: Acceleration voltage [kV].
        cs: Spherical aberration [mm].
        amplitude_contrast: Part of the contrast that is amplitude contrast, in [0, 1].
        phase_shift: Of a phase plate [degree].
        b_factor: Fall-off of the envelope [Angstrom^2]; 0 for none.

    Raises:
        ValueError: If the fields differ in length, are not finite, or a voltage or an amplitude contrast is impossible.
    """

    defocus_u: Tensor
    defocus_v: Tensor
    angle: Tensor
    voltage: Tensor
    cs: Tensor
    amplitude_contrast: Tensor
    phase_shift: Tensor
    b_factor: Tensor

    def __post_init__(self) -> None:
        for name, value in self.items():
            if value.shape != self.defocus_u.shape or value.ndim != 1:
                raise ValueError(f"CTF field {name} has shape {tuple(value.shape)}; all fields need the same (n,)")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"CTF field {name} of image {int((~torch.isfinite(value)).nonzero()[0])} is not finite"
                )
        if bool((self.voltage <= 0).any()):
            raise ValueError("a CTF voltage is not positive; it is given in kV, e.g. 300")
        if bool(((self.amplitude_contrast < 0) | (self.amplitude_contrast > 1)).any()):
            raise ValueError("a CTF amplitude contrast lies outside [0, 1]")

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """The fields by name, in the order of the class."""
        for field in dataclasses.fields(self):
            yield field.name, getattr(self, field.name)

    def __len__(self) -> int:
        return len(self.defocus_u)

    def __getitem__(self, index: Tensor | slice) -> CTFParameters:
        """Those of some images, as a tensor of tensors is indexed."""
        return CTFParameters(**{name: value[index] for name, value in self.items()})

    def to(self, device: torch.device | str) -> CTFParameters:
        """The same on another device."""
        return CTFParameters(**{name: value.to(device) for name, value in self.items()})

    @classmethod
    def of(cls, count: int, **values: float | Tensor) -> CTFParameters:
        """Parameters of ``count`` images, a number standing for all of them.

        Example:
            >>> one = CTFParameters.of(2, defocus_u=9000.0, defocus_v=9000.0, voltage=300.0, cs=2.7)
            >>> one.voltage, one.phase_shift
            (tensor([300., 300.]), tensor([0., 0.]))
        """
        given = {field.name: torch.as_tensor(values.pop(field.name, 0.0)) for field in dataclasses.fields(cls)}
        if values:
            raise ValueError(f"no such CTF field: {', '.join(values)}")
        return cls(**{name: value.to(torch.float32).expand(count).clone() for name, value in given.items()})


def wavelength(voltage: Tensor) -> Tensor:
    """Relativistic wavelength of an electron [Angstrom] at an acceleration voltage [kV].

    ``h / sqrt(2 m e V (1 + e V / 2 m c^2))`` with the constants of CODATA 2018.

    Example:
        >>> round(float(wavelength(torch.tensor(300.0, dtype=torch.float64))), 5)
        0.01969
    """
    volts = voltage * 1e3
    return 12.26425966 / torch.sqrt(volts + 9.784756e-7 * volts**2)


def frequencies(size: int, pixel_size: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Frequencies fy (D, 1) and fx (1, D//2 + 1) of ``rfft2``'s layout [1/Angstrom], float64."""
    fy = torch.fft.fftfreq(size, pixel_size, dtype=torch.float64, device=device)
    fx = torch.fft.rfftfreq(size, pixel_size, dtype=torch.float64, device=device)
    return fy[:, None], fx[None, :]


def ctf(parameters: CTFParameters, size: int, pixel_size: float) -> Tensor:
    """The contrast transfer function of each image, to multiply ``torch.fft.rfft2`` of it with.

    Args:
        parameters: Those of n images.
        size: Pixels D of an image's edge.
        pixel_size: In Angstrom.

    Returns:
        (n, D, D//2 + 1), float32, in [-1, 1].

    Example:
        >>> one = CTFParameters.of(1, defocus_u=9000, defocus_v=9000, voltage=300, cs=2.7, amplitude_contrast=0.1)
        >>> ctf(one, 8, 3.0).shape, round(float(ctf(one, 8, 3.0)[0, 0, 0]), 6)
        (torch.Size([1, 8, 5]), -0.1)
    """
    fy, fx = frequencies(size, pixel_size, parameters.defocus_u.device)
    k2, azimuth = fx**2 + fy**2, torch.atan2(fy.expand(size, size // 2 + 1), fx.expand(size, size // 2 + 1))
    # Phases reach hundreds of radians, where float32 is good to 1e-5 only.
    p = {name: value.to(torch.float64)[:, None, None] for name, value in parameters.items()}
    u, v, w = p["defocus_u"], p["defocus_v"], p["amplitude_contrast"]
    length = wavelength(p["voltage"])
    defocus = 0.5 * (u + v + (u - v) * torch.cos(2 * (azimuth - torch.deg2rad(p["angle"]))))
    chi = math.pi * length * k2 * (defocus - 0.5 * p["cs"] * 1e7 * length**2 * k2) + torch.deg2rad(p["phase_shift"])
    oscillation = torch.sqrt(1 - w**2) * torch.sin(chi) + w * torch.cos(chi)
    return (-oscillation * torch.exp(-p["b_factor"] * k2 / 4)).to(torch.float32)
