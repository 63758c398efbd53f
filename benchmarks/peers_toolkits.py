"""The contestants of the peers benchmark, in the order of the table's columns."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import peers_aihwkit
import peers_aihwkit_lightning
import peers_ours
import peers_plain
from peers_tasks import Batch, Chips, Step
from torch import nn


@dataclass(frozen=True)
class Toolkit:
    """A contestant.

    Attributes:
        name: Column of the table.
        package: To import and to install; empty for plain PyTorch.
        train: Makes a training step under the Gaussian.
        evaluate: Makes a Monte-Carlo evaluation.
        source: File with the marked lines.
        region: Of the lines for training.
        train_pcm: Makes a training step under phase-change memory, if the toolkit can on a CPU.
        by_hand: What of the Monte-Carlo evaluation is the user's own work.
    """

    name: str
    package: str
    train: Callable[[nn.Module, Batch], Step]
    evaluate: Callable[[nn.Module, list[Batch]], Chips]
    source: str
    region: str = "train"
    train_pcm: Callable[[nn.Module, Batch], Step] | None = None
    by_hand: str = ""

    @property
    def installed(self) -> bool:
        """Whether this interpreter has it."""
        return not self.package or importlib.util.find_spec(self.package) is not None


TOOLKITS = (
    Toolkit(
        "lightning_cim",
        "lightning_cim",
        peers_ours.train,
        peers_ours.evaluate,
        "peers_ours.py",
        train_pcm=peers_ours.train_pcm,
    ),
    Toolkit(
        "aihwkit-lightning",
        "aihwkit_lightning",
        peers_aihwkit_lightning.train,
        peers_aihwkit_lightning.evaluate,
        "peers_aihwkit_lightning.py",
        by_hand="no noise outside training: the noise of a chip is written into its weights by hand",
    ),
    Toolkit(
        "aihwkit, torch tile",
        "aihwkit",
        peers_aihwkit.train_torch_tile,
        peers_aihwkit.evaluate_torch_tile,
        "peers_aihwkit.py",
        region="train-torch",
        by_hand="a noise model and the loop over chips by hand, program_analog_weights in it",
    ),
    Toolkit(
        "aihwkit, C++ tile",
        "aihwkit",
        peers_aihwkit.train_compiled_tile,
        peers_aihwkit.evaluate_compiled_tile,
        "peers_aihwkit.py",
        region="train-compiled",
        train_pcm=peers_aihwkit.train_pcm,
        by_hand="the same",
    ),
    Toolkit("plain PyTorch", "", peers_plain.train, peers_plain.evaluate, "peers_plain.py", by_hand="all of it"),
)
