"""Train with right-censored noise while searching for the sigma that serves the worst chips best (TRICE)."""

from __future__ import annotations

import inspect
import math
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.interval_search import IntervalSearch, Selection
from lightning_cim.callbacks.judging import Judge, Mode, Yardstick, with_mean_shift
from lightning_cim.callbacks.monte_carlo import MonteCarloEvaluation
from lightning_cim.callbacks.offstage import own_containers
from lightning_cim.callbacks.variation_injection import VariationInjection
from lightning_cim.callbacks.weight_sets import Twin, copy_into, same_buffers_on_all_ranks, tensors_of
from lightning_cim.chip.interval import SETS, Interval, SetName, winner_of
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip
from lightning_cim.evaluation.result import plain_name
from lightning_cim.variation.base import Variation
from lightning_cim.variation.gaussian import RightCensoredGaussian

_TWINS: tuple[SetName, SetName] = ("left", "right")
_ONE_MODULE_ONLY = {
    "BaseFinetuning": "it freezes and unfreezes the user's module only",
    "CorrectNetReg": "its penalty reaches the user's module only",
    "StochasticWeightAveraging": "averages over selections mix weights of different sets",
    "WeightAveraging": "averages over selections mix weights of different sets",
}


class RightCensoredTraining(VariationInjection):
    """TRICE: right-censored Gaussian noise, and a search for its sigma inside one ``fit`` (arXiv 2307.15853).

    Three sets of weights train side by side at low + q, the middle and high - q of an interval of sigma, with q a
    quarter of its width. The user's module is the middle set; the others are copies with optimizers and schedulers of
    their own from ``configure_optimizers``, so a step costs about three times the time and memory. Each set makes one
    step on every batch, on its own fresh chip of ``RightCensoredGaussian(sigma, cutoff)``.

    Whenever validation starts, batch-norm statistics of each set are collected anew on clean weights (one pass over
    the training data), and each set is scored on the same chips of the ``deployment`` variation and the validation
    data: by the k-th percentile of a metric. The interval shrinks towards the winner (a quarter goes on the far side,
    or on both sides for the middle), and the winner's weights are copied into all sets; optimizer states are not.
    Validation, ``ModelCheckpoint`` and ``EarlyStopping`` then see the winner. Once the interval is narrower than
    ``tolerance`` one set trains on. The best-scored weights are restored when the fit ends.

    Logs ``cim/sigma`` (of the middle set), ``cim/sigma_low``, ``cim/sigma_high`` and ``cim/<metric>_kpp`` (the
    winner's score; left to :class:`MonteCarloEvaluation` where there is one).

    The authors' code selects on test data and trains warm-up epochs with SGD at 1e-3; here selection uses validation
    data and chips that no test draws, and warm-up epochs use the module's own optimizer. The search begins at
    sigma 0 unless ``sigma_min`` says otherwise: as long as the left set wins, noise stays small, and in the first
    epochs it often does, because less noise trains faster; ``warmup_epochs`` lets the sets settle before the first
    selection. Other callbacks act on the user's module only, except for masks and quantisation, which all sets have.

    Args:
        deployment: What the devices of the deployed chip do to a value: a Gaussian, or a measured device; never the
            censored noise.
        sigma_max: Upper end of the interval, in units of max|W| (``sigma_ref="weight"``, TRICE's own convention,
            whatever that of ``deployment`` is). None: twice ``deployment.std``, which is in these units too, so that
            the search begins around the deployed deviation.
        cutoff: c of the censored noise, in units of sigma; it is not searched here (:func:`tune_right_censored` does).
        k: The percentile, in per cent.
        chips: Chips for each score. TRICE's 10 are few; with 50 the 1 % percentile is close to the worst chip, which
            common chips make comparable between sets.
        monitor: A validation metric; None: the only one that is no loss.
        mode: Whether ``"max"`` or ``"min"`` of it is better; ``"auto"``: judged by its name.
        warmup_epochs: Epochs without selection; the middle set is scored in them too.
        seed: Of chips and of everything random in the two other sets.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        tolerance: Width of the interval below which one set trains on.
        refresh_batchnorm: Whether to collect batch-norm statistics as above. Without it a censored noise's mean shifts
            them away from what the deployed chip needs.
        deploy_mean_shift: ``"add"``: score, and restore at the end, weights with E[dW] of their training noise added
            (the authors' ablation "BLG"). Checkpoints written during the fit hold the weights as trained.
        sigma_min: Lower end of the interval.

    Attributes:
        interval: Where the search looks now.
        history: The selections so far, an :class:`IntervalSearch` with a table and a plot.

    Raises:
        MisconfigurationException: Arguments out of range, no validation loop, manual optimisation, a gradient scaler
            (``precision="16-mixed"``), a compiled module, or a callback that changes the training of one module only.

    Example:
        >>> import lightning_cim as cim
        >>> search = RightCensoredTraining(cim.Gaussian(sigma=0.1), monitor="val/acc", chips=50)
        >>> search.interval
        Interval(low=0.0, high=0.2)
    """

    def __init__(
        self,
        deployment: Variation,
        sigma_max: float | None = None,
        cutoff: float = 2.0,
        k: float = 1.0,
        chips: int = 50,
        monitor: str | None = None,
        mode: Mode = "auto",
        warmup_epochs: int = 0,
        seed: int = 0,
        mapping: Mapping | None = None,
        tolerance: float = 1e-4,
        refresh_batchnorm: bool = True,
        deploy_mean_shift: Literal["none", "add"] = "none",
        sigma_min: float = 0.0,
    ) -> None:
        try:
            self._yardstick = Yardstick(
                deployment, chips, k, monitor, mode, seed, mapping or Mapping(), refresh_batchnorm
            )
            self._first = Interval(sigma_min, 2 * deployment.std if sigma_max is None else sigma_max)
            noise = RightCensoredGaussian(self._first.sigmas["mid"], cutoff=cutoff)
        except ValueError as error:
            raise MisconfigurationException(f"RightCensoredTraining: {error}") from error
        super().__init__(noise, mapping, seed)
        if warmup_epochs < 0 or not tolerance > 0:
            raise MisconfigurationException(
                "RightCensoredTraining: warmup_epochs must be at least 0 and tolerance above 0, got"
                f" warmup_epochs={warmup_epochs}, tolerance={tolerance}"
            )
        if deploy_mean_shift not in ("none", "add"):
            raise MisconfigurationException(
                f"RightCensoredTraining: deploy_mean_shift must be 'none' or 'add', got {deploy_mean_shift!r}"
            )
        self.deployment, self.cutoff, self.k, self.chips, self.monitor = deployment, cutoff, k, chips, monitor
        self.warmup_epochs, self.tolerance, self.deploy_mean_shift = warmup_epochs, tolerance, deploy_mean_shift
        self.interval = self._first
        self.history = IntervalSearch(k=k)
        self._best: dict[str, Tensor] | None = None
        self._twins: dict[SetName, Twin] = {}
        self._saved_twins: dict[SetName, Any] = {}
        self._resumes = False
        self._chip_of: dict[SetName, Chip] = {}
        self._batch: Any = None
        self._training: list[bool] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot work, before anything runs."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        for reason in _refusals(trainer, pl_module):
            raise MisconfigurationException(f"RightCensoredTraining {reason}")
        last = trainer.max_epochs
        if last is not None and 0 < last <= self.warmup_epochs and not trainer.fast_dev_run:
            raise MisconfigurationException(
                f"RightCensoredTraining: warmup_epochs={self.warmup_epochs} leave no epoch to select in with"
                f" max_epochs={last}"
            )

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach; a fit that goes on from nothing searches from the beginning."""
        if not self._resumes and trainer.global_step == 0:
            self.history, self._best = IntervalSearch(k=self.k), None
            self._narrow(self._first)
        super().on_fit_start(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the two other sets, or restore them."""
        self._twins = {}
        if self._searches:
            for name in _TWINS:
                self._twins[name] = twin = Twin(trainer, pl_module, name, self.seed, self._chip(trainer, name))
                if name in self._saved_twins:
                    twin.load_state_dict(self._saved_twins[name])
                elif trainer.global_step:
                    twin.take_over(trainer)
        self._saved_twins = {}
        self._call_twins(trainer, "on_train_start")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Let the other sets begin the epoch too."""
        self._call_twins(trainer, "on_train_epoch_start")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Pick each set's chip."""
        self._chip_of = {name: self._chip(trainer, name) for name in self._twins}
        self._batch = own_containers(batch)  # before the user's step can take it apart
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any = None, batch: Any = None, batch_idx: int = 0, *_: Any
    ) -> None:
        """Let the other sets make their step."""
        super().on_train_batch_end(trainer, pl_module)
        self._training = [part.training for part in pl_module.modules()]
        if self._batch is None:  # the loader gave no batch, and the user's module made no step
            return
        for name, twin in self._twins.items():
            twin.step(trainer, self._batch, batch_idx, self._chip_of[name])
            twin.step_on_plateau(trainer, "step", batch_idx)
        self._batch = None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Step the other sets' schedulers that look at a metric."""
        for twin in self._twins.values():
            twin.step_on_plateau(trainer, "epoch", trainer.current_epoch)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Select, so that what is validated is the winner."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            with torch.inference_mode(False), torch.no_grad():
                self._select(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the latest selection."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.barebones:
            return
        numbers = {"cim/sigma_low": self.interval.low, "cim/sigma_high": self.interval.high}
        if not any(isinstance(callback, MonteCarloEvaluation) for callback in trainer.callbacks):
            numbers[f"cim/{plain_name(self.history.metric)}_kpp"] = self.history[-1].score
        for name, number in numbers.items():
            pl_module.log(name, number, batch_size=1, rank_zero_only=False, sync_dist=False)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Restore the best weights."""
        if self._best is not None:
            copy_into(pl_module, self._best)
        self._dismiss()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Detach, and forget the other sets."""
        super().teardown(trainer, pl_module, stage)
        self._dismiss()
        self._resumes = False

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if it had never stopped."""
        return {
            **super().state_dict(),
            "interval": (self.interval.low, self.interval.high),
            "history": self.history.state_dict(),
            "best": self._best,
            "twins": {name: twin.state_dict() for name, twin in self._twins.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave; the sets themselves when the fit starts."""
        super().load_state_dict(state_dict)
        self.history = IntervalSearch(k=self.k)
        self.history.load_state_dict(state_dict["history"])
        self._narrow(Interval(*state_dict["interval"]))
        self._best, self._saved_twins, self._resumes = state_dict["best"], dict(state_dict["twins"]), True

    @property
    def _searches(self) -> bool:
        return self.interval.width >= self.tolerance

    def _noise(self, name: SetName) -> RightCensoredGaussian:
        return RightCensoredGaussian(self.interval.sigmas[name], cutoff=self.cutoff)

    def _chip(self, trainer: Any, name: SetName) -> Chip:
        stream = f"train-{name}/{trainer.global_rank}"
        return Chip(self._noise(name), self.seed, self._batches, self.mapping, stream, portable=False)

    def _narrow(self, interval: Interval) -> None:
        self.interval = interval
        self.variation = self._noise("mid")

    def _call_twins(self, trainer: Any, hook: str) -> None:
        for twin in self._twins.values():
            twin.call(trainer, hook)

    def _dismiss(self) -> None:
        for twin in self._twins.values():
            twin.leave()
        self._twins = {}

    def _select(self, trainer: Any, pl_module: Any) -> None:
        modules: dict[SetName, Any] = {"mid": pl_module, **{name: twin.module for name, twin in self._twins.items()}}
        warms_up = trainer.current_epoch < self.warmup_epochs
        names: list[SetName] = ["mid"] if warms_up else [name for name in SETS if name in modules]
        for name in names:
            same_buffers_on_all_ranks(trainer, modules[name])
        judge = Judge(trainer, pl_module, self._yardstick, self._training)
        scores = judge.scores({name: self._deployed(name, pl_module, tensors_of(modules[name])) for name in names})
        self.history.metric = scores["mid"].metric
        self.history.lower_is_better = scores["mid"].lower_is_better
        values = {name: score.value for name, score in scores.items()}
        winner: SetName = winner_of(values, self.history.lower_is_better)
        copy_into(modules[winner], scores[winner].statistics)
        if not warms_up:
            for name, module in modules.items():
                if name != winner:
                    copy_into(module, tensors_of(modules[winner]))
        self._record(trainer, values, None if warms_up else winner)
        best = self.history.best
        if best is self.history[-1]:
            deployed = self._deployed(winner, pl_module, tensors_of(pl_module))
            self._best = {name: tensor.detach().cpu().clone() for name, tensor in deployed.items()}
        if len(scores) == len(SETS):
            self._narrow(self.interval.shrunk(winner))
        if not self._searches:
            self._dismiss()

    def _deployed(self, name: SetName, pl_module: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a set as they are to be written to a chip."""
        if self.deploy_mean_shift == "none":
            return tensors
        return with_mean_shift(pl_module, self.mapping, tensors, self._noise(name))

    def _record(self, trainer: Any, values: dict[SetName, float], winner: SetName | None) -> None:
        finite = {name: None if math.isnan(value) else value for name, value in values.items()}
        left, mid, right = (self.interval.sigmas[name] for name in SETS)
        scores = (finite.get("left"), finite.get("mid"), finite.get("right"))
        low, high = self.interval.low, self.interval.high
        self.history.rows.append(Selection(trainer.current_epoch, low, high, (left, mid, right), scores, winner))


def _refusals(trainer: Any, pl_module: Any) -> list[str]:
    """Why this Trainer and this module cannot train three sets; empty where they can."""
    reasons = []
    if not trainer.enable_validation:
        reasons.append(
            "selects on validation data and found no validation loop: define validation_step, pass validation data and"
            " leave limit_val_batches above 0"
        )
    if not pl_module.automatic_optimization:
        reasons.append(
            "makes the optimizer steps of three weight sets itself and cannot with manual optimisation, or with several"
            " optimizers: set automatic_optimization = True with one optimizer, or search sigma from outside with"
            " tune_right_censored"
        )
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        reasons.append(
            f"does not work with precision={trainer.precision!r}: one gradient scaler cannot serve three weight sets."
            " Use 'bf16-mixed', which needs none, or '32-true'"
        )
    if getattr(pl_module, "_compiler_ctx", None) is not None:
        reasons.append(
            "copies the module, and a copy of a compiled LightningModule computes with the original's weights: pass"
            " the module itself and compile its parts, for example self.net = torch.compile(net)"
        )
    if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        reasons.append(
            "gives each batch to three weight sets and cannot with training_step(self, dataloader_iter): take"
            " (self, batch, batch_idx)"
        )
    for callback in trainer.callbacks:
        for cls in type(callback).__mro__:
            if cls.__name__ in _ONE_MODULE_ONLY:
                reasons.append(
                    f"does not go with {type(callback).__name__}: {_ONE_MODULE_ONLY[cls.__name__]}. Drop the callback,"
                    " or find sigma first and train with VariationInjection(RightCensoredGaussian(sigma))"
                )
    return reasons
