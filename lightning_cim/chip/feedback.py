"""The arithmetic of negative-feedback training (NeFT), without any trainer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def feedback_logits(backbone: Tensor, feedback: Sequence[Tensor], beta: float, decay: float = 0.1) -> Tensor:
    """The logits whose cross entropy is NeFT's loss: (y_b - beta * sum_i decay^i y_i) / (N + 1).

    One criterion on combined logits, not a sum of losses. Nothing is detached: the gradient reaches the feedback logits
    with the weight -beta * decay^i / (N + 1). The divisor N + 1 is a softmax temperature that remains at beta = 0, so
    the ablation of the feedback is beta = 0, not plain training. Negative-feedback training, arXiv 2305.14561 (IEEE
    TCAD 2025), with the constants of its authors' code.

    Args:
        backbone: y_b, logits of any shape.
        feedback: y_0 ... y_(N-1), of the same shape, the one with the largest weight first.
        beta: Strength of the feedback, >= 0.
        decay: Ratio of the weights of consecutive feedback logits.

    Raises:
        ValueError: A feedback of another shape.

    Example:
        >>> import torch
        >>> feedback_logits(torch.tensor([4.0]), [torch.tensor([1.0])] * 3, beta=1.0)
        tensor([0.7225])
    """
    combined = backbone
    for index, logits in enumerate(feedback):
        if logits.shape != backbone.shape:
            raise ValueError(f"feedback {index} has shape {tuple(logits.shape)}, the backbone {tuple(backbone.shape)}")
        combined = combined - (beta * decay**index) * logits
    return combined / (len(feedback) + 1)
