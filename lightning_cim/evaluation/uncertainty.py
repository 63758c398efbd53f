"""How sure a network is, and how much its chips disagree, as torchmetrics classes."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_cim._plotting import figure_and_axes


class ExpectedKL(Metric):
    """Epistemic uncertainty over chips: E_x mean_t KL(p_t(x) || mean_t p_t(x)), in nats.

    The mean divergence of each chip's softmax from the chips' mean, over samples (the mutual information of prediction
    and chip). 0 where all chips agree, at most log(chips) and log(classes). The definition is ours: the paper that
    plots an expected KL divergence of chips (NeFT, arXiv 2305.14561) gives no formula.

    Never report it without accuracy: a network that has collapsed to one answer is sure of it on every chip and scores
    0. Give targets, and :meth:`accuracy` stands beside it.

    Update it with all chips for some samples, (chips, samples, classes), any number of times; or with one chip after
    another for the same samples, (samples, classes) each. Neither way keeps the chips: memory is a few numbers, or one
    tensor (samples, classes).

    Args:
        kwargs: As for every torchmetrics class.

    Example:
        >>> metric = ExpectedKL()
        >>> metric.update(torch.tensor([[[9.0, 0.0]], [[0.0, 9.0]]]), torch.tensor([0]))  # two chips that disagree
        >>> metric.compute(), metric.accuracy()
        (tensor(0.6919), tensor(0.5000))
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None  # small is good only while accuracy is
    plot_lower_bound = 0.0

    divergence: Tensor
    samples: Tensor
    mean_probability: Tensor
    entropy: Tensor
    chips: Tensor
    hits: Tensor
    answers: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Of updates with all chips: sums over samples.
        for name in ("divergence", "samples"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        # Of updates chip by chip: sums over chips. The first becomes (samples, classes).
        for name in ("mean_probability", "entropy", "chips"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("hits", "answers"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor | None = None) -> None:
        """Add chips.

        Args:
            logits: (chips, samples, classes): all chips for these samples; or (samples, classes): the next chip.
            target: Class indices (samples,), for :meth:`accuracy`.

        Raises:
            ValueError: Another shape, or both ways mixed.
        """
        one_chip = logits.ndim == 2
        if logits.ndim not in (2, 3):
            raise ValueError(
                "ExpectedKL: logits must be (chips, samples, classes), or (samples, classes) of one chip, got shape"
                f" {tuple(logits.shape)}"
            )
        if self.samples > 0 if one_chip else self.chips > 0:
            raise ValueError("ExpectedKL: update with all chips at once or with one chip at a time, not both")
        logits = logits.detach().double()
        if target is not None:
            right = logits.argmax(-1) == target
            self.hits += right.sum()
            self.answers += right.numel()
        log_p = logits.log_softmax(-1)
        if not one_chip:
            log_mean = log_p.logsumexp(0) - math.log(len(log_p))
            self.divergence += (log_p.exp() * (log_p - log_mean)).sum() / len(log_p)
            self.samples += logits.shape[1]
            return
        if self.chips > 0 and self.mean_probability.shape != logits.shape:
            raise ValueError(
                f"ExpectedKL: every chip needs the same samples; there were {tuple(self.mean_probability.shape)}, now"
                f" {tuple(logits.shape)}"
            )
        self.mean_probability = self.mean_probability + log_p.exp()
        self.entropy += _entropy(log_p.exp()).mean()
        self.chips += 1

    def compute(self) -> Tensor:
        """The expected divergence in nats."""
        if self.chips > 0:
            found = _entropy(self.mean_probability / self.chips).mean() - self.entropy / self.chips
        else:
            found = self.divergence / self.samples
        return found.clamp(min=0).float()

    def accuracy(self) -> Tensor:
        """Accuracy over chips and samples, to be shown beside the divergence; NaN if no targets were given."""
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            return (self.hits / self.answers).float()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """The divergence, or several ones (of growing sigma, say), with the accuracy above it.

        Args:
            val: What :meth:`compute` gave, once or several times; default: now.
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes.
        """
        figure, axes = self._plot(val, ax)
        if bool(self.answers > 0):
            figure.suptitle(f"accuracy {float(self.accuracy()):.3f}")
        return figure, axes


class ChipConfidence(Metric):
    """Confidence over chips and samples: mean largest softmax, of all and of right answers, with calibration error.

    With a temperature every figure is given a second time for logits / temperature. Compare networks by those: one
    that was trained with its logits divided by N + 1 (NeFT) has logits about N + 1 times larger, and raw confidence
    rises for that reason alone. Fit the temperature on data that are not scored, with :func:`fit_temperature`.

    :meth:`compute` returns a dictionary: ``accuracy``, ``confidence``, ``confidence_right`` (of right answers; NaN if
    there are none) and ``ece`` (expected calibration error), and with a temperature ``confidence_fitted``,
    ``confidence_right_fitted`` and ``ece_fitted``.

    Args:
        temperature: Greater than 0; None: raw figures only.
        bins: Bins of equal width of the calibration error (Guo et al., ICML 2017, use 15).
        kwargs: As for every torchmetrics class.

    Raises:
        ValueError: Arguments out of range.

    Example:
        >>> held_out = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> metric = ChipConfidence(fit_temperature(held_out, torch.tensor([0, 0, 1, 1])))
        >>> metric.update(torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([0]))  # two chips, one sample
        >>> {name: round(float(value), 3) for name, value in metric.compute().items() if "ece" not in name}
        {'accuracy': 0.5, 'confidence': 0.842, 'confidence_right': 0.953, 'confidence_fitted': 0.736,
        'confidence_right_fitted': 0.839}
    """

    full_state_update = False
    is_differentiable = False

    counts: Tensor
    confidences: Tensor
    right: Tensor
    confidences_right: Tensor

    def __init__(self, temperature: float | None = None, bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"ChipConfidence: temperature must be a finite number > 0, got {temperature!r}")
        if bins < 1:
            raise ValueError(f"ChipConfidence: bins must be at least 1, got {bins!r}")
        self.temperature, self.bins = temperature, bins
        versions = 1 if temperature is None else 2
        for name in ("counts", "confidences", "right", "confidences_right"):
            self.add_state(name, default=torch.zeros(versions, bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add predictions.

        Args:
            logits: (chips, samples, classes), or (samples, classes) of one chip.
            target: Class indices (samples,).

        Raises:
            ValueError: Shapes that do not fit.
        """
        _check_shapes("ChipConfidence", logits, target)
        logits = logits.detach().double()
        for version, temperature in enumerate((1.0, self.temperature or 1.0)[: len(self.counts)]):
            confidence, answer = (logits / temperature).softmax(-1).max(-1)
            hit = (answer == target).flatten().double()
            confidence = confidence.flatten()
            # (0, 1/n], (1/n, 2/n], ...
            place = (confidence * self.bins).ceil().long().sub(1).clamp(0, self.bins - 1)
            for state, value in (
                (self.counts, torch.ones_like(hit)),
                (self.confidences, confidence),
                (self.right, hit),
                (self.confidences_right, hit * confidence),
            ):
                state[version].scatter_add_(0, place, value)

    def compute(self) -> dict[str, Tensor]:
        """All figures by name; see the class."""
        total, right = self.counts.sum(1), self.right.sum(1)
        gap = (self.confidences - self.right).abs().sum(1) / total
        found = {"accuracy": right[0] / total[0]}
        for version, suffix in enumerate(("", "_fitted")[: len(total)]):
            found[f"confidence{suffix}"] = self.confidences[version].sum() / total[version]
            found[f"confidence_right{suffix}"] = self.confidences_right[version].sum() / right[version]
            found[f"ece{suffix}"] = gap[version]
        return {name: value.float() for name, value in found.items()}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Reliability diagram: accuracy against confidence, raw and temperature-fitted.

        Args:
            val: Not used; the figure needs the bins.
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        figures = self.compute()
        figure, ax = figure_and_axes(ax, figsize=(4.5, 4))
        ax.plot([0, 1], [0, 1], color="#b0b0b0", linestyle=":")
        names = (("raw", ""), (f"at temperature {self.temperature or 1:.3g}", "_fitted"))
        for version, (name, suffix) in enumerate(names[: len(self.counts)]):
            kept = self.counts[version] > 0
            x, y = (part[version][kept] / self.counts[version][kept] for part in (self.confidences, self.right))
            ax.plot(x.cpu(), y.cpu(), "o-", label=f"{name}: ECE {float(figures[f'ece{suffix}']):.3f}")
        ax.set(xlabel="confidence", ylabel="accuracy", title=f"accuracy {float(figures['accuracy']):.3f}")
        ax.legend(fontsize="small")
        return figure, ax


def fit_temperature(logits: Tensor, target: Tensor) -> float:
    """The temperature T that makes softmax(logits / T) most likely: temperature scaling (Guo et al., ICML 2017).

    The log-likelihood is concave in 1 / T, so its slope is bisected; there is nothing to tune.

    Args:
        logits: (samples, classes) or (chips, samples, classes), of data that are not scored with it.
        target: Class indices (samples,).

    Returns:
        T in 1e-3 .. 1e3; at an end of this range, with a warning, when the likelihood has no maximum inside (every
        answer right, or worse than chance).

    Raises:
        ValueError: Shapes that do not fit, or no samples.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0, 1, 1])
        >>> round(fit_temperature(logits, target), 3)  # sure to 88 %, right in 75 %: 2 / log(3)
        1.82
    """
    _check_shapes("fit_temperature", logits, target)
    rows = logits.detach().double().reshape(-1, logits.shape[-1])
    if not len(rows):
        raise ValueError("fit_temperature: needs at least one sample")
    own = rows.gather(1, target.expand(logits.shape[:-1]).reshape(-1, 1)).squeeze(1)

    def slope(log_t: float) -> float:  # of the negative log-likelihood by 1 / T
        return float(((rows * math.exp(-log_t)).softmax(1) * rows).sum(1).sub(own).mean())

    low, high = math.log(1e-3), math.log(1e3)
    if slope(low) <= 0 or slope(high) >= 0:
        end = low if slope(low) <= 0 else high
        why = "almost every answer is right" if end == low else "the answers are no better than chance"
        warnings.warn(f"fit_temperature: no best temperature ({why}); using {math.exp(end):g}", stacklevel=2)
        return math.exp(end)
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) <= 0 else (middle, high)
    return math.exp((low + high) / 2)


def _entropy(probability: Tensor) -> Tensor:
    summed: Tensor = torch.special.entr(probability).sum(-1)
    return summed


def _check_shapes(name: str, logits: Tensor, target: Tensor) -> None:
    if logits.ndim not in (2, 3) or target.shape != logits.shape[-2:-1]:
        raise ValueError(
            f"{name}: logits must be (chips, samples, classes) or (samples, classes) and target (samples,), got shapes"
            f" {tuple(logits.shape)} and {tuple(target.shape)}"
        )
