"""One data module for every source: simulated patients, contest files, WFDB records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipes.arrhythmia import contest, simulator, split, wfdb_reader
from recipes.arrhythmia.augment import augment
from recipes.arrhythmia.records import FS, Strip
from recipes.arrhythmia.windows import BALANCING_HOP, Windows, cut

Split = Literal["train", "val", "test"]
Batch = tuple[Tensor, Tensor]

EVALUATION_STRIPS = 12
"""Strips of each simulated validation and test patient."""

# Training patients are numbered upwards without end; the others lie below, so that no size of one split moves another.
_FIRST_PATIENT = {"test": 0, "val": 100_000, "train": 200_000}


class WindowDataset(Dataset[Batch]):
    """Windows as two tensors; a whole batch is one index into each.

    Args:
        windows: The windows; `x` of shape (N, L) becomes (N, 1, L).
    """

    def __init__(self, windows: Windows) -> None:
        self.x = torch.from_numpy(windows.x).unsqueeze(1)
        self.y = torch.from_numpy(windows.y)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Batch:
        return self.x[index], self.y[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.x[indices], self.y[indices]


def in_order(windows: Windows, batch_size: int) -> DataLoader[Batch]:
    """Batches of windows in order; a batch is one slice, never a collation of single windows."""
    return DataLoader(WindowDataset(windows), batch_size, collate_fn=_already_a_batch)


def _already_a_batch(batch: Any) -> Any:
    return batch


class TrainBatches:
    """Training batches, each a pure function of (seed, epoch, rank, batch): a resumed run sees what it would have seen.

    With a trainer the epoch is the trainer's; without one each pass is the next epoch. Ranks take every world-size-th
    window. `state_dict` lets Lightning resume in the middle of an epoch.

    Args:
        data: The data module whose training windows are drawn.
    """

    def __init__(self, data: ECGData) -> None:
        self._data = data
        self._position = {"epoch": 0, "batch": 0}
        self._resume_at = {"epoch": -1, "batch": 0}
        self._passes = 0

    def __len__(self) -> int:
        _, world = self._rank()
        return -(-(self._data.train_size() // world) // self._data.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        trainer = self._data.trainer
        epoch = self._passes if trainer is None else trainer.current_epoch
        self._passes += 1
        rank, world = self._rank()
        source = WindowDataset(self._data.epoch_windows(epoch))
        order = np.random.default_rng([self._data.seed, epoch]).permutation(len(source))
        order = order[rank : len(order) // world * world : world]
        first = self._resume_at["batch"] if self._resume_at["epoch"] == epoch else 0
        for batch in range(first, len(self)):
            chosen = order[batch * self._data.batch_size : (batch + 1) * self._data.batch_size]
            x, y = source.__getitems__(chosen.tolist())
            if self._data.augment:
                key = np.random.SeedSequence([self._data.seed, epoch, rank, batch]).generate_state(1, np.uint64)[0]
                x = augment(x, torch.Generator().manual_seed(int(key >> 1)))
            self._position = {"epoch": epoch, "batch": batch + 1}
            yield x, y

    def _rank(self) -> tuple[int, int]:
        trainer = self._data.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and batches taken from it."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start that epoch behind the batches taken from it; another epoch starts at its first batch."""
        self._resume_at = dict(state)
        self._position = dict(state)


