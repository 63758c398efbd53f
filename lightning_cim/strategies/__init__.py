"""Strategies "cim" and "cim_ddp": the callback's engine, for those who configure a Trainer by its strategy."""

from typing import TYPE_CHECKING, Any

from lightning_cim._compat import FLAVOURS
from lightning_cim.strategies.injection import strategy_class

if TYPE_CHECKING:
    CIMStrategy: Any
    CIMDDPStrategy: Any
else:
    CIMStrategy = strategy_class("CIMStrategy", FLAVOURS[0])
    CIMDDPStrategy = strategy_class("CIMDDPStrategy", FLAVOURS[0])

__all__ = ["CIMDDPStrategy", "CIMStrategy", "strategy_class"]
