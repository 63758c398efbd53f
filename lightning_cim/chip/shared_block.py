"""Tiny Shared Block (ICCAD 2024, arXiv 2406.06544): one small 1x1 convolution, used at many places of a frozen network.

The network lies on devices that nobody verified; the block is the only part that is write-verified, so that a few
thousand careful writes repair millions of careless ones.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lightning_cim._compiled import forget_compiled
from lightning_cim.chip.mapping import Mapping as WeightMapping
from lightning_cim.chip.stages import Block, named_blocks

NAME = "tiny_shared_block"
"""The block's name in the network that it is inserted into."""

WEIGHT = f"{NAME}.weight"
"""The name of its weight matrix, which lies on a crossbar like every other matrix."""

MAX_WIDTH = 64


class SharedBlock(nn.Linear):
    """A 1x1 convolution of ``width`` channels that serves stages of any number of channels.

    C channels are folded into C / width groups (padded with zeros and cropped if that is no whole number), each group
    passes the same matrix, and the groups are laid out again. The matrix starts at zero, so that ``x + block(x)``
    starts as the identity.

    Args:
        width: Channels of the matrix.
        device: Where its parameters are made.
        dtype: Their type.

    Example:
        >>> block = SharedBlock(4)
        >>> block(torch.randn(2, 12, 5, 5), channel_dim=1).shape
        torch.Size([2, 12, 5, 5])
    """

    def __init__(self, width: int, device: Any = None, dtype: torch.dtype | None = None) -> None:
        if width < 1:
            raise ValueError(f"SharedBlock: width must be at least 1, got {width}")
        super().__init__(width, width, device=device, dtype=dtype)

    is_stage = False  # dry runs that look for stages pass it by

    @property
    def width(self) -> int:
        """Channels of the matrix."""
        return self.in_features

    def reset_parameters(self) -> None:
        """Zero weight and bias."""
        with torch.no_grad():
            self.weight.zero_()
            self.bias.zero_()

    def forward(self, input: Tensor, channel_dim: int | None = None) -> Tensor:
        """Apply the matrix to each group of channels.

        Args:
            input: (N, C, ...) with ``channel_dim`` 1, or (..., C) with -1.
            channel_dim: 1 or -1. None: the input is given back, for an ``nn.Sequential`` that holds the block runs it
                as if it were its last layer.

        Returns:
            Of the shape of ``input``.
        """
        if channel_dim is None:
            return input
        if input.ndim < 3:
            channel_dim = -1
        channels = input.shape[channel_dim]
        short = -channels % self.width
        if channel_dim == 1:
            folded = F.pad(input, (0, 0) * (input.ndim - 2) + (0, short)) if short else input
            groups = folded.reshape(-1, self.width, input.shape[2:].numel())
            mixed = F.conv1d(groups, self.weight.unsqueeze(2), self.bias)
            return mixed.reshape(folded.shape).narrow(1, 0, channels)
        folded = F.pad(input, (0, short)) if short else input
        mixed = super().forward(folded.reshape(*folded.shape[:-1], -1, self.width))
        return mixed.reshape(folded.shape).narrow(-1, 0, channels)


