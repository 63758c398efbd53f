"""Negative-feedback training (NeFT) of an unchanged LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_cim._compat import MisconfigurationException
from lightning_cim._compiled import forget_compiled
from lightning_cim._undisturbed import evaluating
from lightning_cim.callbacks.snapshot_heads import Heads
from lightning_cim.callbacks.variation_injection import VariationInjection
from lightning_cim.chip.criterion import CriterionCall, CriterionSpy, criterion_call, offered_call
from lightning_cim.chip.feedback import feedback_logits
from lightning_cim.chip.mapping import Mapping, Target
from lightning_cim.chip.population import Chip
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.stages import named_blocks, snapshot_paths, trace_blocks
from lightning_cim.chip.steps import Run, steps_of
from lightning_cim.chip.traces import no_traces
from lightning_cim.variation.base import Variation
from lightning_cim.variation.gaussian import GaussianFamily

PUBLISHED_OFFSETS = (0.15, 0.10, 0.05)
"""How much more sigma the three feedback passes of OVF see, in the order of their weights 1, 0.1, 0.01."""


class NegativeFeedback(VariationInjection):
    """Train on fresh noisy chips against negative feedback: NeFT (arXiv 2305.14561, IEEE TCAD 2025).

    The loss is the module's own criterion on combined logits, (y_b - beta * sum_i 0.1^i y_i) / (N + 1). y_b are the
    logits on this batch's chip; the feedback logits y_i are

    * ``mode="ovf"`` (Oriented Variational Forward): those of N extra forward passes on noisier chips, sigma + 0.15,
      + 0.10, + 0.05. About N + 1 times the cost of a step.
    * ``mode="irs"`` (Intermediate Representation Snapshot): those of auxiliary heads on intermediate stages. The heads
      are trained by the module's optimizer, see variation of their own, and exist nowhere but in this callback. They
      have the published size where the network is as large as the published ones, and shrink with smaller networks:
      heads larger than their network learn the classification in its place.

    At ``beta=0`` no feedback is computed and the softmax temperature N + 1 alone remains: the control that tells the
    feedback's effect from the temperature's. The logged loss is NeFT's. Validation is as :class:`VariationInjection`'s.

    The module needs no change if its ``training_step`` calls one loss function of torch on logits. Otherwise it offers
    ``cim_logits_and_target(batch)``, which then takes the place of ``training_step`` and returns logits and target
    (their cross entropy is the loss) or those and a loss function.

    Args:
        variation: What devices do to a value; sigma of the backbone pass.
        mode: ``"ovf"`` or ``"irs"``.
        beta: Strength of the feedback, >= 0. The authors' best values lie between 1e-4 and 1e-1, so sweep it.
        offsets: OVF: added to the variation's sigma, one a feedback pass.
        stronger: OVF: the feedback passes' variations themselves, instead of offsets: for variations without sigma.
        scope: OVF: ``"all"``: feedback passes are noisier in every mapped layer; ``"stem_head"``: in the first and last
            one only, which is what the authors' ResNet code does.
        stages: IRS: paths of the modules after which snapshots are taken; default: found by a dry run on the first
            batch, where the width is about to change, never the last stage.
        bn_update: Whether the feedback passes of OVF update batch-norm statistics too (``"all"``, as published) or the
            pass of the backbone only.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        seed: As for :class:`VariationInjection`; also of the heads' initial weights.
        same_across_ranks: As for :class:`VariationInjection`.
        warmup_steps: As for :class:`VariationInjection`.
        validation_chips: As for :class:`VariationInjection`.

    Raises:
        MisconfigurationException: Arguments out of range, a stage that is not found, a step with no or several
            criteria, or activation checkpointing with OVF.

    Example:
        >>> import lightning_cim as cim
        >>> ovf = cim.NegativeFeedback(cim.Gaussian.published("neft", sigma=0.2), mode="ovf", beta=0.001)
    """

    def __init__(
        self,
        variation: Variation,
        mode: Literal["ovf", "irs"] = "ovf",
        beta: float = 0.01,
        offsets: Sequence[float] = PUBLISHED_OFFSETS,
        stronger: Sequence[Variation] | None = None,
        scope: Literal["all", "stem_head"] = "all",
        stages: Sequence[str] | None = None,
        bn_update: Literal["backbone_only", "all"] = "backbone_only",
        mapping: Mapping | None = None,
        seed: int = 0,
        same_across_ranks: bool = False,
        warmup_steps: int = 0,
        validation_chips: int = 0,
    ) -> None:
        super().__init__(variation, mapping, seed, 1, same_across_ranks, warmup_steps, validation_chips)
        for name, value, known in (
            ("mode", mode, ("ovf", "irs")),
            ("scope", scope, ("all", "stem_head")),
            ("bn_update", bn_update, ("backbone_only", "all")),
        ):
            if value not in known:
                raise MisconfigurationException(f"NegativeFeedback: {name} must be one of {known}, got {value!r}")
        if not 0 <= beta < float("inf"):
            raise MisconfigurationException(f"NegativeFeedback: beta must be a finite number >= 0, got {beta!r}")
        self.mode, self.beta, self.scope, self.bn_update = mode, beta, scope, bn_update
        self.stages = None if stages is None else tuple(stages)
        self.stronger = _stronger(variation, offsets, stronger) if mode == "ovf" else ()
        self.heads: Heads | None = None
        self._ends: tuple[str, ...] = ()
        self._heads_state: dict[str, Any] | None = None
        self._chip, self._batch = self._program.chip, None
        self._guards: list[Any] = []

    def on_attach(self, trainer: Any, pl_module: Any, targets: list[Target]) -> None:
        """Put the feedback around the training step."""
        super().on_attach(trainer, pl_module, targets)
        self._ends = (targets[0].name, targets[-1].name)
        self._module = pl_module
        self._layers = [site.module for target in targets for site in target.sites]
        steps_of(pl_module)["training_step"].around.append(self._with_feedback)

    def on_detach(self, pl_module: Any) -> None:
        """Take the feedback away, and the heads out of the optimizer."""
        super().on_detach(pl_module)
        steps_of(pl_module)["training_step"].around.remove(self._with_feedback)
        self._heads_state = self._state_of_heads()
        if self.heads is not None:
            self.heads.leave()
        self.heads, self._batch = None, None
        self._lift_guards()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Pick this batch's chips; build the heads at the first one."""
        if self.mode == "irs" and self.heads is None:
            self.heads = self._build_heads(trainer, pl_module, batch, batch_idx)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._chip, self._batch = self._program.chip, batch
        if self.heads is not None:
            self.heads.switch_to(self._program.chip)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Under DDP, average the heads' gradients."""
        if self.heads is not None:
            self.heads.guests.average_gradients()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Close the scope and switch programming off."""
        super().on_train_batch_end(trainer, pl_module)
        self._batch = None
        self._lift_guards()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Close the scope."""
        super().on_after_backward(trainer, pl_module)
        self._lift_guards()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the heads out of the optimizer states."""
        if self.heads is not None:
            self.heads.guests.hide_from(checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """The counter, and the heads with their optimizer's states."""
        heads = self._state_of_heads()
        return {**super().state_dict(), **({"heads": heads} if heads is not None else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counter; the heads are restored when the first batch has built them."""
        super().load_state_dict(state_dict)
        self._heads_state = state_dict.get("heads")

    def _state_of_heads(self) -> dict[str, Any] | None:
        if self.heads is None:
            return self._heads_state
        return {"weights": self.heads.modules.state_dict(), "optimizer": self.heads.guests.state_dict()}

    def _with_feedback(self, run: Run) -> Any:
        try:
            if hasattr(self._module, "cim_logits_and_target"):
                return self._offered()
            return self._spied(run)
        except ValueError as error:
            raise MisconfigurationException(f"NegativeFeedback: {error}") from error

    def _spied(self, run: Run) -> Any:
        def one_pass() -> Tensor:
            with CriterionSpy(self._module, stop=True) as spy:
                run()
            return spy.call.logits

        feedback = self._passes(one_pass)
        with self._snapshots() as snapshots:
            replace_loss = self._eager(lambda call: self._loss(call, feedback or snapshots()))
            with CriterionSpy(self._module, replace=replace_loss) as spy:
                output = run()
        spy.check()
        return output

    def _offered(self) -> Tensor:
        """The same for a module whose loss is its own; its training step is not called."""
        scope = scope_of(self._module)

        def one_pass() -> CriterionCall:
            scope.open()
            return offered_call(self._module, self._batch)

        feedback = self._passes(lambda: one_pass().logits)
        with self._snapshots() as snapshots:
            call = one_pass()
        return self._loss(call, feedback or snapshots())

    def _passes(self, one_pass: Callable[[], Tensor]) -> list[Tensor]:
        """Logits of the feedback passes of OVF, with their graphs."""
        if self.mode == "irs" or self.beta == 0:
            return []
        found = []
        for index, variation in enumerate(self.stronger):
            self._program.switch_to(self._noisier(index, variation))
            with no_traces(self._module, buffers=self.bn_update == "backbone_only"):
                found.append(one_pass())
        scope_of(self._module).close()
        self._program.switch_to(self._chip)
        self._guard()
        return found

    def _guard(self) -> None:
        """Refuse layers that run again in backward: they would recompute the feedback passes on the last chip."""

        def refuse(layer: torch.nn.Module, _: Any) -> None:
            if torch._C._current_graph_task_id() != -1:
                raise MisconfigurationException(
                    "NegativeFeedback(mode='ovf'): activation checkpointing runs layers again in backward, where the"
                    " chips of the feedback passes are gone. Train without checkpointing, or use mode='irs'."
                )

        self._guards = [layer.register_forward_pre_hook(refuse) for layer in self._layers]

    def _lift_guards(self) -> None:
        guards, self._guards = self._guards, []
        for guard in guards:
            guard.remove()

    def _noisier(self, index: int, variation: Variation) -> Chip:
        grown = min(1.0, self._batches / self.warmup_steps) if self.warmup_steps else 1.0
        variation = variation if grown == 1.0 else variation.scaled(grown)
        rank = self._chip.stream.removeprefix("train/")
        plain = replace(self._chip, variation=variation, stream=f"feedback{index}/{rank}")
        if self.scope == "all":
            return plain
        return _StemAndHead(**{**vars(plain), "others": self._chip.variation, "ends": self._ends})

    def _eager(self, function: Callable[[CriterionCall], Tensor]) -> Callable[[CriterionCall], Tensor]:
        """Keep the heads out of a compiled step: traced there, they would compute with their clean weights."""
        compiled = getattr(self._module, "_compiler_ctx", None) is not None
        return torch.compiler.disable(function) if compiled else function  # type: ignore[no-untyped-call]

    def _snapshots(self) -> Any:
        """A context that gives a function for the heads' logits of the pass inside."""
        if self.heads is None or self.beta == 0:
            return nullcontext(list)
        return self.heads.watching(self._module)

    def _loss(self, call: CriterionCall, feedback: list[Tensor]) -> Tensor:
        if not call.is_classification:
            raise ValueError(
                f"negative feedback is defined on the logits of a classifier, but the criterion is"
                f" {call.function.__name__}; train with VariationInjection instead"
            )
        if not feedback:  # beta = 0: the temperature alone
            count = len(self.stronger) if self.heads is None else len(self.heads.blocks)
            return call.loss(call.logits / (count + 1))
        return call.loss(feedback_logits(call.logits, feedback, self.beta))

    def _build_heads(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> Heads:
        seen: list[CriterionCall] = []
        held = [target.sites[0].parameter for target in self.mapping.resolve(pl_module)]
        weights = [weight for weight in held if weight is not None]
        try:
            with evaluating(pl_module), torch.no_grad(), trainer.precision_plugin.forward_context():

                def run() -> None:
                    seen.append(criterion_call(pl_module, batch, batch_idx))

                if self.stages is None:
                    blocks = snapshot_paths(trace_blocks(pl_module, run, self.mapping))
                else:
                    blocks = named_blocks(pl_module, run, self.stages, self.mapping)
                torch.manual_seed(self.seed)
                heads = Heads(blocks, seen[0].logits, sum(weight.numel() for weight in weights))
        except ValueError as error:
            raise MisconfigurationException(f"NegativeFeedback: {error}") from error
        heads.join(trainer, weights, self._heads_state)
        forget_compiled()  # the heads' snapshots are taken by hooks
        return heads


@dataclass(frozen=True)
class _StemAndHead(Chip):
    """A chip that is noisier in the first and last mapped layer only."""

    others: Variation | None = None
    ends: tuple[str, ...] = ()

    def _at(self, name: str) -> Chip:
        assert self.others is not None
        variation = self.variation if name in self.ends else self.others
        return Chip(variation, self.seed, self.index, self.mapping, self.stream, self.portable, write=self.write)

    def draw(self, name: str, weight: Tensor) -> Any:
        return self._at(name).draw(name, weight)

    def deviate(self, name: str, weight: Tensor, numbers: Any) -> Tensor:
        return self._at(name).deviate(name, weight, numbers)

    def read_std(self, name: str, weight: Tensor, numbers: Any) -> Tensor | None:
        return self._at(name).read_std(name, weight, numbers)


def _stronger(
    variation: Variation, offsets: Sequence[float], stronger: Sequence[Variation] | None
) -> tuple[Variation, ...]:
    if stronger is not None:
        if not stronger or not all(isinstance(one, Variation) for one in stronger):
            raise MisconfigurationException(f"NegativeFeedback: stronger must be variations, got {stronger!r}")
        return tuple(stronger)
    if not offsets or not all(offset >= 0 for offset in offsets):
        raise MisconfigurationException(
            f"NegativeFeedback: offsets must be numbers >= 0, at least one, got {offsets!r}"
        )
    if not isinstance(variation, GaussianFamily):
        raise MisconfigurationException(
            f"NegativeFeedback: offsets are added to sigma, which {type(variation).__name__} does not have; give the"
            " feedback passes' variations in stronger=[...]"
        )
    return tuple(replace(variation, sigma=variation.sigma + offset) for offset in offsets)
