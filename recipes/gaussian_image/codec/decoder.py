"""File to picture: the whole, a part, or another size."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recipes.gaussian_image import quantise
from recipes.gaussian_image.codec import blocks, container, view
from recipes.gaussian_image.codec.blocks import Box
from recipes.gaussian_image.codec.coder import SymbolReader
from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.codec.fields import unpack
from recipes.gaussian_image.codec.settings import LIMITS, FileSettings, assemble, check_limits, checksum_of_positions
from recipes.gaussian_image.context import KINDS
from recipes.gaussian_image.rasterizers import Rasterizer, rasterizer
from recipes.gaussian_image.structured import Attributes, SgiConfig, StructuredImage


def decode(data: bytes) -> DecodedImage:
    """Open a file: settings, networks, hash grid and index are read; seeds are decoded when a picture needs them.

    Raises:
        CodecError: A file that is damaged, cut short, of another kind or of another version; the message says where.
        ImportError: `constriction` is missing.
    """
    return DecodedImage(data)


class DecodedImage:
    """An image in a file's terms.

    Damage inside a block of seeds is found when that block is first needed, and raises `CodecError` then.

    Args:
        data: The file's content.

    Attributes:
        config: Sizes of the model.
        model: The networks and the entropy model as the file holds them; its own attributes are unset.
        sizes: Bytes of each part of the file; they add up to its length.
        blocks: The index: length and reach of every block of seeds.
        members: Seeds of each block.
        decoded: Numbers of the blocks decoded so far.
    """

    def __init__(self, data: bytes) -> None:
        parts = container.split(data)
        settings = unpack(FileSettings, parts.sections["settings"], LIMITS)
        check_limits(settings.image, len(data))
        self.config: SgiConfig = settings.image
        self.sizes = parts.sizes()
        self.model = _model(settings, parts)
        self.members = blocks.members(self.model.positions.double().numpy(), settings.block_side)
        self.blocks = blocks.read_index(parts.sections["index"], len(self.members), len(parts.blocks))
        self._supports = settings.supports()
        self._starts = np.cumsum([0, *(block.length for block in self.blocks)]).tolist()
        self._first_byte = len(data) - len(parts.blocks)
        self._streams = parts.blocks
        self._attributes: dict[int, Attributes] = {}

    @property
    def decoded(self) -> frozenset[int]:
        """Numbers of the blocks decoded so far."""
        return frozenset(self._attributes)

    @property
    def attributes(self) -> Attributes:
        """Attributes of every seed."""
        return self._gather(range(len(self.blocks)))[1]

    @torch.no_grad()
    def render(
        self,
        region: Box | None = None,
        size: tuple[int, int] | None = None,
        level: int | None = None,
        draw: Rasterizer | None = None,
    ) -> Tensor:
        """Draw a picture; only the blocks that reach the region are decoded.

        Args:
            region: x0, y0, x1, y1 in pixels of the full size: x0 <= x < x1. Default: the whole image.
            size: Height and width of the picture. Default: the region's. A larger one is drawn as sharp as the
                Gaussians are; for a smaller one they are blurred by its pixels.
            level: Instead: the whole image at this level of training, exactly as the model renders it.
            draw: Rasterizer. Default: the best for the CPU.

        Returns:
            (height, width, 3), not clamped to [0, 1].

        Raises:
            ValueError: A region outside of the image, an empty picture, or a level with a region or size.
            CodecError: A block that is needed is damaged.
        """
        draw = draw or rasterizer("auto")
        whole = (0, 0, self.config.width, self.config.height)
        if level is not None:
            if region is not None or size is not None or not 0 <= level < self.config.levels:
                raise ValueError(f"level {level}: want 0 to {self.config.levels - 1}, without region or size")
            with torch.autocast("cpu", enabled=False):
                return self.model.render(self.attributes, level, draw)
        region = region or whole
        size = size or (region[3] - region[1], region[2] - region[0])
        self._check_view(region, size)
        near = _margin(region, size)
        needed = [i for i, block in enumerate(self.blocks) if region == whole or blocks.meets(block.box, near)]
        seeds, attributes = self._gather(needed)
        with torch.autocast("cpu", enabled=False):
            gaussians = self.model.gaussians_of(attributes, self.model.positions[seeds], self.model.unit[seeds])
        return draw(*view.seen(gaussians, region, size), *size)

    def _gather(self, numbers: Sequence[int]) -> tuple[Tensor, Attributes]:
        """Seeds of some blocks in the order of their numbers, and their attributes."""
        none = Attributes(*(torch.zeros(0, width, dtype=torch.float32) for width in self.config.widths.values()))
        seeds = np.concatenate([np.zeros(0, dtype=np.int64), *(self.members[number] for number in numbers)])
        parts = [none, *(self._block(number) for number in numbers)]
        order = np.argsort(seeds)
        attributes = Attributes(*(torch.cat(kind)[order] for kind in zip(*parts, strict=True)))
        return torch.from_numpy(seeds[order]), attributes

    def _check_view(self, region: Box, size: tuple[int, int]) -> None:
        x0, y0, x1, y1 = region
        if not (0 <= x0 < x1 <= self.config.width and 0 <= y0 < y1 <= self.config.height):
            raise ValueError(
                f"region {region}: want 0 <= x0 < x1 <= {self.config.width} and 0 <= y0 < y1 <= {self.config.height}"
            )
        if min(size) < 1:
            raise ValueError(f"a picture of {size[0]} x {size[1]} pixels; want at least 1 x 1")

    def _block(self, number: int) -> Attributes:
        """Attributes of one block's seeds."""
        if number not in self._attributes:
            self._attributes[number] = self._decode(number)
        return self._attributes[number]

    def _decode(self, number: int) -> Attributes:
        start, end = self._starts[number], self._starts[number + 1]
        where = f"block {number}, bytes {self._first_byte + start} to {self._first_byte + end}"
        stream = bytes(self._streams[start:end])
        if zlib.crc32(stream) != self.blocks[number].checksum:
            raise CodecError(f"{where}: damaged, the checksum differs")
        stats = self.model.context.coding_stats(self.members[number])
        reader = SymbolReader(stream, where)
        symbols = {}
        for kind in KINDS:
            mean, scale, _ = stats[kind]
            symbols[kind] = reader.gaussian(self._supports[kind], mean.ravel(), scale.ravel()).reshape(mean.shape)
        if blocks.checksum_of(np.concatenate([symbols[kind].ravel() for kind in KINDS])) != self.blocks[number].numbers:
            raise CodecError(f"{where}: decodes to other numbers than were written; another version of constriction?")
        return Attributes(*(quantise.values(symbols[kind], stats[kind]) for kind in KINDS))


def _model(settings: FileSettings, parts: container.Container) -> StructuredImage:
    def bits(count: int) -> Tensor:
        return torch.from_numpy(SymbolReader(parts.sections["hash grid"], "hash grid").bits(count, settings.ones))

    model = assemble(settings.image, parts.sections["networks"], bits)
    if checksum_of_positions(model) != settings.positions:
        raise CodecError("seeds: drawn elsewhere than the writer's; numpy's random numbers or the settings differ")
    return model


def _margin(region: Box, size: tuple[int, int]) -> Box:
    """The region and what the pixels of a smaller picture blur into it."""
    x0, y0, x1, y1 = region
    wide, high = (x1 - x0) // size[1], (y1 - y0) // size[0]
    return x0 - wide, y0 - high, x1 + wide, y1 + high
