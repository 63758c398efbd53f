"""The whole recipe, from data to report."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import lightning_cim as cim
from recipes.arrhythmia import assess, report
from recipes.arrhythmia.datamodule import ECGData
from recipes.arrhythmia.model import ECGClassifier
from recipes.arrhythmia.stages import COMPRESSIONS, Trained, TrainerOf, train


@dataclass
class RecipeOptions:
    """What the recipe does around training.

    Attributes:
        epochs: Epochs of the dense training.
        finetune_epochs: Epochs of each fine-tuning.
        finetune_lr: Peak learning rate of fine-tuning.
        pattern: Sparsity, ``n:m`` or ``balanced``.
        chips: Simulated chips of each net and sigma.
        sigmas: Std of the weight deviation of the simulated chips, relative to each tensor's max|W|.
        chip_strips: Strips of each test patient that chips run on.
        workers: Processes that simulate chips.
    """

    epochs: int = 8
    finetune_epochs: int = 4
    finetune_lr: float = 1e-3
    pattern: str = "2:4"
    chips: int = 200
    sigmas: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2])
    chip_strips: int = 2
    workers: int = 2

    def fast(self) -> RecipeOptions:
        """The options of a run of at most two minutes."""
        least = {"epochs": 6, "finetune_epochs": 2, "chips": 40}
        return replace(self, **{name: min(getattr(self, name), number) for name, number in least.items()})


def run(
    model: ECGClassifier,
    data: ECGData,
    options: RecipeOptions,
    variation: cim.Variation,
    trainer_of: TrainerOf,
    out: Path,
    config: dict[str, Any],
) -> dict[str, Any]:
    """Train, compress, fine-tune under variation, evaluate on chips, write tables, pictures and report.

    Args:
        model: The untrained network.
        data: The data.
        options: See :class:`RecipeOptions`.
        variation: What fine-tuning injects.
        trainer_of: Makes a Trainer from keyword arguments.
        out: Folder of the run; a killed run given the same folder goes on where it stopped.
        config: The run's whole configuration; a folder of another one is refused.

    Returns:
        Everything that ``metrics.json`` holds.

    Raises:
        ValueError: The folder holds a run with another configuration.
    """
    _claim(out, config)
    data.setup()
    compression = COMPRESSIONS[str(model.hparams["arch"])]
    _say(out, f"dense training, {options.epochs} epochs")
    dense = train("dense", model, data, trainer_of, out, options.epochs)
    compressed: list[Trained] = []
    for name, extra in (("plain", []), ("variation", [cim.VariationInjection(variation)])):
        _say(out, f"sparsify {options.pattern}, quantise, fine-tune {options.finetune_epochs} epochs: {name}")
        hardware = compression.callbacks(options.pattern)
        compressed.append(
            train(
                name,
                dense.module,
                data,
                trainer_of,
                out,
                options.finetune_epochs,
                options.finetune_lr,
                hardware,
                extra,
            )
        )
    return _assess(dense, compressed, data, options, variation, out)


def _assess(
    dense: Trained,
    compressed: list[Trained],
    data: ECGData,
    options: RecipeOptions,
    variation: cim.Variation,
    out: Path,
) -> dict[str, Any]:
    nets = [dense, *compressed]
    trained = compressed[-1]
    accuracy = assess.accuracy_rows(nets, data)
    loader = assess.chip_loader(data, options.chip_strips)
    results = assess.chip_results(compressed, loader, options.sigmas, options.chips, options.workers, out)
    chips = assess.chip_rows(results)
    hardware = assess.hardware_table(trained, data.window)
    found: dict[str, Any] = {
        "accuracy": accuracy,
        "thresholds": {net.name: net.module.threshold for net in nets},
        "chips": chips,
        "hardware": hardware.rows(),
        "power_uw": hardware.power_uw,
    }
    test = data.windows("test")
    sigma_note = (
        f"{options.chips} chips a cell, seed 0, the same for both nets; {len(loader.dataset)} test windows: the first"  # type: ignore[arg-type]
        f" {options.chip_strips} strips of every test patient. sigma is relative to each tensor's max|W|. '?': too few"
        f" chips to bound that end. The variation net was fine-tuned under {variation}."
    )
    sections: list[tuple[str, str, Any]] = [
        ("Accuracy on test patients", _ACCURACY_NOTE, report.accuracy_table(accuracy)),
        ("What made the difference", _CODE_NOTE, _CODE.format(variation=variation)),
        ("On simulated chips", sigma_note, report.chip_table(chips)),
        ("Accuracy over chips", "", report.chips_figure(results)),
        ("By rhythm", "Share of right windows, per cent.", report.rhythm_table(accuracy)),
        ("By patient", "", report.patient_table(accuracy)),
        ("Confusion", "Windows of the test patients.", report.confusion_figure(accuracy[-len(nets) :])),
        ("Strips with decisions", "The variation-trained net.", report.strips_figure(test, trained.decision(test))),
    ]
    if data.source == "sim":
        found["latency"] = assess.latency_rows(trained, data, 40)
        sections.append(("Detection latency", _LATENCY_NOTE, report.plain_table(found["latency"])))
    sections.append(("Hardware", _HARDWARE_NOTE, report.plain_table(hardware.rows())))
    if _is_chipnet(trained):
        windows = test.subset(test.strip % 6 == 0)
        found["integer"] = assess.integer_check(trained, windows, out / "integer.npz")
        sections.append(("Integer export", _INTEGER_NOTE, report.plain_table([found["integer"]])))
    for heading, note, content in sections:
        if isinstance(content, tuple):
            print(f"\n{heading}\n{note}\n{report.text(content)}")
    (out / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    _pictures(sections, out)
    lead = f"{data}. Written by recipes/ecg.py; the configuration is in config.json, every number in metrics.json."
    report.write_html(out / "report.html", "Ventricular arrhythmia on a compute-in-memory chip", lead, sections)
    print(f"\nreport: {out / 'report.html'}")
    return found


def _is_chipnet(net: Trained) -> bool:
    return bool(net.module.hparams["arch"] == "chipnet")  # the only one that the integer export knows


def _claim(out: Path, config: dict[str, Any]) -> None:
    """Make the folder, or see that it belongs to the same configuration."""
    path = out / "config.json"
    text = json.dumps(config, indent=1, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{out} holds a run with another configuration (see {path}); choose another --out, or delete it"
        )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _say(out: Path, what: str) -> None:
    width = shutil.get_terminal_size().columns
    print(f"-- {out}: {what} ".ljust(min(width, 100), "-"), flush=True)


def _pictures(sections: list[tuple[str, str, Any]], out: Path) -> None:
    for heading, _, content in sections:
        if isinstance(content, Figure):
            report.save_png(content, out / f"{heading.lower().replace(' ', '-')}.png")


_ACCURACY_NOTE = (
    "Windows of 512 samples (2.048 s). Rules and the logistic regression on five features (LR-5) are fitted on the"
    " training windows. Thresholds of the nets and of 'LR-5, tuned' give the best F2 on the validation patients. A vote"
    " is 3 of 6 consecutive windows; 'if independent' is what that vote would give if a patient's errors were"
    " independent, which they are not. 'plain' and 'variation' are the dense net after sparsification, quantisation and"
    " further epochs. Intervals: bootstrap over patients."
)
_LATENCY_NOTE = (
    "40 simulated test patients turn from sinus rhythm into VT or VF; the variation-trained net with clean weights."
)
_HARDWARE_NOTE = (
    "One window of the variation-trained net on the 512-PE sparse accelerator (ASP-DAC 2025, arXiv 2410.17395). The"
    " clock is derived from the published 150 GOPS. Power is calibrated so that the published 10.60 uW belongs to 5.25"
    " MOP: it compares networks and predicts nothing."
)
_INTEGER_NOTE = (
    "Pure integer inference (integer.npz) against the fake-quantised network in float64: share of equal decisions, and"
    " the largest logit difference over the largest logit."
)
_CODE_NOTE = (
    "'plain' and 'variation' start from the same dense network and get the same sparsity, precision, epochs and data."
    " The only difference is one callback:"
)
_CODE = """import lightning_cim as cim

trainer = L.Trainer(callbacks=[..., cim.VariationInjection(cim.{variation})])"""
