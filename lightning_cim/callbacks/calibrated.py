"""What callbacks share whose hardware has ranges that follow the data of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from typing_extensions import Self

from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.base import ChainCallback
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.quantise import FollowedRange


class CalibratedCallback(ChainCallback):
    """Ranges follow training batches only, are the same on all ranks, and must be known before chips are evaluated.

    Attributes:
        ranges_of: Whose ranges, for messages.
    """

    ranges_of: ClassVar[str]

    def __init__(self, mapping: Mapping | None = None) -> None:
        super().__init__(mapping)
        self._training = False

    @property
    def has_ranges(self) -> bool:
        """Whether anything depends on ranges."""
        raise NotImplementedError

    @property
    def ranges(self) -> Sequence[FollowedRange]:
        """All of them, in the same order on every rank."""
        raise NotImplementedError

    def for_evaluation(self) -> Self:
        """Share the ranges, without following data.

        Raises:
            MisconfigurationException: No data was seen yet. The first chip would set the ranges of all others, so that
                a chip would depend on which chips are simulated before it.
        """
        if self.has_ranges and not any(found.range is not None for found in self.ranges):
            raise MisconfigurationException(
                f"{type(self).__name__} has no {self.ranges_of} ranges yet, so chips cannot be evaluated. Train with"
                " it, load its state from a checkpoint, or run trainer.validate(model, calibration_data) once before."
            )
        twin = super().for_evaluation()
        twin._training = False
        return twin

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Ranges follow the data of training batches only."""
        self._training = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Freeze the ranges until the next batch."""
        super().on_train_batch_end(trainer, pl_module)
        self._training = False
        self._share_ranges(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Agree on ranges that a first validation batch gave."""
        self._share_ranges(trainer)

    def _share_ranges(self, trainer: Any) -> None:
        """Go on with the mean of all ranks' ranges: each saw other data, yet there is one network."""
        ranges = self.ranges
        if trainer.world_size == 1 or not ranges:
            return
        device = trainer.strategy.root_device
        nothing = torch.zeros(3, device=device)
        rows = [
            nothing
            if found.range is None
            else torch.stack([found.range.to(device), nothing[0] + 1, nothing[0] + found.signed])
            for found in ranges
        ]
        total = trainer.strategy.reduce(torch.stack(rows), reduce_op="sum")
        for found, mean, (_, ranks, signed) in zip(
            ranges, total[:, 0] / total[:, 1].clamp(min=1), total.tolist(), strict=True
        ):
            if ranks:
                found.range, found.signed = mean, signed > 0
