"""Hutchinson's estimate of the Hessian's diagonal: the mean of v * (H v) over random signs v.

Source: "A stochastic estimator of the trace of the influence matrix ..." (Hutchinson, 1989), in the elementwise form of
Bekas, Kokiopoulou and Saad (2007).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_cim.chip.criterion import CriterionCall
from lightning_cim.programming.curvature import divisor
from lightning_cim.programming.gauss_newton import random_signs


def batch_diagonal(
    run: Callable[[], CriterionCall], weights: list[Tensor], probes: int, generator: Generator
) -> tuple[list[Tensor], CriterionCall]:
    """An unbiased estimate of the Hessian's diagonal for the criterion summed over one batch; may be negative.

    Args:
        run: Computes the model up to its loss, with ``weights`` as the only leaves that require gradients.
        weights: The leaves.
        probes: How many sets of signs are averaged.
        generator: Draws the signs.

    Returns:
        One tensor for each weight, and the call.
    """
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
        call = run()
        loss = call.loss().sum() * divisor(call)
        gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True, materialize_grads=True)
        pairs = [
            (weight, gradient) for weight, gradient in zip(weights, gradients, strict=True) if gradient.requires_grad
        ]
        diagonal = {id(weight): torch.zeros_like(weight) for weight in weights}
        curved, slopes = [weight for weight, _ in pairs], [gradient for _, gradient in pairs]
        for _ in range(probes if pairs else 0):
            signs = [random_signs(weight, generator) for weight in curved]
            products = torch.autograd.grad(
                slopes, curved, signs, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for weight, sign, product in zip(curved, signs, products, strict=True):
                diagonal[id(weight)].addcmul_(sign, product, value=1 / probes)
    return [diagonal[id(weight)] for weight in weights], call
