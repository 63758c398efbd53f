"""Ventricular arrhythmia detection on a compute-in-memory chip.

    python recipes/ecg.py fit [--fast] [--out=runs/ecg] [--data.name=sim|contest|wfdb --data.root=...]
    python recipes/ecg.py crossval --data.name=contest --data.root=strips.npz --out=runs/ecg-real

``fit`` trains a dense network, sparsifies and quantises it, fine-tunes it with and without device variation, evaluates
both on simulated chips and writes tables and ``report.html``. ``crossval`` does that for every patient-disjoint fold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lightning as L
import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

import lightning_cim as cim
from lightning_cim.sweep import folder_of_run, report
from recipes._quiet import quiet
from recipes.arrhythmia.crossval import crossval
from recipes.arrhythmia.datamodule import ECGData
from recipes.arrhythmia.model import ECGClassifier
from recipes.arrhythmia.run import RecipeOptions, run
from recipes.arrhythmia.stages import COMPRESSIONS


class ECGCLI(cim.CIMCLI):
    """CIMCLI whose ``fit`` is the whole recipe; the other subcommands are the usual ones."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the recipe's own options, flat."""
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"cim.sigma": 0.1})
        parser.add_argument(
            "--out", type=str, default=folder_of_run("runs/ecg"), help="Folder of the run; a killed run continues."
        )
        parser.add_argument("--fast", action="store_true", help="Small run of at most two minutes.")
        parser.add_class_arguments(RecipeOptions, "recipe")
        parser.link_arguments("fast", "data.fast")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The recipe makes its own Trainers, all with what ``--trainer.*`` says."""
        if self.subcommand == "evaluate":
            kwargs["callbacks"] = self._hardware_of_checkpoint()
        if self.subcommand != "fit":
            return super().instantiate_trainer(**kwargs)
        return self._trainer_of(logger=False, enable_checkpointing=False)

    def _hardware_of_checkpoint(self) -> list[Any]:
        """Sparsity and quantisation, if the checkpoint to evaluate was trained with them."""
        path = self._get(self.config_init, "ckpt_path")
        if path is None or not torch.load(path, map_location="cpu", weights_only=True)["callbacks"]:
            return []
        compression = COMPRESSIONS[self._get(self.config_init, "model").hparams["arch"]]
        return compression.callbacks(self._get(self.config_init, "recipe").pattern)

    def _trainer_of(self, **kwargs: Any) -> L.Trainer:
        config = {**self._get(self.config_init, "trainer"), **kwargs}
        return self._instantiate_trainer(config, kwargs.get("callbacks", []) and [])

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand != "fit":
            super()._run_subcommand(subcommand)
            return
        options, out = self._get(self.config_init, "recipe"), Path(self._get(self.config_init, "out"))
        if self._get(self.config_init, "fast"):
            options = options.fast()
        variation = self._get(self.config_init, "cim").variation
        config = json.loads(self.parser.dump(self.config, format="json"))["fit"]
        config.pop("out")
        self.found = run(self.model, self.datamodule, options, variation, self._trainer_of, out, config)


def main(args: ArgsType = None) -> Any:
    """Run the command line.

    Args:
        args: Arguments instead of ``sys.argv``.

    Returns:
        What ``fit`` or ``crossval`` found; None for other subcommands.
    """
    quiet()
    words = sys.argv[1:] if args is None else args
    if isinstance(words, list) and words[:1] == ["crossval"]:
        return crossval(main, words[1:])
    cli = ECGCLI(ECGClassifier, ECGData, args=args, save_config_callback=None)
    found = getattr(cli, "found", None)
    if found is not None:
        report(_summary(found))
    return found


def _summary(found: dict[str, Any]) -> dict[str, float]:
    """What a sweep looks at: such as ``plain/0.1/acc_mean``, over chips of sigma 0.1."""
    numbers = {}
    for row in found["chips"]:
        for metric in ("acc", "f2"):
            name = f"{row['name']}/{row['sigma']:g}/{metric}"
            numbers |= {f"{name}_mean": row[metric]["mean"], f"{name}_worst": row[metric]["worst"]}
    return numbers


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
