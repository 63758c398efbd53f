"""The methods side by side: the same module, another list of callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning_cim as cim


@dataclass(frozen=True)
class Plan:
    """What the callbacks of a training depend on.

    Attributes:
        variation: Of the chips to train for.
        seed: Of the training chips.
        epochs: Of the training.
        beta: Strength of NeFT's feedback.
        search_chips: Validation chips of each of TRICE's scores.
    """

    variation: cim.Variation
    seed: int
    epochs: int
    beta: float = 0.0
    search_chips: int = 25


@dataclass(frozen=True)
class Method:
    """How one method trains.

    Attributes:
        label: For tables and pictures.
        note: One sentence on what it does, for the report.
        callbacks: Of the training.
        tune: Callback of a further training for one chip, from the variation, the population's seed and the chip's
            number; None for methods whose network is deployed on every chip alike.
        sigma_free: Whether training does not depend on sigma.
        beta: The default strength of NeFT's feedback; None for other methods.
        colour: In pictures.
    """

    label: str
    note: str
    callbacks: Callable[[Plan], list[Any]]
    colour: str
    tune: Callable[[cim.Variation, int, int], Any] | None = None
    sigma_free: bool = False
    beta: float | None = None


def _trice(plan: Plan) -> list[Any]:
    # The sets settle before the first selection: in the first epochs less noise always looks better.
    return [
        cim.RightCensoredTraining(
            plan.variation,
            monitor="val/acc",
            chips=plan.search_chips,
            warmup_epochs=plan.epochs // 5,
            seed=plan.seed,
        )
    ]


def _tsb_backbone(plan: Plan) -> list[Any]:
    # A fifth of the authors' 200 epochs is preliminary convergence; of a short schedule it takes half.
    return [
        cim.VariationInjection(plan.variation, seed=plan.seed, validation_chips=5),
        cim.PreliminaryConvergence("val/acc", max_share=0.5),
    ]


METHODS: dict[str, Method] = {
    "none": Method("no noise", "Plain training.", lambda plan: [], "#7f7f7f", sigma_free=True),
    "gaussian": Method(
        "Gaussian injection",
        "Every training batch on a chip drawn anew.",
        lambda plan: [cim.VariationInjection(plan.variation, seed=plan.seed)],
        "#1f4e79",
    ),
    "temperature": Method(
        "temperature (NeFT, beta = 0)",
        "Gaussian injection with cross-entropy of logits / 4: NeFT's loss without its feedback, the control of NeFT.",
        lambda plan: [cim.NegativeFeedback(plan.variation, mode="ovf", beta=0.0, seed=plan.seed)],
        "#e67e22",
    ),
    "correctnet": Method(
        "CorrectNet (regulariser only)",
        "Plain training with CorrectNet's orthogonality penalty, as NeFT and TRICE use it for a baseline.",
        lambda plan: [cim.CorrectNetReg(strength=5e-4)],
        "#bcaaa4",
        sigma_free=True,
    ),
    "trice": Method(
        "TRICE",
        "Right-censored injection; sigma is searched during training by KPP on validation images.",
        _trice,
        "#2e8b57",
    ),
    "neft-ovf": Method(
        "NeFT, OVF",
        "Negative feedback from three noisier forward passes.",
        lambda plan: [cim.NegativeFeedback(plan.variation, mode="ovf", beta=plan.beta, seed=plan.seed)],
        "#c0392b",
        beta=1e-3,
    ),
    "neft-irs": Method(
        "NeFT, IRS",
        "Negative feedback from auxiliary heads on intermediate stages.",
        lambda plan: [cim.NegativeFeedback(plan.variation, mode="irs", beta=plan.beta, seed=plan.seed)],
        "#8e44ad",
        beta=1e-2,
    ),
    "tsb": Method(
        "TSB",
        "Gaussian injection until preliminary convergence, then a tiny shared block trained for the one chip at hand.",
        _tsb_backbone,
        "#00acc1",
        tune=lambda variation, seed, chip: cim.TinySharedBlock(variation, mode="chip", seed=seed, chip=chip),
    ),
}
BETAS = (1e-4, 1e-3, 1e-2, 1e-1)
"""What a sweep tries; the authors' best values lie anywhere between."""


def with_control(methods: list[str]) -> list[str]:
    """Add the temperature control in front of the first NeFT method, if it is not among the methods.

    Raises:
        ValueError: An unknown or repeated method.

    Example:
        >>> with_control(["neft-ovf"])
        ['temperature', 'neft-ovf']
    """
    check_methods(methods)
    feedback = [name for name in methods if METHODS[name].beta is not None]
    if not feedback or "temperature" in methods:
        return list(methods)
    position = methods.index(feedback[0])
    return [*methods[:position], "temperature", *methods[position:]]


def check_methods(methods: list[str]) -> None:
    """Refuse names that are unknown or given twice.

    Raises:
        ValueError: Says which names there are.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise ValueError(f"methods are {', '.join(METHODS)}; got {', '.join(unknown) or 'none at all'}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"each method once, got {', '.join(methods)}")
