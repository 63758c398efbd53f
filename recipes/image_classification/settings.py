"""Everything that the result of a job depends on, apart from method, sigma and seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import lightning_cim as cim
from recipes.image_classification.classifier import ImageClassifier
from recipes.image_classification.datamodule import ImageData


@dataclass(frozen=True)
class Training:
    """How each network is trained.

    Attributes:
        epochs: Of every method, so that none is trained longer than another.
        beta: Strength of NeFT's feedback; default: the authors' for VGG-8 on MNIST, 1e-3 for OVF and 1e-2 for IRS.
        sweep_beta: Train with beta 1e-4, 1e-3, 1e-2 and 1e-1 and keep the best by mean accuracy of validation chips.
        tune_epochs: Of TSB's block, for each chip.
        search_chips: Validation chips on which TRICE scores each of its three sets at each selection.
        accelerator: As Lightning's Trainer.
        precision: As Lightning's Trainer.
    """

    epochs: int = 20
    beta: float | None = None
    sweep_beta: bool = False
    tune_epochs: int = 5
    search_chips: int = 25
    accelerator: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("epochs", "tune_epochs", "search_chips"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if self.beta is not None and self.sweep_beta:
            raise ValueError("give either train.beta or train.sweep_beta, not both")
        if self.beta is not None and not 0 <= self.beta < float("inf"):
            raise ValueError(f"train.beta must be at least 0, got {self.beta}")


@dataclass(frozen=True)
class Assessment:
    """What is measured of each trained network, always on test images.

    Attributes:
        chips: At the sigma that the network was trained for.
        curve_chips: At each sigma of the curve.
        curve: Sigmas of the curve of accuracy.
        chip_seed: Population of chips; the same for every network, so that networks are compared on paired chips.
        tuned_chips: Chips of TSB, which trains a block for every one of them.
        bound: Largest deviation of the worst-case search, relative to each tensor's max|W|.
        search_images: Training images on which the worst-case search looks.
        max_drop: Accuracy that programming may lose against the clean network.
        program_chips: Chips on which write cycles are counted.
        granularity: Share of the weights that programming verifies at a time.
        program: Whether to count write cycles at all.
    """

    chips: int = 400
    curve_chips: int = 40
    curve: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.2, 0.3, 0.4])
    chip_seed: int = 0
    tuned_chips: int = 8
    bound: float = 0.03
    search_images: int = 1000
    max_drop: float = 0.01
    program_chips: int = 4
    granularity: float = 0.05
    program: bool = True

    def __post_init__(self) -> None:
        for name in ("chips", "curve_chips", "tuned_chips", "search_images", "program_chips"):
            if getattr(self, name) < 2:
                raise ValueError(f"assess.{name} must be at least 2, got {getattr(self, name)}")
        if not self.curve or min(self.curve) < 0:
            raise ValueError(f"assess.curve needs sigmas of at least 0, got {self.curve}")
        if not 0 < self.bound <= 1:
            raise ValueError(f"assess.bound must lie in (0, 1], got {self.bound}")
        if not 0 < self.granularity <= 1:
            raise ValueError(f"assess.granularity must lie in (0, 1], got {self.granularity}")
        if not 0 < self.max_drop < 1:
            raise ValueError(f"assess.max_drop must lie between 0 and 1, got {self.max_drop}")


@dataclass(frozen=True)
class Settings:
    """What all jobs of one run share; plain values, so that processes can be given it.

    Attributes:
        model: Arguments of :class:`ImageClassifier`.
        data: Arguments of :class:`ImageData`.
        train: How networks are trained.
        assess: What is measured.
        paper: Whose sigma it is: ``neft``, ``swim`` or ``trice``; see :meth:`lightning_cim.Gaussian.published`.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    train: Training
    assess: Assessment
    paper: str = "neft"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def variation(self, sigma: float) -> cim.Gaussian:
        """The device variation that a sigma means."""
        return cim.Gaussian.published(self.paper, sigma)

    def datamodule(self, seed: int = 0) -> ImageData:
        """The data, in the order of a training seed."""
        return ImageData(**self.data, seed=seed)

    def untrained(self, data: ImageData) -> ImageClassifier:
        """The network for these data, initialised from the global random state."""
        channels, size = data.shape
        return ImageClassifier(**self.model, classes=len(data.classes), channels=channels, size=size)

    def fast(self) -> Settings:
        """The settings of a run of seconds: few images, three epochs, few chips."""
        data = {**self.data, "limit": self.data.get("limit") or 300, "batch_size": min(32, self.data["batch_size"])}
        assess = replace(
            self.assess,
            chips=min(self.assess.chips, 6),
            curve_chips=2,
            curve=[0.0, 0.2, 0.4],
            tuned_chips=2,
            search_images=128,
            program_chips=2,
            granularity=0.25,
        )
        train = replace(self.train, epochs=min(self.train.epochs, 3), tune_epochs=1, search_chips=2)
        return replace(self, data=data, train=train, assess=assess)