class AddShared:
    """A forward hook that adds the shared block's output to a module's: y = x + B(x).

    An object and no closure, so that a network with its hooks can be pickled and deep-copied; a copy uses the copy's
    block. It keeps its handle, whose pickling is what keeps hook numbers distinct in the process that loads it.

    Args:
        block: The one block of the network.
        channel_dim: Where this module's output has its channels.
    """

    def __init__(self, block: SharedBlock, channel_dim: int) -> None:
        self.block, self.channel_dim = block, channel_dim
        self.handle: RemovableHandle | None = None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Replace the first tensor of the output."""
        return _with_first(output, self._add)

    def _add(self, x: Tensor) -> Tensor:
        added: Tensor = self.block(x, self.channel_dim)
        return x + added


def insert_shared_block(
    model: nn.Module,
    stages: Sequence[Block] | Sequence[str],
    width: int | None = None,
    run: Callable[[], Any] | None = None,
) -> SharedBlock:
    """Add one shared block to the outputs of several modules of a network.

    It is registered once, as ``model.tiny_shared_block``, and called by forward hooks; starting at zero, it changes
    nothing yet. To load a checkpoint that has a block into a fresh network, insert one there first.

    Args:
        model: The network, or the LightningModule around it.
        stages: What :func:`trace_blocks` found; or paths of submodules, with ``run``.
        width: Channels of the block; default: the greatest common divisor of the stages' channels, at most 64.
        run: Runs the model once, forward only, so that the shapes at named submodules are known.

    Returns:
        The block.

    Raises:
        ValueError: There is a block already, no stage, names without ``run``, or a name that fits no submodule.

    Example:
        >>> from lightning_cim.chip.stages import trace_blocks
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> block = insert_shared_block(net, trace_blocks(net, lambda: net(torch.zeros(1, 4))))
        >>> block.width, [name for name in net.state_dict() if "shared" in name]
        (8, ['tiny_shared_block.weight', 'tiny_shared_block.bias'])
    """
    if shared_block_of(model) is not None:
        raise ValueError(f"{type(model).__name__} has a shared block already; remove_shared_block(model) first")
    names = [stage for stage in stages if isinstance(stage, str)]
    if names and run is None:
        raise ValueError(
            f"stages by name ({', '.join(names)}) need run=, which runs the model once to see their shapes"
        )
    blocks = [stage for stage in stages if isinstance(stage, Block)]
    if names and run is not None:
        blocks += named_blocks(model, run, names)
    if not blocks:
        raise ValueError("no stage to insert the shared block at")
    channels = [block.channels for block in blocks]
    if width is None:
        width = min(MAX_WIDTH, math.gcd(*channels))
        if width < min(8, *channels):
            warnings.warn(
                f"the stages have {', '.join(map(str, channels))} channels; their common divisor makes a shared block"
                f" of width {width}, which can repair little. Pass width= (channels are padded), or other stages.",
                stacklevel=2,
            )
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    shared = SharedBlock(width, *(() if like is None else (like.device, like.dtype)))
    model.add_module(NAME, shared)
    for block in blocks:
        hook = AddShared(shared, block.channel_dim)
        hook.handle = model.get_submodule(block.path).register_forward_hook(hook)
    forget_compiled()
    return shared


def remove_shared_block(model: nn.Module) -> None:
    """Take the block and its hooks out of a network again.

    Raises:
        ValueError: There is none.
    """
    shared = shared_block_of(model)
    if shared is None:
        raise ValueError(f"{type(model).__name__} has no shared block")
    for _, hook in call_sites(model):
        assert hook.handle is not None
        hook.handle.remove()
    del model._modules[NAME]
    forget_compiled()


def shared_block_of(model: nn.Module) -> SharedBlock | None:
    """The shared block of a network, if it has one."""
    found = model._modules.get(NAME)
    return found if isinstance(found, SharedBlock) else None


def call_sites(model: nn.Module) -> list[tuple[str, AddShared]]:
    """The paths at which the shared block is added, each with its hook, in the order of the modules."""
    shared = shared_block_of(model)
    return [
        (path, hook)
        for path, module in model.named_modules()
        for hook in module._forward_hooks.values()
        if isinstance(hook, AddShared) and hook.block is shared
    ]


def block_share(model: nn.Module, mapping: WeightMapping | None = None) -> float:
    """The shared block's parameters as a share of the network's own weights on crossbars.

    Args:
        model: A network with a shared block.
        mapping: Which parameters lie on crossbars; default: every matrix weight.

    Raises:
        ValueError: It has no block.
    """
    shared = shared_block_of(model)
    if shared is None:
        raise ValueError(f"{type(model).__name__} has no shared block")
    return sum(parameter.numel() for parameter in shared.parameters()) / backbone_weights(model, mapping)


def backbone_weights(model: nn.Module, mapping: WeightMapping | None = None) -> int:
    """How many weights of a network, its shared block apart, lie on crossbars."""
    targets = (mapping or WeightMapping()).resolve(model)
    weights = (target.sites[0].parameter for target in targets if target.name != WEIGHT)
    return sum(weight.numel() for weight in weights if weight is not None)


def _with_first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The output with its first floating tensor changed; see :func:`lightning_cim.chip.stages.first_tensor`."""
    if isinstance(output, Tensor):
        return change(output) if output.is_floating_point() else output
    if isinstance(output, (tuple, list)):
        for index, item in enumerate(output):
            changed = _with_first(item, change)
            if changed is not item:
                items = [*output[:index], changed, *output[index + 1 :]]
                return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    if isinstance(output, Mapping):
        for key, item in output.items():
            changed = _with_first(item, change)
            if changed is not item:
                whole: Any = copy.copy(output)
                whole[key] = changed
                return whole
    return output
