"""The auxiliary heads of NeFT's Intermediate Representation Snapshot, while a Trainer runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lightning_cim.callbacks.guest_parameters import GuestParameters
from lightning_cim.callbacks.variation_injection import SwitchedProgram
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.snapshots import recorded, snapshot_heads
from lightning_cim.chip.stages import Block


class Heads:
    """The auxiliary heads of IRS, on chips of their own.

    Args:
        blocks: The stages after which snapshots are taken.
        logits: The network's, (N, classes) or (N,); says how many outputs a head has.
        network: Mapped weights of the network, which the heads are sized by.

    Raises:
        ValueError: The logits are those of a dense prediction.
    """

    def __init__(self, blocks: list[Block], logits: Tensor, network: int) -> None:
        if logits.ndim > 2:
            raise ValueError(
                f"snapshot heads need one prediction a sample, but the logits have shape {tuple(logits.shape)}; use"
                " mode='ovf'"
            )
        self.blocks, self._shape = blocks, logits.shape[1:]
        self.modules = snapshot_heads(blocks, self._shape.numel(), network)
        self._program: SwitchedProgram | None = None
        self.guests: GuestParameters

    def join(self, trainer: Any, hosts: list[Tensor], state: dict[str, Any] | None) -> None:
        """Move to the network's device and dtype, restore, and let its optimizer train the heads."""
        if state is not None:
            self.modules.load_state_dict(state["weights"])
        self.modules.to(hosts[0].device, hosts[0].dtype)
        self.guests = GuestParameters(self.modules, trainer, hosts)
        if state is not None:
            self.guests.load_state_dict(state["optimizer"])

    def switch_to(self, chip: Chip) -> None:
        """Lie on a chip of their own, of the same variation and number."""
        rank = chip.stream.removeprefix("train/")
        own = replace(chip, stream=f"heads/{rank}", mapping=Mapping())
        if self._program is None:
            self._program = SwitchedProgram(own, keep=False)
            scope_of(self.modules).add(self._program)
        self._program.switch_to(own)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[Callable[[], list[Tensor]]]:
        """Record the network's stages within the block.

        Yields:
            A function for the heads' logits, to be called when the network has run.
        """
        with recorded(model, self.blocks) as snapshots:
            yield lambda: self._logits(snapshots)

    def _logits(self, snapshots: list[Tensor]) -> list[Tensor]:
        """Logits of every head, of the network's shape."""
        scope = scope_of(self.modules)
        scope.open()
        try:
            pairs = zip(self.modules, snapshots, strict=True)
            return [head(snapshot).reshape(len(snapshot), *self._shape) for head, snapshot in pairs]
        finally:
            scope.close()

    def leave(self) -> None:
        """Leave the optimizer."""
        self.guests.leave()
