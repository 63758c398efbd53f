"""Search the sigma and the cut-off of right-censored training noise from outside, one whole training a trial."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lightning_cim._plotting import figure_and_axes
from lightning_cim._progress import progress_bar
from lightning_cim._undisturbed import isolated_rng
from lightning_cim.callbacks.judging import Judge, Mode, Score, Yardstick
from lightning_cim.callbacks.variation_injection import VariationInjection
from lightning_cim.callbacks.weight_sets import tensors_of
from lightning_cim.chip.mapping import Mapping
from lightning_cim.evaluation.passes import quiet
from lightning_cim.variation.base import Variation
from lightning_cim.variation.gaussian import RightCensoredGaussian

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        number: Its number in the study.
        sigma: Of the training noise, in units of max|W|.
        cutoff: In units of sigma.
        score: The k-th percentile over validation chips.
    """

    number: int
    sigma: float
    cutoff: float
    score: float


@dataclass(frozen=True)
class TuningResult:
    """What :func:`tune_right_censored` found. Printing it prints :meth:`table`.

    Attributes:
        trials: Those that gave a score, in order.
        metric: What the scores are percentiles of.
        k: The percentile, in per cent.
        lower_is_better: Whether a lower score is better.

    Example:
        >>> result = TuningResult([Trial(0, 0.1, 2.0, 0.8), Trial(1, 0.2, 1.5, 0.9)], "val/acc")
        >>> result.variation
        RightCensoredGaussian(sigma=0.2, sigma_ref='weight', weight_bits=None, device_bits=None, cutoff=1.5)
    """

    trials: list[Trial]
    metric: str
    k: float = 1.0
    lower_is_better: bool = False

    @property
    def best(self) -> Trial:
        """The first trial with the best score."""
        return min(self.trials, key=lambda trial: trial.score if self.lower_is_better else -trial.score)

    @property
    def variation(self) -> RightCensoredGaussian:
        """The best training noise, for :class:`VariationInjection`."""
        return RightCensoredGaussian(self.best.sigma, cutoff=self.best.cutoff)

    def table(self) -> str:
        """One line a trial, best first."""
        ordered = sorted(self.trials, key=lambda trial: trial.score, reverse=not self.lower_is_better)
        lines = [f"{'trial':>5}  {'sigma':>7}  {'cutoff':>6}  KPP {self.k:g} % of {self.metric}"]
        lines += [
            f"{trial.number:>5}  {trial.sigma:>7.4f}  {trial.cutoff:>6.3f}  {trial.score:.4f}" for trial in ordered
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """The trials over sigma and cut-off, coloured by score; the best is marked.

        Args:
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        figure, ax = figure_and_axes(ax)
        sigmas, cutoffs = [trial.sigma for trial in self.trials], [trial.cutoff for trial in self.trials]
        points = ax.scatter(sigmas, cutoffs, c=[trial.score for trial in self.trials], cmap="viridis")
        ax.plot(self.best.sigma, self.best.cutoff, "o", markersize=14, fillstyle="none", color="#c0392b", label="best")
        figure.colorbar(points, ax=ax, label=f"KPP {self.k:g} % of {self.metric}")
        ax.set_xlabel("training sigma")
        ax.set_ylabel("cutoff")
        ax.legend(fontsize="small")
        return figure, ax

    def to_csv(self, path: str | Path) -> None:
        """Write one row a trial."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["trial", "sigma", "cutoff", "score"])
            writer.writerows([trial.number, trial.sigma, trial.cutoff, trial.score] for trial in self.trials)


def tune_right_censored(
    make_module: Callable[[], Any],
    make_trainer: Callable[[], Any],
    data: Any = None,
    *,
    deployment: Variation,
    trials: int = 20,
    sigma: tuple[float, float] | None = None,
    cutoff: tuple[float, float] = (0.5, 3.0),
    k: float = 1.0,
    chips: int = 50,
    monitor: str | None = None,
    mode: Mode = "auto",
    seed: int = 0,
    mapping: Mapping | None = None,
    refresh_batchnorm: bool = True,
    storage: str | None = None,
    study_name: str = "right-censored",
    progress: bool = True,
) -> TuningResult:
    """Search training sigma and cut-off with optuna's tree-structured Parzen estimator.

    Each trial trains a fresh module with ``VariationInjection(RightCensoredGaussian(sigma, cutoff))``, collects
    batch-norm statistics on clean weights, and is scored by the k-th percentile of a validation metric over chips of
    the ``deployment`` variation; test data and test chips are never touched. All trials start from the same random
    state, and the global one is left alone, so equal arguments give equal trials. :class:`RightCensoredTraining`
    finds sigma, at a fixed cut-off, in the time of three trainings.

    Args:
        make_module: Builds a LightningModule.
        make_trainer: Builds a Trainer for one fit; the injection is added to its callbacks.
        data: A LightningDataModule, a pair of training and validation loaders, or None for the module's own loaders.
        deployment: What the devices of the deployed chip do to a value.
        trials: How many in all, counting those that ``storage`` holds already.
        sigma: Range of the training sigma in units of max|W|; None: from a tenth of ``deployment.std`` to twice it.
        cutoff: Range of the cut-off in units of sigma.
        k: The percentile, in per cent.
        chips: Validation chips for each score.
        monitor: A validation metric; None: the only one that is no loss.
        mode: Whether ``"max"`` or ``"min"`` of it is better; ``"auto"``: judged by its name.
        seed: Of the search, of the chips and of the random state that each trial starts from.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        refresh_batchnorm: Whether to collect batch-norm statistics before scoring.
        storage: A database for optuna, such as ``"sqlite:///tune.db"``; a search that was stopped goes on there, with
            the trials that it would have made.
        study_name: The study's name in the storage.
        progress: Whether to show a progress bar over trials.

    Returns:
        The trials, the best noise, a table and a plot.

    Raises:
        ImportError: optuna, the extra ``lightning-cim[tune]``, is missing.
        ValueError: A range out of order, no trial, no validation data, no trial that gave a score, or a storage that
            holds another search of this name.
        MisconfigurationException: Validation logs no such metric, or several to choose from.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("tune_right_censored needs optuna: pip install 'lightning-cim[tune]'") from error

    yardstick = Yardstick(deployment, chips, k, monitor, mode, seed, mapping or Mapping(), refresh_batchnorm)
    sigmas = (deployment.std / 10, 2 * deployment.std) if sigma is None else sigma
    for name, (low, high) in (("sigma", sigmas), ("cutoff", cutoff)):
        if not 0 < low < high < math.inf:
            raise ValueError(f"{name} must be a range with 0 < low < high, got ({low}, {high})")
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        # The direction depends on the metric, which the first trial reveals: the study always maximises.
        study = optuna.create_study(
            direction="maximize", storage=storage, study_name=study_name, load_if_exists=storage is not None
        )
        about = f"{yardstick}, sigma {sigmas}, cutoff {cutoff}"
        if study.user_attrs.get("about", about) != about:
            raise ValueError(
                f"the study {study_name!r} in {storage} is another search ({study.user_attrs['about']}); this one is"
                f" {about}. Choose another study_name"
            )
        study.set_user_attr("about", about)
        for stale in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            study.tell(stale.number, state=optuna.trial.TrialState.FAIL)  # a search was killed in it
        with progress_bar(progress, "trials", trials, done=_done(study)) as advance:
            while _done(study) < trials:
                # What is tried next depends on the seed and on what was found, not on when the search was started.
                study.sampler = optuna.samplers.TPESampler(seed=seed + _done(study))
                trial = study.ask()
                noise = RightCensoredGaussian(
                    trial.suggest_float("sigma", *sigmas), cutoff=trial.suggest_float("cutoff", *cutoff)
                )
                try:
                    score = _train_and_score(make_module, make_trainer, data, noise, yardstick)
                except BaseException:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    raise
                trial.set_user_attr("metric", score.metric)
                trial.set_user_attr("lower_is_better", score.lower_is_better)
                trial.set_user_attr("undefined", math.isnan(score.value))
                worst = -math.inf if math.isnan(score.value) else -score.value if score.lower_is_better else score.value
                study.tell(trial, worst)
                advance()
        return _result(study, k)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.values is not None]


def _done(study: Any) -> int:
    return len(_finished(study))


def _result(study: Any, k: float) -> TuningResult:
    finished = _finished(study)
    metric, lower = finished[0].user_attrs["metric"], finished[0].user_attrs["lower_is_better"]
    found = [
        Trial(trial.number, trial.params["sigma"], trial.params["cutoff"], -trial.value if lower else trial.value)
        for trial in finished
        if not trial.user_attrs["undefined"]
    ]
    if not found:
        raise ValueError(f"{metric} was NaN in each of {len(finished)} trials; train with less noise, or a lower rate")
    return TuningResult(found, metric, k, lower)


def _train_and_score(
    make_module: Callable[[], Any],
    make_trainer: Callable[[], Any],
    data: Any,
    noise: RightCensoredGaussian,
    yardstick: Yardstick,
) -> Score:
    with isolated_rng(yardstick.seed), quiet():
        module, trainer = make_module(), make_trainer()
        trainer.callbacks.insert(0, VariationInjection(noise, yardstick.mapping, yardstick.seed))
        if data is None:
            trainer.fit(module)
        elif hasattr(data, "prepare_data"):
            trainer.fit(module, datamodule=data)
        else:
            training, validation = data
            trainer.fit(module, training, validation)
        if trainer.val_dataloaders is None:
            raise ValueError(
                "tune_right_censored scores on validation data and found none: pass data=(training, validation), or a"
                " datamodule with a val_dataloader, and leave limit_val_batches above 0"
            )
        with torch.inference_mode(False), torch.no_grad():
            return Judge(trainer, module, yardstick).scores({"mid": tensors_of(module)})["mid"]
