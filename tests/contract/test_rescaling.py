"""Promise 7: rescaling one layer by a power of two and the next by its inverse changes no reported number."""

import numpy as np
import pytest
import torch
from torch import nn

import lightning_cim as cim
from tests.helpers.boring import FLAVOURS, Boring, data, fit, make

FLAVOUR = FLAVOURS[0]


class ReluNet(Boring):
    """No batch norm: the network is positively homogeneous in its first layer."""

    def __init__(self, factor=1.0):
        super().__init__(lr=0.0)
        self.norm = nn.Identity()
        with torch.no_grad():
            self.conv.weight.mul_(factor)
            self.conv.bias.mul_(factor)
            self.linear.weight.div_(factor)


def chain(weight_bits=None, activation_bits=None, pattern=None):
    callbacks = []
    if weight_bits is not None:
        callbacks.append(cim.MixedPrecision(weight_bits, activation_bits))
    if pattern is not None:
        callbacks.append(cim.StructuredSparsity(pattern))
    return callbacks


@pytest.mark.parametrize("factor", [2.0**-7, 8.0])
@pytest.mark.parametrize(
    "variation", [cim.Gaussian(0.1), cim.RightCensoredGaussian(0.2), cim.Gaussian.published("neft", 0.1)]
)
@pytest.mark.parametrize("links", [(), (8, 8), (4, 6), (2, None, "2:4"), (1, None), (8, 8, "balanced")])
def test_no_reported_number_changes(links, variation, factor):
    reports = []
    for scale in (1.0, factor):
        model = make(FLAVOUR, ReluNet, factor=scale)
        callbacks = [
            cim.VariationInjection(variation, validation_chips=2),
            cim.MonteCarloEvaluation(variation, chips=2),
            *chain(*links),
        ]
        run = fit(FLAVOUR, lambda _, callbacks=callbacks: {"callbacks": callbacks}, model=model, max_epochs=1)
        result = cim.evaluate_chips(
            run.trainer, model, data(2, seed=3), variation=variation, chips=2, k=50, progress=False
        )
        logged = {name: value.item() for name, value in run.trainer.callback_metrics.items()}
        reports.append((model.losses, logged, {name: result.of(name) for name in result.metrics}))
    (losses, logged, values), (losses_after, logged_after, values_after) = reports
    assert losses == losses_after
    np.testing.assert_equal(logged_after, logged)  # equal, with NaN equal to NaN
    assert all(np.array_equal(values[name], values_after[name]) for name in values)
    assert len(set(values["test/loss"])) == 2
