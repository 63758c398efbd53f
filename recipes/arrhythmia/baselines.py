"""What a learned net has to beat: five hand-made features, one threshold each, and logistic regression on all five.

Features are taken from the same windows as the net sees. With `normalise="std"` the windows are divided by
std + 0.001 mV, so their rms is close to 1 but still grows with the amplitude in millivolt, and the rms rule keeps its
order; the other four features do not depend on the amplitude.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipes.arrhythmia.windows import Windows

FEATURES = ("crossings", "rms", "kurtosis", "slope", "duty")

Floats = NDArray[np.float64]


def features(x: ArrayLike) -> Floats:
    """Five shape features of windows.

    * crossings: upward crossings of 2 standard deviations above the mean (MIT-HAN's rule in the 2022 contest);
    * rms: root mean square, in the unit of x;
    * kurtosis: fourth central moment over the squared variance (3 for a Gaussian);
    * slope: mean over maximum of |x[t+1] - x[t]|, in [0, 1];
    * duty: share of samples with |x| above 0.3 of the window's maximum, in [0, 1].

    A constant window has crossings, kurtosis, slope and duty 0.

    Args:
        x: windows (N, L), finite, L >= 2.

    Returns:
        Float64 (N, 5), columns in the order of `FEATURES`.

    Example:
        >>> features([[0, 0, 0, 0, 9, 0, 0, 0, 0, 0]]).round(3).tolist()
        [[1.0, 2.846, 8.111, 0.222, 0.1]]
    """
    signal = np.asarray(x, dtype=np.float64)
    if signal.ndim != 2 or signal.shape[1] < 2:
        raise ValueError(f"windows must have shape (N, L >= 2), got {signal.shape}")
    if not np.isfinite(signal).all():
        bad = np.flatnonzero(~np.isfinite(signal).all(axis=1))
        raise ValueError(f"window {bad[0]} holds NaN or infinity ({len(bad)} such windows): drop them first")
    varies = np.ptp(signal, axis=1) > 0
    centred = signal - signal.mean(axis=1, keepdims=True)
    variance = np.mean(centred**2, axis=1)
    above = centred > 2 * np.sqrt(variance)[:, None]
    slope = np.abs(np.diff(signal, axis=1))
    size = np.abs(signal)
    columns = [
        (above[:, 1:] & ~above[:, :-1]).sum(axis=1),
        np.sqrt(np.mean(signal**2, axis=1)),
        np.divide(np.mean(centred**4, axis=1), variance**2, out=np.zeros(len(signal)), where=varies),
        np.divide(slope.mean(axis=1), slope.max(axis=1), out=np.zeros(len(signal)), where=varies),
        np.where(varies, (size > 0.3 * size.max(axis=1, keepdims=True)).mean(axis=1), 0.0),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


@dataclass(frozen=True)
class ThresholdRule:
    """VA if `direction * value > direction * threshold`; direction +1 calls high values VA, -1 low ones."""

    threshold: float
    direction: int

    def __call__(self, value: ArrayLike) -> NDArray[np.bool_]:
        """Decide values (N,)."""
        return self.direction * np.asarray(value) > self.direction * self.threshold


def fit_rule(value: ArrayLike, y: ArrayLike) -> ThresholdRule:
    """Threshold and direction with the best accuracy on training windows.

    Every split of the sorted values is tried in both directions, all-VA and none included; thresholds lie halfway
    between neighbouring values. Ties go to the lowest threshold, direction +1 first.

    Args:
        value: one feature (N,), finite.
        y: labels (N,), 1 = VA.

    Example:
        >>> fit_rule([1.0, 2.0, 8.0, 9.0], [1, 1, 0, 0])
        ThresholdRule(threshold=5.0, direction=-1)
    """
    v, truth = np.asarray(value, dtype=np.float64), np.asarray(y, dtype=bool)
    if v.shape != truth.shape or v.ndim != 1 or v.size == 0:
        raise ValueError(f"value and y must be (N,) alike with N >= 1, got {v.shape} and {truth.shape}")
    levels, index = np.unique(v, return_inverse=True)
    va = np.bincount(index[truth], minlength=len(levels))
    non_va = np.bincount(index[~truth], minlength=len(levels))
    # Right decisions of direction +1 at threshold i: non-VA among the i lowest levels and VA among the others.
    right = np.concatenate([[0], np.cumsum(non_va)]) + truth.sum() - np.concatenate([[0], np.cumsum(va)])
    thresholds = np.concatenate([[levels[0] - 1], (levels[:-1] + levels[1:]) / 2, [levels[-1] + 1]])
    high, low = int(right.argmax()), int(right.argmin())
    if right[high] >= len(v) - right[low]:
        return ThresholdRule(float(thresholds[high]), 1)
    return ThresholdRule(float(thresholds[low]), -1)


@dataclass(frozen=True)
class LogisticRegression:
    """Logistic regression on standardised features.

    Attributes:
        mean: of each feature on the training windows (F,).
        std: of each feature on the training windows (F,), 1 for a constant feature.
        weight: of the standardised features (F,).
        bias: intercept.
    """

    mean: Floats
    std: Floats
    weight: Floats
    bias: float

    def probability(self, value: ArrayLike) -> Floats:
        """VA probability (N,) of features (N, F)."""
        logit = (np.asarray(value, dtype=np.float64) - self.mean) / self.std @ self.weight + self.bias
        return _sigmoid(logit)


def fit_logistic(value: ArrayLike, y: ArrayLike, l2: float = 1.0, iterations: int = 100) -> LogisticRegression:
    """Fit by Newton's method (iteratively reweighted least squares) with step halving.

    Minimises sum_i log(1 + exp(-s_i z_i)) + l2/2 |weight|^2 with s_i = +-1 the label, z_i the logit on standardised
    features; the bias is not penalised. With l2 > 0 the minimum exists even where the classes are separable.

    Args:
        value: features (N, F) of training windows, finite.
        y: labels (N,), both classes present.
        l2: weight of the penalty, positive.
        iterations: most Newton steps.

    Raises:
        ValueError: for wrong shapes, one class only or l2 <= 0.
        RuntimeError: if the gradient has not vanished after `iterations` steps.
    """
    v, truth = np.asarray(value, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if v.ndim != 2 or truth.shape != (len(v),):
        raise ValueError(f"features must be (N, F) and y (N,), got {v.shape} and {truth.shape}")
    if set(np.unique(truth)) != {0.0, 1.0}:
        raise ValueError("logistic regression needs training windows of both classes, labelled 0 and 1")
    if not l2 > 0:
        raise ValueError(f"l2 must be positive, got {l2}")
    mean, std = v.mean(axis=0), v.std(axis=0)
    std = np.where(std > 0, std, 1.0)
    design = np.column_stack([(v - mean) / std, np.ones(len(v))])
    penalty = np.full(design.shape[1], l2)
    penalty[-1] = 0.0

    def objective(beta: Floats) -> float:
        z = design @ beta
        return float(np.sum(np.logaddexp(0.0, z) - truth * z) + 0.5 * np.sum(penalty * beta**2))

    beta = np.zeros(design.shape[1])
    for _ in range(iterations):
        p = _sigmoid(design @ beta)
        gradient = design.T @ (p - truth) + penalty * beta
        if np.abs(gradient).max() <= 1e-8 * len(v):
            return LogisticRegression(mean, std, beta[:-1], float(beta[-1]))
        hessian = (design.T * (p * (1 - p))) @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while objective(beta - size * step) > objective(beta) and size > 1e-10:
            size /= 2
        beta = beta - size * step
    raise RuntimeError(f"logistic regression did not converge in {iterations} Newton steps: raise l2 (now {l2})")


def baseline_decisions(train: Windows, test: Windows) -> dict[str, NDArray[np.bool_]]:
    """Decisions (N_test,) of every baseline fitted on `train`.

    Keys: `majority` (the training windows' commoner class), one for each of `FEATURES`, and `logistic` at probability
    0.5.

    Raises:
        ValueError: if `train` lacks a class.
    """
    f_train, f_test = features(train.x), features(test.x)
    decisions = {"majority": np.full(len(f_test), train.y.mean() > 0.5)}
    for column, name in enumerate(FEATURES):
        decisions[name] = fit_rule(f_train[:, column], train.y)(f_test[:, column])
    decisions["logistic"] = fit_logistic(f_train, train.y).probability(f_test) >= 0.5
    return decisions


def _sigmoid(z: Floats) -> Floats:
    # tanh saturates instead of overflowing.
    return 0.5 * (1 + np.tanh(0.5 * z))
