"""The weights as the hardware stores them, in a plain state_dict."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from torch import Tensor, nn

from lightning_cim.callbacks.base import ChainCallback
from lightning_cim.chip.population import Chip
from lightning_cim.chip.scope import on_chip, scope_of


def export_state_dict(
    model: nn.Module, callbacks: Iterable[object] = (), chip: Chip | None = None
) -> dict[str, Tensor]:
    """A state_dict with pruned and quantised weights, and the deviations of a chip if one is given.

    Keys, shapes and order are the model's own, so it loads strictly where ``lightning_cim`` is not installed.

    Args:
        model: The module, outside any scope.
        callbacks: For example ``trainer.callbacks``: those that simulate hardware (sparsity, precision) apply.
        chip: Also program this chip.

    Returns:
        Detached clones.

    Example:
        >>> from lightning_cim import ChipPopulation, Gaussian, export_state_dict
        >>> model = nn.Linear(4, 2)
        >>> list(export_state_dict(model, chip=ChipPopulation(model, Gaussian(sigma=0.1))[0]))
        ['weight', 'bias']
    """
    scope = scope_of(model)
    with ExitStack() as undo:
        for callback in callbacks:
            if isinstance(callback, ChainCallback) and callback.simulates_hardware:
                transform = callback.make_transform()
                if transform not in scope.chain:
                    scope.add(transform)
                    undo.callback(scope.remove, transform)
        if chip is not None:
            undo.enter_context(on_chip(model, chip))
        else:
            scope.open()
            undo.callback(scope.close)
        return {name: value.detach().clone() for name, value in model.state_dict().items()}
