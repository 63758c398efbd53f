"""Which parameters of a model lie on crossbars."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

LAYER_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear, nn.Bilinear),
    "conv": (
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    ),
    "recurrent": (nn.RNNBase, nn.RNNCellBase),
    "attention": (nn.MultiheadAttention,),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
}
"""Layers that :class:`Mapping` can target by a word."""

_MATRIX_NAMES = {"weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"}


@dataclass(frozen=True)
class Site:
    """One place where a module holds a mapped parameter: ``module._parameters[attribute]``."""

    path: str
    module: nn.Module
    attribute: str

    def is_in_place(self, model: nn.Module) -> bool:
        """Whether the model still holds the module at this path (asked before each step, hence no get_submodule)."""
        found: nn.Module | None = model
        for part in self._parts:
            found = found._modules.get(part) if found is not None else None
        return found is self.module

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        return tuple(self.path.split(".")) if self.path else ()

    @property
    def parameter(self) -> Tensor | None:
        """What the module holds there now; inside a scope this is the deviated tensor."""
        return self.module._parameters.get(self.attribute)


@dataclass(frozen=True)
class Target:
    """One mapped parameter with every place that uses it (more than one when weights are tied).

    Attributes:
        name: Its first name in ``model.named_parameters()``, without the prefix that ``torch.compile`` adds.
        sites: The places that hold it. Tied weights share one array, hence one deviation.
    """

    name: str
    sites: tuple[Site, ...]

    @property
    def layer(self) -> nn.Module:
        """The module of the first site."""
        return self.sites[0].module


@dataclass(frozen=True)
class Mapping:
    """Which parameters lie on crossbars. Biases, norms and embeddings are digital unless asked for.

    Attributes:
        targets: Kinds of layers (``"linear"``, ``"conv"``, ``"recurrent"``, ``"attention"``, ``"embedding"``) or class
            names; their weight matrices are mapped. Default: every layer that multiplies a matrix.
        include: Names or globs to map as well: a parameter (``"codebook"``, ``"head.*.weight"``) or a module
            (``"encoder"``: the weight matrices below it). With ``targets=()`` exactly these are mapped.
        exclude: Names or globs of parameters or modules to keep digital; wins over the others.
        pruned: What a weight that a mask removed means. ``"absent"``: compressed rows, no device, never deviates.
            ``"stored"``: a device at zero that deviates like any other.

    Example:
        >>> net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(8, 2))
        >>> [target.name for target in Mapping().resolve(net)]
        ['0.weight', '3.weight']
        >>> [target.name for target in Mapping(exclude=["3"]).resolve(net)]
        ['0.weight']
    """

    targets: Sequence[str] = ("linear", "conv", "recurrent", "attention")
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    pruned: Literal["absent", "stored"] = "absent"

    def __post_init__(self) -> None:
        for name in ("targets", "include", "exclude"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(
                    f"Mapping: {name} must be a list of names, got the string {value!r}; write [{value!r}]"
                )
            object.__setattr__(self, name, tuple(value))
        if self.pruned not in ("absent", "stored"):
            raise ValueError(f"Mapping: pruned must be 'absent' or 'stored', got {self.pruned!r}")

    def resolve(self, model: nn.Module) -> list[Target]:
        """The mapped parameters of a model, in the order of its parameters.

        Args:
            model: Any module. Parameters that are still uninitialised (lazy layers) are left out.

        Returns:
            One target for each distinct parameter.

        Raises:
            ValueError: A name that matches nothing (with the nearest names), or no parameter left to map.
        """
        kinds = self._layer_types(model)
        sites: dict[int, list[Site]] = {}
        names: dict[int, str] = {}
        selected: set[int] = set()
        excluded: set[int] = set()  # a tied parameter is one array: excluding it at one place excludes it everywhere
        used: set[str] = set()
        everything: list[str] = []
        for path, module in model.named_modules():
            clean = path.replace("_orig_mod.", "").removesuffix("_orig_mod").rstrip(".")
            everything.append(clean)
            of_kind = isinstance(module, kinds) or type(module).__name__ in self.targets
            for attribute, parameter in module._parameters.items():
                if parameter is None or is_lazy(parameter):
                    continue
                name = f"{clean}.{attribute}" if clean else attribute
                everything.append(name)
                key = id(parameter)
                sites.setdefault(key, []).append(Site(path, module, attribute))
                names.setdefault(key, name)
                matrix = _is_matrix(module, attribute, parameter)
                wanted = {p for p in self.include if fnmatchcase(name, p) or (matrix and _below(clean, p))}
                banned = {p for p in self.exclude if fnmatchcase(name, p) or _below(clean, p)}
                used |= wanted | banned
                if banned:
                    excluded.add(key)
                elif ((of_kind and matrix) or wanted) and parameter.is_floating_point():
                    selected.add(key)
            _warn_if_computed(module, of_kind, clean)
        self._check_names(used, everything)
        selected -= excluded
        if not selected:
            layers = sorted(
                {type(m).__name__ for m in model.modules() if any(True for _ in m.parameters(recurse=False))}
            )
            raise ValueError(
                f"{self} maps no parameter of {type(model).__name__}, whose layers are {', '.join(layers) or 'none'}."
                " Name layers in targets, or parameters in include."
            )
        return [Target(names[key], tuple(sites[key])) for key in sites if key in selected]

    def _layer_types(self, model: nn.Module) -> tuple[type[nn.Module], ...]:
        classes = {type(module).__name__ for module in model.modules()}
        for target in self.targets:
            if target not in LAYER_KINDS and target not in classes:
                raise ValueError(
                    f"Mapping: unknown target {target!r}{_nearest(target, [*LAYER_KINDS, *classes])}. Kinds of layers:"
                    f" {', '.join(LAYER_KINDS)}; classes in this model: {', '.join(sorted(classes))}"
                )
        types = [kind for target in self.targets for kind in LAYER_KINDS.get(target, ())]
        if "attention" in self.targets:  # its output projection is a layer of its own
            types.append(nn.modules.linear.NonDynamicallyQuantizableLinear)
        return tuple(types)

    def _check_names(self, used: set[str], everything: list[str]) -> None:
        for field in ("include", "exclude"):
            for pattern in getattr(self, field):
                if pattern not in used:
                    raise ValueError(
                        f"Mapping: {field} names {pattern!r}, but no mapped parameter or module of this model is"
                        f" called that{_nearest(pattern, everything)}"
                    )


def check_finite(model: nn.Module, targets: Sequence[Target]) -> None:
    """Refuse weights that are NaN or infinite, naming them.

    Raises:
        ValueError: A mapped parameter has a value that no device can store.
    """
    for target in targets:
        parameter = target.sites[0].parameter
        if parameter is not None and not bool(torch.isfinite(parameter).all()):
            bad = int((~torch.isfinite(parameter)).sum())
            raise ValueError(
                f"{type(model).__name__}: parameter {target.name!r} has {bad} NaN or infinite of {parameter.numel()}"
                " values; a device stores finite numbers only. Look for diverged training or a broken checkpoint."
            )


def output_dim(layer: nn.Module) -> int:
    """The axis of a layer's weight that counts its outputs: 1 for transposed convolutions, else 0."""
    return 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0


