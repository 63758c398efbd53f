"""E8 and E9: the loss of NeFT against the formula written out."""

import pytest
import torch
from torch.nn import functional as F

from lightning_cim.chip.feedback import feedback_logits

GENERATOR = torch.Generator().manual_seed(0)
Y, *FEEDBACK = (torch.randn(6, 5, generator=GENERATOR, dtype=torch.float64) for _ in range(4))
TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def loss_and_gradients(combine):
    leaves = [logits.clone().requires_grad_() for logits in (Y, *FEEDBACK)]
    loss = F.cross_entropy(combine(*leaves), TARGET)
    return loss, torch.autograd.grad(loss, leaves)


def test_loss_and_gradients_are_the_formula():
    found, gradients = loss_and_gradients(lambda y, *feedback: feedback_logits(y, feedback, beta=0.1))
    expected, _ = loss_and_gradients(lambda y, a, b, c: (y - 0.1 * (a + 0.1 * b + 0.01 * c)) / 4)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    # d CE / d combined = (softmax - onehot) / n, written out; every feedback gets it with its own negative weight.
    combined = (Y - 0.1 * (FEEDBACK[0] + 0.1 * FEEDBACK[1] + 0.01 * FEEDBACK[2])) / 4
    slope = (combined.softmax(1) - F.one_hot(TARGET, 5)) / len(TARGET)
    for gradient, weight in zip(gradients, (1, -0.1, -0.01, -0.001), strict=True):
        assert gradient.abs().min() > 0
        torch.testing.assert_close(gradient, slope * weight / 4, rtol=0, atol=1e-6)


def test_without_feedback_strength_the_temperature_remains():
    found = F.cross_entropy(feedback_logits(Y, FEEDBACK, beta=0.0), TARGET)
    assert found.item() == pytest.approx(F.cross_entropy(Y / 4, TARGET).item(), abs=1e-6)
    assert found.item() != pytest.approx(F.cross_entropy(Y, TARGET).item(), abs=1e-3)


def test_other_shape_is_refused():
    with pytest.raises(ValueError, match=r"feedback 1 has shape \(6, 4\)"):
        feedback_logits(Y, [FEEDBACK[0], FEEDBACK[1][:, :4]], beta=0.1)
