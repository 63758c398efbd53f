"""The orthogonality regulariser of CorrectNet, as NeFT and TRICE use it for a baseline."""

from __future__ import annotations

import collections.abc
import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cim._compat import CallbackBase, MisconfigurationException
from lightning_cim.callbacks.base import refuse_sharding
from lightning_cim.chip.mapping import Mapping, Target, check_finite
from lightning_cim.chip.population import resolved
from lightning_cim.chip.steps import Run, steps_of


def kernel_orthogonality(weight: Tensor) -> Tensor:
    """How far W^T W is from the identity: the sum of ||W^T W - I||_F^2 over a weight's matrices.

    Args:
        weight: (rows, columns) is one matrix; with more dimensions, (..., rows, columns) is a batch of them, so that a
            convolution is regularised kernel by kernel (3 x 3) and not as one map from inputs to outputs. A 1 x 1
            kernel w adds (w^2 - 1)^2. A matrix with fewer rows than columns, such as a linear layer with fewer outputs
            than inputs, cannot reach 0.

    Returns:
        0-dim tensor, float32 or wider.

    Example:
        >>> kernel_orthogonality(torch.eye(3)).item(), kernel_orthogonality(torch.ones(1, 2)).item()
        (0.0, 2.0)
    """
    matrices = weight.to(torch.promote_types(weight.dtype, torch.float32)).reshape(-1, *weight.shape[-2:])
    count, rows, columns = matrices.shape
    with torch.autocast(weight.device.type, enabled=False):  # bf16 would round away what is to be penalised
        # ||W^T W - I||^2 = ||W W^T - I||^2 + columns - rows, so the smaller Gram matrix is enough.
        gram = matrices @ matrices.mT if rows < columns else matrices.mT @ matrices
        identity = torch.eye(min(rows, columns), dtype=gram.dtype, device=gram.device)
        return (gram - identity).square().sum() + count * max(0, columns - rows)


class CorrectNetReg(CallbackBase):
    """Add CorrectNet's orthogonality penalty to the training loss: strength * sum over layers of ||W^T W - I||_F^2.

    The regulariser only, as the baselines named CorrectNet in NeFT and TRICE implement it; the error-compensation
    blocks of CorrectNet (Eldebiky et al., DATE 2023, arXiv 2211.14917) are not part of it, and the penalty is one of
    kernels, not of the layers' Lipschitz constants (see :func:`kernel_orthogonality`). Without noise, as published,
    unless a :class:`VariationInjection` runs beside it.

    The penalty is that of the clean weights, before mask, quantisation and deviation: it shapes what is written to the
    devices, and its gradient has no noise. Losses that ``training_step`` logs itself do not contain it.

    Args:
        strength: Weight of the penalty, at least 0; the authors' 5e-4. 0 changes nothing.
        mapping: Which weights are regularised; default: every matrix weight.

    Raises:
        MisconfigurationException: A strength out of range, a mapping that fits nothing or a parameter of fewer than two
            dimensions, NaN weights, manual optimisation, or a strategy that shards parameters.

    Example:
        >>> import lightning as L
        >>> trainer = L.Trainer(callbacks=[CorrectNetReg()], logger=False, enable_checkpointing=False)
    """

    def __init__(self, strength: float = 5e-4, mapping: Mapping | None = None) -> None:
        if not (math.isfinite(strength) and strength >= 0):
            raise MisconfigurationException(f"CorrectNetReg: strength must be a finite number >= 0, got {strength!r}")
        if mapping is not None and not isinstance(mapping, Mapping):
            raise MisconfigurationException(f"CorrectNetReg: mapping must be a Mapping, got {mapping!r}")
        self.strength = strength
        self.mapping = mapping or Mapping()
        self._attached: nn.Module | None = None
        self._targets: list[Target] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse strategies that shard or flatten parameters, before anything runs."""
        refuse_sharding(self, trainer)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the penalty around ``training_step``."""
        self.detach()
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "CorrectNetReg adds to the loss that training_step returns; with manual optimisation the module goes"
                " backward itself. Add strength * kernel_orthogonality(weight) to the loss there."
            )
        try:
            self._targets = resolved(pl_module, self.mapping)
            check_finite(pl_module, self._targets)
        except ValueError as error:
            raise MisconfigurationException(f"CorrectNetReg: {error}") from error
        for target in self._targets:
            held = target.sites[0].parameter
            if held is not None and held.ndim < 2:
                raise MisconfigurationException(
                    f"CorrectNetReg: parameter {target.name!r} has {held.ndim} dimension(s), but W^T W takes a matrix;"
                    " exclude it in mapping"
                )
        self._attached = pl_module
        steps_of(pl_module).attach(self, pl_module)
        # Outermost: whatever runs the step several times, or in another way, gets one penalty, of clean weights.
        steps_of(pl_module)["training_step"].around.insert(0, self._penalised)

    def detach(self) -> None:
        """Leave the module as it was before the fit; harmless when done already."""
        if self._attached is not None:
            steps = steps_of(self._attached)
            steps["training_step"].around.remove(self._penalised)
            steps.detach(self)
            self._attached, self._targets = None, []

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach: Lightning does not call ``teardown`` after an error."""
        self.detach()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Detach."""
        self.detach()

    def _penalised(self, run: Run) -> Any:
        """The output of a training step, with the penalty added to its loss."""
        weights = self._clean_weights() if self.strength else []
        output = run()
        loss = output.get("loss") if isinstance(output, collections.abc.Mapping) else output
        if not weights or loss is None:
            return output
        loss = loss + self.strength * torch.stack([kernel_orthogonality(weight) for weight in weights]).sum()
        return {**output, "loss": loss} if isinstance(output, collections.abc.Mapping) else loss

    def _clean_weights(self) -> list[Tensor]:
        """The regularised parameters, asked for before the step opens the scope."""
        model = self._attached
        assert model is not None
        if not all(site.is_in_place(model) for target in self._targets for site in target.sites):
            self._targets = self.mapping.resolve(model)  # a layer was replaced
        return [held for target in self._targets if (held := target.sites[0].parameter) is not None]