class ECGData(L.LightningDataModule):
    """Windows of single-lead electrograms with labels 1 (ventricular arrhythmia) and 0, split by patient.

    Batches are `(x, y)`: x float32 (B, 1, window), y int64 (B,).

    Args:
        name: `"sim"` simulates patients, and new ones for every training epoch; `"contest"` reads contest files;
            `"wfdb"` reads WFDB records.
        root: Folder of contest files, an npz of `contest.save_strips`, or a folder of WFDB records. Not for `"sim"`.
        batch_size: Windows a batch.
        window: Samples a window at 250 Hz.
        normalise: `"std"` divides each window by its standard deviation, `"none"` leaves millivolt.
        augment: Draw gain, polarity and noise anew for each training window.
        seed: Seed of simulated patients, order of training windows and augmentation. Recorded patients are split the
            same way under every seed.
        fold: Which fold of the recorded patients is the test set, 0 to folds - 1.
        folds: Number of folds; 1 splits by hash alone, so that records added later move no patient.
        train_index: Contest csv `label,Filename` of the training files; with `test_index`, instead of folds.
        test_index: Contest csv of the test files.
        patient_map: csv `record,patient` for WFDB records of one patient.
        hop_va: Training hop of recorded VA strips, samples; with hop_non_va it balances the classes.
        hop_non_va: Training hop of other recorded strips.
        difficulty: How often simulated rhythms have the shape of another one, `"default"` or `"hard"`.
        patients: Simulated training patients an epoch.
        strips: Strips of each of them.
        val_patients: Simulated validation patients.
        test_patients: Simulated test patients.
        fast: Simulate little: 24 training, 8 validation and 12 test patients with 12 strips each.

    Raises:
        ValueError: If the arguments contradict each other or are out of range.

    Example:
        >>> data = ECGData(fast=True)
        >>> data.setup()
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.dtype, len(data.windows("train"))
        (torch.Size([128, 1, 512]), torch.int64, 1728)
    """

    def __init__(
        self,
        name: Literal["sim", "contest", "wfdb"] = "sim",
        root: str | None = None,
        batch_size: int = 128,
        window: int = 512,
        normalise: Literal["std", "none"] = "std",
        augment: bool = True,
        seed: int = 0,
        fold: int = 0,
        folds: int = 5,
        train_index: str | None = None,
        test_index: str | None = None,
        patient_map: str | None = None,
        hop_va: int = BALANCING_HOP["va"],
        hop_non_va: int = BALANCING_HOP["non_va"],
        difficulty: Literal["default", "hard"] = "default",
        patients: int = 500,
        strips: int = 6,
        val_patients: int = 40,
        test_patients: int = 60,
        fast: bool = False,
    ) -> None:
        super().__init__()
        self.source, self.root = name, root
        self.batch_size, self.window, self.normalise, self.augment, self.seed = (
            batch_size,
            window,
            normalise,
            augment,
            seed,
        )
        self.fold, self.folds = fold, folds
        self.train_index, self.test_index, self.patient_map = train_index, test_index, patient_map
        self.hop = {"va": hop_va, "non_va": hop_non_va}
        self.difficulty: simulator.Difficulty = difficulty
        self.strips_each = EVALUATION_STRIPS if fast else strips
        self.simulated = {"train": patients, "val": val_patients, "test": test_patients}
        if fast:
            self.simulated = {"train": 24, "val": 8, "test": 12}
        self._check(fast)
        self._strips: dict[Split, list[Strip]] = {}
        self._windows: dict[Split, Windows] = {}
        self._epoch = -1

    def __str__(self) -> str:
        """Say what the data is; Lightning's own text would draw every training batch."""
        sizes = ", ".join(f"{part} {len(windows)}" for part, windows in self._windows.items())
        return f"ECGData {self.source}: windows of {self.window} samples, {sizes or 'not set up'}"

    def _check(self, fast: bool) -> None:
        positive = {
            "batch_size": self.batch_size,
            "window": self.window,
            "folds": self.folds,
            "strips": self.strips_each,
        }
        positive |= {f"simulated {part} patients": count for part, count in self.simulated.items()}
        for argument, value in positive.items():
            if value < 1:
                raise ValueError(f"{argument} must be >= 1, not {value}")
        if self.source not in ("sim", "contest", "wfdb"):
            raise ValueError(f"name must be sim, contest or wfdb, not {self.source!r}")
        if not 0 <= self.fold < self.folds:
            raise ValueError(f"fold must lie between 0 and {self.folds - 1}, not {self.fold}")
        if (self.train_index is None) != (self.test_index is None):
            raise ValueError("give both train_index and test_index, or neither")
        if self.source == "sim":
            if self.root is not None or self.fold != 0:
                raise ValueError("simulated patients have no root and no folds; change seed for other patients")
            if self.window > round(simulator.STRIP_SECONDS * FS):
                raise ValueError(
                    f"window {self.window} is longer than a simulated strip of {simulator.STRIP_SECONDS} s"
                )
            if max(self.simulated["val"], self.simulated["test"]) > 100_000:
                raise ValueError("at most 100000 simulated validation or test patients")
            return
        if fast:
            raise ValueError(f"fast shrinks simulated data; it does nothing for name={self.source}")
        if self.root is None:
            raise ValueError(f"name={self.source} needs root, the folder or file of the records")
        if self.source != "contest" and self.train_index is not None:
            raise ValueError("train_index and test_index belong to name=contest")
        if self.source != "wfdb" and self.patient_map is not None:
            raise ValueError("patient_map belongs to name=wfdb; contest files name their patient")

    def setup(self, stage: str | None = None) -> None:
        """Read or simulate the strips and split them by patient, once.

        Args:
            stage: Ignored: every stage needs the split.

        Raises:
            ValueError: If a patient is in two splits, training lacks a class, or the records are unreadable.
        """
        if self._strips:
            return
        strips = self._simulated() if self.source == "sim" else self._recorded()
        split.assert_disjoint(*([strip.patient for strip in strips[part]] for part in ("train", "val", "test")))
        classes = set().union(*split.classes_of(strips["train"]).values())
        if classes != {True, False}:
            raise ValueError(
                f"{self.source}: the training patients lack {'non-VA' if True in classes else 'VA'} strips"
            )
        hop = self.window if self.source == "sim" else self.hop
        self._windows = {
            part: cut(strips[part], self.window, hop if part == "train" else self.window, self.normalise)
            for part in strips
        }
        for part, windows in self._windows.items():
            if not len(windows):
                raise ValueError(f"{self.source}: no {part} strip is as long as a window of {self.window} samples")
        self._strips, self._epoch = strips, 0

    def _simulated(self) -> dict[Split, list[Strip]]:
        return {
            "train": self._training_strips(0),
            "val": self._evaluation_strips("val"),
            "test": self._evaluation_strips("test"),
        }

    def _training_strips(self, epoch: int) -> list[Strip]:
        first = _FIRST_PATIENT["train"] + epoch * self.simulated["train"]
        ids = range(first, first + self.simulated["train"])
        return simulator.simulate(self.seed, ids, self.strips_each, self.difficulty)

    def _evaluation_strips(self, part: Literal["val", "test"]) -> list[Strip]:
        ids = range(_FIRST_PATIENT[part], _FIRST_PATIENT[part] + self.simulated[part])
        return simulator.simulate(self.seed, ids, EVALUATION_STRIPS, self.difficulty)

    def _recorded(self) -> dict[Split, list[Strip]]:
        root = Path(str(self.root))
        if not root.exists():
            raise ValueError(f"{root} does not exist; root must be the folder or file of the records")
        if self.train_index is not None and self.test_index is not None:
            pool, test = contest.read_folder(root, self.train_index), contest.read_folder(root, self.test_index)
            train_patients, val_patients = split.hold_out(split.classes_of(pool), self.source)
            test_patients = sorted({strip.patient for strip in test})
            # Before strips are sorted into splits by patient, which would hide a patient of both files.
            split.assert_disjoint(train_patients, val_patients, test_patients)
            strips = pool + test
        else:
            if self.source == "wfdb":
                strips = wfdb_reader.read_folder(root, self.patient_map)
            else:
                strips = contest.load_strips(root) if root.is_file() else contest.read_folder(root)
            classes = split.classes_of(strips)
            dataset = root.name if self.source == "wfdb" else self.source
            if self.folds == 1:
                train_patients, val_patients, test_patients = split.hash_split(classes, dataset)
            else:
                test_patients = split.k_folds(classes, self.folds, dataset)[self.fold]
                rest = {patient: classes[patient] for patient in classes.keys() - set(test_patients)}
                train_patients, val_patients = split.hold_out(rest, dataset)
        parts: dict[Split, list[str]] = {"train": train_patients, "val": val_patients, "test": test_patients}
        return {part: [s for s in strips if s.patient in set(members)] for part, members in parts.items()}

    def epoch_windows(self, epoch: int) -> Windows:
        """Training windows of one epoch: new patients if simulated, the same windows every time if recorded."""
        self.setup()
        if self.source == "sim" and epoch != self._epoch:
            self._windows["train"] = cut(self._training_strips(epoch), self.window, self.window, self.normalise)
            self._epoch = epoch
        return self._windows["train"]

    def train_size(self) -> int:
        """Training windows an epoch; the same in every epoch."""
        self.setup()
        return len(self._windows["train"])

    def windows(self, part: Split) -> Windows:
        """Windows of one split, not augmented; of simulated training patients those of epoch 0."""
        if part == "train":
            return self.epoch_windows(0)
        self.setup()
        return self._windows[part]

    def strips(self, part: Split) -> list[Strip]:
        """Strips of one split; of simulated training patients those of epoch 0."""
        self.setup()
        return self._strips[part]

    def train_dataloader(self) -> TrainBatches:
        """Shuffled, augmented batches; any iterable with a length suits the trainer."""
        return TrainBatches(self)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation batches in order, not augmented."""
        return in_order(self.windows("val"), self.batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test batches in order, not augmented."""
        return in_order(self.windows("test"), self.batch_size)
