"""One job: a network trained by one method, for one sigma, from one seed, and what was measured of it."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from recipes.image_classification.assess import assess_at, assess_once, mean_accuracy
from recipes.image_classification.datamodule import ImageData
from recipes.image_classification.methods import BETAS, METHODS, Plan
from recipes.image_classification.settings import Settings
from recipes.image_classification.trained import Trained, fit

Found = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What to train.

    Attributes:
        method: One of ``METHODS``.
        sigma: The sigma trained for; None where training does not depend on it.
        seed: Of initial weights, order of images and training chips.
        sigmas: The sigmas to measure at.
    """

    method: str
    sigma: float | None
    seed: int
    sigmas: tuple[float, ...]

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.method}-seed{self.seed}" + ("" if self.sigma is None else f"-sigma{self.sigma:g}")

    def missing(self, out: Path) -> tuple[float, ...]:
        """Sigmas that are not measured yet."""
        found = self.found(out)
        return self.sigmas if found is None else tuple(s for s in self.sigmas if f"{s:g}" not in found["at"])

    def found(self, out: Path) -> Found | None:
        """What an earlier run measured."""
        path = out / "jobs" / f"{self.name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def jobs_of(methods: list[str], sigmas: list[float], seeds: list[int]) -> list[Job]:
    """Every job of a comparison, seed by seed, so that a table over fewer seeds could be had early."""
    jobs = []
    for seed in seeds:
        for method in methods:
            if METHODS[method].sigma_free:
                jobs.append(Job(method, None, seed, tuple(sigmas)))
            else:
                jobs += [Job(method, sigma, seed, (sigma,)) for sigma in sigmas]
    return jobs


def run_job(job: Job, settings: Settings, out: Path) -> Found:
    """Train unless a finished network is on disk, measure what is missing, write ``out/jobs/NAME.json``."""
    missing = job.missing(out)
    known = job.found(out)
    if known is not None and not missing:
        return known
    with single_thread(), silence():
        data = settings.datamodule(job.seed)
        data.setup()
        trained = load_or_train(job, settings, data, out)
        found = known or {
            "job": {"method": job.method, "sigma": job.sigma, "seed": job.seed},
            **trained.about,
            **assess_once(trained, data, settings),
            "at": {},
        }
        for sigma in missing:
            found["at"][f"{sigma:g}"] = assess_at(trained, data, settings, sigma)
    path = out / "jobs" / f"{job.name}.json"
    write_whole(path, json.dumps(found))
    return found


def load_or_train(job: Job, settings: Settings, data: ImageData, out: Path) -> Trained:
    """The trained network of a job, from ``out/jobs/NAME.ckpt`` if it is there."""
    path = out / "jobs" / f"{job.name}.ckpt"
    if path.exists():
        return Trained.load(path, settings, data)
    method = METHODS[job.method]
    betas: list[float | None] = [None]
    if method.beta is not None:
        given = method.beta if settings.train.beta is None else settings.train.beta
        betas = list(BETAS) if settings.train.sweep_beta else [given]
    candidates = [_train(job, beta, settings, data) for beta in betas]
    if len(candidates) > 1:
        assert job.sigma is not None
        scores = [mean_accuracy(trained, data, settings, job.sigma, "validate") for trained in candidates]
        best = candidates[max(range(len(scores)), key=scores.__getitem__)]
        best.about["beta_sweep"] = {f"{beta:g}": score for beta, score in zip(betas, scores, strict=True)}
        candidates = [best]
    candidates[0].save(path)
    return candidates[0]


def _train(job: Job, beta: float | None, settings: Settings, data: ImageData) -> Trained:
    L.seed_everything(job.seed, verbose=False)
    module = settings.untrained(data)
    training, variation = settings.train, settings.variation(job.sigma or 0.0)
    plan = Plan(variation, job.seed, training.epochs, beta or 0.0, training.search_chips)
    callbacks = METHODS[job.method].callbacks(plan)
    begin = time.process_time()
    epochs = fit(module, data, training, callbacks)
    about = {"train_seconds": time.process_time() - begin, "epochs": epochs, "beta": beta}
    return Trained(job.method, module, job.sigma, about)


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread, so that CPU times compare and jobs can run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_ADVICE = (
    "does not have many workers",
    "LeafSpec",
    "chips are few",  # said below the table
    "number of training batches",
    "no best temperature",  # of a network that is no better than chance, which the table shows
)


@contextmanager
def silence() -> Iterator[None]:
    """No banners of the many Trainers."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            for advice in _ADVICE:
                warnings.filterwarnings("ignore", f".*{advice}.*")
            yield
    finally:
        logging.disable(before)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there wholly or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
