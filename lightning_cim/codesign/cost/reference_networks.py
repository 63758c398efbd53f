"""Networks of the reference runs that the cost models are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_cim.codesign.cost.layers import FIRST_DENSITY, LATER_DENSITY, LayerShape


def vgg8(padded: bool) -> list[LayerShape]:
    """The VGG-8 of NeuroSim's sample output, 32x32x3 input.

    Args:
        padded: Positions as the network has them (616 M multiply-accumulates). Otherwise those that NeuroSim evaluates,
            ``(H - K + 1) (W - K + 1)`` (445 M), while it counts the operations of the padded ones.
    """
    convolutions = ((32, 3, 128), (32, 128, 128), (16, 128, 256), (16, 256, 256), (8, 256, 512), (8, 512, 512))
    return _reference_network(convolutions, ((8192, 1024), (1024, 10)), padded)


def mini() -> list[LayerShape]:
    """The small network of our NeuroSim runs: two unpadded 3x3 convolutions and two linear layers."""
    return _reference_network(((10, 64, 64), (6, 64, 128)), ((512, 128), (128, 10)), padded=False)


def _reference_network(
    convolutions: Sequence[tuple[int, int, int]], linears: Sequence[tuple[int, int]], padded: bool
) -> list[LayerShape]:
    layers: list[LayerShape] = []
    for n, (side, c_in, c_out) in enumerate(convolutions, start=1):
        positions = (side if padded else side - 2) ** 2
        layers.append(LayerShape(f"conv{n}", c_in, c_out, 9, positions, 1, LATER_DENSITY if layers else FIRST_DENSITY))
    return layers + [LayerShape(f"fc{n}", c_in, c_out) for n, (c_in, c_out) in enumerate(linears, start=1)]
