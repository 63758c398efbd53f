"""Stop training under variation early: a shared block repairs the rest (TSB, phase 1)."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

from lightning_cim._compat import CallbackBase, MisconfigurationException
from lightning_cim.callbacks.variation_injection import VariationInjection


class PreliminaryConvergence(CallbackBase):
    """Stop a fit as soon as the score on noisy validation chips stops rising, or a share of the epochs is over.

    The first phase of Tiny Shared Block (arXiv 2406.06544): the network is trained under variation only until it has
    roughly converged; :class:`TinySharedBlock` then repairs each chip. Use it beside ``VariationInjection(...,
    validation_chips=k)``, so that the score is one under variation.

    Args:
        monitor: What the module logs in validation.
        mode: Whether a high (``"max"``) or a low score is good.
        min_delta: A rise by more than this counts.
        patience: Stop after so many validations without such a rise.
        max_share: Stop after this share of ``max_epochs`` in any case, 0 < max_share <= 1.

    Attributes:
        stopped_epoch: The epoch after which the fit was stopped; None while it was not.

    Raises:
        MisconfigurationException: Arguments out of range, or a score that the module does not log.

    Example:
        >>> import lightning_cim as cim
        >>> callbacks = [
        ...     cim.VariationInjection(cim.Gaussian(sigma=0.1), validation_chips=5),
        ...     PreliminaryConvergence("val/acc"),
        ... ]
    """

    def __init__(
        self,
        monitor: str,
        mode: Literal["max", "min"] = "max",
        min_delta: float = 0.002,
        patience: int = 5,
        max_share: float = 0.2,
    ) -> None:
        super().__init__()
        if mode not in ("max", "min"):
            raise MisconfigurationException(f"PreliminaryConvergence: mode must be 'max' or 'min', got {mode!r}")
        if min_delta < 0 or patience < 1 or not 0 < max_share <= 1:
            raise MisconfigurationException(
                "PreliminaryConvergence: min_delta must be at least 0, patience at least 1 and max_share in (0, 1], got"
                f" {min_delta}, {patience} and {max_share}"
            )
        self.monitor, self.mode = monitor, mode
        self.min_delta, self.patience, self.max_share = min_delta, patience, max_share
        self.stopped_epoch: int | None = None
        self._best, self._waited = -math.inf, 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Warn when validation is not noisy."""
        injections = [one for one in trainer.callbacks if isinstance(one, VariationInjection)]
        if stage == "fit" and not any(one.validation_chips for one in injections):
            warnings.warn(
                "PreliminaryConvergence judges by validation, which is on clean weights here; add"
                " VariationInjection(..., validation_chips=5), so that it judges under variation",
                stacklevel=2,
            )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge the score; every rank decides the same."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise MisconfigurationException(
                f"PreliminaryConvergence: nothing logs {self.monitor!r}; there are"
                f" {', '.join(map(repr, trainer.callback_metrics)) or 'no metrics'}"
            )
        score = float(trainer.callback_metrics[self.monitor]) * (1 if self.mode == "max" else -1)
        if score > self._best + self.min_delta:
            self._best, self._waited = score, 0
        else:
            self._waited += 1
        if trainer.strategy.reduce_boolean_decision(self._waited >= self.patience, all=False):
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop when the share of epochs is over."""
        limit = trainer.max_epochs
        if limit is not None and limit > 0 and trainer.current_epoch + 1 >= math.ceil(self.max_share * limit):
            self._stop(trainer)

    def _stop(self, trainer: Any) -> None:
        trainer.should_stop = True
        if self.stopped_epoch is None:
            self.stopped_epoch = trainer.current_epoch

    def state_dict(self) -> dict[str, Any]:
        """Best score and how long ago it was."""
        return {"best": self._best, "waited": self._waited, "stopped_epoch": self.stopped_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._best, self._waited = state_dict["best"], state_dict["waited"]
        self.stopped_epoch = state_dict["stopped_epoch"]
