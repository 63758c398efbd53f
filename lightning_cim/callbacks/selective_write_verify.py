"""Program the trained network with selective write-verify when a fit ends."""

from __future__ import annotations

from typing import Any, Literal

from lightning_cim._compat import CallbackBase, MisconfigurationException
from lightning_cim.callbacks.base import refuse_sharding
from lightning_cim.callbacks.loop_batches import LoopBatches
from lightning_cim.chip.mapping import Mapping
from lightning_cim.programming.program import check_arguments, program
from lightning_cim.programming.report import ProgrammingReport
from lightning_cim.programming.sensitivity import Method
from lightning_cim.programming.write_verify import WriteVerify
from lightning_cim.variation.base import Variation


class SelectiveWriteVerify(CallbackBase):
    """At the end of ``fit``, program simulated chips with SWIM: verify only the weights that matter most.

    A thin form of :func:`program`: the sensitivity comes from the Trainer's training data and the stop is decided on
    its validation data; test data is not touched. Masks and quantisation of other callbacks apply. The module is left
    bit for bit as it was; the programmed chips are in :attr:`report`. Logs ``cim/program_fraction``,
    ``cim/program_nwc``, ``cim/program_nwc_total``, ``cim/program_accuracy`` (or ``_loss``) and, with a budget,
    ``cim/program_met`` (the share of chips that meet it).

    Under DDP the ranks share the chips, each over the whole data, and all of them have the report of one process.

    Args:
        variation: How a weight deviates that is only written.
        verify_fraction: Share of weights to verify. Give either this or ``max_drop``.
        max_drop: How far below the ideal the score may stay, in its own units.
        granularity: Share of weights to verify at a time.
        method: ``"swim"``, ``"magnitude"`` or ``"random"``.
        sensitivity: How it is computed; see :func:`lightning_cim.sensitivity`.
        chips: How many.
        seed: Of the chips.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        residual: How verified weights deviate; default: ``Gaussian(0.03)`` in the convention of ``variation``.
        simulate: Simulate the write-verify loop instead, and count its cycles.
        csv: Write each score here as soon as it is measured; as :func:`program`.
        progress: Whether to show a progress bar.

    Attributes:
        report: The :class:`ProgrammingReport` of the latest fit.

    Raises:
        MisconfigurationException: Arguments out of range, a mapping that does not fit, several training loaders, or a
            strategy that shards parameters.

    Example:
        >>> import lightning_cim as cim
        >>> programming = SelectiveWriteVerify(cim.Gaussian(sigma=0.1), max_drop=0.01)
    """

    def __init__(
        self,
        variation: Variation,
        verify_fraction: float | None = None,
        max_drop: float | None = None,
        granularity: float = 0.05,
        method: Literal["swim", "magnitude", "random"] = "swim",
        sensitivity: Method = "auto",
        chips: int = 20,
        seed: int = 0,
        mapping: Mapping | None = None,
        residual: Variation | None = None,
        simulate: bool | WriteVerify | None = None,
        csv: str | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        try:
            check_arguments(variation, verify_fraction, max_drop, granularity, method, chips, residual, simulate)
        except ValueError as error:
            raise MisconfigurationException(f"SelectiveWriteVerify: {error}") from error
        self.variation, self.mapping = variation, mapping
        self._options: dict[str, Any] = {
            "verify_fraction": verify_fraction,
            "max_drop": max_drop,
            "granularity": granularity,
            "method": method,
            "sensitivity": sensitivity,
            "chips": chips,
            "seed": seed,
            "residual": residual,
            "simulate": simulate,
        }
        self.csv, self.progress = csv, progress
        self.report: ProgrammingReport | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse strategies that shard or flatten parameters, before anything runs."""
        refuse_sharding(self, trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Program the trained module."""
        training, validation = _training_batches(trainer, pl_module), _validation_batches(trainer, pl_module)
        if training is None:
            return
        try:
            self.report = program(
                pl_module,
                training,
                self.variation,
                validation=validation,
                mapping=self.mapping,
                csv=self.csv,
                trainer=trainer,
                progress=self.progress,
                **self._options,
            )
        except ValueError as error:
            raise MisconfigurationException(f"SelectiveWriteVerify: {error}") from error
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(self._metrics(self.report), step=trainer.global_step)
                logger.save()

    def _metrics(self, report: ProgrammingReport) -> dict[str, float]:
        metrics = {
            "cim/program_fraction": report.fraction,
            "cim/program_nwc": report.nwc.verify_only,
            "cim/program_nwc_total": report.nwc.total,
            f"cim/program_{report.curve.score_name}": report.score,
        }
        if report.max_drop is not None:
            metrics["cim/program_met"] = float(report.met.mean())
        return metrics


def _training_batches(trainer: Any, pl_module: Any) -> LoopBatches | None:
    """None if there were none.

    Raises:
        MisconfigurationException: Several loaders, whose batches only the Trainer knows how to combine.
    """
    loaders = trainer.train_dataloader
    if isinstance(loaders, (dict, list, tuple)):
        raise MisconfigurationException(
            "SelectiveWriteVerify takes its sensitivity from one training loader, and there is a collection of them."
            " Call cim.program(model, data, ...) after the fit, with the batches you mean."
        )
    return None if loaders is None else LoopBatches(trainer, pl_module, loaders, [trainer.num_training_batches])


def _validation_batches(trainer: Any, pl_module: Any) -> LoopBatches | None:
    loaders = trainer.val_dataloaders
    return None if loaders is None else LoopBatches(trainer, pl_module, loaders, trainer.num_val_batches)
