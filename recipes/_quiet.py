"""What Lightning says to everybody, and no user of a recipe needs."""

from __future__ import annotations

import logging
import warnings

ADVICE = (
    "does not have many workers",
    "LeafSpec",
    "chips are few",
    "exists and is not empty",
    "mid-epoch",
    "args parameter is intended",
    "number of training batches",
    "Total length of `list`",
    "skip_none",
)
"""Parts of warnings about loaders of data that is in memory, folders that are continued, and parsers."""


def quiet() -> None:
    """Hide that advice, and the banner of each of a recipe's many Trainers."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for advice in ADVICE:
        warnings.filterwarnings("ignore", f"(?s).*{advice}.*")
