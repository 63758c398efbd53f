"""Structured sparsity that hardware can use: n:m groups or balanced output channels."""

from __future__ import annotations

import re
from typing import Any, Literal

from torch import Tensor

from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.base import ChainCallback
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.sparsity import Mask


class StructuredSparsity(ChainCallback):
    """Compute with pruned weights; the checkpoint keeps the dense ones and the callback's state the masks.

    Args:
        pattern: ``"n:m"`` such as ``"2:4"``: n of each m consecutive weights along the flattened inputs of an output
            channel are kept; or ``"balanced"``: every output channel keeps the same number, so that hardware which
            computes channels in lock step never waits.
        sparsity: Share to prune with ``"balanced"``, 0 <= sparsity < 1; implied by the pattern otherwise.
        method: ``"magnitude"``: the smallest weights are pruned once, at the start of ``start_epoch``. ``"gradual"``:
            more are pruned at each epoch from ``start_epoch`` to ``end_epoch``, along the cubic schedule of Zhu and
            Gupta (arXiv 1710.01878). ``"sr-ste"``: masks are recomputed at each step and pruned weights decay towards
            zero (Zhou et al., ICLR 2021, arXiv 2102.04010).
        start_epoch: First epoch with masks (``"magnitude"``, ``"gradual"``).
        end_epoch: Epoch at which ``"gradual"`` reaches the full sparsity.
        decay: lambda of ``"sr-ste"``; the authors' 2e-4.
        mapping: Which parameters are pruned; default: every matrix weight.

    Raises:
        MisconfigurationException: A pattern or number without meaning, or a mapping that fits nothing.

    Example:
        >>> import lightning_cim as cim
        >>> sparse = cim.StructuredSparsity("2:4", mapping=cim.Mapping(exclude=["conv1", "fc"]))
    """

    def __init__(
        self,
        pattern: str = "2:4",
        sparsity: float = 0.5,
        method: Literal["magnitude", "gradual", "sr-ste"] = "magnitude",
        start_epoch: int = 0,
        end_epoch: int | None = None,
        decay: float = 2e-4,
        mapping: Mapping | None = None,
    ) -> None:
        super().__init__(mapping)
        groups = _parse(pattern)
        if method not in ("magnitude", "gradual", "sr-ste"):
            raise MisconfigurationException(
                f"StructuredSparsity: method must be 'magnitude', 'gradual' or 'sr-ste', got {method!r}"
            )
        if not 0 <= sparsity < 1:
            raise MisconfigurationException(f"StructuredSparsity: sparsity must lie in [0, 1), got {sparsity!r}")
        if method == "gradual" and (end_epoch is None or end_epoch <= start_epoch):
            raise MisconfigurationException(
                f"StructuredSparsity: method='gradual' needs end_epoch > start_epoch={start_epoch}, got {end_epoch!r}"
            )
        self.pattern, self.method = pattern, method
        self.start_epoch, self.end_epoch = start_epoch, end_epoch
        self._mask = Mask(groups, sparsity, decay if method == "sr-ste" else None, self.mapping)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Fixed masks by parameter name, True where a weight was kept; empty before ``start_epoch``."""
        return self._mask.masks

    @property
    def settings(self) -> str:
        """Pattern, share, method and mapping."""
        return f"{self.pattern}, {self._mask.sparsity}, {self.method}, {self.mapping}"

    def make_transform(self) -> Mask:
        """The masking link."""
        return self._mask

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Prune when it is time."""
        epoch = trainer.current_epoch
        if self.method == "magnitude" and not self.masks and epoch >= self.start_epoch:
            self._mask.update(pl_module)
        elif self.method == "gradual" and self.end_epoch is not None and self.start_epoch <= epoch <= self.end_epoch:
            share = (epoch - self.start_epoch + 1) / (self.end_epoch - self.start_epoch + 1)
            self._mask.update(pl_module, 1 - (1 - share) ** 3)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Fix the last masks of SR-STE, so that what was trained is what is exported."""
        if self.method == "sr-ste":
            self._mask.update(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The masks."""
        return {"masks": {name: mask.cpu() for name, mask in self.masks.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the masks."""
        self._mask.masks = dict(state_dict["masks"])


def _parse(pattern: str) -> tuple[int, int] | None:
    if pattern == "balanced":
        return None
    numbers = re.fullmatch(r"(\d+):(\d+)", pattern)
    if numbers is None or not 0 < int(numbers[1]) <= int(numbers[2]):
        raise MisconfigurationException(
            f"StructuredSparsity: pattern must be 'balanced' or 'n:m' with 0 < n <= m, such as '2:4', got {pattern!r}"
        )
    return int(numbers[1]), int(numbers[2])