def _is_matrix(module: nn.Module, attribute: str, parameter: Tensor) -> bool:
    if parameter.ndim < 2:
        return False
    if isinstance(module, LAYER_KINDS["recurrent"]):
        return attribute.startswith("weight")
    known = tuple(kind for kinds in LAYER_KINDS.values() for kind in kinds)
    return attribute in _MATRIX_NAMES if isinstance(module, known) else "weight" in attribute


def matches(name: str, pattern: str) -> bool:
    """Whether a glob names a parameter, or a module that it belongs to.

    Example:
        >>> matches("layer1.0.weight", "layer1"), matches("layer1.0.weight", "layer2*")
        (True, False)
    """
    return _below(name, pattern)


def _below(path: str, pattern: str) -> bool:
    """Whether a module's path, or one of the modules around it, matches a pattern."""
    return bool(path) and any(fnmatchcase(ancestor, pattern) for ancestor in _ancestors(path))


def _ancestors(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f" (nearest: {', '.join(map(repr, close))})" if close else ""


def _warn_if_computed(module: nn.Module, of_kind: bool, path: str) -> None:
    if (
        of_kind
        and isinstance(module, LAYER_KINDS["linear"] + LAYER_KINDS["conv"])
        and "weight" not in module._parameters
    ):
        warnings.warn(
            f"{path}: its weight is computed (parametrize, weight_norm, ...) and is not mapped to a crossbar. Remove"
            " the parametrization, or name the original tensor in include.",
            stacklevel=3,
        )
