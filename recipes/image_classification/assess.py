"""What is measured of a trained network, on test images."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import Any, Literal

import torch

import lightning_cim as cim
from recipes.image_classification.classifier import ImageClassifier
from recipes.image_classification.datamodule import ImageData
from recipes.image_classification.methods import METHODS
from recipes.image_classification.settings import Settings
from recipes.image_classification.trained import Trained, fit, on_device, trainer_for

Found = dict[str, Any]
VALIDATION = 10_000
"""Added to the seed of chips that something is chosen or fitted by."""


def assess_once(trained: Trained, data: ImageData, settings: Settings) -> Found:
    """What does not depend on one sigma: clean accuracy, worst case, the curve of accuracy against sigma."""
    options, test = settings.assess, data.test_dataloader()
    found: Found = {
        "clean": float(trainer_for(settings.train).test(trained.module, test, verbose=False)[0]["test/acc"])
    }
    if METHODS[trained.method].tune is not None:  # its network is whole only with the block of one chip
        return {**found, "worst_case": None, "curve": []}
    search = data.in_order("train", options.search_images)
    worst = cim.worst_case(
        on_device(trained.module, settings.train), search, options.bound, evaluate_on=test, progress=False
    )
    found["worst_case"] = worst.worst
    found["curve"] = [
        {"sigma": sigma, "mean": mean_accuracy(trained, data, settings, sigma, "test") if sigma else found["clean"]}
        for sigma in options.curve
    ]
    return found


def assess_at(trained: Trained, data: ImageData, settings: Settings, sigma: float) -> Found:
    """Chips of one sigma: accuracy of each, EKL, write cycles."""
    if METHODS[trained.method].tune is not None:
        return _assess_tuned(trained, data, settings, sigma)
    options = settings.assess
    result = _chips(trained, data, settings, sigma, options.chips, "test")
    return {
        **summary(result),
        **disagreement(trained, data, settings, sigma),
        "write": write_cycles(trained, data, settings, sigma) if options.program else None,
    }


def mean_accuracy(
    trained: Trained, data: ImageData, settings: Settings, sigma: float, stage: Literal["validate", "test"]
) -> float:
    """Mean accuracy over the few chips of a curve's point."""
    result = _chips(trained, data, settings, sigma, settings.assess.curve_chips, stage)
    return result.mean("test/acc" if stage == "test" else "val/acc")


def _chips(
    trained: Trained, data: ImageData, settings: Settings, sigma: float, chips: int, stage: Literal["validate", "test"]
) -> cim.ChipResult:
    # Validation chips are others than test chips, so that a choice by them has not seen a chip of the table.
    seed = settings.assess.chip_seed + (VALIDATION if stage == "validate" else 0)
    return cim.evaluate_chips(
        trainer_for(settings.train),
        trained.module,
        data,
        variation=settings.variation(sigma),
        chips=chips,
        seed=seed,
        stage=stage,
        progress=False,
    )


def summary(result: cim.ChipResult) -> Found:
    """Statistics over chips, and each chip's accuracy for paired comparisons."""
    accuracy = result.of("test/acc")
    mark = result.kpp("test/acc", 1)
    return {
        "chips": len(accuracy),
        "mean": result.mean("test/acc"),
        "std": result.std("test/acc"),
        "kpp": mark.value,
        "kpp_low": mark.low,
        "kpp_high": mark.high,
        "worst": result.worst("test/acc"),
        "accuracy": accuracy.tolist(),
    }


def disagreement(trained: Trained, data: ImageData, settings: Settings, sigma: float) -> Found:
    """EKL over the chips of a curve's point, of raw logits and at a temperature fitted on validation images.

    The fitted one compares networks: NeFT and its control train with logits / 4, so their raw logits are larger.
    """
    options, module = settings.assess, on_device(trained.module, settings.train)
    variation, chips = settings.variation(sigma), options.curve_chips
    held_out, answers = cim.chip_logits(module, data.val_dataloader(), variation, chips, options.chip_seed + VALIDATION)
    logits, _ = cim.chip_logits(module, data.test_dataloader(), variation, chips, options.chip_seed)
    temperature = cim.fit_temperature(held_out, answers)
    found: Found = {"temperature": temperature}
    for name, scaled in (("ekl", logits), ("ekl_fitted", logits / temperature)):
        metric = cim.ExpectedKL()
        metric.update(scaled)
        found[name] = float(metric.compute())
    return found


def write_cycles(trained: Trained, data: ImageData, settings: Settings, sigma: float) -> Found:
    """Write cycles of SWIM that keep the drop within the budget, decided on validation images."""
    report = programmed(trained, data, settings, sigma)
    return {
        "nwc": report.nwc.verify_only,
        "nwc_total": report.nwc.total,
        "met": float(report.met.mean()),
        "test": float(report.test.scores.mean()) if report.test is not None else None,
    }


def programmed(
    trained: Trained, data: ImageData, settings: Settings, sigma: float, progress: bool = False, **options: Any
) -> cim.ProgrammingReport:
    """Program chips with selective write-verify until the drop on validation images is within the budget."""
    return cim.program(
        on_device(trained.module, settings.train),
        data.in_order("train", settings.assess.search_images),
        settings.variation(sigma),
        **{"max_drop": settings.assess.max_drop, **options},
        validation=data.val_dataloader(),
        test=data.test_dataloader(),
        chips=settings.assess.program_chips,
        granularity=settings.assess.granularity,
        seed=settings.assess.chip_seed,
        progress=progress,
    )


def _assess_tuned(trained: Trained, data: ImageData, settings: Settings, sigma: float) -> Found:
    """Chips each with a block of its own, trained on that chip as it was read back; the block alone is verified."""
    options, variation = settings.assess, settings.variation(sigma)
    tune = METHODS[trained.method].tune
    assert tune is not None
    training = replace(settings.train, epochs=settings.train.tune_epochs)
    rows: dict[int, dict[str, float]] = {}
    seconds, share = [], 0.0
    for index in range(options.tuned_chips):
        module = copy.deepcopy(trained.module)
        block = tune(variation, options.chip_seed, index)
        begin = time.process_time()
        fit(module, data, training, [block])
        seconds.append(time.process_time() - begin)
        with cim.on_chip(on_device(module, settings.train), block.deployed_chip()):
            rows[index] = {"test/acc": _accuracy(module, data)}
        share = block.report.share
    before = _chips(trained, data, settings, sigma, options.tuned_chips, "test")
    return {
        **summary(cim.ChipResult.from_rows(rows)),
        "before": before.mean("test/acc"),
        "tune_seconds": sum(seconds) / len(seconds),
        "write": {"nwc": share, "nwc_total": share, "met": 1.0},
    }


@torch.no_grad()
def _accuracy(module: ImageClassifier, data: ImageData) -> float:
    """Share of right answers on the test images, with the weights as they are now."""
    module.eval()
    right = [module(x.to(module.device)).argmax(1).cpu() == y for x, y in data.test_dataloader()]
    return float(torch.cat(right).float().mean())
