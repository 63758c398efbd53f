"""From cryo-EM particle images to a continuous family of density maps.

    python recipes/cryoformer.py fit [--fast] [--data.source=sim|beads|star|cryodrgn|cs] [--data.path=...] [--out=...]
    python recipes/cryoformer.py eval RUN
    python recipes/cryoformer.py traverse RUN
    python recipes/cryoformer.py fsc A.mrc B.mrc
    python recipes/cryoformer.py chips [options of fit] --out=runs/cryoformer-chips
    python recipes/cryoformer.py compare RUN FOLDER
    python recipes/cryoformer.py simulate --out=FOLDER
    python recipes/cryoformer.py export --data.source=star --data.path=particles.star --out=FOLDER

``fit`` makes a consensus map and a mask, trains, and writes maps, plots and a report; a killed fit, given the same
options, goes on where it stopped. With ``--cim.*`` encoder, decoder and feature table are trained under device
variation; ``chips`` measures what that gains on simulated chips. The other subcommands have their own ``--help``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lightning as L
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

import lightning_cim as cim
from lightning_cim.sweep import folder_of_run, report
from recipes._quiet import quiet
from recipes.cryo_em import commands_data, commands_eval
from recipes.cryo_em.datamodule import CryoData
from recipes.cryo_em.module import CROSSBARS, CryoModule
from recipes.cryo_em.outcome import finish
from recipes.cryo_em.run import fit
from recipes.cryo_em.trained import as_fitted, describe

EPOCHS = 5
FAST_EPOCHS = 2
COMMANDS = {**commands_data.COMMANDS, **commands_eval.COMMANDS}


class CryoCLI(cim.CIMCLI):
    """CIMCLI whose ``fit`` is the whole recipe; the other subcommands are the usual ones."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the recipe's own options."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--out",
            type=str,
            default=folder_of_run("runs/cryoformer"),
            help="Folder of the run; a killed run continues.",
        )
        parser.add_argument("--fast", action="store_true", help=f"At most {FAST_EPOCHS} epochs.")
        parser.link_arguments("data.size", "model.size", apply_on="instantiate")
        parser.link_arguments("data.pixel_size", "model.pixel_size", apply_on="instantiate")
        parser.link_arguments("data.particles", "model.particles", compute_fn=len, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Keep the words for the report."""
        self.words = sys.argv[1:] if args is None else args if isinstance(args, list) else []
        super().parse_arguments(parser, args)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Only encoder, decoder and feature table lie on crossbars, unless ``--cim.mapping`` says otherwise."""
        options = self._get(self.config_init, "cim")
        options.mapping = options.mapping or CROSSBARS
        if self.subcommand == "fit":
            kwargs |= {"logger": False, "enable_checkpointing": False}  # `fit` makes the one that trains
        return super().instantiate_trainer(**kwargs)

    def _trainer_of(self, callbacks: list[Any], **kwargs: Any) -> L.Trainer:
        config = {**self._get(self.config_init, "trainer"), **kwargs}
        if self._get(self.config_init, "fast"):
            config["max_epochs"] = min(config["max_epochs"] or FAST_EPOCHS, FAST_EPOCHS)
        injection = self._get(self.config_init, "cim").injection()
        return self._instantiate_trainer(config, callbacks + ([injection] if injection is not None else []))

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand != "fit":
            super()._run_subcommand(subcommand)
            return
        config = json.loads(self.parser.dump(self.config, format="json"))["fit"]
        out = Path(config.pop("out"))
        begin, shown = time.perf_counter(), config["trainer"]["enable_progress_bar"] is not False
        cpu_seconds = fit(self.model, self.datamodule, self._trainer_of, out, config, shown)
        about = {
            "command": " ".join(["python recipes/cryoformer.py", *self.words]),
            "data": describe(self.datamodule),
            "config": config,
            "fit_seconds": time.perf_counter() - begin,
            "fit_cpu_seconds": cpu_seconds,
        }
        model, data = self.model.model.cpu().eval(), self.datamodule
        particles, pose_errors = as_fitted(model, data)
        if pose_errors is not None:
            about["pose_errors"] = pose_errors
        self.found = finish(model, particles, out, about, data.held_out)


def main(args: ArgsType = None) -> Any:
    """Run the command line.

    Args:
        args: Arguments instead of ``sys.argv``.

    Returns:
        What ``fit`` or a subcommand of the recipe's own found; None for Lightning's.
    """
    quiet()
    words = sys.argv[1:] if args is None else args
    if isinstance(words, list) and words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:], main)
    more = {"epilog": f"Of this recipe's own: {', '.join(COMMANDS)}; each has its --help."}
    defaults = {"max_epochs": EPOCHS, "enable_model_summary": False, "log_every_n_steps": 20}
    cli = CryoCLI(
        CryoModule, CryoData, args=args, save_config_callback=None, trainer_defaults=defaults, parser_kwargs=more
    )
    found = getattr(cli, "found", None)
    report({name: value for name, value in (found or {}).items() if name != "config"})
    return found


if __name__ == "__main__":
    try:
        main()
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
