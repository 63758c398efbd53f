"""The scope in which a model computes with transformed weights, and ``on_chip``.

Inside the scope every mapped entry of ``module._parameters`` holds T(p) instead of p; outside it the model is bit for
bit what it was. Nothing is added and subtracted, no key, hook or class changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn

from lightning_cim.chip.mapping import Mapping, Site, Target, check_finite
from lightning_cim.chip.population import Chip, resolved
from lightning_cim.chip.transform import Program, Stage, Stored, Transform


class WeightScope:
    """All of one model's simulated hardware: its chain of transforms, and the swap that applies them.

    Args:
        model: The module whose parameters are swapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model_ref = ref(model)  # the registry below must not keep its own keys alive
        self._chain: list[Transform] = []
        self._targets: dict[Mapping, list[Target]] = {}
        self._swapped: list[tuple[Site, Tensor]] = []
        self._held: list[tuple[Target, Stored]] | None = None
        self._holding = False

    @property
    def _model(self) -> nn.Module:
        model = self._model_ref()
        assert model is not None
        return model

    @property
    def is_open(self) -> bool:
        """Whether the model computes with transformed weights now."""
        return bool(self._swapped)

    @property
    def chain(self) -> tuple[Transform, ...]:
        """The transforms in the order in which they act."""
        return tuple(self._chain)

    def add(self, transform: Transform) -> None:
        """Put a transform into its place in the chain.

        Raises:
            ValueError: The chain has a transform of that stage, or the mapping does not fit the model.
        """
        for other in self._chain:
            if other.stage is transform.stage:
                raise ValueError(
                    f"{type(self._model).__name__} has a {type(other).__name__} for the stage"
                    f" {transform.stage.name.lower()!r} already; one each: compose variations with +, or remove one"
                )
        self._targets[transform.mapping] = transform.mapping.resolve(self._model)
        self._chain = sorted([*self._chain, transform], key=lambda link: link.stage)

    def remove(self, transform: Transform) -> None:
        """Take a transform out of the chain; the scope is closed first."""
        self.close()
        self.release()
        self._chain = [link for link in self._chain if link is not transform]
        if not self._chain:
            self._targets.clear()

    def open(self) -> None:
        """Swap every mapped parameter p for T(p). A scope that is open is closed first, so that nothing stacks."""
        self.close()
        found = self._held
        if found is None:
            found = self._transform()
            self._held = found if self._holding else None
        for (target, _), value in zip(found, self._read([stored for _, stored in found]), strict=True):
            for site in target.sites:
                clean = site.module._parameters[site.attribute]
                assert clean is not None
                self._swapped.append((site, clean))
                site.module._parameters[site.attribute] = value  # type: ignore[assignment]

    def close(self) -> None:
        """Put the clean parameters back; harmless when the scope is closed."""
        swapped, self._swapped = self._swapped, []
        for site, clean in swapped:
            site.module._parameters[site.attribute] = clean  # type: ignore[assignment]
        for module in {id(site.module): site.module for site, _ in swapped}.values():
            if isinstance(module, nn.RNNBase):  # it keeps a list of its weights, which a forward inside filled
                module._init_flat_weights()

    def hold(self) -> None:
        """Transform once and reuse the result at each opening until :meth:`release`: one chip for a pass over data.

        Readings of the chip differ from opening to opening all the same.
        """
        self._holding, self._held = True, None

    def release(self) -> None:
        """Forget the held tensors; each opening transforms anew again."""
        self._holding, self._held = False, None

    def transformed(self) -> dict[str, Tensor]:
        """T(p) of every parameter that the chain acts on, by name, without swapping anything; not a reading of it."""
        return {target.name: stored.value for target, stored in self._transform()}

    def _read(self, everything: list[Stored]) -> list[Tensor]:
        """The values that the model computes with; another reading of the same chip at each call."""
        if all(stored.read_std is None for stored in everything):
            return [stored.value for stored in everything]
        program = next(link for link in self._chain if isinstance(link, Program))
        return program.read(everything)

    def _transform(self) -> list[tuple[Target, Stored]]:
        stored: dict[str, tuple[Target, Stored]] = {}
        for link in self._chain:
            if link.is_null:
                continue
            for target in self._current_targets(link.mapping):
                if target.name not in stored:
                    parameter = target.sites[0].parameter
                    assert parameter is not None
                    stored[target.name] = (target, Stored(target.name, target.layer, parameter))
                link.apply(stored[target.name][1])
        return list(stored.values())

    def _current_targets(self, mapping: Mapping) -> list[Target]:
        """The mapping's targets; resolved again by name when a module or a tie was replaced since."""
        targets = self._targets[mapping]
        distinct = len({id(target.sites[0].parameter) for target in targets}) == len(targets)  # nothing was tied since
        if not distinct or not all(_in_place(self._model, target) for target in targets):
            targets = self._targets[mapping] = mapping.resolve(self._model)
        return targets


