"""Model to file."""

from __future__ import annotations

import zlib
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recipes.gaussian_image import quantise
from recipes.gaussian_image.codec import blocks, container
from recipes.gaussian_image.codec.coder import Support, SymbolWriter, probability_of
from recipes.gaussian_image.codec.fields import pack
from recipes.gaussian_image.codec.settings import FileSettings, assemble, check_limits, checksum_of_positions
from recipes.gaussian_image.codec.view import reach
from recipes.gaussian_image.codec.weights import write_weights
from recipes.gaussian_image.context import KINDS, CodingStats
from recipes.gaussian_image.structured import Attributes, StructuredImage

SEEDS_PER_BLOCK = 512
"""About; a block costs some 20 bytes, 512 seeds cost some thousands."""


def encode(
    model: StructuredImage, path: str | PathLike[str] | None = None, seeds_per_block: int = SEEDS_PER_BLOCK
) -> bytes:
    """Write a model as a self-contained file.

    Args:
        model: Of any device.
        path: Where to write it; None: nowhere.
        seeds_per_block: About how many seeds are decoded together. Fewer make crops cheaper and the file larger.

    Returns:
        The file's content.

    Raises:
        ValueError: Numbers that are not finite or beyond half precision, symbols beyond +-2^20, positions that do not
            follow from the model's settings, or sizes beyond the format's limits.
    """
    if seeds_per_block < 1:
        raise ValueError(f"seeds_per_block is {seeds_per_block}; want at least 1")
    check_limits(model.config, 1 << 40)
    networks = write_weights(model.networks())
    bits = model.context.grid.bits().cpu()
    stored = assemble(model.config, networks, lambda _: bits)
    if not torch.equal(stored.positions, model.positions.cpu()):
        raise ValueError("the seeds' positions are not those that the model's settings give; a file cannot hold them")
    stats = stored.context.coding_stats()
    symbols = _symbols(model, stats)
    side = blocks.side_for(*model.config.size(model.config.levels - 1), len(stored.positions), seeds_per_block)
    supports = {kind: Support.of(symbols[kind]) for kind in KINDS}
    settings = FileSettings(
        image=model.config,
        positions=checksum_of_positions(stored),
        block_side=side,
        low=tuple(supports[kind].low for kind in KINDS),
        high=tuple(supports[kind].high for kind in KINDS),
        ones=probability_of(bits.numpy()),
    )
    entries, streams = [], []
    for seeds in blocks.members(stored.positions.double().numpy(), side):
        own = {kind: CodingStats(part.mean[seeds], part.scale[seeds], part.step[seeds]) for kind, part in stats.items()}
        numbers = {kind: symbols[kind][seeds] for kind in KINDS}
        writer = SymbolWriter()
        for kind in KINDS:
            writer.gaussian(numbers[kind].ravel(), supports[kind], own[kind].mean.ravel(), own[kind].scale.ravel())
        streams.append(writer.getvalue())
        attributes = Attributes(*(quantise.values(numbers[kind], own[kind]) for kind in KINDS))
        entries.append(
            blocks.Block(
                length=len(streams[-1]),
                checksum=zlib.crc32(streams[-1]),
                numbers=blocks.checksum_of(np.concatenate([numbers[kind].ravel() for kind in KINDS])),
                box=_reach(stored, attributes, seeds),
            )
        )
    grid = SymbolWriter()
    grid.bits(bits.numpy().ravel(), settings.ones)
    contents = (pack(settings), networks, grid.getvalue(), blocks.write_index(entries))
    sections = dict(zip(container.SECTIONS, contents, strict=True))
    data = container.join(container.Container(sections, memoryview(b"".join(streams))))
    check_limits(model.config, len(data))
    if path is not None:
        Path(path).write_bytes(data)
    return data


def _symbols(model: StructuredImage, stats: dict[str, CodingStats]) -> dict[str, NDArray[np.int64]]:
    """Attributes as integers, (N, width) each."""
    for kind, part in zip(KINDS, model.attributes(), strict=True):
        broken = (~part.isfinite().all(1)).nonzero()
        if len(broken):
            raise ValueError(f"attribute {kind!r} of seed {int(broken[0])} is not finite: no file can hold it")
    return model.symbols(stats)


def _reach(model: StructuredImage, attributes: Attributes, seeds: NDArray[np.int64]) -> blocks.Box:
    """Box of pixels that some seeds' Gaussians reach at full size."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return reach(model.gaussians_of(attributes, model.positions[seeds], model.unit[seeds]), model.config.size(0))
