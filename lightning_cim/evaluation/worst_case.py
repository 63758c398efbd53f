"""Find one bounded deviation of the weights that makes a trained network as bad as possible."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn

from lightning_cim._progress import progress_bar
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.scope import chip_weights, scope_of
from lightning_cim.evaluation.attack import Attack
from lightning_cim.evaluation.found_chip import FoundChip
from lightning_cim.evaluation.lagrange import DISTANCES, Distance, lagrange_search
from lightning_cim.evaluation.loaders import Batches, loader_of
from lightning_cim.evaluation.memory import kept_memory
from lightning_cim.evaluation.sign_search import sign_search
from lightning_cim.evaluation.worst_case_result import Score, WorstCaseResult

Method = Literal["sign", "lagrange"]


def worst_case(
    model: nn.Module,
    data: Any,
    bound: float,
    method: Method = "sign",
    *,
    evaluate_on: Any = None,
    mapping: Mapping | None = None,
    steps: int = 10,
    rounds: int = 8,
    distance: Distance = "max",
    lr: float = 0.1,
    kappa: float = 0.0,
    max_batches: int | None = None,
    progress: bool = True,
) -> WorstCaseResult:
    """Search one deviation dW with |dW| <= bound * max|W| in every tensor that ruins the network on all of the data.

    One chip for all inputs: an attack on the weights, as devices that were verified to within the bound could do by bad
    luck ("Computing-In-Memory Neural Network Accelerators for Safety-Critical Systems: Can Small Device Variations Be
    Disastrous?", ICCAD 2022). Random chips in the same box do not come near it; compare with ``Uniform(bound)``.

    Both methods lower the margins z_y - max z_j of all predictions; for a criterion that is no classification they
    raise the loss, and all scores are mean losses. The network computes in eval mode. The chip is found on ``data`` and
    scored on ``evaluate_on``, which the search never sees. Frozen weights are searched too; pruned weights without a
    device do not deviate. The model, its gradients and modes and the global random state are given back as they were.

    Args:
        model: A LightningModule, whose unchanged ``training_step`` tells logits and target, or any module with
            (inputs, target) batches. On its device.
        data: What to find the chip on: a loader, an iterable of batches or a data set, neither shuffled nor augmented
            (it is read once if it fits in memory); or a LightningDataModule, whose training data are used, and whose
            test data are scored on.
        bound: Largest |dW| / max|W|, above 0: what write-verify guarantees, 0.03 or 0.06 in the paper.
        method: ``"sign"``: ``steps`` steps of bound / steps along the gradient's sign; costs steps + 1 passes over
            the data. ``"lagrange"``: minimises distance + c * margins by Adam and searches c; costs up to
            rounds * (steps + 1) + 1 passes. The worst point on ``data`` is kept.
        evaluate_on: Data to score the chip on. Without, the result says that it was scored where it was found.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        steps: Steps of the sign search; passes over the data per c of the Lagrangian one. At least 1.
        rounds: Values of c that the Lagrangian search tries, at least 1.
        distance: What the Lagrangian search holds against the bound: ``"max"``, ``"l2"`` (root mean square) or
            ``"linf"`` (mean excess over the bound); its chip is clipped to the bound in any case.
        lr: Adam's learning rate in the Lagrangian search, in units of the bound.
        kappa: A prediction that is wrong by this margin, in units of logits, pulls no more. At least 0.
        max_batches: Batches of ``data`` to search on; default: all.
        progress: Whether to show a progress bar over points.

    Returns:
        Scores on both sets of data, the chip, and the search's history.

    Raises:
        ValueError: Arguments out of range, data without a batch, a mapping that fits nothing, NaN weights, a step
            without a known criterion, or weights that no gradient reaches.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> model = nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[1.0, 0.9], [0.9, 1.0]])), model.bias.zero_()
        >>> data = TensorDataset(torch.eye(2), torch.tensor([0, 1]))
        >>> result = worst_case(model, data, bound=0.06, progress=False)
        >>> result.clean, result.worst
        (1.0, 0.0)
        >>> result.layers["weight"] <= 0.06 + 1e-7
        True
    """
    check_arguments(bound, method, steps, rounds, distance, lr, kappa)
    batches = Batches(loader_of(data, "train_dataloader", "fit"), max_batches)
    others = loader_of(data if evaluate_on is None else evaluate_on, "test_dataloader", "test")
    held_out = None if others is None or others is data else Batches(others)
    points = steps if method == "sign" else rounds
    with torch.inference_mode(False), kept_memory(), progress_bar(progress, "worst case", points + 1) as advance:
        attack = Attack(model, batches, bound, mapping or Mapping(), kappa, lambda line: advance(note=line))
        if method == "sign":
            sign_search(attack, steps)
        else:
            lagrange_search(attack, steps, rounds, distance, lr)
        chip = attack.chip({name: value.cpu() for name, value in attack.best.items()})
        return WorstCaseResult(
            bound,
            method,
            "accuracy" if attack.is_accuracy else "loss",
            _scores(attack, batches),
            None if held_out is None else _scores(attack, held_out),
            chip,
            _largest(model, chip),
            tuple(attack.history),
        )


def _scores(attack: Attack, batches: Batches) -> Score:
    clean, found = (attack.score(deviations, batches) for deviations in (attack.nothing(), attack.best))
    return Score(clean.mean, found.mean, found.count)


@torch.no_grad()
def _largest(model: nn.Module, chip: FoundChip) -> dict[str, float]:
    """The largest |dW| / max|W| of each parameter as the chip really stores it, rounding and masks included."""
    before = {name: value.detach() for name, value in scope_of(model).transformed().items()}
    found = {}
    for target in chip.mapping.resolve(model):
        before.setdefault(target.name, target.sites[0].module._parameters[target.sites[0].attribute])  # type: ignore[arg-type]
    for name, after in chip_weights(model, chip).items():
        clean = before[name].double()
        scale = clean.abs().max() if clean.numel() else clean.new_zeros(())
        found[name] = float((after.double() - clean).abs().max() / scale) if scale > 0 else 0.0
    return found


def check_arguments(bound: float, method: str, steps: int, rounds: int, distance: str, lr: float, kappa: float) -> None:
    """Refuse arguments of a worst-case search that are out of range, before anything runs.

    Raises:
        ValueError: Names the argument.
    """
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(f"bound is the largest |dW| / max|W| and must be a finite number > 0, got {bound!r}")
    if method not in ("sign", "lagrange"):
        raise ValueError(f"method must be 'sign' or 'lagrange', got {method!r}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(map(repr, DISTANCES))}, got {distance!r}")
    for name, number in (("steps", steps), ("rounds", rounds)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number!r}")
    if not (math.isfinite(lr) and lr > 0 and math.isfinite(kappa) and kappa >= 0):
        raise ValueError(f"lr must be > 0 and kappa >= 0, both finite, got lr={lr!r}, kappa={kappa!r}")
