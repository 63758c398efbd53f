"""Make the names "cim" and "cim_ddp" known to Trainer(strategy=...), without importing the strategies yet."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

NAMES = {"cim": "CIMStrategy", "cim_ddp": "CIMDDPStrategy"}


def register_strategies() -> None:
    """Register in the Lightning that is installed, and in ``pytorch_lightning`` too if it is loaded or alone.

    Lightning has no entry point for strategies, so this runs when ``lightning_cim`` is imported.
    """
    flavours = ["lightning.pytorch"] if importlib.util.find_spec("lightning") else []
    if not flavours or "pytorch_lightning" in sys.modules:
        flavours.append("pytorch_lightning")
    for flavour in flavours:
        registry = importlib.import_module(f"{flavour}.strategies").StrategyRegistry
        for name, cls in NAMES.items():
            registry.register(name, _Maker(flavour, cls), description=f"lightning_cim's {cls}", override=True)


class _Maker:
    """Builds a strategy of the right flavour when a Trainer asks for it by name."""

    def __init__(self, flavour: str, cls: str) -> None:
        self._flavour, self._cls = flavour, cls

    def __call__(self, **kwargs: Any) -> Any:
        strategies = importlib.import_module("lightning_cim.strategies")
        return strategies.strategy_class(self._cls, self._flavour)(**kwargs)
