"""Training and validation batches from whatever a user has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def loaders_of(data: Any, validation: Iterable[Any] | None = None) -> tuple[Iterable[Any], Iterable[Any] | None]:
    """Training batches, and validation batches if there are any.

    Args:
        data: Batches; or a datamodule, or a module with loaders of its own.
        validation: Batches; wins over the datamodule's.

    Raises:
        ValueError: Not iterable, or a datamodule without training loader, or with several.
    """
    if hasattr(data, "train_dataloader"):
        if not _defines(data, "train_dataloader"):
            raise ValueError(f"{type(data).__name__} has no train_dataloader; pass the training batches as data=")
        data.prepare_data()
        data.setup("fit")
        if validation is None and _defines(data, "val_dataloader"):
            validation = _single(data.val_dataloader(), "val_dataloader")
        data = _single(data.train_dataloader(), "train_dataloader")
    for name, batches in (("data", data), ("validation", validation)):
        if batches is not None and not isinstance(batches, Iterable):
            raise ValueError(f"{name} must give batches, such as a DataLoader does, got {type(batches).__name__}")
    return data, validation


def _single(loaders: Any, name: str) -> Any:
    """The one loader of a collection.

    Raises:
        ValueError: There are several, of which only the user knows which is meant.
    """
    if isinstance(loaders, (list, tuple, dict)):
        if len(loaders) != 1:
            raise ValueError(f"{name} gives {len(loaders)} loaders; pass one of them as data= or validation=")
        return next(iter(loaders.values() if isinstance(loaders, dict) else loaders))
    return loaders


def _defines(instance: Any, name: str) -> bool:
    """Whether a class of the user's defines a method that Lightning's base classes only declare."""
    owner = next((cls for cls in type(instance).__mro__ if name in cls.__dict__), None)
    return owner is not None and not owner.__module__.startswith(("lightning.", "pytorch_lightning."))
