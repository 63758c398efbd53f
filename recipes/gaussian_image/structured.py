"""The model: seeds that carry features, from which two small networks make 2-D Gaussians (SGI, arXiv 2603.07789)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.gaussian_image import quantise
from recipes.gaussian_image.context import KINDS, CodingStats, Context
from recipes.gaussian_image.hash_grid import HashConfig
from recipes.gaussian_image.rasterizers import Rasterizer
from recipes.gaussian_image.seeds import even_seeds, grid_seeds

LEAST_SIGMA = 0.15
"""Standard deviation of a Gaussian at least, in pixels of the level: narrower ones fall between pixels."""


@dataclass(frozen=True)
class SgiConfig:
    """What a model is made of; the file holds it.

    Attributes:
        height: Of the image, in pixels.
        width: Likewise.
        levels: Sizes that are fitted one after another, each twice as large a side as the one before.
        num_seeds: Seeds.
        k: Gaussians a seed.
        feat_dim: Numbers of a seed's feature.
        hidden: Neurons between the two layers of the colour and of the shape network; 0: each is a single layer.
        context_hidden: Neurons between the layers of the entropy model.
        hash: Size of the entropy model's hash grid.
        position_seed: Of the seeds' positions.
        density: Where seeds lie closer; see `seeds.density_of`. Empty: the same everywhere.
        step_f: Base quantisation step of features.
        step_s: Of scalings, which count in distances between seeds; with authors, in pixels of the coarsest level.
        step_d: Of offsets.
        authors: As the authors' code: seeds on whole pixels of a grid, scalings in pixels, offsets that begin at zero,
            scales of the entropy model that are not kept positive.

    Raises:
        ValueError: Sizes that make no image or no model.
    """

    height: int
    width: int
    levels: int = 3
    num_seeds: int = 600
    k: int = 5
    feat_dim: int = 16
    hidden: int = 0
    context_hidden: int = 4
    hash: HashConfig = field(default_factory=HashConfig)
    position_seed: int = 0
    density: tuple[int, ...] = ()
    step_f: float = 1.0
    step_s: float = 0.2
    step_d: float = 0.5
    authors: bool = False

    def __post_init__(self) -> None:
        if min(self.levels, self.num_seeds, self.k, self.feat_dim, self.context_hidden) < 1 or self.hidden < 0:
            raise ValueError("levels, num_seeds, k, feat_dim and context_hidden must be at least 1, hidden at least 0")
        if min(self.size(self.levels - 1)) < 1:
            raise ValueError(f"an image of {self.height} x {self.width} pixels has no {self.levels} levels")
        if min(self.step_f, self.step_s, self.step_d) <= 0:
            raise ValueError("step_f, step_s and step_d must be positive")

    def size(self, level: int) -> tuple[int, int]:
        """Height and width of a level; 0 is the full size.

        Example:
            >>> SgiConfig(height=255, width=256).size(2)
            (64, 64)
        """
        return round(self.height / 2**level), round(self.width / 2**level)

    @property
    def widths(self) -> dict[str, int]:
        """Numbers that each attribute of a seed holds."""
        return {"f": self.feat_dim, "s": 4, "d": 2 * self.k}

    @property
    def steps(self) -> dict[str, float]:
        """Base quantisation step of each attribute."""
        return {"f": self.step_f, "s": self.step_s, "d": self.step_d}


class Attributes(NamedTuple):
    """What each seed carries.

    Attributes:
        f: (N, feat_dim) feature.
        s: (N, 4) scalings of offsets x and y, then of the Gaussians' two axes.
        d: (N, 2 k) offsets x0, y0, x1, y1, ...
    """

    f: Tensor
    s: Tensor
    d: Tensor


class Gaussians(NamedTuple):
    """Gaussians at one level's size.

    Attributes:
        means: (N k, 2) x and y in pixels.
        conics: (N k, 3) entries 11, 12, 22 of the inverse covariance.
        colors: (N k, 3), may be negative.
    """

    means: Tensor
    conics: Tensor
    colors: Tensor


class StructuredImage(nn.Module):
    """Seeds, the two networks that make Gaussians of them, and the entropy model.

    Positions and scalings are kept in pixels of the coarsest level and multiplied at finer ones. That equals the
    authors' doubling at every change of level, and leaves the optimizer's state untouched.

    Args:
        config: Its parts and sizes.
    """

    positions: Tensor
    unit: Tensor

    def __init__(self, config: SgiConfig) -> None:
        super().__init__()
        self.config = config
        height, width = config.size(config.levels - 1)
        if config.authors:
            xy = grid_seeds(height, width, config.num_seeds, config.position_seed)
            spacing = np.ones(len(xy))
        else:
            xy, spacing = even_seeds(height, width, config.num_seeds, config.density, config.position_seed)
        n = len(xy)
        self.register_buffer("positions", torch.from_numpy(xy).float(), persistent=False)
        self.register_buffer("unit", torch.from_numpy(spacing).float()[:, None], persistent=False)
        self.feature = nn.Parameter(torch.zeros(n, config.feat_dim))
        self.log_scale = nn.Parameter(torch.full((n, 4), math.log(_first_scale(config, n))))
        self.offset = nn.Parameter(
            torch.zeros(n, config.k, 2) if config.authors else torch.rand(n, config.k, 2) * 2 - 1
        )
        self.color_mlp = _mlp(config.feat_dim, config.hidden, 3 * config.k)
        self.shape_mlp = _mlp(config.feat_dim, config.hidden, 3 * config.k)
        if config.authors:
            for name, parameter in self.color_mlp.named_parameters():
                if name.endswith("weight"):
                    nn.init.xavier_uniform_(parameter, gain=0.01)
                else:
                    nn.init.zeros_(parameter)
        u = torch.from_numpy(xy / [width, height]).clamp(0, 1)
        self.context = Context(
            u, config.widths, config.steps, config.context_hidden, config.hash, raw_scale=config.authors
        )

    def attributes(self) -> Attributes:
        """Attributes as they are, not quantised."""
        return Attributes(self.feature, self.log_scale.exp(), self.offset.flatten(1))

    def gaussians(self, attributes: Attributes, level: int = 0) -> Gaussians:
        """Gaussians of all seeds at one level.

        Args:
            attributes: Of every seed.
            level: 0 is the full size; may be negative for enlargements, or a fraction.
        """
        return self.gaussians_of(attributes, self.positions, self.unit, level)

    def gaussians_of(self, attributes: Attributes, positions: Tensor, unit: Tensor, level: float = 0) -> Gaussians:
        """Gaussians of some seeds.

        Args:
            attributes: Of n seeds.
            positions: (n, 2), theirs.
            unit: (n, 1), their unit of length.
            level: As for `gaussians`.
        """
        f, s, d = attributes
        scale = 2.0 ** (self.config.levels - 1 - level)
        s = (s * unit * scale)[:, None]
        means = positions[:, None] * scale + d.view(len(d), self.config.k, 2) * s[..., :2]
        shape = self.shape_mlp(f).view(len(f), self.config.k, 3)
        sigma = (s[..., 2:] * shape[..., :2].sigmoid()).clamp_min(LEAST_SIGMA)
        return Gaussians(
            means.flatten(0, 1), _conics(sigma, shape[..., 2]).flatten(0, 1), self.color_mlp(f).view(-1, 3)
        )

    def render(self, attributes: Attributes, level: int, rasterizer: Rasterizer) -> Tensor:
        """Picture (H, W, 3) of one level; not clamped to [0, 1].

        Args:
            attributes: Of every seed.
            level: 0 is the full size.
            rasterizer: Which sums Gaussians.
        """
        height, width = self.config.size(level)
        return rasterizer(*self.gaussians(attributes, level), height, width)

    def quantised(self) -> Attributes:
        """Attributes as a decoder gets them."""
        stats = self.context.coding_stats()
        parts = [
            quantise.values(quantise.symbols(part, stats[kind]), stats[kind]).to(part)
            for kind, part in zip(KINDS, self.attributes(), strict=True)
        ]
        return Attributes(*parts)

    def symbols(self, stats: dict[str, CodingStats]) -> dict[str, NDArray[np.int64]]:
        """Attributes as the integers that the file holds."""
        return {kind: quantise.symbols(part, stats[kind]) for kind, part in zip(KINDS, self.attributes(), strict=True)}

    @property
    def network_bytes(self) -> int:
        """Size of the three networks in half precision, not compressed."""
        return 2 * sum(parameter.numel() for parameter in self.networks().values())

    def as_stored(self) -> StructuredImage:
        """A copy whose networks are as the file holds them: rounded to half precision."""
        twin = copy.deepcopy(self)
        with torch.no_grad():
            for parameter in twin.networks().values():
                parameter.copy_(parameter.half())
        return twin

    def networks(self) -> dict[str, nn.Parameter]:
        """Weights and biases of the three networks by name, in the order of the file."""
        mlps = {"color_mlp": self.color_mlp, "shape_mlp": self.shape_mlp, "context": self.context.mlp}
        return {f"{name}.{part}": parameter for name, mlp in mlps.items() for part, parameter in mlp.named_parameters()}


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    if hidden == 0:
        return nn.Sequential(nn.Linear(inputs, outputs))
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def _first_scale(config: SgiConfig, seeds: int) -> float:
    """Scalings to begin with: half the distance between seeds; the authors' lies in [1, 1.65] pixels."""
    if not config.authors:
        return 0.5
    height, width = config.size(config.levels - 1)
    return math.exp(min(max(0.5 * math.log(height * width / seeds), 1e-4), 0.5))


def _conics(sigma: Tensor, theta: Tensor) -> Tensor:
    """Inverse covariances (..., 3) of axes sigma (..., 2) turned by theta (...), radians."""
    cos, sin = theta.cos(), theta.sin()
    p, q = sigma.pow(-2).unbind(-1)
    return torch.stack([p * cos**2 + q * sin**2, (p - q) * cos * sin, p * sin**2 + q * cos**2], -1)
