"""One data module for every source of brain volumes: simulated, NIfTI files, or the phantom of the tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import torch
from rich import get_console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from recipes.brain_mri import synthetic
from recipes.brain_mri.anatomy import mni152
from recipes.brain_mri.cache import cached
from recipes.brain_mri.nifti import NiftiFolder
from recipes.brain_mri.phantom import phantom
from recipes.brain_mri.volume import Volume

Source = Literal["synthetic", "nifti", "phantom"]
ContrastName = Literal["t1", "t2", "flair"]
Lesions = Literal["tumour", "ms"]
Batch = dict[str, Tensor]

# Training subjects are numbered upwards without end; the others lie below, so that no size of one split moves another.
_FIRST_SUBJECT = {"lesion_test": 0, "lesion_val": 10_000, "healthy_val": 20_000, "train": 30_000}


@dataclass(frozen=True)
class Counts:
    """How many subjects each split has.

    Attributes:
        train: Healthy; of files, at most so many, and all if None.
        healthy_val: Healthy, for label-free thresholds and validation losses.
        lesion_val: With lesions, for the threshold of best Dice.
        lesion_test: With lesions; of files, at most so many, and all if None.
    """

    train: int | None = 20
    healthy_val: int = 4
    lesion_val: int = 4
    lesion_test: int | None = 10

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            if count is not None and count < (1 if name == "train" else 0):
                raise ValueError(f"counts.{name} is {count}; want at least {1 if name == 'train' else 0}")


@dataclass(frozen=True)
class Files:
    """Where scans lie.

    Attributes:
        images: Folder, csv table or one file; see :func:`~recipes.brain_mri.layouts.find_scans`.
        masks: Folder of brain masks, if they lie apart.
        segs: Folder of lesions, if they lie apart.
    """

    images: str | None = None
    masks: str | None = None
    segs: str | None = None


_DEFAULT_COUNTS, _NO_FILES = Counts(), Files()


class SliceDataset(Dataset[Batch]):
    """The axial slices of volumes that show some brain.

    Args:
        volumes: (H, W, D) each, of one H and W.

    Raises:
        ValueError: No slice shows any brain.
    """

    def __init__(self, volumes: Iterable[Volume]) -> None:
        kept = [(volume, volume.mask.any((0, 1))) for volume in volumes]
        stacks = [np.moveaxis(volume.image[:, :, shown], 2, 0) for volume, shown in kept]
        if not any(map(len, stacks)):
            raise ValueError("no slice shows any healthy brain")
        self.image = torch.from_numpy(np.concatenate(stacks)).unsqueeze(1)
        masks = [np.moveaxis(volume.mask[:, :, shown], 2, 0) for volume, shown in kept]
        self.mask = torch.from_numpy(np.concatenate(masks)).unsqueeze(1)

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Batch:
        return {"image": self.image[index], "mask": self.mask[index]}

    def __getitems__(self, indices: list[int]) -> Batch:
        return {"image": self.image[indices], "mask": self.mask[indices]}


class VolumeDataset(Dataset[Batch]):
    """Whole volumes as batches of their slices, with the volume's number."""

    def __init__(self, volumes: Sequence[Volume]) -> None:
        self.volumes = volumes

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> Batch:
        volume = self.volumes[index]
        image, mask = (
            torch.from_numpy(np.ascontiguousarray(np.moveaxis(each, 2, 0))).unsqueeze(1)
            for each in (volume.image, volume.mask)
        )
        return {"image": image, "mask": mask, "index": torch.tensor(index)}


