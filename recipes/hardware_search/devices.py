"""What each memory device of the design spaces does to a weight."""

from __future__ import annotations

from typing import Any

import lightning_cim as cim

WEIGHT_BITS = 8
"""Bits of a weight, sliced over cells; as the cost model's."""

DEVICES = {
    "rram": "Measured, Milo et al., IRPS 2021 (50 to 225 uS): a low-resistance RRAM programmed with verification",
    "rram-hrs": "Measured, Wan et al., Nature 2022 (0 to 40 uS), one second after programming: a high-resistance RRAM",
    "fefet": "XBTorch's analytic FeFET (3 to 38 nS): a constant error, as that of cim.Gaussian",
}
"""Stand-ins: the space's on-resistances (6k, 100k, 240k ohm) are NeuroSim's, of which no variation is published."""

_PRESETS = {"rram": "rram-milo2021", "rram-hrs": "rram-wan2022", "fefet": "fefet-xbtorch"}


def variation_of(design: dict[str, Any]) -> cim.Variation:
    """The variation of a design's device, its weights stored with an offset in slices of ``cell_bits``.

    Args:
        design: With slots ``device`` and ``cell_bits``.

    Raises:
        ValueError: A device that is not known.
    """
    device = design["device"]
    if device not in _PRESETS:
        raise ValueError(f"no variation is known for the device {device!r}: choose from {', '.join(_PRESETS)}")
    encoding = cim.Encoding("offset", weight_bits=WEIGHT_BITS, device_bits=int(design["cell_bits"]))
    return cim.Measured.preset(_PRESETS[device], encoding=encoding)