_SCOPES: WeakKeyDictionary[nn.Module, WeightScope] = WeakKeyDictionary()


def scope_of(model: nn.Module) -> WeightScope:
    """The one scope of a model; every callback and function on that model shares it.

    Kept outside the module, so that ``state_dict``, ``deepcopy`` and pickling see nothing of it.
    """
    scope = _SCOPES.get(model)
    if scope is None:
        scope = _SCOPES[model] = WeightScope(model)
    return scope


@contextmanager
def on_chip(model: nn.Module, chip: Chip) -> Iterator[nn.Module]:
    """Compute with the weights of one chip; outside the block the model is bit for bit what it was.

    Gradients taken through the block belong to the clean parameters, at the chip's deviated point. Tied weights share
    one deviation. Other transforms that callbacks put on the model (masks, quantisation) stay in the chain.

    Args:
        model: The module to put on the chip.
        chip: For example ``ChipPopulation(model, Gaussian(sigma=0.1))[0]``.

    Yields:
        The model.

    Raises:
        ValueError: The model is on a chip already, the mapping does not fit it, or a weight is NaN or infinite.

    Example:
        >>> import torch
        >>> from lightning_cim import ChipPopulation, Gaussian
        >>> model = nn.Linear(4, 2)
        >>> before = model.weight.clone()
        >>> with on_chip(model, ChipPopulation(model, Gaussian(sigma=0.1))[0]):
        ...     assert not torch.equal(model.weight, before)
        >>> torch.equal(model.weight, before)
        True
    """
    with _programmed(model, chip) as scope:
        scope.open()
        yield model


def chip_weights(model: nn.Module, chip: Chip) -> dict[str, Tensor]:
    """The mapped weights as one chip stores them, for export or inspection.

    Args:
        model: The module to put on the chip.
        chip: The chip.

    Returns:
        Detached tensors by parameter name.
    """
    with _programmed(model, chip) as scope:
        return {name: value.detach().clone() for name, value in scope.transformed().items()}


@contextmanager
def _programmed(model: nn.Module, chip: Chip) -> Iterator[WeightScope]:
    check_finite(model, resolved(model, chip.mapping))
    scope = scope_of(model)
    if scope.is_open:
        raise ValueError(f"{type(model).__name__} is on a chip already; leave that block, or this training step, first")
    # A callback's injection is switched off between two batches; it makes room and comes back.
    idle = [link for link in scope.chain if link.stage is Stage.PROGRAM and link.is_null]
    program = Program(chip)
    for link in idle:
        scope.remove(link)
    scope.add(program)
    try:
        yield scope
    finally:
        scope.remove(program)
        for link in idle:
            scope.add(link)


def _in_place(model: nn.Module, target: Target) -> bool:
    held = target.sites[0].parameter
    return held is not None and all(site.parameter is held and site.is_in_place(model) for site in target.sites)
