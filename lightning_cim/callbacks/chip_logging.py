"""Chips in loggers that can show more than a number: W&B and TensorBoard. Every number reaches all loggers anyway."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_cim.evaluation.result import ChipResult, plain_name
from lightning_cim.variation.base import Variation
from lightning_cim.variation.measured import Measured


def log_chips(loggers: Sequence[Any], result: ChipResult, k: float, step: int) -> None:
    """Log a table with a row a chip (W&B), and for each metric its histogram and its plot.

    Args:
        loggers: Of a Trainer; others than W&B's and TensorBoard's are passed over.
        result: The chips.
        k: The percentile that plots mark, in per cent.
        step: Of the Trainer.
    """
    for logger in loggers:
        if _is(logger, "WandbLogger"):
            _to_wandb(logger, result, k)
        elif _is(logger, "TensorBoardLogger"):
            _to_tensorboard(logger, result, k, step)


def log_devices(loggers: Sequence[Any], variation: Variation) -> None:
    """Log the numbers of measured devices as a W&B artifact of type ``device-data``.

    Args:
        loggers: Of a Trainer.
        variation: Without measured devices nothing is logged.
    """
    measured = [cause for cause in variation.causes if isinstance(cause, Measured)]
    for logger in loggers:
        if not _is(logger, "WandbLogger"):
            continue
        for cause in measured:
            import wandb

            artifact = wandb.Artifact(f"device-{logger.experiment.id}", type="device-data", description=str(cause))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "device.json"
                about = {"device": asdict(cause.device), "encoding": asdict(cause.encoding)}
                path.write_text(json.dumps(about, indent=1, default=str), encoding="utf-8")
                artifact.add_file(str(path))
                logger.experiment.log_artifact(artifact)


def _is(logger: Any, name: str) -> bool:
    """Either Lightning has its own classes; their names are the same."""
    return any(kind.__name__ == name for kind in type(logger).__mro__)


def _to_wandb(logger: Any, result: ChipResult, k: float) -> None:
    import wandb

    columns = [result.values[metric].tolist() for metric in result.metrics]
    rows = [list(row) for row in zip(result.chips, *columns, strict=True)]
    logger.log_table("cim/chips", columns=["chip", *result.metrics], data=rows)
    for metric, figure in _figures(result, k):
        name = f"cim/{plain_name(metric)}"
        logger.experiment.log({f"{name}_histogram": wandb.Histogram(result.of(metric).tolist())}, commit=False)
        logger.log_image(f"{name}_over_chips", [wandb.Image(figure)])


def _to_tensorboard(logger: Any, result: ChipResult, k: float, step: int) -> None:
    for metric, figure in _figures(result, k):
        name = f"cim/{plain_name(metric)}"
        logger.experiment.add_histogram(f"{name}_histogram", result.of(metric), step)
        logger.experiment.add_figure(f"{name}_over_chips", figure, step)


def _figures(result: ChipResult, k: float) -> Any:
    """A plot of each metric, closed when the next one is wanted; none without matplotlib."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    for metric in result.metrics:
        figure, _ = result.plot(metric, k)
        yield metric, figure
        plt.close(figure)
