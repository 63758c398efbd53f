"""``python -m lightning_cim.sweep FILE --offline [--jobs N] [--agents N] [--count N] [--seed S] [--out DIR]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_cim.sweep.runner import SweepResult, run_offline

_ONLINE = """With a W&B account the same file runs on any number of machines:
    wandb sweep {file}
    wandb agent ID          # on each machine
Without one: python -m lightning_cim.sweep {file} --offline"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        words: Instead of ``sys.argv``.

    Returns:
        Exit status: 0, 1 where runs failed, 2 where the sweep cannot run.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_cim.sweep", description="Run a W&B sweep file offline.")
    parser.add_argument("file", type=Path, help="Sweep file, as `wandb sweep` takes it.")
    parser.add_argument("--offline", action="store_true", help="Run it here, without a server.")
    parser.add_argument("--jobs", type=int, default=1, help="Processes side by side.")
    parser.add_argument("--agents", type=int, default=1, help="How many such commands share --out; bayes has to know.")
    parser.add_argument("--count", type=int, default=None, help="Runs; default: all of a grid, or run_cap.")
    parser.add_argument("--seed", type=int, default=0, help="Of random and bayes.")
    parser.add_argument(
        "--out", type=Path, default=None, help="Folder; a killed sweep continues there, and several commands share it."
    )
    options = parser.parse_args(words)
    if not options.offline:
        print(_ONLINE.format(file=options.file))
        return 2
    try:
        result = run_offline(options.file, options.out, options.jobs, options.count, options.seed, True, options.agents)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _say(result, options.out or Path("runs/sweeps") / result.sweep.name)


def _say(result: SweepResult, out: Path) -> int:
    failed = [run for run in result.runs if run.status]
    scored = result.best
    if scored is not None:
        values = ", ".join(f"{name}={value}" for name, value in scored.values.items())
        print(f"best {result.sweep.metric}: {scored.score(result.sweep.metric):.4g}, run {scored.index}: {values}")
    elif result.sweep.metric is not None:
        known = sorted({name for run in result.runs for name in run.metrics})
        print(f"no run reported {result.sweep.metric!r}; reported were: {', '.join(known) or 'none'}")
    for run in failed:
        print(f"run {run.index} failed with status {run.status}: {out / 'runs' / f'{run.index:04d}' / 'log.txt'}")
    print(f"table: {out / 'results.csv'}")
    try:
        result.plot()[0].savefig(out / "sweep.png", dpi=120)
        print(f"picture: {out / 'sweep.png'}")
    except ImportError as error:
        print(f"no picture: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
