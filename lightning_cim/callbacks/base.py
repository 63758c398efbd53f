"""What every callback that simulates hardware shares: its links in the module's chain, put in and taken out safely."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

from torch import nn
from typing_extensions import Self

from lightning_cim._compat import CallbackBase, MisconfigurationException
from lightning_cim.chip.mapping import Mapping, Target, check_finite
from lightning_cim.chip.population import resolved
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.steps import steps_of
from lightning_cim.chip.transform import Transform

_SHARDED = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}


def refuse_sharding(callback: object, trainer: Any) -> None:
    """Refuse a Trainer whose strategy shards or flattens parameters.

    Raises:
        MisconfigurationException: Names the callback and the strategy.
    """
    strategy = type(trainer.strategy)
    if _SHARDED & {cls.__name__ for cls in strategy.__mro__}:
        raise MisconfigurationException(
            f"{type(callback).__name__} does not work with {strategy.__name__}: it shards parameters, so no process"
            " sees a whole weight to deviate. Use strategy='ddp' (or 'cim_ddp'), or a single device."
        )


def simulate_hardware(trainer: Any, module: Any, undo: ExitStack) -> None:
    """Put the masks and the quantisation of a Trainer's callbacks on a copy of its module.

    Args:
        trainer: Whose callbacks.
        module: The copy.
        undo: Takes them off when it is closed.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, ChainCallback) and callback.simulates_hardware:
            twin = callback.for_evaluation()
            undo.callback(twin.detach)
            twin.attach(trainer, module)


class ChainCallback(CallbackBase):
    """Puts one transform into the module's chain while the Trainer runs.

    The chain is put in when layers exist and weights are loaded (``on_fit_start`` and the starts of the other loops).
    The scope opens around each step and closes in ``on_after_backward``; ``on_train_batch_end``, ``on_exception`` and
    ``teardown`` are nets. Nothing is left on the module afterwards.

    Attributes:
        simulates_hardware: Whether the deployed network has this too, so that evaluation on chips keeps it.
    """

    simulates_hardware = True

    def __init__(self, mapping: Mapping | None = None) -> None:
        if mapping is not None and not isinstance(mapping, Mapping):
            raise MisconfigurationException(f"{type(self).__name__}: mapping must be a Mapping, got {mapping!r}")
        self.mapping = mapping or Mapping()
        self._attached: nn.Module | None = None

    @property
    def settings(self) -> str:
        """What the simulated hardware depends on besides :meth:`state_dict`; tells files of chips apart."""
        return repr(self.mapping)

    def make_transform(self) -> Transform:
        """The callback's link in the chain; the same object at every call."""
        raise NotImplementedError

    def on_attach(self, trainer: Any, pl_module: Any, targets: list[Target]) -> None:
        """Prepare what needs the resolved parameters."""

    def on_detach(self, pl_module: Any) -> None:
        """Undo :meth:`on_attach`; the steps are still wrapped."""

    def attach(self, trainer: Any, pl_module: Any) -> None:
        """Put the transform into the chain and wrap the steps; harmless when done already.

        Raises:
            MisconfigurationException: The mapping does not fit the model, or another callback has this stage.
        """
        if self._attached is pl_module:
            return
        self.detach()
        try:
            targets = resolved(pl_module, self.mapping)
            check_finite(pl_module, targets)
            scope_of(pl_module).add(self.make_transform())
        except ValueError as error:
            raise MisconfigurationException(f"{type(self).__name__}: {error}") from error
        self._attached = pl_module
        steps_of(pl_module).attach(self, pl_module)
        self.on_attach(trainer, pl_module, targets)

    def detach(self) -> None:
        """Leave the module as it was before :meth:`attach`."""
        if self._attached is not None:
            module, self._attached = self._attached, None
            self.on_detach(module)
            steps_of(module).detach(self)
            scope_of(module).remove(self.make_transform())

    def for_evaluation(self) -> Self:
        """The same simulated hardware for another Trainer and a copy of the module, sharing masks and ranges."""
        twin = copy.copy(self)
        twin._attached = None
        return twin

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse strategies that shard or flatten parameters, before anything runs."""
        refuse_sharding(self, trainer)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach."""
        self.attach(trainer, pl_module)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach."""
        self.attach(trainer, pl_module)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach."""
        self.attach(trainer, pl_module)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach."""
        self.attach(trainer, pl_module)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Close the scope, so that clipping, the optimizer and everybody after them see clean weights.

        With manual optimisation a step may go backward several times; its wrapper closes the scope when it returns.
        """
        if pl_module.automatic_optimization:
            scope_of(pl_module).close()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Close the scope; a net for steps that skipped backward."""
        scope_of(pl_module).close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach: Lightning does not call ``teardown`` after an error."""
        self.detach()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Detach."""
        self.detach()
