"""What the tests of a tiny shared block share: a watched module, a fit, and what must come back from it."""

import lightning_cim as cim
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.shared_block import NAME
from tests.helpers.boring import FLAVOURS, STEPS, Boring, fit, make

FLAVOUR = FLAVOURS[0]
SIGMA = cim.Gaussian(sigma=0.3)


class Watched(Boring):
    """Also records the block's weight, and what validation computes with."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks, self.validated = [], []

    def training_step(self, batch, batch_idx):
        if hasattr(self, NAME):
            self.blocks.append(self.tiny_shared_block.weight.detach().clone())
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.weights())
        super().validation_step(batch, batch_idx)


def fitted(callback, flavour=FLAVOUR, model=None, **kwargs):
    model = make(flavour, Watched) if model is None else model
    return fit(flavour, lambda _: {"callbacks": [callback]}, model=model, **kwargs)


def backbone(model):
    return {name: value.clone() for name, value in model.state_dict().items() if not name.startswith(NAME)}


def assert_given_back(model, modes, callback):
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert modes is None or modes_of(model) == modes
    left = [name for name in (*STEPS, "configure_optimizers", "setup") if name in model.__dict__]
    assert not left
    assert scope_of(model).chain == ()
    assert callback._undo is None


def modes_of(model):
    return {name: module.training for name, module in model.named_modules() if not name.startswith(NAME)}