class EpochSampler(Sampler[int]):
    """Slices in an order that is a pure function of seed and epoch: a resumed run goes on as it would have.

    Lightning says which epoch it is; without a trainer every pass is the next one.

    Args:
        population: Number of slices there are.
        draws: Number of slices an epoch; every slice comes once before any comes twice. None for all of them.
        seed: Of the order.
    """

    def __init__(self, population: int, draws: int | None, seed: int) -> None:
        self.population, self.draws, self.seed = population, draws or population, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[int]:
        rounds = -(-self.draws // self.population)
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        order = np.concatenate([rng.permutation(self.population) for _ in range(rounds)])
        return iter(order[: self.draws].tolist())


class BrainData(L.LightningDataModule):
    """Healthy volumes to learn from, and volumes with lesions to find.

    Splits are by subject. Simulated volumes, and files once they are preprocessed, are kept in `cache`.

    Args:
        source: ``synthetic``: MNI152 anatomy, each subject's own shape, simulated lesions. ``nifti``: files.
    XX
        contrast: Of all volumes.
        lesions: What to simulate; of files, what their lesions are called.
        size: H and W of the slices, over 192 mm.
        counts: Subjects of each split.
        seed: Of the simulation, of how files are split, and of the order of training slices.
        noise: Standard deviation of simulated noise, in units of the brightest tissue.
        batch_size: Slices a training batch.
        slices_per_epoch: Training slices an epoch; None for all of them.
        cache: Folder of the cache; None for none.
        healthy: Files of healthy people, for ``nifti``. Where they come with lesions (healthy slices of patients),
            slices with a lesion are left out of training.
        diseased: Files of patients with their lesions, for ``nifti``.
        predict: Files to write maps for, with any source; without them, the test volumes.
        smooth: Curvature flow on files before everything else.

    Attributes:
        train: Healthy volumes, as are ``healthy_val``.
        lesion_val: Volumes with lesions, as are ``lesion_test``.
        predict_volumes: What to write maps for.

    Raises:
        ValueError: A number out of range, or, as soon as a split is asked for, files that are missing or wrong.
    """

    def __init__(
        self,
        source: Source = "synthetic",
        contrast: ContrastName = "flair",
        lesions: Lesions = "tumour",
        size: int = 96,
        counts: Counts = _DEFAULT_COUNTS,
        seed: int = 0,
        noise: float = 0.02,
        batch_size: int = 32,
        slices_per_epoch: int | None = None,
        cache: str | None = "runs/brain_mri_cache",
        healthy: Files = _NO_FILES,
        diseased: Files = _NO_FILES,
        predict: Files = _NO_FILES,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("source", source, get_args(Source)),
            ("contrast", contrast, get_args(ContrastName)),
            ("lesions", lesions, get_args(Lesions)),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; known are {', '.join(known)}")
        for name, number in (("size", size - 15), ("batch_size", batch_size), ("slices_per_epoch", slices_per_epoch)):
            if number is not None and number < 1:
                raise ValueError(f"{name} is too small: want at least {16 if name == 'size' else 1}")
        if source != "nifti" and None in (counts.train, counts.lesion_test):
            raise ValueError(
                f"source {source} has no end of subjects: give counts.train and counts.lesion_test a number"
            )
        self.source, self.contrast, self.lesions, self.size = source, contrast, lesions, size
        self.counts, self.seed, self.noise = counts, seed, noise
        self.batch_size, self.slices_per_epoch, self.cache = batch_size, slices_per_epoch, cache
        self.healthy, self.diseased, self.predict, self.smooth = healthy, diseased, predict, smooth

    def prepare_data(self) -> None:
        """Nothing to download. Volumes are made when a split is first asked for."""

    def setup(self, stage: str) -> None:
        """Make the volumes that a stage needs, with a progress bar; those of the cache are only read."""
        needs = {
            "fit": ("train", "healthy_val"),
            "validate": ("healthy_val", "lesion_val"),
            "test": ("lesion_test",),
            "predict": ("predict_volumes",),
        }
        for name in needs.get(stage, ()):
            getattr(self, name)

    @cached_property
    def train(self) -> list[Volume]:
        """Healthy volumes to learn from; in slices with a lesion the mask is empty."""
        volumes = self._split("train")
        if self.source != "nifti":
            return volumes
        found = [volume for volume in map(without_lesion_slices, volumes) if volume.mask.any()]
        if not found:
            raise ValueError(f"{self.healthy.images}: every slice of every training scan has a lesion")
        return found

    @cached_property
    def healthy_val(self) -> list[Volume]:
        """Healthy volumes that training does not see."""
        return [without_lesion_slices(volume) for volume in self._split("healthy_val")]

    @cached_property
    def lesion_val(self) -> list[Volume]:
        """Volumes with lesions, for thresholds."""
        return self._split("lesion_val")

    @cached_property
    def lesion_test(self) -> list[Volume]:
        """Volumes with lesions, for scores."""
        return self._split("lesion_test")

    @cached_property
    def predict_volumes(self) -> list[Volume]:
        """Volumes to write maps for."""
        if self.predict.images is None:
            return self.lesion_test
        return _all(self._folder(self.predict, None), "predict")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches {"image": (B, 1, H, W), "mask": bool} of training slices, in a new order every epoch."""
        slices = SliceDataset(self.train)
        sampler = EpochSampler(len(slices), self.slices_per_epoch, self.seed)
        return DataLoader(slices, self.batch_size, sampler=sampler, collate_fn=_already_a_batch)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the slices of healthy validation volumes, in order."""
        return DataLoader(SliceDataset(self.healthy_val), self.batch_size, collate_fn=_already_a_batch)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Whole test volumes, {"image": (D, 1, H, W), "mask": bool, "index": number of the volume}."""
        return DataLoader(VolumeDataset(self.lesion_test), batch_size=None)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Whole volumes of `predict_volumes`, as those of the test."""
        return DataLoader(VolumeDataset(self.predict_volumes), batch_size=None)

    def _split(self, name: str) -> list[Volume]:
        lesion = self.lesions if name.startswith("lesion") else None
        if self.source == "nifti":
            return self._files(name, lesion)
        numbers = [_FIRST_SUBJECT[name] + i for i in range(getattr(self.counts, name))]
        return [self._simulated(number, lesion) for number in _track(numbers, f"{name} volumes")]

    def _simulated(self, subject: int, lesion: str | None) -> Volume:
        about: dict[str, Any] = {"size": self.size, "contrast": self.contrast, "noise": self.noise}
        name = f"{self.source}-{self.contrast}-{lesion or 'healthy'}-{self.size}-{self.seed}-{subject}"
        if self.source == "phantom":
            return replace(phantom(self.seed * 1_000_003 + subject, lesion=lesion, **about), name=name)
        key = {**about, "generator": synthetic.VERSION, "subject": subject, "seed": self.seed, "lesion": lesion}
        return cached(self.cache, name, key, lambda: self._brains.volume(subject, lesion))

    @cached_property
    def _brains(self) -> synthetic.SyntheticBrains:
        return synthetic.SyntheticBrains(mni152(), self.size, self.contrast, self.noise, self.seed)

    def _files(self, name: str, lesion: str | None) -> list[Volume]:
        option, files = ("diseased", self.diseased) if lesion else ("healthy", self.healthy)
        if files.images is None:
            raise ValueError(f"source nifti needs {option}.images, the folder or table of the {option}, for {name}")
        folder = self._folder(files, lesion)
        rest, held = ("lesion_test", "lesion_val") if lesion else ("train", "healthy_val")
        order = np.random.default_rng(self.seed).permutation(len(folder)).tolist()
        kept, most = getattr(self.counts, held), getattr(self.counts, rest)
        if len(order) <= kept:
            raise ValueError(f"{files.images}: {len(order)} scans, but {held} alone takes {kept}; lower counts.{held}")
        chosen = order[:kept] if name == held else order[kept:][:most]
        volumes = _all(folder, name, chosen)
        unmarked = [volume.name for volume in volumes if lesion and volume.seg is None]
        if unmarked:
            raise ValueError(f"{files.images}: no lesions marked for {', '.join(unmarked[:5])}; give diseased.segs")
        return volumes

    def _folder(self, files: Files, lesion: str | None) -> NiftiFolder:
        assert files.images is not None
        return NiftiFolder(
            files.images, files.masks, files.segs, self.contrast, self.size, lesion, self.smooth, self.cache
        )


def without_lesion_slices(volume: Volume) -> Volume:
    """The volume with no brain in its mask wherever a slice has a lesion."""
    if volume.seg is None or not volume.seg.any():
        return volume
    return replace(volume, mask=volume.mask & ~volume.seg.any((0, 1)))


def _all(folder: NiftiFolder, what: str, indices: Sequence[int] | None = None) -> list[Volume]:
    chosen = range(len(folder)) if indices is None else indices
    return [folder[index] for index in _track(chosen, f"{what} volumes")]


def _track(items: Sequence[Any], what: str) -> Iterable[Any]:
    return track(items, what, transient=True, disable=not get_console().is_terminal)


def _already_a_batch(batch: Any) -> Any:
    return batch
