"""What the oldest versions of pyproject.toml do not have, so that their run skips it with the reason."""

import importlib

import pytest
from torchmetrics import Metric

merging = pytest.mark.skipif(not hasattr(Metric, "merge_state"), reason="this torchmetrics has no Metric.merge_state")


def callback_of(flavour, name):
    """A class of a Lightning's callbacks; skips the test where that version has none."""
    callbacks = importlib.import_module(f"{flavour}.callbacks")
    if not hasattr(callbacks, name):
        pytest.skip(f"this Lightning has no {name}")
    return getattr(callbacks, name)
