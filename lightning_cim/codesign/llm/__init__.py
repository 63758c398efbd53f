"""Language models as optimizers of a design search. Their replies are data: parsed, checked, and never obeyed."""

from lightning_cim.codesign.llm.backend import Backend, BackendError, Completion, make_backend
from lightning_cim.codesign.llm.callable_backend import CallableBackend
from lightning_cim.codesign.llm.llm_optimizer import LLMOptimizer
from lightning_cim.codesign.llm.prompt import Task
from lightning_cim.codesign.llm.statistics import ReplyStatistics

__all__ = [
    "Backend",
    "BackendError",
    "CallableBackend",
    "Completion",
    "LLMOptimizer",
    "ReplyStatistics",
    "Task",
    "make_backend",
]
