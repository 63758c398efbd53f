"""One base class for callbacks that both ``lightning.pytorch`` and ``pytorch_lightning`` Trainers accept.

The two packages are the same code under two names, with unrelated classes. A callback that inherits from both is
accepted by both; only what is installed is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Callback as CallbackBase

    FLAVOURS: tuple[str, ...]
else:
    FLAVOURS = tuple(
        name for name in ("lightning.pytorch", "pytorch_lightning") if importlib.util.find_spec(name.split(".")[0])
    )
    CallbackBase = type("CallbackBase", tuple(importlib.import_module(name).Callback for name in FLAVOURS), {})
    MisconfigurationException = type(
        "MisconfigurationException",
        tuple(importlib.import_module(f"{name}.utilities.exceptions").MisconfigurationException for name in FLAVOURS),
        {},
    )

__all__ = ["FLAVOURS", "CallbackBase", "MisconfigurationException"]
