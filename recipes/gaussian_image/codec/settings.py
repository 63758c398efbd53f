"""What a file says before any coded number, and how large it may claim to be."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.gaussian_image.codec.coder import Support
from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.codec.weights import read_weights
from recipes.gaussian_image.context import KINDS
from recipes.gaussian_image.seeds import LARGEST_DENSITY
from recipes.gaussian_image.structured import SgiConfig, StructuredImage

LARGEST_SIZE = (1 << 16) - 1
"""Pixels along a side; boxes of blocks are 16-bit numbers."""
NUMBERS_PER_BYTE = 1024
"""A file cannot make a reader hold more numbers than this for each of its bytes."""
COARSE_PIXELS_PER_BYTE = 256
"""Nor look for seeds among more pixels of the coarsest level than this for each of its bytes."""
LIMITS = {
    "height": LARGEST_SIZE,
    "width": LARGEST_SIZE,
    "levels": 16,
    "num_seeds": 1 << 24,
    "k": 1024,
    "feat_dim": 2048,
    "hidden": 2048,
    "context_hidden": 2048,
    "resolutions": 1 << 16,
    "table_size": 1 << 24,
    "features": 64,
    "density": LARGEST_DENSITY,
}
"""Largest value of an integer field."""
_MOST_PIXELS = 1 << 28
_MOST_HASH_BITS = 1 << 24
_MOST_HASH_LEVELS = 32
_LARGEST_STEP = 1024.0


@dataclass(frozen=True)
class FileSettings:
    """First section of a file.

    Attributes:
        image: The model.
        positions: CRC-32 of the seeds' positions, which are drawn anew by the reader.
        block_side: Of the squares of seeds, in pixels of the coarsest level.
        low: Smallest symbol of each attribute.
        high: Largest symbol of each attribute.
        ones: Share of ones among the hash grid's bits, in units of 2^-16.
    """

    image: SgiConfig
    positions: int
    block_side: int
    low: tuple[int, ...]
    high: tuple[int, ...]
    ones: int

    def __post_init__(self) -> None:
        if self.block_side < 1:
            raise CodecError(f"settings: blocks of side {self.block_side}")
        if not len(self.low) == len(self.high) == len(KINDS):
            raise CodecError(f"settings: symbols of {len(self.low)} attributes; want {len(KINDS)}")

    def supports(self) -> dict[str, Support]:
        """Of each attribute.

        Raises:
            CodecError: Symbols that cannot be coded.
        """
        return {kind: Support(*ends) for kind, *ends in zip(KINDS, self.low, self.high, strict=True)}


def check_limits(config: SgiConfig, file_bytes: int) -> None:
    """Refuse sizes that no honest file has, before memory is taken for them.

    Args:
        config: The model.
        file_bytes: Length of the whole file.

    Raises:
        CodecError: A size beyond its limit; the message names it.
    """
    grid = config.hash
    for name, value in {**vars(config), **vars(grid)}.items():
        largest = max(value, default=0) if isinstance(value, tuple) else value
        if name in LIMITS and largest > LIMITS[name]:
            raise CodecError(f"{name} = {largest}; a file holds at most {LIMITS[name]}")
    if config.height * config.width > _MOST_PIXELS:
        raise CodecError(f"an image of {config.height} x {config.width} pixels; a file holds at most {_MOST_PIXELS}")
    if not all(step <= _LARGEST_STEP for step in config.steps.values()):
        raise CodecError(f"quantisation steps {config.steps}; a file holds at most {_LARGEST_STEP}")
    if config.density and min(config.density) < 1:
        raise CodecError(f"a density of {min(config.density)}; want at least 1")
    if len(grid.resolutions) > _MOST_HASH_LEVELS or sum(grid.entries) * grid.features > _MOST_HASH_BITS:
        size = f"{len(grid.resolutions)} levels and {sum(grid.entries) * grid.features} bits"
        raise CodecError(f"a hash grid of {size}; a file holds at most {_MOST_HASH_LEVELS} and {_MOST_HASH_BITS}")
    numbers = config.num_seeds * (sum(config.widths.values()) + 8 * len(grid.resolutions))
    if numbers > NUMBERS_PER_BYTE * file_bytes:
        raise CodecError(f"{config.num_seeds} seeds in {file_bytes} bytes: more than {NUMBERS_PER_BYTE} numbers a byte")
    coarse = math.prod(config.size(config.levels - 1))
    if coarse > COARSE_PIXELS_PER_BYTE * file_bytes:
        raise CodecError(f"{coarse} pixels at the coarsest level in {file_bytes} bytes: more than a file holds")


def assemble(config: SgiConfig, networks: bytes, read_bits: Callable[[int], Tensor]) -> StructuredImage:
    """The model as a file holds it, on the CPU, in float32 whatever the default type; its attributes are unset.

    Args:
        config: Its sizes.
        networks: What `write_weights` made of `StructuredImage.networks`.
        read_bits: Gives as many bits of the hash grid as it is asked for, flat.

    Raises:
        CodecError: Settings that the model refuses, or other weights than it has.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            model = StructuredImage(config)
    except ValueError as error:
        raise CodecError(f"settings: {error}") from error
    own = model.networks()
    weights = read_weights(networks, {name: parameter.shape for name, parameter in own.items()})
    for name, parameter in own.items():
        parameter.data = weights[name]
    table = model.context.grid.table
    model.context.grid.load_bits(read_bits(table.numel()).view(table.shape))
    return model.requires_grad_(False).eval()


def checksum_of_positions(model: StructuredImage) -> int:
    """CRC-32 of the seeds' positions in units of 2^-10 pixel."""
    units = np.rint(model.positions.double().cpu().numpy() * 1024)
    return zlib.crc32(units.astype("<i4").tobytes())
