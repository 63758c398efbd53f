"""Modules and ``torch.compile``. Any room may use it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

_STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")


def uncompiled() -> AbstractContextManager[Any]:
    """A block in which compiled modules run eagerly, so that hooks put on them since are seen."""
    # Asking for eager mode would import the compiler.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


def forget_compiled() -> None:
    """Compile anew from now on: compiled code does not look at hooks that are put on modules after it was made."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def compiled_from(model: Any) -> Any:
    """The module that ``torch.compile`` wrapped, or the module itself."""
    return getattr(model, "_orig_mod", model)


def run_eagerly(copied: Any) -> None:
    """Give a copied LightningModule its own steps back: compiled ones are those of the module that was copied."""
    if getattr(copied, "_compiler_ctx", None) is not None:
        for name in _STEPS:
            vars(copied).pop(name, None)
        copied._compiler_ctx = None
