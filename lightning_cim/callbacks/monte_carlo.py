"""Evaluate on simulated chips while a Trainer runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_cim._compat import MisconfigurationException
from lightning_cim._ranks import same_on_all_ranks
from lightning_cim.callbacks.chip_logging import log_chips, log_devices
from lightning_cim.callbacks.offstage import CopyingCallback
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip, ChipPopulation
from lightning_cim.evaluation.evaluate import run_chips
from lightning_cim.evaluation.passes import ChipPasses, Stage
from lightning_cim.evaluation.result import ChipResult
from lightning_cim.variation.base import Variation


class MonteCarloEvaluation(CopyingCallback):
    """After a validation or test epoch, repeat it on simulated chips and log what the chips make of each metric.

    For a metric ``val/acc`` it logs ``cim/acc_mean``, ``cim/acc_std``, ``cim/acc_kpp``, ``cim/acc_kpp_low``,
    ``cim/acc_kpp_high`` and ``cim/acc_worst``, so that ``ModelCheckpoint(monitor="cim/acc_kpp")`` works. A copy of the
    module is evaluated; weights, metrics and random state of the run are untouched. Under DDP the chips are spread
    over the ranks. W&B also gets a table with a row a chip, histograms, plots and the data of measured devices;
    TensorBoard histograms and plots.

    Args:
        variation: What devices do to a value.
        chips: How many. The k-th percentile wants at least 10 / (k / 100).
        k: The percentile to log.
        seed: The population. Validation chips are not those of the test loop or of :func:`evaluate_chips`, so
            selecting by them sees no test chip.
        every_n_epochs: How often during ``fit``.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        csv_dir: Also write the chips of each evaluation into this folder.
        progress: Whether to show a progress bar over chips.

    Attributes:
        result: The latest :class:`ChipResult`.

    Raises:
        MisconfigurationException: Arguments out of range, or a mapping that does not fit.

    Example:
        >>> import lightning_cim as cim
        >>> evaluation = cim.MonteCarloEvaluation(cim.Gaussian(sigma=0.1), chips=100, k=10, every_n_epochs=5)
    """

    def __init__(
        self,
        variation: Variation,
        chips: int = 100,
        k: float = 1.0,
        seed: int = 0,
        every_n_epochs: int = 1,
        mapping: Mapping | None = None,
        csv_dir: str | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(variation, Variation):
            raise MisconfigurationException(
                f"MonteCarloEvaluation: variation must be a Variation such as Gaussian(sigma=0.1), got {variation!r}"
            )
        if chips < 1 or every_n_epochs < 1 or not 0 < k < 100:
            raise MisconfigurationException(
                "MonteCarloEvaluation: chips and every_n_epochs must be at least 1 and k lie between 0 and 100, got"
                f" chips={chips}, every_n_epochs={every_n_epochs}, k={k}"
            )
        self.variation, self.chips, self.k, self.seed = variation, chips, k, seed
        self.every_n_epochs, self.mapping = every_n_epochs, mapping or Mapping()
        self.csv_dir, self.progress = csv_dir, progress
        self.result: ChipResult | None = None

    def is_due(self, trainer: Any) -> bool:
        """Every n-th epoch of a fit, and each other validation."""
        due = trainer.state.fn != "fit" or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        return due and not trainer.sanity_checking

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Log what the devices are."""
        if trainer.is_global_zero:
            log_devices(trainer.loggers, self.variation)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Evaluate after validation."""
        if self.is_due(trainer):
            self._evaluate(trainer, pl_module, "validate", trainer.val_dataloaders)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Evaluate after the test."""
        self._evaluate(trainer, pl_module, "test", trainer.test_dataloaders)

    def _evaluate(self, trainer: Any, pl_module: Any, stage: Stage, loaders: Any) -> None:
        model = self.take_copy()
        if model is None:  # there was no batch
            return
        with torch.inference_mode(False), same_on_all_ranks(trainer, model):
            try:
                ChipPopulation(model, self.variation, self.seed, self.mapping)  # checks mapping and weights
            except ValueError as error:
                raise MisconfigurationException(f"MonteCarloEvaluation: {error}") from error
            passes = ChipPasses(trainer, model, loaders, stage, trainer.datamodule)
            stream = "chip" if stage == "test" else "validation"
            rows = run_chips(
                trainer,
                passes,
                lambda index: Chip(self.variation, self.seed, index, self.mapping, stream),
                self.chips,
                progress=self.progress,
            )
        about = {"variation": str(self.variation), "seed": self.seed, "stage": stage, "epoch": trainer.current_epoch}
        self.result = ChipResult.from_rows(rows, about)
        if self.csv_dir is not None and trainer.is_global_zero:
            self.result.to_csv(Path(self.csv_dir) / f"chips-{stage}-epoch{trainer.current_epoch:03d}.csv")
        for name, number in self.result.summary(self.k).items():
            pl_module.log(name, number, batch_size=1, rank_zero_only=False, sync_dist=False)
        if trainer.is_global_zero:
            log_chips(trainer.loggers, self.result, self.k, trainer.global_step)
