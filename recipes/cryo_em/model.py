"""CryoFormer: from a particle image to latents, from latents to a map (arXiv 2303.16254)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from recipes.cryo_em.backprojection import BackProjection
from recipes.cryo_em.deformation import AttentionHead, DeformationDecoder, PerceptronDecoder, PerceptronHead, Values
from recipes.cryo_em.encoders import Encoder, ImageEncoder
from recipes.cryo_em.poses import PoseMode, poses_of
from recipes.cryo_em.smoothing import Smoothing
from recipes.cryo_em.support import check, positions_of, sphere
from recipes.cryo_em.volumes import FeatureTable, HashVolume

Sees = Literal["residual", "image"]

QUIET = 0.1
"""Of the usual first weights of the last layer, beside biases of variance 1: latents are all but one at first, and vary
later as they must to be told apart in their noise. Otherwise noise of images fills most of their variance for long."""
FOLLOW = 0.02
"""Share of a batch's mean latent in the reference."""


class CryoFormer(nn.Module):
    """An encoder, a deformation decoder, a feature volume and a base map.

    Densities live on the voxels of a support, at first the largest sphere; maps are zero elsewhere.

    Args:
        size: Box size D, even.
        pixel_size: In Angstrom.
        queries: N, structure queries. Not published.
        channels: C. Not published.
        hidden: H, width of the last layer before density.
        blocks: Of the decoder.
        heads: Of its attentions; divides C.
        decoder: ``transformer``, or the ablation ``mlp``, which has no attention anywhere.
        values: What cross-attention mixes, see `DeformationBlock`.
        volume: Feature volume: ``table``, one row a voxel of the support, or ``hash``, a multi-resolution hash grid.
        pose: ``given``; ``refine``: a correction for each particle; ``encoder``: from the image.
        sees: What the image encoder sees: the ``residual`` of an image brought back into the molecule's frame, see
            `BackProjection`, which takes its pose; or the ``image`` alone, as the paper has it.
        encoder_width: Of the hidden layers of the image encoders.
        encoder_depth: How many hidden layers.
        pose_errors: By how many degrees and pixels given poses are thought to be off; only for ``pose="refine"``.
        smooth: Standard deviation in voxels of a blur of what latents add to the base; 0: none.
        particles: How many there are; only ``pose="refine"`` needs it.

    Attributes:
        support: bool (D, D, D).
        base: (D, D, D), the map of the mean latent.
        reference: (1, N, C), the mean latent: a running mean over batches of training.

    Raises:
        ValueError: Options out of range or unknown.

    Example:
        >>> model = CryoFormer(8, 3.0, encoder_depth=2)
        >>> images, rotations = torch.randn(5, 8, 8), torch.eye(3).expand(5, 3, 3)
        >>> latents = model.encode({"image": images, "rotation": rotations, "shift": torch.zeros(5, 2)})
        >>> latents.shape, model.volumes(latents).shape
        (torch.Size([5, 4, 16]), torch.Size([5, 8, 8, 8]))
    """

    support: Tensor
    positions: Tensor
    reference: Tensor

    def __init__(
        self,
        size: int,
        pixel_size: float,
        *,
        queries: int = 4,
        channels: int = 16,
        hidden: int = 16,
        blocks: int = 3,
        heads: int = 4,
        decoder: Literal["transformer", "mlp"] = "transformer",
        values: Values = "features",
        volume: Literal["table", "hash"] = "table",
        pose: PoseMode = "given",
        sees: Sees = "residual",
        encoder_width: int = 128,
        encoder_depth: int = 10,
        pose_errors: tuple[float, float] = (2.0, 1.0),
        smooth: float = 0.7,
        particles: int = 0,
    ) -> None:
        super().__init__()
        if decoder not in ("transformer", "mlp"):
            raise ValueError(f"decoder={decoder!r}: want 'transformer' or 'mlp'")
        if volume not in ("table", "hash"):
            raise ValueError(f"volume={volume!r}: want 'table' or 'hash'")
        if sees not in ("residual", "image"):
            raise ValueError(f"sees={sees!r}: want 'residual' or 'image'")
        self.size, self.pixel_size, self.queries, self.channels = size, pixel_size, queries, channels
        support = sphere(size)
        self.register_buffer("support", support)
        self.register_buffer("positions", positions_of(support), persistent=False)
        self.encoder: Encoder
        self.backprojection = None
        if sees == "image":
            self.encoder = ImageEncoder(size, queries * channels, encoder_width, encoder_depth)
        else:
            self.backprojection = BackProjection(size)
            inputs = len(self.backprojection.nodes)
            self.encoder = Encoder(inputs, queries * channels, encoder_width, encoder_depth)
            with torch.no_grad():
                self.encoder.last.weight.mul_(QUIET)
                self.encoder.last.bias.normal_()
        self.poses = poses_of(pose, size, particles, encoder_width, encoder_depth, pose_errors)
        self.decoder: nn.Module
        self.head: AttentionHead | PerceptronHead
        if decoder == "transformer":
            self.decoder = DeformationDecoder(queries, channels, blocks, heads, values)
            self.head = AttentionHead(channels, hidden)
        else:
            self.decoder = PerceptronDecoder(queries, channels, blocks)
            self.head = PerceptronHead(queries, channels, hidden)
        self.volume: FeatureTable | HashVolume = (
            FeatureTable(len(self.positions), queries, channels)
            if volume == "table"
            else HashVolume(size, queries, channels)
        )
        self.smoothing = Smoothing(smooth)
        self.register_buffer("reference", torch.zeros(1, queries, channels))
        self.base = nn.Parameter(torch.zeros(size, size, size))
        self._place(support)

    @property
    def attends(self) -> bool:
        """Whether there are attention maps: not with ``decoder="mlp"``."""
        return isinstance(self.head, AttentionHead)

    def set_support(self, mask: Tensor) -> None:
        """Reconstruct density in other voxels; features of those that stay are kept.

        Args:
            mask: (D, D, D); voxels outside the largest sphere are left out.

        Raises:
            ValueError: A mask of another shape, or empty.
        """
        self._place(check(mask.to(self.support.device), self.size))

    def _place(self, mask: Tensor) -> None:
        rows = torch.full(mask.shape, -1, device=mask.device)
        rows[self.support] = torch.arange(int(self.support.sum()), device=mask.device)
        self.support = mask
        self.positions = positions_of(mask)
        self.volume.place(self.positions, rows[mask])
        self.smoothing.place(mask)
        if self.backprojection is not None:
            self.backprojection.place(mask)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        mask = state_dict.get(f"{prefix}support")
        if mask is not None and mask.shape == self.support.shape and not torch.equal(mask, self.support):
            self._place(mask.to(self.support.device))  # the table must have as many rows as the one that is loaded
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Deformation features F_D, the latents, (b, N, C); each row has variance 1.

        Args:
            batch: As of `batches.batch_of`: standardised images, and, but with ``sees="image"``, their poses and CTFs.
        """
        return self.latents(self.see(batch))

    @torch.no_grad()  # the base map learns from images, not from what helps the encoder
    def see(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the encoder sees of a batch of `batches.batch_of`, (b, ...)."""
        if self.backprojection is None:
            return batch["image"]
        return self.backprojection(batch, self.base[self.support], self.positions)  # type: ignore[no-any-return]

    def latents(self, seen: Tensor) -> Tensor:
        """Latents (b, N, C) from what `see` gave."""
        return layer_norm(self.encoder(seen).view(len(seen), self.queries, self.channels), (self.channels,))

    @torch.no_grad()
    def follow(self, latents: Tensor) -> None:
        """Let the reference follow the mean of a training batch of latents (b, N, C)."""
        self.reference.lerp_(latents.detach().mean(0, keepdim=True), FOLLOW)

    def deformations(self, latents: Tensor) -> Tensor:
        """What each latent (b, N, C) adds to the base, (b, M), on the support's voxels: nothing at the reference.

        Without that zero point whatever the decoder adds to all images alike, noise of its features above all, makes
        the mean map worse than the consensus was.
        """
        added = self.head(self.decoder(torch.cat([latents, self.reference])), self.volume())
        return self.smoothing(added[:-1] - added[-1:])  # type: ignore[no-any-return]

    def densities(self, latents: Tensor) -> Tensor:
        """Densities (b, M) of latents (b, N, C) on the support's voxels, in the order of ``support.nonzero()``."""
        return self.base[self.support] + self.deformations(latents)

    def volumes(self, latents: Tensor) -> Tensor:
        """Maps (b, D, D, D) of latents (b, N, C); zero off the support."""
        return self._on_grid(self.densities(latents))

    def attention_maps(self, latents: Tensor) -> Tensor:
        """How much the queries attend to each of the N spatial features, (b, N, D, D, D); zero off the support.

        A point has N x N weights A(x); of each column, one spatial feature, this is the mean over the queries, so that
        the N maps of a latent sum to 1 on the support.

        Args:
            latents: (b, N, C).

        Raises:
            ValueError: The model has no attention.
        """
        if not isinstance(self.head, AttentionHead):
            raise ValueError("decoder='mlp' has no attention maps; they need decoder='transformer'")
        weights = self.head.attention(self.decoder(latents), self.volume()).mean(1)  # (b, N, M)
        return self._on_grid(weights)

    def _on_grid(self, values: Tensor) -> Tensor:
        grid = values.new_zeros(*values.shape[:-1], *self.support.shape)
        grid[..., self.support] = values
        return grid
