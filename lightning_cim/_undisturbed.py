"""Blocks that leave no trace in random states and in the modes of modules. Any room may use them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Give torch's, numpy's and Python's random state back as they were: even building a loader's iterator draws.

    Args:
        seed: Everything inside starts from it; None: from where the states are.

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated_rng(seed=0):
        ...     found = torch.rand(3)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    numpy_state, python_state, torch_state = np.random.get_state(), random.getstate(), torch.get_rng_state()
    # Asking for the generators of a GPU that nobody uses yet would start CUDA, which a forked process cannot.
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        yield
    finally:
        torch.set_rng_state(torch_state)
        if cuda_states is None:  # CUDA starts, or has just started, from what torch was seeded with
            torch.cuda.manual_seed_all(torch.initial_seed())
        else:
            torch.cuda.set_rng_state_all(cuda_states)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """The module in eval mode; afterwards the mode of each submodule is what it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """The module in eval mode, with a random state of its own, and inference mode off: gradients can be recorded.

    Args:
        model: Given back with the modes it had.
        seed: The random state starts from it in each block, so that a loader that shuffles gives the same order.
    """
    with isolated_rng(seed), in_eval_mode(model), torch.inference_mode(False):
        yield
