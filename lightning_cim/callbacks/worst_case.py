"""Search the worst chip within a bound after a test."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from lightning_cim._compat import MisconfigurationException
from lightning_cim._data import is_defined
from lightning_cim._ranks import same_on_all_ranks
from lightning_cim._undisturbed import isolated_rng
from lightning_cim.callbacks.base import simulate_hardware
from lightning_cim.callbacks.loop_batches import LoopBatches
from lightning_cim.callbacks.offstage import CopyingCallback
from lightning_cim.chip.mapping import Mapping
from lightning_cim.evaluation.lagrange import Distance
from lightning_cim.evaluation.worst_case import Method, check_arguments, worst_case
from lightning_cim.evaluation.worst_case_result import WorstCaseResult

_HELD = {"train": "train_dataloader", "val": "val_dataloaders"}
_SETUP = {"train": "fit", "val": "validate"}


class WorstCaseSearch(CopyingCallback):
    """After a test, find the worst chip within a bound on validation data and score it on the test data.

    Logs ``cim/acc_worst_case`` (``cim/loss_worst_case`` for a criterion that is no classification); all else is in
    ``result``. See :func:`worst_case`. Logits and target come from the module's unchanged ``training_step``, which is
    given batches of every loop. Masks and quantisation that the Trainer's callbacks put on the module are kept. A copy
    of the module is searched; weights, metrics and random state of the run are untouched. Under DDP every rank searches
    on the whole data, and all end with the figure of rank 0.

    Args:
        bound: Largest |dW| / max|W| of every tensor, above 0.
        method: ``"sign"`` or ``"lagrange"``.
        find_on: What a test finds the chip on: ``"val"``, ``"train"`` or a loader of its own. Never the test data.
        every_n_epochs: Also after validation, at every n-th epoch of ``fit``; the chip is then found on training data
            (or on the loader given), so that validation scores it. 0: only after a test.
        steps: See :func:`worst_case`, as all that follow.
        rounds: Values of c that the Lagrangian search tries.
        distance: What the Lagrangian search holds against the bound.
        lr: Adam's learning rate in the Lagrangian search, in units of the bound.
        kappa: A prediction that is wrong by this margin pulls no more.
        max_batches: Batches to search on; default: all.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        progress: Whether to show a progress bar over points.

    Attributes:
        result: The latest :class:`WorstCaseResult`.

    Raises:
        MisconfigurationException: Arguments out of range, or nobody has the data to search on.

    Example:
        >>> import lightning as L
        >>> search = WorstCaseSearch(bound=0.03)
        >>> trainer = L.Trainer(callbacks=[search], logger=False)
    """

    def __init__(
        self,
        bound: float,
        method: Method = "sign",
        *,
        find_on: Any = "val",
        every_n_epochs: int = 0,
        steps: int = 10,
        rounds: int = 8,
        distance: Distance = "max",
        lr: float = 0.1,
        kappa: float = 0.0,
        max_batches: int | None = None,
        mapping: Mapping | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        try:
            check_arguments(bound, method, steps, rounds, distance, lr, kappa)
        except ValueError as error:
            raise MisconfigurationException(f"WorstCaseSearch: {error}") from error
        if isinstance(find_on, str) and find_on not in _HELD:
            raise MisconfigurationException(
                f"WorstCaseSearch: find_on must be 'val', 'train' or a loader, got {find_on!r}"
            )
        if every_n_epochs < 0:
            raise MisconfigurationException(f"WorstCaseSearch: every_n_epochs must be at least 0, got {every_n_epochs}")
        self.bound, self.method, self.find_on, self.every_n_epochs = bound, method, find_on, every_n_epochs
        self.steps, self.rounds, self.distance, self.lr, self.kappa = steps, rounds, distance, lr, kappa
        self.max_batches, self.mapping, self.progress = max_batches, mapping or Mapping(), progress
        self.result: WorstCaseResult | None = None
        self._fitted_on: dict[str, Any] = {}

    def is_due(self, trainer: Any) -> bool:
        """Every n-th epoch of a fit, where asked for."""
        if self.every_n_epochs == 0 or trainer.sanity_checking:
            return False
        return bool(trainer.state.fn == "fit" and (trainer.current_epoch + 1) % self.every_n_epochs == 0)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Search after validation, where asked for."""
        if self.is_due(trainer):
            self._search(trainer, pl_module, "train", trainer.val_dataloaders, trainer.num_val_batches)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Search after the test."""
        self._search(trainer, pl_module, self.find_on, trainer.test_dataloaders, trainer.num_test_batches)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Remember the data: a test after this fit finds the chip on them, and the Trainer forgets them."""
        self._fitted_on = {name: getattr(trainer, attribute) for name, attribute in _HELD.items()}

    def _search(self, trainer: Any, pl_module: Any, find_on: Any, loaders: Any, counts: Any) -> None:
        model = self.take_copy()
        if model is None:  # there was no batch
            return
        model.trainer = trainer  # a step may look at it; what it logs goes nowhere
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(isolated_rng())
            stack.enter_context(same_on_all_ranks(trainer, model))
            simulate_hardware(trainer, model, stack)
            stack.enter_context(trainer.precision_plugin.forward_context())
            held_out = LoopBatches(trainer, pl_module, loaders, counts)
            found_on = LoopBatches(trainer, pl_module, self._search_data(trainer, pl_module, find_on))
            try:
                result = worst_case(
                    model,
                    found_on,
                    self.bound,
                    self.method,
                    evaluate_on=held_out,
                    mapping=self.mapping,
                    steps=self.steps,
                    rounds=self.rounds,
                    distance=self.distance,
                    lr=self.lr,
                    kappa=self.kappa,
                    max_batches=self.max_batches,
                    progress=self.progress and trainer.is_global_zero,
                )
            except ValueError as error:
                raise MisconfigurationException(f"WorstCaseSearch: {error}") from error
        self.result = result = trainer.strategy.broadcast(result)
        name = "acc" if result.metric == "accuracy" else "loss"
        pl_module.log(f"cim/{name}_worst_case", result.worst, batch_size=1, rank_zero_only=False, sync_dist=False)

    def _search_data(self, trainer: Any, pl_module: Any, find_on: Any) -> Any:
        """The loader given, or that of the running fit, the datamodule, the module or an earlier fit."""
        if not isinstance(self.find_on, str):
            return self.find_on
        running = getattr(trainer, _HELD[find_on])
        if trainer.state.fn == "fit" and running is not None:
            return running
        for source in (trainer.datamodule, pl_module):
            if is_defined(source, f"{find_on}_dataloader"):
                if source is trainer.datamodule:
                    source.setup(_SETUP[find_on])
                return getattr(source, f"{find_on}_dataloader")()
        if self._fitted_on.get(find_on) is not None:
            return self._fitted_on[find_on]
        raise MisconfigurationException(
            f"WorstCaseSearch: neither the datamodule nor {type(pl_module).__name__} has a {find_on}_dataloader to find"
            " the worst case on; pass find_on=loader"
        )
