"""The stages of any network: where one block of layers ends and the next begins, found by one dry run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from lightning_cim._compiled import uncompiled
from lightning_cim.chip.mapping import LAYER_KINDS, _nearest
from lightning_cim.chip.mapping import Mapping as WeightMapping

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_HELP = "Name stages yourself (paths of submodules, as in dict(model.named_modules()))."


@dataclass(frozen=True)
class Block:
    """The output of one block of layers.

    Attributes:
        path: The module whose output (its first tensor) is the block's, of the shape that its last matrix layer makes.
        pooled: The module whose output is the same after the pooling that follows; ``path`` where none does.
        channels: Size of the channel axis.
        channel_dim: 1 for maps (N, C, ...), -1 for sequences (N, L, C) and features (N, C).
        shape: Of the output of ``path``.
        pooled_shape: Of the output of ``pooled``.
        is_compound: Whether the block is a module of several layers (a residual or transformer block).
    """

    path: str
    pooled: str
    channels: int
    channel_dim: int
    shape: tuple[int, ...]
    pooled_shape: tuple[int, ...]
    is_compound: bool = False

    @property
    def kind(self) -> str:
        """``"map"``, ``"sequence"`` or ``"features"``."""
        return "features" if len(self.shape) < 3 else "map" if self.channel_dim == 1 else "sequence"


@dataclass(frozen=True)
class _Call:
    """One call of a module that ended, in the order of ends."""

    path: str
    module: nn.Module
    shape: tuple[int, ...] | None  # of the first floating tensor of the output


def trace_blocks(model: nn.Module, run: Callable[[], Any], mapping: WeightMapping | None = None) -> list[Block]:
    """Find the blocks of a network by running it once.

    A block is a module of several matrix layers whose class the network repeats (a ResNet's BasicBlock, a ViT's Block);
    elsewhere it is one matrix layer with the norm and activation behind it. The last matrix layer (the classifier) is
    none, nor are the hidden features of a convolutional net's head, nor the one layer that embeds patches for a
    transformer. Modules called several times in a run are never named, because a hook there would fire several times.

    Args:
        model: The network, or a LightningModule around it.
        run: Runs the model once, forward only. Make it silent; hooks are put on all submodules while it runs.
        mapping: Which parameters count as matrix layers; default: every one.

    Returns:
        The blocks in the order in which they end.

    Raises:
        ValueError: No block was found.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
        >>> [block] = trace_blocks(net, lambda: net(torch.zeros(1, 1, 8, 8)))
        >>> block.path, block.pooled, block.channels
        ('1', '2', 4)
    """
    layers = _matrix_layers(model, mapping)
    calls = _record(model, run)
    times = Counter(id(call.module) for call in calls)
    compounds = _compounds(model, layers, set(times))
    inside = {id(module) for compound in compounds for module in compound.modules()}
    holders = {id(module) for module in model.modules() if any(id(inner) in layers for inner in module.modules())}
    singles = {index for index, call in enumerate(calls) if id(call.module) in layers}
    singles.discard(max(singles, default=0))
    outer = {id(compound) for compound in compounds}

    blocks = []
    for index, call in enumerate(calls):
        is_compound = id(call.module) in outer
        is_single = index in singles and id(call.module) not in inside
        if not (is_compound or is_single) or call.shape is None or len(call.shape) < 2:
            continue
        if is_compound and times[id(call.module)] > 1:
            continue
        layer = call.module if is_single else _last_layer(calls[:index], call.module, layers)
        dim = _channel_dim(layer, call.shape)
        following = []
        for later in calls[index + 1 :]:
            if id(later.module) in layers:
                break
            if id(later.module) not in (holders | inside) and times[id(later.module)] == 1:
                following.append(later)
        same = [later for later in following if later.shape == call.shape] if is_single else []
        if times[id(call.module)] == 1:
            same.insert(0, call)
        if not same:
            continue
        output = same[-1]
        smaller = [later for later in following if _is_pooled(later.shape, call.shape, dim)]
        pooled = smaller[-1] if smaller else output
        assert output.shape is not None
        assert pooled.shape is not None
        blocks.append(Block(output.path, pooled.path, output.shape[dim], dim, output.shape, pooled.shape, is_compound))
    blocks = _without_ends(blocks)
    if not blocks:
        raise ValueError(
            f"{type(model).__name__}: found no stage, which is the output of a matrix layer that is called once and is"
            f" not the last one. {_HELP}"
        )
    return blocks


def snapshot_paths(blocks: Sequence[Block], count: int | None = None) -> list[Block]:
    """The stages after which NeFT takes its snapshots: where the number of channels is about to change, never the last.

    Consecutive blocks of one width are a stage (a ResNet's stem is its own); a net of one width throughout (a ViT) is
    cut at ``count`` evenly spaced places.

    Args:
        blocks: What :func:`trace_blocks` found.
        count: At most so many snapshots; default: one a stage, and 3 where there is one stage only.

    Returns:
        Blocks whose ``pooled`` outputs are the snapshots.

    Raises:
        ValueError: ``count`` below 1, or there is nothing before the last stage.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    stages = [list(group) for _, group in groupby(blocks, key=lambda block: (block.is_compound, block.channels))]
    if len(stages) > 1:
        found = [stage[-1] for stage in stages[:-1]]
        wanted = len(found) if count is None else min(count, len(found))
        return [found[math.floor((i + 0.5) * len(found) / wanted)] for i in range(wanted)]
    if len(blocks) < 2:
        raise ValueError(f"there is no stage before the last one to take a snapshot of ({len(blocks)} in all). {_HELP}")
    wanted = min(count or 3, len(blocks) - 1)
    step = len(blocks) / (wanted + 1)
    return [blocks[math.floor((i + 1) * step + 0.5) - 1] for i in range(wanted)]


def named_blocks(
    model: nn.Module, run: Callable[[], Any], names: Sequence[str], mapping: WeightMapping | None = None
) -> list[Block]:
    """The outputs of modules that the user named, with their shapes from one run.

    Args:
        model: The network.
        run: Runs the model once, forward only.
        names: Paths of submodules.
        mapping: Which parameters count as matrix layers; they tell where the channels are.

    Returns:
        One block a name, in the order of the names, with ``pooled`` the same as ``path``.

    Raises:
        ValueError: A name that is no submodule (with the nearest names), a module that was not called exactly once, or
            whose output holds no tensor of at least two axes.
    """
    paths = {_clean(path): path for path, _ in model.named_modules(remove_duplicate=False) if path}
    for name in names:
        if _clean(name) not in paths:
            raise ValueError(
                f"{type(model).__name__} has no submodule {name!r} to use as a stage{_nearest(name, list(paths))}"
            )
    layers = _matrix_layers(model, mapping)
    calls = _record(model, run)
    blocks = []
    for name in names:
        path = paths[_clean(name)]
        module = model.get_submodule(path)
        ends = [index for index, call in enumerate(calls) if call.module is module]
        if len(ends) != 1:
            raise ValueError(
                f"{type(model).__name__}: stage {name!r} was called {len(ends)} times in one pass; name a module that"
                " is called exactly once"
            )
        shape = calls[ends[0]].shape
        if shape is None or len(shape) < 2:
            raise ValueError(
                f"{type(model).__name__}: stage {name!r} gives no floating tensor of at least two axes, but {shape}"
            )
        before = [call.module for call in calls[: ends[0] + 1] if id(call.module) in layers]
        dim = _channel_dim(before[-1] if before else module, shape)
        blocks.append(Block(path, path, shape[dim], dim, shape, shape))
    return blocks


def first_tensor(output: Any) -> Tensor | None:
    """The first floating tensor of a module's output: itself, or the first in a tuple, list or dictionary."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return next((tensor for item in output if (tensor := first_tensor(item)) is not None), None)
    return None


def _matrix_layers(model: nn.Module, mapping: WeightMapping | None) -> set[int]:
    targets = (mapping or WeightMapping()).resolve(model)
    modules = (site.module for target in targets for site in target.sites)
    return {id(module) for module in modules if getattr(module, "is_stage", True)}


def _record(model: nn.Module, run: Callable[[], Any]) -> list[_Call]:
    calls: list[_Call] = []

    def watch(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            tensor = first_tensor(output)
            calls.append(_Call(path, module, None if tensor is None else tuple(tensor.shape)))

        return hook

    handles = [module.register_forward_hook(watch(path)) for path, module in model.named_modules() if path]
    try:
        with uncompiled():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _compounds(model: nn.Module, layers: set[int], called: set[int]) -> list[nn.Module]:
    """The outermost modules of at least two matrix layers whose class the network repeats."""
    several = {
        path: module
        for path, module in model.named_modules()
        if path
        and id(module) in called
        and type(module) not in _CONTAINERS
        and type(module).__name__ != "OptimizedModule"
        and sum(id(inner) in layers for inner in module.modules() if inner is not module) > 1
    }
    classes = Counter(type(module) for module in several.values())
    found = _outermost(path for path, module in several.items() if classes[type(module)] > 1)
    # One block of another class may stand among them (MobileNet's first); what repeats inside it is no block.
    depths = {path.count(".") for path in found}
    around = {path for path in several if path.count(".") in depths and any(_is_below(below, path) for below in found)}
    return [several[path] for path in _outermost(path for path in several if path in around or path in found)]


def _outermost(paths: Iterable[str]) -> list[str]:
    found: list[str] = []
    for path in paths:  # parents come before their children
        if not any(_is_below(path, outer) for outer in found):
            found.append(path)
    return found


def _is_below(path: str, outer: str) -> bool:
    return path.startswith(f"{outer}.")


def _last_layer(calls: Sequence[_Call], compound: nn.Module, layers: set[int]) -> nn.Module:
    inner = {id(module) for module in compound.modules()} & layers
    return next((call.module for call in reversed(calls) if id(call.module) in inner), compound)


def _channel_dim(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Where a layer's output has its channels: convolutions at 1, others last unless the sizes say otherwise."""
    if len(shape) < 3:
        return -1
    if isinstance(layer, LAYER_KINDS["conv"]):
        return 1
    width = getattr(layer, "out_features", None)  # ConvNeXt multiplies channels-last and gives maps back
    return 1 if width is not None and shape[-1] != width and shape[1] == width else -1


def _is_pooled(shape: tuple[int, ...] | None, of: tuple[int, ...], dim: int) -> bool:
    return (
        shape is not None
        and len(shape) == len(of)
        and shape[0] == of[0]
        and shape[dim] == of[dim]
        and all(small <= large for small, large in zip(shape, of, strict=True))
        and shape != of
    )


def _without_ends(blocks: list[Block]) -> list[Block]:
    """Leave out embeddings and hidden layers of heads."""
    kinds = {block.kind for block in blocks if block.is_compound}
    alone = Counter(block.kind for block in blocks if not block.is_compound)
    if kinds:
        stem = kinds & {"map"}
        blocks = [block for block in blocks if block.is_compound or block.kind in stem or alone[block.kind] > 1]
    if any(block.kind == "map" for block in blocks):
        blocks = [block for block in blocks if block.is_compound or max(block.shape[2:], default=1) > 1]
    return blocks


def _clean(path: str) -> str:
    return path.replace("_orig_mod.", "").removesuffix("._orig_mod")
