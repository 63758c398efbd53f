"""Co-design of a network and its compute-in-memory hardware.

    python recipes/codesign.py search [--space=tab|digits|lcda|FILE.yaml] [--optimizers=[evolution,random,llm]]
    python recipes/codesign.py search --space=digits --workers=2 --out=runs/digits
    python recipes/codesign.py search --optimizers=[tpe] --storage=postgresql://host/db   # on several machines
    python recipes/codesign.py speedup runs/codesign --baseline=random
    python recipes/codesign.py cost --space=tab --design='{"adc_bits": 6}'
    python recipes/codesign.py evaluate --space=digits --c12=16 ... --device=rram
    python recipes/codesign.py record --space=tab replay.jsonl

``search`` compares optimizers and scores the best designs anew; a killed search, given the same options, continues.
``speedup`` compares the searches of a folder with another baseline. ``cost`` prints what one design costs. ``evaluate``
scores one design, as the sweeps of ``search --export-wandb-sweep`` do. ``record`` writes a replay file of the
rule-based expert, which is not a language model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jsonargparse import ActionConfigFile, ArgumentParser

from lightning_cim.codesign.llm import BackendError
from lightning_cim.sweep import folder_of_run
from recipes.hardware_search import commands
from recipes.hardware_search.evaluator import DigitsEvaluator
from recipes.hardware_search.problems import Goal
from recipes.hardware_search.study import ARMS, LanguageModel


def command_line() -> ArgumentParser:
    """All subcommands and their options; ``evaluate`` has those of its space's slots."""
    parser = ArgumentParser(prog="codesign.py", allow_abbrev=False, description=(__doc__ or "").splitlines()[0])
    subcommands = parser.add_subcommands(dest="command")
    search = _problem_options()
    search.add_argument(
        "--out", type=str, default=folder_of_run("runs/codesign"), help="Folder; a killed run continues."
    )
    search.add_argument(
        "--optimizers", type=list[str], default=list(ARMS), help="To compare; also tpe, nsga2, gp, grid."
    )
    search.add_argument("--baseline", type=str, default="reinforce", help="That others are compared with.")
    search.add_argument("--budget", type=int | None, default=None, help="Episodes; default: tab 500, digits 20.")
    search.add_argument("--seeds", type=int | None, default=None, help="Of each optimizer; default: tab 20, digits 1.")
    search.add_argument("--seed", type=int, default=0, help="The first of them, and of the evaluations.")
    search.add_argument("--top", type=int, default=3, help="Best designs to score anew.")
    search.add_argument("--workers", type=int, default=1, help="Processes that evaluate designs.")
    search.add_argument("--fast", action="store_true", help="A run of seconds: small budgets, few seeds and chips.")
    search.add_argument("--wandb", action="store_true", help="Log the first seed of each optimizer to W&B, offline.")
    search.add_argument("--storage", type=str | None, default=None, help="URL by which machines share one search.")
    search.add_argument(
        "--export-wandb-sweep", type=str | None, default=None, help="Only write the space as a sweep file of W&B."
    )
    search.add_class_arguments(LanguageModel, "llm")
    subcommands.add_subcommand("search", search, help="Compare optimizers, score the best designs anew.")
    speed = ArgumentParser(allow_abbrev=False)
    speed.add_argument("run", type=str, help="Folder of a search.")
    speed.add_argument("--baseline", type=str, default="reinforce", help="That others are compared with.")
    subcommands.add_subcommand("speedup", speed, help="Compare the searches of a folder.")
    cost = _problem_options()
    cost.add_argument("--design", type=dict[str, Any], default={}, help="Slots; others have their middle value.")
    subcommands.add_subcommand("cost", cost, help="What one design costs, under every preset and ADC.")
    record = _problem_options()
    record.add_argument("path", type=str, help="Replay file to write.")
    record.add_argument("--episodes", type=int, default=20, help="Answers.")
    subcommands.add_subcommand("record", record, help="Write a replay file of the rule-based expert.")
    return parser


def _problem_options() -> ArgumentParser:
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="Options from a YAML file.")
    parser.add_argument("--space", type=str, default="tab", help="tab, digits, lcda, or a YAML file.")
    parser.add_class_arguments(Goal, "goal")
    parser.add_class_arguments(DigitsEvaluator, "digits")
    return parser


def main(args: Sequence[str] | None = None) -> Any:
    """Run the command line.

    Args:
        args: Arguments instead of ``sys.argv``.

    Returns:
        What the subcommand found.

    Raises:
        ValueError: Options that do not fit together, or bad files.
        ImportError: A package of an extra is missing.
        RuntimeError: Several evaluations in a row broke down. The search can be continued.
        BackendError: A language model did not answer, with ``--llm.on_error=stop``. Likewise.
    """
    words = list(sys.argv[1:] if args is None else args)
    command = " ".join(["python recipes/codesign.py", *words])
    if words[:1] == ["evaluate"]:
        return commands.evaluate(words[1:])
    parser = command_line()
    config = parser.parse_args(words)
    options = config[config.command]
    if config.command == "speedup":
        return commands.speedup(Path(options.run), options.baseline)
    plain = {name: value for name, value in options.as_dict().items() if name != "config"}
    return getattr(commands, config.command)(plain, command)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, ImportError, OSError, RuntimeError, BackendError) as error:
        sys.exit(f"error: {error}")
