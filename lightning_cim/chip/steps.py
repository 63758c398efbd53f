"""Wrap the steps of a LightningModule instance so that each runs inside the module's weight scope.

Only attributes of the instance are set, as ``torch.compile`` on a LightningModule does too: the class, the hooks, the
names and the checkpoint stay what they are.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lightning_cim.chip.scope import WeightScope, scope_of

Run = Callable[[], Any]
Around = Callable[[Run], Any]
STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class ScopedStep:
    """A step method that opens the weight scope when it is called.

    The scope of a training step stays open after it, because backward must see the same weights (activation
    checkpointing recomputes with them); whoever wrapped the step closes it in ``on_after_backward``. All other steps,
    steps of manual optimisation and steps that return nothing or raise close it themselves.

    Attributes:
        around: What wraps each call, the first outermost. Each gets ``run``, which opens the scope and runs the step
            once, and returns the output; it may prepare the chain and run the step several times.
        plain: The module's own step.

    Args:
        owner: The module whose step is wrapped.
        name: The step's name.
        scope: The module's weight scope.
    """

    def __init__(self, owner: nn.Module, name: str, scope: WeightScope) -> None:
        self._owner, self._name, self._scope = owner, name, scope
        self.plain: Callable[..., Any] = getattr(owner, name)
        self._shadowed = owner.__dict__.get(name)  # somebody else's wrapper, such as torch.compile's
        self.around: list[Around] = []
        functools.update_wrapper(self, self.plain)
        owner.__dict__[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step inside the scope, through everything that is put around it."""
        if self._scope.is_open:  # a step called by another step
            return self.plain(*args, **kwargs)
        run: Run = partial(self._run, args, kwargs)
        for around in reversed(self.around):
            run = partial(around, run)
        return run()

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._scope.open()
        keep_open = False
        try:
            output = self.plain(*args, **kwargs)
            backward_follows = self._name == "training_step" and getattr(self._owner, "automatic_optimization", True)
            keep_open = backward_follows and output is not None
        finally:
            if not keep_open:
                self._scope.close()
        return output

    def unwrap(self) -> None:
        """Give the instance its own step back."""
        if self._owner.__dict__.get(self._name) is not self:
            return
        if self._shadowed is None:
            del self._owner.__dict__[self._name]
        else:
            self._owner.__dict__[self._name] = self._shadowed

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the module gets its own plain step: copies are not on anybody's chip."""
        owner = memo.get(id(self._owner))
        if owner is None or self._shadowed is not None:
            return copy.deepcopy(self.plain, memo)
        return getattr(type(owner), self._name).__get__(owner)

    def __reduce__(self) -> tuple[Any, ...]:
        return (getattr, (self._owner, self._name))


class ScopedSteps:
    """The wrapped steps of one module, shared by everybody who needs them.

    Args:
        model: The module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._scope = scope_of(model)
        self._users: list[object] = []
        self._steps: dict[str, ScopedStep] = {}

    def attach(self, user: object, model: nn.Module) -> None:
        """Wrap the steps unless somebody did; a user counts once."""
        if not any(other is user for other in self._users):
            self._users.append(user)
        if not self._steps:
            self._steps = {name: ScopedStep(model, name, self._scope) for name in STEPS if hasattr(model, name)}

    def detach(self, user: object) -> None:
        """Close the scope; unwrap the steps when the last user leaves."""
        self._scope.close()
        self._users = [other for other in self._users if other is not user]
        if not self._users:
            for step in self._steps.values():
                step.unwrap()
            self._steps = {}

    def __getitem__(self, name: str) -> ScopedStep:
        return self._steps[name]


_STEPS: WeakKeyDictionary[nn.Module, ScopedSteps] = WeakKeyDictionary()


def steps_of(model: nn.Module) -> ScopedSteps:
    """The one set of wrapped steps of a module."""
    steps = _STEPS.get(model)
    if steps is None:
        steps = _STEPS[model] = ScopedSteps(model)
    return steps
