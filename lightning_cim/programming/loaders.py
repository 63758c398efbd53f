"""Training and validation batches from whatever a user has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_cim._data import is_defined, own_loaders


def loaders_of(data: Any, validation: Iterable[Any] | None = None) -> tuple[Iterable[Any], Iterable[Any] | None]:
    """Training batches, and validation batches if there are any.

    Args:
        data: Batches; or a datamodule, or a module with loaders of its own.
        validation: Batches; wins over the datamodule's.

    Raises:
        ValueError: Not iterable, or a datamodule without training loader, or with several.
    """
    if hasattr(data, "train_dataloader"):
        if not is_defined(data, "train_dataloader"):
            raise ValueError(f"{type(data).__name__} has no train_dataloader; pass the training batches as data=")
        names = ["train_dataloader"] if validation is not None else ["val_dataloader", "train_dataloader"]
        *held_out, training = own_loaders(data, "fit", *names)
        if held_out and held_out[0] is not None:
            validation = _single(held_out[0], "val_dataloader")
        data = _single(training, "train_dataloader")
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
