"""The diagonal of the generalised Gauss-Newton matrix, for any network, from a few backward passes.

Per sample the matrix is J^T Lambda J: J is the Jacobian of the logits with respect to the weights, Lambda the Hessian
of the criterion at the logits, which for these criteria is the Fisher matrix of the model's own predictions. With
Lambda = B B^T and independent signs s, the gradient g = J^T B s has E[g^2] = diag(J^T Lambda J). The signs are
independent over samples too, so that g of a whole batch is one backward pass and its cross terms vanish in the mean.
Labels drawn from the predictions would be unbiased as well, but a confident classifier almost never draws another label
than its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from lightning_cim.chip.criterion import CriterionCall
from lightning_cim.programming.curvature import curvature
from lightning_cim.programming.recursion import NoRuleError


def batch_diagonal(
    run: Callable[[], CriterionCall], weights: list[Tensor], probes: int, generator: Generator
) -> tuple[list[Tensor], CriterionCall]:
    """An unbiased estimate of the diagonal for the criterion summed over one batch.

    Args:
        run: Computes the model up to its loss, with ``weights`` as the only leaves that require gradients.
        weights: The leaves.
        probes: How many sets of signs are averaged.
        generator: Draws the signs.

    Returns:
        One tensor, >= 0, for each weight, and the call.

    Raises:
        NoRuleError: The criterion's Hessian is not known, or its target depends on the weights.
    """
    call = run()
    found = curvature(call)
    if found is None or call.target.requires_grad:
        raise NoRuleError([getattr(call.function, "__name__", type(call.function).__name__)])
    diagonal = [torch.zeros_like(weight) for weight in weights]
    for _ in range(probes):
        signs = random_signs(call.logits, generator)
        gradients = torch.autograd.grad(
            call.logits, weights, found.root(signs), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for mean, gradient in zip(diagonal, gradients, strict=True):
            mean.addcmul_(gradient, gradient, value=1 / probes)
    return diagonal, call


def random_signs(like: Tensor, generator: Generator) -> Tensor:
    """Independent +1 and -1 of a tensor's shape, drawn on the CPU so that they are the same on every device."""
    signs = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return signs.to(like).mul_(2).sub_(1)
