"""A photograph as a compact file of seeds, small networks and entropy-coded attributes.

    python recipes/sgi.py fit [--fast] [--data.image=astronaut|path.png] [--model.num_seeds=600] [--out=runs/sgi]
    python recipes/sgi.py encode runs/sgi/last.ckpt photo.sgi
    python recipes/sgi.py decode photo.sgi photo.png [--crop=[0,0,128,128]] [--scale=2]
    python recipes/sgi.py chips [--study.chips=200] [--train.sigmas=[0.05]] [options of fit] --out=runs/sgi-chips
    python recipes/sgi.py race [--images=[astronaut512,photo.png]] [--bpps=[0.6,1.2,2.4]] --out=runs/sgi-race

``fit`` fits one image, writes its file, decodes that again and reports on it; a killed fit, given the same options,
goes on where it stopped. With ``--cim.*`` the two networks that make Gaussians are trained under device variation.
``chips`` fits with and without that, and measures both on simulated chips. ``race`` fits other sums of Gaussians too,
and measures classical codecs beside them.
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
from recipes.gaussian_image.classical import CODECS
from recipes.gaussian_image.commands import COMMANDS, FAST_STEPS
from recipes.gaussian_image.module import CROSSBARS, ImageData, SgiModule
from recipes.gaussian_image.outcome import finish
from recipes.gaussian_image.run import fit

STEPS = 2500


class SgiCLI(cim.CIMCLI):
    """CIMCLI whose ``fit`` is the whole recipe; the other subcommands are the usual ones."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the recipe's own options."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--out", type=str, default=folder_of_run("runs/sgi"), help="Folder of the run; a killed run continues."
        )
        parser.add_argument("--fast", action="store_true", help=f"Only {FAST_STEPS} steps.")
        parser.add_argument("--codecs", type=list[str], default=list(CODECS), help="To measure beside it; [] for none.")
        parser.link_arguments("data.pixels", "model.image", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Keep the words for the report."""
        self.words = sys.argv[1:] if args is None else args if isinstance(args, list) else []
        super().parse_arguments(parser, args)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Only the networks that make Gaussians lie on crossbars, unless ``--cim.mapping`` says otherwise."""
        options = self._get(self.config_init, "cim")
        options.mapping = options.mapping or CROSSBARS
        if self.subcommand == "fit":
            kwargs |= {"logger": False, "enable_checkpointing": False}  # `fit` makes the one that trains
        return super().instantiate_trainer(**kwargs)

    def _trainer_of(self, callbacks: list[Any], **kwargs: Any) -> L.Trainer:
        config = {**self._get(self.config_init, "trainer"), **kwargs}
        if self._get(self.config_init, "fast"):
            config["max_steps"] = FAST_STEPS
        injection = self._get(self.config_init, "cim").injection()
        return self._instantiate_trainer(config, callbacks + ([injection] if injection is not None else []))

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand != "fit":
            super()._run_subcommand(subcommand)
            return
        config = json.loads(self.parser.dump(self.config, format="json"))["fit"]
        out, codecs = Path(config.pop("out")), config.pop("codecs")
        is_fresh, begin = not (out / "last.ckpt").exists(), time.perf_counter()
        estimate = fit(self.model, self.datamodule, self._trainer_of, out, config)
        about = {
            "image": config["data"]["image"],
            "command": " ".join(["python recipes/sgi.py", *self.words]),
            "fit_seconds": time.perf_counter() - begin if is_fresh else None,
            "estimate": estimate,
            "config": config,
        }
        self.found = finish(self.model.structured, self.datamodule.pixels, out, about, codecs)


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
    defaults = {"max_steps": STEPS, "max_epochs": 1, "enable_model_summary": False, "log_every_n_steps": 20}
    cli = SgiCLI(
        SgiModule, ImageData, args=args, save_config_callback=None, trainer_defaults=defaults, parser_kwargs=more
    )
    found = getattr(cli, "found", None)
    report({name: value for name, value in (found or {}).items() if name != "config"})
    return found


if __name__ == "__main__":
    try:
        main()
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
