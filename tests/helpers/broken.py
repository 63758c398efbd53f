"""The negative control: what a weight-noise callback looks like when it is written the obvious way."""

import torch

from lightning_cim._compat import CallbackBase


class AddThenSubtract(CallbackBase):
    """Adds noise in place before a batch and subtracts it afterwards.

    It draws from the global random state, keeps no state in the checkpoint, leaves the optimizer with noisy weights,
    rounds twice and does not clean up after an error. Every check that claims to guard against one of these must fail.
    """

    def __init__(self, sigma):
        super().__init__()
        self.sigma = sigma
        self.noise = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.noise = [
            (weight, self.sigma * weight.detach().abs().max() * torch.randn_like(weight))
            for weight in (pl_module.conv.weight, pl_module.linear.weight)
        ]
        with torch.no_grad():
            for weight, noise in self.noise:
                weight.add_(noise)

    def on_train_batch_end(self, trainer, pl_module, *_):
        with torch.no_grad():
            for weight, noise in self.noise:
                weight.sub_(noise)


def broken(flavour):
    return {"callbacks": [AddThenSubtract(0.1)]}


def broken_without_variation(flavour):
    return {"callbacks": [AddThenSubtract(0.0)]}
