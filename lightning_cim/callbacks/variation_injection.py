"""Train under device variation."""

from __future__ import annotations

from typing import Any

from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.base import ChainCallback
from lightning_cim.chip.mapping import Mapping, Target
from lightning_cim.chip.population import Chip
from lightning_cim.chip.steps import Run, steps_of
from lightning_cim.chip.transform import Program, Stored
from lightning_cim.variation.base import Variation


class VariationInjection(ChainCallback):
    """Compute every training step on a freshly drawn chip.

    Forward and backward see the deviated weights; the optimizer, the checkpoint, gradient clipping and weight decay see
    the clean ones. Validation is clean unless ``validation_chips`` asks otherwise. Logs ``cim/sigma``. With manual
    optimisation the scope lasts for the whole step: call ``optimizer.zero_grad()`` there, not ``self.zero_grad()``, and
    read no ``state_dict``.

    Args:
        variation: What devices do to a value, for example ``Gaussian(sigma=0.1)``.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        seed: Training chip number b on rank k is a pure function of (seed, k, b). It never touches the global random
            state and is independent of the chips that evaluation draws with the same seed.
        redraw_every_n_steps: Batches that share a chip, at least 1. More than 1 spares drawing where that is what
            costs (large matrices, small batches).
        same_across_ranks: Under DDP, whether all ranks train on the same chip.
        warmup_steps: Batches over which the deviation grows linearly from near 0 to its full size.
        validation_chips: 0: validation on clean weights. k: each validation batch runs on k held chips, the
            same at every epoch, so logged averages are means over these chips. They are not the chips that
            :func:`evaluate_chips` draws, so a selection by them sees no test chip.

    Raises:
        MisconfigurationException: Arguments out of range, a mapping that fits nothing, NaN weights, a strategy that
            shards parameters, or a second VariationInjection.

    Example:
        >>> import lightning as L
        >>> import lightning_cim as cim
        >>> trainer = L.Trainer(
        ...     callbacks=[cim.VariationInjection(cim.Gaussian(sigma=0.1))], logger=False, enable_checkpointing=False
        ... )
    """

    simulates_hardware = False  # evaluation draws its own chips

    def __init__(
        self,
        variation: Variation,
        mapping: Mapping | None = None,
        seed: int = 0,
        redraw_every_n_steps: int = 1,
        same_across_ranks: bool = False,
        warmup_steps: int = 0,
        validation_chips: int = 0,
    ) -> None:
        super().__init__(mapping)
        if not isinstance(variation, Variation):
            raise MisconfigurationException(
                f"VariationInjection: variation must be a Variation such as Gaussian(sigma=0.1), got {variation!r}"
            )
        for name, value, least in (
            ("redraw_every_n_steps", redraw_every_n_steps, 1),
            ("warmup_steps", warmup_steps, 0),
            ("validation_chips", validation_chips, 0),
        ):
            if value < least:
                raise MisconfigurationException(f"VariationInjection: {name} must be at least {least}, got {value}")
        self.variation = variation
        self.seed = seed
        self.redraw_every_n_steps = redraw_every_n_steps
        self.same_across_ranks = same_across_ranks
        self.warmup_steps = warmup_steps
        self.validation_chips = validation_chips
        self._batches = 0
        self._program = SwitchedProgram(Chip(variation, seed, 0, self.mapping), keep=redraw_every_n_steps > 1)

    def make_transform(self) -> SwitchedProgram:
        """The programming link; off outside training batches."""
        return self._program

    def on_attach(self, trainer: Any, pl_module: Any, targets: list[Target]) -> None:
        """Let validation steps run on the held chips."""
        if self.validation_chips:
            steps_of(pl_module)["validation_step"].around.append(self._on_held_chips)

    def on_detach(self, pl_module: Any) -> None:
        """Give validation its own step back."""
        if self.validation_chips:
            steps_of(pl_module)["validation_step"].around.remove(self._on_held_chips)

    def _on_held_chips(self, run: Run) -> Any:
        output = None
        for index in range(self.validation_chips):
            self._program.switch_to(Chip(self.variation, self.seed, index, self.mapping, stream="validation"))
            output = run()
        return output

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Pick this batch's chip. Several closures of one batch (LBFGS, SAM) see the same one."""
        rank = "shared" if self.same_across_ranks else trainer.global_rank
        grown = min(1.0, (self._batches + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        variation = self.variation if grown == 1.0 else self.variation.scaled(grown)
        index = self._batches // self.redraw_every_n_steps
        self._program.switch_to(Chip(variation, self.seed, index, self.mapping, stream=f"train/{rank}", portable=False))
        self._program.readings = self._batches % self.redraw_every_n_steps  # also where a run was resumed
        if (batch_idx == 0 or self._batches <= self.warmup_steps) and not trainer.barebones:
            pl_module.log(
                "cim/sigma", getattr(variation, "sigma", variation.std), on_step=True, on_epoch=False, batch_size=1
            )
        self._batches += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Switch programming off, so that a validation between two batches is clean."""
        super().on_train_batch_end(trainer, pl_module)
        self._program.switch_off()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Switch programming off after validation on held chips."""
        self._program.switch_off()

    def detach(self) -> None:
        """Detach and switch off."""
        super().detach()
        self._program.switch_off()

    def state_dict(self) -> dict[str, Any]:
        """Batches drawn so far, so that a resumed run goes on with the next chip."""
        return {"batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counter."""
        self._batches = state_dict["batches"]


class SwitchedProgram(Program):
    """A programming link that can be off, and that can keep a chip's random numbers while the chip stays.

    Args:
        chip: The chip to start with; the link starts off.
        keep: Draw a chip's numbers once. They are still scaled by the weights of each step.
    """

    def __init__(self, chip: Chip, keep: bool) -> None:
        super().__init__(chip)
        self._on, self._keep = False, keep
        self._kept: dict[str, Any] = {}

    @property
    def is_null(self) -> bool:
        """Whether the link is off or the chip's variation is null."""
        return not self._on or super().is_null

    def switch_to(self, chip: Chip) -> None:
        """Program this chip from now on."""
        if chip != self.chip:
            self._kept.clear()
            self.readings = 0
        self.chip, self._on = chip, True

    def numbers(self, stored: Stored) -> Any:
        """The chip's random numbers, drawn or kept."""
        if not self._keep:
            return super().numbers(stored)
        if stored.name not in self._kept:
            self._kept[stored.name] = super().numbers(stored)
        return self._kept[stored.name]

    def switch_off(self) -> None:
        """Program nothing from now on."""
        self._on = False
