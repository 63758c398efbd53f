"""One job of the ablation: a network trained once, and all its maps on both kinds of lesions."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import torch

from recipes.brain_mri import assess, run
from recipes.brain_mri.datamodule import BrainData, ContrastName, Counts, Lesions, Source
from recipes.brain_mri.fusion_quality import ssim_parts
from recipes.brain_mri.models import Arch
from recipes.brain_mri.module import BrainModule, Examined
from recipes.brain_mri.postprocess import Map
from recipes.brain_mri.residuals import Kind
from recipes.brain_mri.scores import score
from recipes.brain_mri.volume import Volume

Found = dict[str, Any]
Baseline = Mapping[Any, Found]
"""Scores of the image itself as the map, by kind of lesion."""

MAPS: tuple[Kind, ...] = ("l1", "fq")
LESIONS: tuple[Lesions, ...] = get_args(Lesions)
SCORES = ("auprc", "dice", "best_dice", "auroc", "fpr")


@dataclass(frozen=True)
class Settings:
    """What all jobs share.

    Attributes:
        source: ``synthetic``, or ``phantom`` for a try.
        size: Side of the slices.
        train: Healthy subjects to learn from.
        val: Validation volumes, healthy and of each kind of lesion.
        test: Test volumes of each kind of lesion; the acceptance wants at least 10.
        data_seed: Of the subjects. Not 0: the default of `dae` was chosen on test volumes of that one.
        noise: Of the simulated scanner.
        epochs: Of training of networks with skips; each sees every slice with brain once.
        bottleneck_epochs: Of those without, which begin with a black picture instead of their input.
        batch_size: Slices a batch.
        cache: Folder of simulated volumes.
        accelerator: Where networks compute: ``cpu``, ``gpu`` or ``auto``.
    """

    source: Source = "synthetic"
    size: int = 96
    train: int = 20
    val: int = 4
    test: int = 10
    data_seed: int = 1
    noise: float = 0.02
    epochs: int = 5
    bottleneck_epochs: int = 14
    batch_size: int = 8
    cache: str | None = "runs/brain_mri_cache"
    accelerator: str = "cpu"

    def epochs_of(self, arch: Arch) -> int:
        """How long a network is trained."""
        return self.epochs if arch in ("dae", "pddpm", "pddpm-lite") else self.bottleneck_epochs

    def datamodule(self, contrast: ContrastName, lesions: Lesions) -> BrainData:
        """Subjects of one contrast. Healthy ones are the same whatever the lesions."""
        if self.source == "nifti":
            raise ValueError("the ablation needs paired simulated volumes: source must be synthetic or phantom")
        counts = Counts(self.train, self.val, self.val, self.test)
        return BrainData(
            self.source,
            contrast,
            lesions,
            self.size,
            counts,
            seed=self.data_seed,
            noise=self.noise,
            batch_size=self.batch_size,
            cache=self.cache,
        )


@dataclass(frozen=True)
class Job:
    """What to train.

    Attributes:
        contrast: Of all volumes.
        arch: The network.
        air: Whether intensities are inverted inside the brain.
        loss: Of training.
        seed: Of first weights, noise and order.
    """

    contrast: ContrastName
    arch: Arch
    air: Literal["on", "off"]
    loss: Kind
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.contrast}-{self.arch}-air-{self.air}-{self.loss}-seed{self.seed}"

    def found(self, out: Path) -> Found | None:
        """What an earlier run measured."""
        return _read(out / "jobs" / f"{self.name}.json")


def run_job(job: Job, settings: Settings, out: Path) -> Found:
    """Train unless a finished network is on disk, score it, write ``out/jobs/NAME.json``."""
    known = job.found(out)
    if known is not None:
        return known
    with _single_thread(), _silence():
        data = settings.datamodule(job.contrast, "tumour")
        data.setup("fit")
        begin = time.process_time()
        module = BrainModule(arch=job.arch, loss=job.loss, air=job.air, size=settings.size, seed=job.seed)

        def trainer_of(callbacks: list[Any]) -> L.Trainer:
            return L.Trainer(
                accelerator=settings.accelerator,
                devices=1,
                max_epochs=settings.epochs_of(job.arch),
                callbacks=callbacks,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )

        config = {"job": asdict(job), "settings": asdict(settings)}
        folder = out / "jobs" / job.name
        histories = run.fit(module, data, trainer_of, folder, config, None, job.seed)
        trained = time.process_time() - begin
        module = run.load(module, folder / job.loss).to(_device(settings.accelerator))
        healthy = _maps(module, data.healthy_val)
        found: Found = {
            **config,
            "epochs": histories[job.loss],
            "inversion": module.air.state(),
            "train_cpu_seconds": trained,
            "lesions": {
                kind: _scored(module, settings.datamodule(job.contrast, kind), healthy, data.healthy_val)
                for kind in LESIONS
            },
        }
    write_whole(out / "jobs" / f"{job.name}.json", json.dumps(found))
    return found


def intensity_baseline(contrast: ContrastName, settings: Settings, out: Path) -> Baseline:
    """Scores of the image itself as the map, by kind of lesion: what a network must beat."""
    path = out / "jobs" / f"{contrast}-intensity.json"
    found = _read(path)
    if found is None:
        found = {}
        for kind in LESIONS:
            data = settings.datamodule(contrast, kind)
            lesion, healthy, test = map(assess.intensity_maps, (data.lesion_val, data.healthy_val, data.lesion_test))
            thresholds = assess.find_thresholds(lesion, data.lesion_val, healthy, data.healthy_val)
            found[kind] = _row(test, data.lesion_test, thresholds)
        write_whole(path, json.dumps(found))
    return found


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there wholly or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _scored(
    module: BrainModule, data: BrainData, healthy: Mapping[Kind, Sequence[Map]], healthy_val: Sequence[Volume]
) -> Found:
    validation = _maps(module, data.lesion_val)
    test = [module.examine(volume, MAPS) for volume in data.lesion_test]
    rows = {}
    for kind in MAPS:
        thresholds = assess.find_thresholds(validation[kind], data.lesion_val, healthy[kind], healthy_val)
        maps = assess.maps_of(test, kind)
        rows[kind] = _row(maps, data.lesion_test, thresholds) | _levels(maps, data.lesion_test)
    return {
        "volumes": [volume.name for volume in data.lesion_test],
        "maps": rows,
        **assess.intensity_ratio(data.lesion_test, bool(module.air.inverted)),
        **assess.errors(test, data.lesion_test),
        **_parts(module, test, data.lesion_test),
    }


def _row(maps: Sequence[Map], volumes: Sequence[Volume], thresholds: assess.Thresholds) -> Found:
    """Scores of every volume, and the threshold."""
    threshold = assess.chosen(thresholds)
    scores = score(maps, volumes, threshold)
    return {"threshold": asdict(threshold)} | {name: getattr(scores, name).tolist() for name in SCORES}


def _maps(module: BrainModule, volumes: Sequence[Volume]) -> dict[Kind, list[Map]]:
    examined = [module.examine(volume, MAPS) for volume in volumes]
    return {kind: assess.maps_of(examined, kind) for kind in MAPS}


def _levels(maps: Sequence[Map], volumes: Sequence[Volume]) -> dict[str, float]:
    """How high a map is: mean in lesions and in the rest of the brain, and the 99th percentile there."""
    levels = []
    for each, volume in zip(maps, volumes, strict=True):
        seg = np.zeros_like(volume.mask) if volume.seg is None else volume.seg
        normal = each[volume.mask & ~seg]
        levels.append((each[seg].mean(), normal.mean(), np.percentile(normal, 99)))
    names = ("level_lesion", "level_normal", "level_normal_p99")
    return {name: float(np.mean(column)) for name, column in zip(names, zip(*levels, strict=True), strict=True)}


def _parts(module: BrainModule, examined: Sequence[Examined], volumes: Sequence[Volume]) -> dict[str, float]:
    """What SSIM loses by brightness and by pattern, of intensities as the network sees them: means over volumes."""
    lines = []
    for each, volume in zip(examined, volumes, strict=True):
        inverted = volume.mask & bool(module.air.inverted)
        seen = (np.where(inverted, 1 - values, values) for values in (each.reconstruction, volume.image))
        x, y = (torch.from_numpy(values).permute(2, 0, 1)[:, None] for values in seen)
        seg = np.zeros_like(volume.mask) if volume.seg is None else volume.seg
        parts = (part[:, 0].permute(1, 2, 0).numpy() for part in ssim_parts(x, y))
        lines.append([float(part[where].mean()) for part in parts for where in (seg, volume.mask & ~seg)])
    names = ("brightness_lesion", "brightness_normal", "pattern_lesion", "pattern_normal")
    return {name: float(np.mean(column)) for name, column in zip(names, zip(*lines, strict=True), strict=True)}


def _device(accelerator: str) -> torch.device:
    on_gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    return torch.device("cuda" if on_gpu else "cpu")


def _read(path: Path) -> Found | None:
    if not path.exists():
        return None
    found: Found = json.loads(path.read_text(encoding="utf-8"))
    return found


@contextmanager
def _single_thread() -> Iterator[None]:
    """One thread, so that jobs can run side by side and results do not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _silence() -> Iterator[None]:
    """No banners of the many Trainers."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            for advice in ("does not have many workers", "LeafSpec", "number of training batches", "near 0.5"):
                warnings.filterwarnings("ignore", f".*{advice}.*")
            yield
    finally:
        logging.disable(before)
