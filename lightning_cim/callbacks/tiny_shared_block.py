"""Repair a frozen network on unverified devices with one small shared block (TSB)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lightning_cim._compat import MisconfigurationException
from lightning_cim._files import tensors_of
from lightning_cim._ranks import same_on_all_ranks
from lightning_cim.callbacks.base import ChainCallback
from lightning_cim.callbacks.dry_run import traced
from lightning_cim.callbacks.frozen_backbone import DeployedProgram, default_lr, freeze_backbone
from lightning_cim.callbacks.offstage import detached_copy
from lightning_cim.callbacks.shared_block_report import SharedBlockReport
from lightning_cim.chip.deployed import VERIFIED, DeployedChip, ReadBackChip, deployed_chip
from lightning_cim.chip.mapping import Mapping, Target
from lightning_cim.chip.population import Chip, resolved
from lightning_cim.chip.shared_block import (
    backbone_weights,
    call_sites,
    insert_shared_block,
    shared_block_of,
)
from lightning_cim.chip.stages import Block, named_blocks, trace_blocks
from lightning_cim.chip.steps import Run, steps_of
from lightning_cim.chip.traces import _shadow
from lightning_cim.evaluation.evaluate import run_chips
from lightning_cim.evaluation.passes import ChipPasses, Stage, loaders_of
from lightning_cim.evaluation.result import ChipResult
from lightning_cim.variation.base import Variation

_IDEAL = deployed_chip(None, VERIFIED.scaled(0.0))


class TinySharedBlock(ChainCallback):
    """Freeze a trained network as it lies on a chip and train one small block, shared by all stages, that repairs it.

    The network is programmed without write-verify; only the block (some thousand weights) is verified, which leaves the
    ``residual`` variation on it. The block is a 1x1 convolution, added to the outputs of the stages as ``x + B(x)`` and
    zero at first. In ``fit`` every parameter and batch-norm statistic of the network is frozen and
    ``configure_optimizers`` is replaced by Adam over the block; afterwards both are given back, and the block stays in
    the network, as ``tiny_shared_block`` in its ``state_dict``. To load such a checkpoint elsewhere, call
    :func:`insert_shared_block` there first. Tiny Shared Block, ICCAD 2024, arXiv 2406.06544; insertion points, folding
    and optimizer are this package's, since the paper's are not public.

    Args:
        variation: What devices do to the network's values; not needed when ``chip`` is a chip or was read back.
        mode: ``"chip"``: repair one chip, whose devices were read back after programming. ``"generic"``: train on a
            fresh chip for each batch, for a block that serves every chip.
        chip: In mode ``"chip"``: a number r (the chip that :func:`evaluate_chips` calls r, with the same seed), a
            :class:`Chip`, or what was read back: the stored values of all weights on crossbars by parameter name, or a
            file of them written by ``torch.save``.
        at: Paths of the submodules whose outputs the block is added to; default: found by a silent pass over the
            module's ``example_input_array`` or else its first training batch, see :func:`trace_blocks`.
        width: Channels of the block; default: the greatest common divisor of the stages' channels, at most 64.
        lr: Of Adam; default: 1e-2 for blocks of at most 16 channels, else 1e-3.
        residual: What write-verify leaves on the block's weights; training draws it afresh for each batch.
        mapping: Which parameters lie on crossbars; default: every matrix weight. The block's always does.
        monitor: The validation metric to report; default: the first one that is not a loss.
        validation_chips: In mode ``"generic"``, the held chips that validation and the report are a mean over.
        seed: Of all draws.

    Attributes:
        report: A :class:`SharedBlockReport`; None before the end of a fit.

    Raises:
        MisconfigurationException: Arguments that do not fit together, no stage, read-back values that do not fit the
            network, or another callback that programs chips.

    Example:
        >>> import lightning_cim as cim
        >>> repair = cim.TinySharedBlock(cim.Gaussian(sigma=0.1), chip=3)
    """

    simulates_hardware = False  # evaluation draws its own chips; see deployed_chip

    def __init__(
        self,
        variation: Variation | None = None,
        mode: Literal["chip", "generic"] = "chip",
        chip: int | Chip | MappingABC[str, Tensor] | str | Path = 0,
        at: Sequence[str] | None = None,
        width: int | None = None,
        lr: float | None = None,
        residual: Variation = VERIFIED,
        mapping: Mapping | None = None,
        monitor: str | None = None,
        validation_chips: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__(mapping or (chip.mapping if isinstance(chip, Chip) else None))
        if mode not in ("chip", "generic"):
            raise MisconfigurationException(f"TinySharedBlock: mode must be 'chip' or 'generic', got {mode!r}")
        if not isinstance(residual, Variation):
            raise MisconfigurationException(f"TinySharedBlock: residual must be a Variation, got {residual!r}")
        if not isinstance(variation, Variation) and (mode == "generic" or isinstance(chip, int)):
            raise MisconfigurationException(
                f"TinySharedBlock: variation must be a Variation such as Gaussian(sigma=0.1), got {variation!r}"
            )
        for name, value in (("width", width), ("lr", lr), ("validation_chips", validation_chips)):
            if value is not None and value <= 0:
                raise MisconfigurationException(f"TinySharedBlock: {name} must be positive, got {value}")
        if isinstance(at, str) or (at is not None and not at):
            raise MisconfigurationException(f"TinySharedBlock: at must be a list of submodules' paths, got {at!r}")
        self.variation, self.mode, self.at, self.width, self.lr = variation, mode, at, width, lr
        self.residual, self.monitor, self.validation_chips, self.seed = residual, monitor, validation_chips, seed
        self.chip = None if mode == "generic" else self._chip(chip)
        self.report: SharedBlockReport | None = None
        self._program = DeployedProgram(self.deployed_chip())
        self._undo: ExitStack | None = None
        self._pinned: list[nn.Module] = []
        self._batches, self._epochs, self._seconds = 0, 0, 0.0
        self._started: float | None = None
        self._history: list[tuple[int, float, dict[str, float]]] = []

    def _chip(self, chip: int | Chip | MappingABC[str, Tensor] | str | Path) -> Chip:
        if isinstance(chip, Chip):
            return chip
        if isinstance(chip, int):
            if chip < 0:
                raise MisconfigurationException(f"TinySharedBlock: chips are numbered from 0, got {chip}")
            assert self.variation is not None
            return Chip(self.variation, self.seed, chip, self.mapping)
        if isinstance(chip, (str, Path)):
            if not Path(chip).is_file():
                raise MisconfigurationException(f"TinySharedBlock: there is no file {chip} of read-back values")
            try:
                held = tensors_of(Path(chip))
            except ValueError as error:
                raise MisconfigurationException(f"TinySharedBlock: {error}") from error
            chip = held.get("state_dict", held)
        if not isinstance(chip, MappingABC):
            raise MisconfigurationException(
                "TinySharedBlock: chip must be a number, a Chip, or read-back values by parameter name, got"
                f" {type(chip).__name__}"
            )
        return ReadBackChip(mapping=self.mapping, measured=chip)

    def deployed_chip(self, index: int = 0) -> DeployedChip:
        """The chip of deployment, for ``on_chip`` and the like on test data: backbone as programmed, block verified.

        Args:
            index: In mode ``"chip"`` another write of the block on the same chip; in mode ``"generic"`` another chip,
                the one that :func:`evaluate_chips` calls so.
        """
        return self._deployed(index, "chip", "verified")

    def evaluate(
        self, trainer: Any, model: Any, data: Any = None, chips: int = 1, stage: Stage = "test", progress: bool = False
    ) -> ChipResult:
        """Test the repaired network on the chips 0 .. chips-1 of :meth:`deployed_chip`.

        Args:
            trainer: Gives device, precision and batch limits.
            model: The LightningModule with its block.
            data: A loader, a LightningDataModule, or None for the module's own loaders.
            chips: How many; in mode ``"chip"`` they differ in the block's residual only.
            stage: ``"test"`` or ``"validate"``.
            progress: Whether to show a progress bar.

        Returns:
            The metrics of every chip and their statistics.

        Raises:
            ValueError: The module has no block, no such loop or loader, or logs no metric.
        """
        if shared_block_of(model) is None:
            raise ValueError(f"{type(model).__name__} has no shared block; fit it with this callback first")
        loaders, datamodule = loaders_of(trainer, model, data, stage)
        with same_on_all_ranks(trainer, model):
            passes = ChipPasses(trainer, model, loaders, stage, datamodule)
            rows = run_chips(trainer, passes, self.deployed_chip, chips, progress=progress)
        return ChipResult.from_rows(rows, {**self._about(), "stage": stage})

    def _about(self) -> dict[str, Any]:
        chip = f"{self.validation_chips} held chips of {self.variation}"
        if self.chip is not None:
            read_back = isinstance(self.chip, ReadBackChip)
            chip = "read back" if read_back else f"{self.chip.index} of {self.chip.variation}, seed {self.chip.seed}"
        return {"mode": self.mode, "chip": chip, "residual": str(self.residual)}

    def _deployed(self, index: int, backbone: str, block: str, portable: bool = True) -> DeployedChip:
        chip = self.chip
        if chip is None:
            assert self.variation is not None
            chip = Chip(self.variation, self.seed, index, self.mapping, backbone, portable)
        return deployed_chip(chip, self.residual, self.seed, index, self.mapping, block, portable)

    def make_transform(self) -> DeployedProgram:
        """The programming link; off outside training and validation batches."""
        return self._program

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Insert and freeze right after the module's own ``setup``: its layers exist, its optimizers do not."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._restore()
            self._undo = ExitStack()
            _shadow(self._undo, pl_module, "setup", partial(self._setup_and_insert, trainer, pl_module))

    def _setup_and_insert(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._restore()
        pl_module.setup(stage=stage)
        pl_module.configure_model()  # may be called more than once, says its contract
        self._undo = ExitStack()
        if not pl_module.automatic_optimization and _several_optimizers(pl_module):
            raise MisconfigurationException(
                "TinySharedBlock trains its block with one optimizer, and a training_step with manual optimisation asks"
                " for the several of configure_optimizers: train the block with a module of automatic optimisation"
            )
        try:
            if isinstance(self.chip, ReadBackChip):
                self.chip.check(pl_module)
            shared = shared_block_of(pl_module)
            if shared is None:
                shared = insert_shared_block(pl_module, self._stages(trainer, pl_module), self.width)
            lr = self.lr or default_lr(shared)
            self._pinned = freeze_backbone(self._undo, pl_module, shared, self.mapping, lr)
        except ValueError as error:
            raise MisconfigurationException(f"TinySharedBlock: {error}") from error

    def _stages(self, trainer: Any, pl_module: Any) -> list[Block]:
        resolved(pl_module, self.mapping)

        def trace(run: Run) -> list[Block]:
            if self.at is not None:
                return named_blocks(pl_module, run, self.at, self.mapping)
            return trace_blocks(pl_module, run, self.mapping)

        return traced(trainer, pl_module, trace)

    def _restore(self) -> None:
        """Give back what was frozen and replaced."""
        undo, self._undo, self._pinned = self._undo, None, []
        if undo is not None:
            undo.close()

    def attach(self, trainer: Any, pl_module: Any) -> None:
        """Attach within ``fit`` only: other loops run on clean weights, or on a chip of :meth:`deployed_chip`."""
        if self._undo is not None:
            super().attach(trainer, pl_module)

    def on_attach(self, trainer: Any, pl_module: Any, targets: list[Target]) -> None:
        """Let validation run on the chip."""
        steps_of(pl_module)["validation_step"].around.append(self._on_held_chips)

    def on_detach(self, pl_module: Any) -> None:
        """Give validation its own step back."""
        steps_of(pl_module)["validation_step"].around.remove(self._on_held_chips)

    def _held(self) -> list[DeployedChip]:
        count = 1 if self.mode == "chip" else self.validation_chips
        return [self._deployed(index, "validation", "verified/validation") for index in range(count)]

    def _on_held_chips(self, run: Run) -> Any:
        output = None
        for chip in self._held():
            self._program.switch_to(chip)
            output = run()
        return output

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep statistics frozen, and draw this batch's residual (and, in mode ``"generic"``, its chip)."""
        for module in self._pinned:
            module.training = False
        stream = f"train/{trainer.global_rank}"
        self._program.switch_to(self._deployed(self._batches, stream, stream, portable=False))
        self._batches += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Switch programming off."""
        super().on_train_batch_end(trainer, pl_module)
        self._program.switch_off()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Count."""
        self._epochs += 1

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Switch programming off and note the metrics of this epoch."""
        self._program.switch_off()
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            found = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self._history.append((trainer.current_epoch, self._elapsed(), found))

    def _elapsed(self) -> float:
        return self._seconds + (0.0 if self._started is None else time.monotonic() - self._started)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure what the block gave back."""
        self._seconds, self._started = self._elapsed(), None
        with torch.inference_mode(False):
            self.report = self._measure(trainer, pl_module)

    def _measure(self, trainer: Any, pl_module: Any) -> SharedBlockReport:
        model = detached_copy(pl_module)
        shared = shared_block_of(model)
        assert shared is not None
        rows: dict[str, dict[str, float]] = {}
        if trainer.val_dataloaders is not None and trainer.num_val_batches:
            trained = copy.deepcopy(shared.state_dict())
            held = self._held()
            with same_on_all_ranks(trainer, model):
                passes = ChipPasses(trainer, model, trainer.val_dataloaders, "validate", trainer.datamodule)
                try:
                    shared.reset_parameters()
                    rows["clean"] = self._mean(trainer, passes, [_IDEAL])
                    rows["before"] = self._mean(trainer, passes, held)
                    shared.load_state_dict(trained)
                    rows["after"] = self._mean(trainer, passes, held)
                except ValueError as error:
                    if "logged no metric" not in str(error):
                        raise
        metric = self._metric(rows.get("clean", {}))
        clean, before, after = (rows.get(key, {}).get(metric or "", math.nan) for key in ("clean", "before", "after"))
        return SharedBlockReport(
            metric,
            clean,
            before,
            after,
            sum(parameter.numel() for parameter in shared.parameters()),
            backbone_weights(model, self.mapping),
            shared.width,
            tuple(path for path, _ in call_sites(model)),
            self._epochs,
            self._seconds,
            tuple((epoch, at, found[metric]) for epoch, at, found in self._history if metric in found),
            {**self._about(), "data": "validation"},
        )

    def _mean(self, trainer: Any, passes: ChipPasses, chips: Sequence[Chip]) -> dict[str, float]:
        rows = run_chips(trainer, passes, chips.__getitem__, len(chips), progress=False)
        result = ChipResult.from_rows(rows)
        return {name: result.mean(name) for name in result.metrics}

    def _metric(self, found: dict[str, float]) -> str | None:
        if self.monitor is not None and found and self.monitor not in found:
            raise MisconfigurationException(
                f"TinySharedBlock: validation logs no {self.monitor!r}; it logs {', '.join(map(repr, found))}"
            )
        judge = ChipResult.from_rows({0: found})
        return self.monitor or next(
            (name for name in found if not judge.is_lower_better(name)), next(iter(found), None)
        )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach and give back."""
        self._seconds, self._started = self._elapsed(), None
        super().on_exception(trainer, pl_module, exception)
        self._restore()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Detach and give gradients, modes and ``configure_optimizers`` back; the block stays."""
        super().teardown(trainer, pl_module, stage)
        self._restore()

    def detach(self) -> None:
        """Detach and switch off."""
        super().detach()
        self._program.switch_off()

    def state_dict(self) -> dict[str, Any]:
        """Counters and metrics so far, so that a resumed run goes on with the next draw."""
        counters = {"batches": self._batches, "epochs": self._epochs}
        return {**counters, "seconds": self._elapsed(), "history": list(self._history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._batches, self._epochs = state_dict["batches"], state_dict["epochs"]
        self._seconds, self._history = state_dict["seconds"], list(state_dict["history"])


def _several_optimizers(pl_module: Any) -> bool:
    return sum(isinstance(leaf, Optimizer) for leaf in tree_leaves(pl_module.configure_optimizers())) > 1
