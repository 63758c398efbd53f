"""What runs in a race: each fits an image at a wanted size and number of steps, writes a file and decodes it again."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recipes.gaussian_image.baselines import file, half_file
from recipes.gaussian_image.baselines.fitting import FitSettings, GaussianImageFit, LigFit, fit
from recipes.gaussian_image.baselines.gaussian_image import GaussianImage, GaussianImageConfig
from recipes.gaussian_image.baselines.lig import Lig
from recipes.gaussian_image.codec.decoder import decode as decode_sgi
from recipes.gaussian_image.codec.encoder import encode as encode_sgi
from recipes.gaussian_image.module import SgiModule
from recipes.gaussian_image.rasterizers import rasterizer
from recipes.gaussian_image.seeds import density_of

DENSITY_POWER = 1.2
"""How much closer the baselines' Gaussians lie at the start where the image changes; tuned like SGI's seeds."""
SGI_FIXED_BYTES = 2300
"""About what networks, hash grid and headers take at `SgiModule`'s defaults."""
SGI_BYTES_PER_GAUSSIAN = 3.2
"""About, at `SgiModule`'s defaults."""
FIXED_BYTES = 700
"""About what codebooks, tables and headers of a quantised GaussianImage take."""
BYTES_PER_GAUSSIAN = 4.7
"""About, of a quantised GaussianImage."""


@dataclass(frozen=True)
class Task:
    """What to fit.

    Attributes:
        image: (H, W, 3) in [0, 1].
        bpp: About how many bits a pixel the file may have; its real length is measured.
        steps: Of the fit.
        seed: Of first positions and noise.
        options: Of this contestant, such as arguments of `SgiModule`.
    """

    image: Tensor
    bpp: float
    steps: int
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]

    def count(self, fixed: float, each: float) -> int:
        """How many parts of `each` bytes fit beside the `fixed` ones; at least 8.

        Example:
            >>> Task(torch.zeros(64, 64, 3), bpp=2.0, steps=1).count(fixed=24, each=10)
            100
        """
        return max(8, int((self.bpp * self.size[0] * self.size[1] / 8 - fixed) / each))


@dataclass(frozen=True)
class Entry:
    """What a contestant made.

    Attributes:
        data: The file.
        picture: What was decoded from it, (H, W, 3), not clamped.
        gaussians: How many are drawn.
        fit_seconds: CPU time of the process.
        encode_seconds: Likewise.
        decode_seconds: From the file to the picture.
    """

    data: bytes
    picture: Tensor
    gaussians: int
    fit_seconds: float
    encode_seconds: float
    decode_seconds: float


Contestant = Callable[[Task], Entry]


def sgi(task: Task) -> Entry:
    """Structured Gaussians; as many seeds as the size allows."""
    k = task.options.get("k", 5)
    seeds = task.count(SGI_FIXED_BYTES, SGI_BYTES_PER_GAUSSIAN * k)
    module = SgiModule(task.image, seed=task.seed, **{"num_seeds": seeds, **task.options})
    model = module.structured
    return _entry(
        lambda: fit(module, task.image, task.steps),
        lambda: encode_sgi(model),
        lambda coded: decode_sgi(coded).render(),
        len(model.positions) * model.config.k,
    )


def gaussian_image(task: Task, published: bool = False) -> Entry:
    """GaussianImage with its quantised file.

    Args:
        task: Its options are those of `FitSettings` and of `GaussianImageConfig`.
        published: 16-bit positions and two codebooks of 8 colours, as the authors; else what tuning found.
    """
    count = task.count(FIXED_BYTES, BYTES_PER_GAUSSIAN + (0.7 if published else 0.0))
    config = GaussianImageConfig.sized(*task.size, count)
    if published:
        config = GaussianImageConfig(*task.size, count, xy_bits=16, entries=8)
    model = GaussianImage(config, density_of(task.image, DENSITY_POWER), task.seed)
    module = GaussianImageFit(model, FitSettings(task.steps, **task.options))
    return _entry(
        lambda: fit(module, task.image, task.steps),
        lambda: file.encode(model),
        lambda coded: file.decode(coded).render(module.draw),
        count,
    )


def gaussian_image_half(task: Task) -> Entry:
    """GaussianImage without quantisation, 16 bytes a Gaussian."""
    count = task.count(0, half_file.BYTES)
    model = GaussianImage(
        GaussianImageConfig.sized(*task.size, count), density_of(task.image, DENSITY_POWER), task.seed
    )
    module = GaussianImageFit(model, FitSettings(task.steps, **{"quantise_from": 1.0, **task.options}))
    return _half(task, module, count)


def lig(task: Task) -> Entry:
    """LIG at two levels, 16 bytes a Gaussian."""
    count = task.count(0, half_file.BYTES)
    model = Lig(task.size, count, density=density_of(task.image, DENSITY_POWER), seed=task.seed)
    return _half(task, LigFit(model, FitSettings(task.steps, **task.options)), count)


CONTESTANTS: Mapping[str, Contestant] = {
    "SGI": sgi,
    "GaussianImage": gaussian_image,
    "GaussianImage, published bits": partial(gaussian_image, published=True),
    "GaussianImage fp16": gaussian_image_half,
    "LIG fp16": lig,
}


def _half(task: Task, module: GaussianImageFit | LigFit, count: int) -> Entry:
    return _entry(
        lambda: fit(module, task.image, task.steps),
        lambda: half_file.encode(module.model),
        lambda coded: half_file.decode(coded).render(module.draw),
        count,
    )


def _entry(
    train: Callable[[], None], encode: Callable[[], bytes], decode: Callable[[bytes], Tensor], count: int
) -> Entry:
    _warm_up()
    begin = time.process_time()
    train()
    fitted = time.process_time()
    data = encode()
    encoded = time.process_time()
    with torch.no_grad():
        picture = decode(data)
    return Entry(data, picture, count, fitted - begin, encoded - fitted, time.process_time() - encoded)


def _warm_up() -> None:
    """Compile or load the rasterizer's kernels, so that no contestant pays for it."""
    one = torch.ones(1, 3, requires_grad=True)
    rasterizer("auto")(torch.ones(1, 2), torch.tensor([[1.0, 0.0, 1.0]]), one, 2, 2).sum().backward()


@contextmanager
def alone() -> Iterator[None]:
    """One thread, so that CPU times compare and races can run side by side; no banners of the many Trainers."""
    threads, disabled = torch.get_num_threads(), logging.root.manager.disable
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*")
            yield
    finally:
        logging.disable(disabled)
        torch.set_num_threads(threads)
