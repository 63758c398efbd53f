"""Anomalies in brain MRI: learn healthy volumes, find what differs from them.

    python recipes/iqa.py fit [--fast] [--model.arch=dae] [--model.loss=fq] [--data.contrast=flair] [--out=runs/iqa]
    python recipes/iqa.py validate --out=runs/iqa
    python recipes/iqa.py test --out=runs/iqa [--model.residual=ssim] [--data.lesions=ms]
    python recipes/iqa.py predict --out=runs/iqa [options of the data]
    python recipes/iqa.py evaluate --out=runs/iqa --cim.sigma=0.02 --chips=20
    python recipes/iqa.py chips | ablation ...

``fit`` trains on healthy volumes, and a second time with the loss ``--control``, so that ``test`` can compare trainings
and maps; a killed fit, given the same options, goes on where it stopped. ``validate`` finds thresholds on validation
volumes, ``test`` scores test volumes, ``predict`` writes maps as NIfTI. All but ``fit`` take the options of the run
from its folder; what else is given changes them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

import lightning_cim as cim
from lightning_cim.sweep import folder_of_run, report
from recipes._quiet import quiet
from recipes.brain_mri import ablation, chips, outcome, run
from recipes.brain_mri.assess import chosen
from recipes.brain_mri.datamodule import BrainData
from recipes.brain_mri.module import BrainModule
from recipes.brain_mri.residuals import Kind

COMMANDS = {**chips.COMMANDS, **ablation.COMMANDS}
"""Subcommands beside those of `cim.CIMCLI`."""
EPOCHS, BATCH = 5, 8
FAST = (
    "--data.size=64",
    "--data.counts.train=12",
    "--data.counts.healthy_val=3",
    "--data.counts.lesion_val=3",
    "--data.counts.lesion_test=4",
    "--trainer.max_epochs=6",
)
"""What ``--fast`` stands for; options given beside it win."""
_TAKEN_FROM_FOLDER = ("ckpt_path", "weights_only")


class IqaCLI(cim.CIMCLI):
    """CIMCLI whose runs live in a folder.

    Attributes:
        found: What the subcommand found; None for ``evaluate`` and ``program``.
    """

    found: Any = None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The usual ones; weights come from the folder of the run."""
        return {name: hidden | set(_TAKEN_FROM_FOLDER) for name, hidden in cim.CIMCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the recipe's own options."""
        super().add_arguments_to_parser(parser)
        out = folder_of_run("runs/iqa")
        parser.add_argument("--out", type=str, default=out, help="Folder of the run; a killed fit continues.")
        parser.add_argument("--fast", action="store_true", help="A run of at most 90 seconds: small and few volumes.")
        parser.add_argument(
            "--control", type=Kind | None, default="l1", help="Also train with this loss; null: do not."
        )
        parser.set_defaults({"data.batch_size": BATCH})
        parser.link_arguments("data.size", "model.size")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Options of ``--fast`` and of the run's folder come before those on the command line, which win."""
        words = sys.argv[1:] if args is None else [str(word) for word in args]  # type: ignore[union-attr]
        self.words = list(words)
        super().parse_arguments(parser, words)
        name = self.config.subcommand
        options: Namespace = self.config[name]
        at = words.index(name) + 1
        if options.fast:
            at = _after_configs(words, at)
            words[at:at] = FAST
        written = Path(options.out) / run.CONFIG
        if name != "fit":
            if not written.exists():
                parser.error(f"{written} is not there: run fit with this --out first")
            words.insert(words.index(name) + 1, f"--config={written}")
        if words != self.words:
            super().parse_arguments(parser, words)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """One that leaves nothing behind; `fit` makes those that train."""
        return super().instantiate_trainer(**kwargs, logger=False, enable_checkpointing=False)

    def _trainer_of(self, callbacks: list[Any]) -> L.Trainer:
        config = dict(self._get(self.config_init, "trainer"))
        config["logger"] = config["logger"] or False
        injection = self._get(self.config_init, "cim").injection()
        return self._instantiate_trainer(config, callbacks + ([injection] if injection is not None else []))

    def _run_subcommand(self, subcommand: str) -> None:
        config = json.loads(self.parser.dump(self.config, format="json", skip_none=False))[subcommand]
        out, control = Path(config.pop("out")), self._get(self.config_init, "control")
        if subcommand == "fit":
            self.found = run.fit(
                self.model, self.datamodule, self._trainer_of, out, config, control, config["seed_everything"]
            )
            report({loss: epochs[-1] for loss, epochs in self.found.items()})
            return
        models: dict[Kind, BrainModule] = {}
        for loss in run.losses_of(self.model.criterion.kind, control):
            module = run.twin(self.model, loss) if models else self.model
            models[loss] = run.load(module, out / loss)
        about = {"command": " ".join(["python recipes/iqa.py", *self.words]), "config": config}
        known = outcome.known_thresholds(models, out)
        threshold = chosen(known[f"{self.model.criterion.kind}/{self.model.residual}"]) if known else None
        if subcommand in ("validate", "test", "predict"):
            self.datamodule.prepare_data()
            self.datamodule.setup(subcommand)
        if subcommand == "validate":
            self.found = outcome.validate(models, self.datamodule, out, config["data"])
        elif subcommand == "test":
            self.found = outcome.test(models, self.datamodule, out, about)
            report(self.found)
        elif subcommand == "predict":
            self.found = outcome.predict(self.model, threshold, self.datamodule, out)
        else:
            self.model.threshold = float("nan") if threshold is None else threshold.value
            super()._run_subcommand(subcommand)


def _after_configs(words: Sequence[str], begin: int) -> int:
    """Where words may be put so that they win over configurations and lose to whatever follows."""
    for at in reversed(range(begin, len(words))):
        if words[at].startswith(("--config=", "-c=")):
            return at + 1
        if words[at] in ("--config", "-c"):
            return at + 2
    return begin


def main(args: ArgsType = None) -> Any:
    """Run the command line.

    Args:
        args: Arguments instead of ``sys.argv``.

    Returns:
        What the subcommand found; None for ``evaluate`` and ``program``.
    """
    quiet()
    words = sys.argv[1:] if args is None else args
    if isinstance(words, list) and words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:], main)
    more = {"epilog": f"Of this recipe's own: {', '.join(COMMANDS)}; each has its --help."}
    defaults = {"max_epochs": EPOCHS, "enable_model_summary": False}
    cli = IqaCLI(
        BrainModule,
        BrainData,
        args=args,
        save_config_callback=None,
        trainer_defaults=defaults,
        parser_kwargs=more,
        load_from_checkpoint_support=False,  # the module saves its own options
    )
    return cli.found


if __name__ == "__main__":
    try:
        main()
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
