"""Image classification on compute-in-memory chips: every training method on the same network.

    python recipes/vision.py fit --method=neft-irs --cim.sigma=0.2 --out=runs/vision
    python recipes/vision.py evaluate --out=runs/vision --cim.sigma=0.3 --chips=1000
    python recipes/vision.py program --out=runs/vision --max_drop=0.01
    python recipes/vision.py compare --sigmas=[0.1,0.2] --seeds=[0,1,2] --jobs=2 --out=runs/compare

``fit`` trains one method and measures it on simulated chips; ``evaluate`` and ``program`` take up its folder;
``compare`` trains all methods and writes one table per sigma. The module and its data know nothing about chips: a
method is a list of callbacks (``recipes/image_classification/methods.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from lightning_cim.sweep import folder_of_run, report
from recipes.image_classification import commands
from recipes.image_classification.classifier import ImageClassifier
from recipes.image_classification.compare import compare
from recipes.image_classification.datamodule import ImageData
from recipes.image_classification.methods import METHODS, with_control
from recipes.image_classification.settings import Assessment, Settings, Training


def command_line() -> ArgumentParser:
    """All subcommands and their options."""
    parser = ArgumentParser(prog="vision.py", allow_abbrev=False, description=(__doc__ or "").splitlines()[0])
    subcommands = parser.add_subcommands(dest="command")
    fit = _training_options(folder_of_run("runs/vision"))
    fit.add_argument("--method", choices=list(METHODS), default="gaussian", help="How to train.")
    fit.add_argument("--cim.sigma", type=float, default=0.2, help="Of the variation to train for and to measure at.")
    fit.add_argument("--seed", type=int, default=0, help="Of training.")
    subcommands.add_subcommand("fit", fit, help="Train one method and measure it on chips.")
    every = _training_options(folder_of_run("runs/compare"))
    every.add_argument("--methods", type=list[str], default=list(METHODS), help="Rows of the table.")
    every.add_argument("--sigmas", type=list[float], default=[0.2], help="One table each.")
    every.add_argument("--seeds", type=list[int], default=[0, 1, 2], help="Trainings of each method and sigma.")
    subcommands.add_subcommand("compare", every, help="Train every method and print one table a sigma.")
    chips = _run_options()
    chips.add_argument("--chips", type=int, default=400, help="How many.")
    chips.add_argument("--seed", type=int, default=0, help="Population of chips.")
    subcommands.add_subcommand("evaluate", chips, help="Test the networks of a run on other chips.")
    write = _run_options()
    write.add_argument("--max_drop", type=float, default=0.01, help="Accuracy that chips may lose against clean.")
    write.add_argument("--verify_fraction", type=float | None, default=None, help="Verify this share instead.")
    write.add_argument(
        "--ranking", choices=["swim", "magnitude", "random"], default="swim", help="What to verify first."
    )
    subcommands.add_subcommand("program", write, help="Program chips of a run with selective write-verify.")
    return parser


def _training_options(out: str) -> ArgumentParser:
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="Options from a YAML file.")
    parser.add_argument("--out", type=str, default=out, help="Folder of the run; a killed run continues.")
    parser.add_argument("--jobs", type=int, default=1, help="Trainings side by side, one thread each.")
    parser.add_argument("--fast", action="store_true", help="A run of seconds: few images, epochs and chips.")
    parser.add_argument("--cim.paper", choices=["neft", "swim", "trice"], default="neft", help="Whose sigma it is.")
    parser.add_class_arguments(ImageClassifier, "model", skip={"classes", "channels", "size"})
    parser.add_class_arguments(ImageData, "data", skip={"seed"})
    parser.add_class_arguments(Training, "train")
    parser.add_class_arguments(Assessment, "assess")
    return parser


def _run_options() -> ArgumentParser:
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("--out", type=str, default=folder_of_run("runs/vision"), help="Folder of fit or compare.")
    parser.add_argument("--methods", type=list[str], default=[], help="Which networks; default: all.")
    parser.add_argument("--cim.sigma", type=float | None, default=None, help="Default: what each was trained for.")
    return parser


def _settings(options: Namespace) -> Settings:
    settings = Settings(
        options.model.as_dict(),
        options.data.as_dict(),
        Training(**options.train.as_dict()),
        Assessment(**options.assess.as_dict()),
        options.cim.paper,
    )
    return settings.fast() if options.fast else settings


def main(args: Sequence[str] | None = None) -> Any:
    """Run the command line.

    Args:
        args: Arguments instead of ``sys.argv``.

    Returns:
        What the subcommand found.

    Raises:
        ValueError: Options that do not fit together, or bad files.
        ImportError: A package of the extra ``vision`` is missing.
    """
    words = list(sys.argv[1:] if args is None else args)
    config = command_line().parse_args(words)
    options, out = config[config.command], Path(config[config.command].out)
    command = " ".join(["python recipes/vision.py", *words])
    if config.command == "evaluate":
        return commands.evaluate(out, options.methods, options.cim.sigma, options.chips, options.seed)
    if config.command == "program":
        chosen = {"max_drop": options.max_drop} if options.verify_fraction is None else {"max_drop": None}
        chosen |= {"verify_fraction": options.verify_fraction, "method": options.ranking}
        return commands.program(out, options.methods, options.cim.sigma, **chosen)
    if config.command == "fit":
        methods, sigmas, seeds = with_control([options.method]), [options.cim.sigma], [options.seed]
    else:
        methods, sigmas, seeds = options.methods, options.sigmas, options.seeds
    found = compare(_settings(options), methods, sigmas, seeds, out, options.jobs, command)
    for sigma, rows in found["tables"].items():
        for row in rows:
            means = {name: fmean(row[name]) for name in ("clean", "mean", "kpp")}
            report(means if config.command == "fit" else {f"{sigma}/{row['method']}": means})
    return found


if __name__ == "__main__":
    try:
        main()
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
