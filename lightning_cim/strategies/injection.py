"""The same engine as the callback, injected by a strategy: ``Trainer(strategy="cim")``."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import torch

from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.tiny_shared_block import TinySharedBlock
from lightning_cim.callbacks.variation_injection import VariationInjection
from lightning_cim.chip.mapping import Mapping
from lightning_cim.variation.base import Variation
from lightning_cim.variation.gaussian import Gaussian

_DEFAULT = Gaussian(sigma=0.1)
_PROGRAMMING = (VariationInjection, TinySharedBlock)


class InjectsVariation:
    """Mixin over a Lightning strategy: gives the Trainer a :class:`VariationInjection`.

    Args:
        variation: What devices do to a value.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        seed: As for the callback.
        redraw_every_n_steps: As for the callback.
        same_across_ranks: As for the callback.
        warmup_steps: As for the callback.
        validation_chips: As for the callback.
        kwargs: Passed on to Lightning's strategy.
    """

    def __init__(
        self,
        variation: Variation = _DEFAULT,
        mapping: Mapping | None = None,
        seed: int = 0,
        redraw_every_n_steps: int = 1,
        same_across_ranks: bool = False,
        warmup_steps: int = 0,
        validation_chips: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._injection = VariationInjection(
            variation, mapping, seed, redraw_every_n_steps, same_across_ranks, warmup_steps, validation_chips
        )

    def connect(self, model: Any) -> None:
        """Connect the model, and give its Trainer the injection before any hook runs.

        Raises:
            MisconfigurationException: The Trainer has a callback of its own that puts weights on chips.
        """
        super().connect(model)  # type: ignore[misc]
        callbacks = model.trainer.callbacks
        others = [other for other in callbacks if isinstance(other, _PROGRAMMING) and other is not self._injection]
        if others:
            raise MisconfigurationException(
                f"{type(self).__name__} injects variation, and so does a {type(others[0]).__name__} callback of this"
                " Trainer. Keep one: drop the callback, or use the plain strategy ('auto', 'ddp')."
            )
        if self._injection not in callbacks:
            callbacks.insert(0, self._injection)


class OnOneDevice(InjectsVariation):
    """One device, and a fresh chip each training step. Known to the Trainer as ``"cim"``.

    Unlike Lightning's single-device strategy, which stays on the CPU unless it is told otherwise, it takes the
    accelerator's device.
    """

    _devices: tuple[torch.device, ...] = ()
    _root_device: torch.device

    @property
    def parallel_devices(self) -> list[torch.device]:
        """The Trainer's choice of devices."""
        return list(self._devices)

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device]) -> None:
        if len(devices) > 1:
            raise MisconfigurationException(
                f"strategy='cim' runs on one device, got devices={len(devices)}; use strategy='cim_ddp' for several"
            )
        self._devices = tuple(devices)
        if devices:
            self._root_device = devices[0]


class OnManyDevices(InjectsVariation):
    """DDP with a different training chip on every rank. Known to the Trainer as ``"cim_ddp"``.

    In :func:`evaluate_chips` the chips are spread over the ranks.
    """


_PARTS = {
    "CIMStrategy": (OnOneDevice, "SingleDeviceStrategy"),
    "CIMDDPStrategy": (OnManyDevices, "DDPStrategy"),
}


@lru_cache
def strategy_class(name: str, flavour: str) -> Any:
    """The strategy over the classes of ``lightning.pytorch`` or ``pytorch_lightning``, whose checks are by class.

    Args:
        name: ``"CIMStrategy"`` or ``"CIMDDPStrategy"``.
        flavour: The package's import name.
    """
    mixin, base = _PARTS[name]
    lightning = importlib.import_module(f"{flavour}.strategies")
    docs = f"{mixin.__doc__}\n    {(InjectsVariation.__doc__ or '').partition(chr(10))[2].strip()}\n"
    home = {"__doc__": docs, "__module__": "lightning_cim.strategies", "strategy_name": name.removesuffix("Strategy")}
    return type(name, (mixin, getattr(lightning, base)), home)
