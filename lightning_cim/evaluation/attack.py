"""A network under attack by deviations of its weights: the objective, its gradient and the score of one chip."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_cim._undisturbed import evaluating
from lightning_cim.chip.criterion import criterion_call
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import resolved
from lightning_cim.chip.scope import on_chip, scope_of
from lightning_cim.evaluation.found_chip import FoundChip
from lightning_cim.evaluation.loaders import Batches
from lightning_cim.evaluation.margin import Tally, objective
from lightning_cim.variation.uniform import Uniform

Deviations = dict[str, Tensor]
"""dW / max|W| by parameter name."""


@dataclass(frozen=True)
class Attempt:
    """One point of a search.

    Attributes:
        largest: The largest |dW| / max|W|.
        score: Accuracy (or mean loss) on the data that is searched on.
        objective: What the search minimises, summed over these data.
        c: The weight of the objective against the size of the deviation (Lagrangian search only, else 0).
        distance: The size that is held against the bound (Lagrangian search only, else ``largest``).
    """

    largest: float
    score: float
    objective: float
    c: float = 0.0
    distance: float = 0.0


class Attack:
    """One model, one bound, one set of data to search on.

    Attributes:
        bound: Largest |dW| / max|W| of every tensor.
        history: The points that were tried.
        best: The worst chip so far.
        is_accuracy: Whether scores are accuracies; else losses.
        batch_count: Batches of the latest pass.

    Args:
        model: The model; given back bit for bit as it was.
        batches: What to search on.
        bound: Greater than 0.
        mapping: Which parameters lie on crossbars.
        kappa: Margin beyond which a wrong prediction pulls no more.
        report: Called after each pass with a line for a progress bar.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        bound: float,
        mapping: Mapping,
        kappa: float,
        report: Callable[[str], None],
    ) -> None:
        self.model, self.bound, self._kappa = model, bound, kappa
        self._batches, self._mapping, self._report = batches, mapping, report
        self.history: list[Attempt] = []
        self.best: Deviations = self.nothing()
        self.is_accuracy = True
        self.batch_count = 0

    def nothing(self) -> Deviations:
        """No deviation."""
        zeros = {}
        for target in resolved(self.model, self._mapping):
            parameter = target.sites[0].parameter
            assert parameter is not None
            zeros[target.name] = torch.zeros_like(parameter.detach(), dtype=torch.float32)
        return zeros

    def chip(self, deviations: Deviations) -> FoundChip:
        """The chip with these deviations."""
        return FoundChip(Uniform(self.bound), 0, 0, self._mapping, "worst case", deviations=deviations)

    def clipped(self, deviations: Deviations) -> Deviations:
        """The nearest deviations within the bound."""
        return {name: value.detach().clamp(-self.bound, self.bound) for name, value in deviations.items()}

    def gradient(self, deviations: Deviations) -> tuple[Tally, Deviations]:
        """One pass over the data with the gradient of the objective.

        Raises:
            ValueError: No gradient reaches any weight, or one is not finite.
        """
        total = {name: torch.zeros_like(value) for name, value in deviations.items()}

        def add(gradients: Deviations) -> None:
            for name, gradient in gradients.items():
                total[name] += gradient

        return self.each_gradient(deviations, add), total

    def each_gradient(self, deviations: Deviations, use: Callable[[Deviations], None]) -> Tally:
        """One pass over the data with the gradient of each batch's objective.

        Args:
            deviations: May be changed in place by ``use``: the next batch is computed at the new values.
            use: Takes the gradients.

        Returns:
            The tally of the pass.
        """
        leaves = {name: value.requires_grad_() for name, value in deviations.items()}
        reached: set[str] = set()

        def backward(value: Tensor) -> None:
            found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True) if value.requires_grad else ()
            gradients = {name: part for name, part in zip(leaves, found, strict=False) if part is not None}
            _check_finite(gradients)
            reached.update(gradients)
            with torch.no_grad():
                use(gradients)

        try:
            tally = self._pass(leaves, self._batches, backward)
        finally:
            for leaf in leaves.values():
                leaf.requires_grad_(False)
        missed = [name for name in leaves if name not in reached]
        if missed and not self.history:  # said once a search
            found = f"no gradient reaches {', '.join(missed)} of {type(self.model).__name__}"
            why = "the step detaches or runs under torch.no_grad() there, or does not use them"
            if not reached:
                raise ValueError(f"{found}: {why}")
            warnings.warn(f"{found} ({why}); the search leaves them as they are", stacklevel=2)
        return tally

    def score(self, deviations: Deviations, batches: Batches | None = None) -> Tally:
        """One forward pass on a chip.

        Args:
            deviations: The chip's.
            batches: Default: the data that is searched on.
        """
        return self._pass(deviations, batches or self._batches, None)

    def note(self, deviations: Deviations, tally: Tally, c: float = 0.0, distance: float | None = None) -> None:
        """Put a point within the bound into the history; keep it if it is the worst so far."""
        largest = max(float(value.abs().max()) for value in deviations.values() if value.numel())
        attempt = Attempt(largest, tally.mean, tally.objective, c, largest if distance is None else distance)
        if all(self._key(attempt) < self._key(other) for other in self.history):
            self.best = {name: value.detach().clone() for name, value in deviations.items()}
        self.history.append(attempt)
        self._report(f"{'accuracy' if self.is_accuracy else 'loss'} {tally.mean:.4f}")

    def _key(self, attempt: Attempt) -> tuple[float, float]:
        return (attempt.score if self.is_accuracy else -attempt.score), attempt.objective

    def _pass(self, deviations: Deviations, batches: Batches, backward: Callable[[Tensor], None] | None) -> Tally:
        tally = Tally()
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            stack.enter_context(torch.set_grad_enabled(backward is not None))
            if backward is not None and any(isinstance(module, nn.RNNBase) for module in self.model.modules()):
                # cuDNN's recurrent layers have no backward in eval mode; torch's own have.
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(on_chip(self.model, self.chip(deviations)))
            for index, batch in enumerate(batches):
                if index and backward is not None:
                    scope_of(self.model).open()  # a graph from the deviations to the weights for each backward
                call = criterion_call(self.model, batch, index)
                self.is_accuracy = call.is_classification
                value, part = objective(call, self._kappa)
                tally += part
                self.batch_count = index + 1
                if backward is not None:
                    backward(value)
        if tally.count == 0:
            raise ValueError("the data gave no batch with a prediction to score")
        return tally


def _check_finite(gradients: Deviations) -> None:
    if not gradients or bool(torch.stack([part.abs().sum() for part in gradients.values()]).isfinite().all()):
        return
    bad = [name for name, part in gradients.items() if not bool(torch.isfinite(part).all())]
    raise ValueError(
        f"the gradient of the objective by {', '.join(bad) or 'the weights'} is NaN or infinite; the network overflows"
        " on these data: search in float32, or with a smaller bound"
    )
