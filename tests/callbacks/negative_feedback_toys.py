"""What the tests of NeFT share: both modes in short, and a slow reference of modules that hold the chips' weights."""

import copy

from torch import nn
from torch.nn import functional as F

import lightning_cim as cim
from lightning_cim.chip.population import Chip
from tests.helpers.boring import FLAVOURS, Boring, fit

SIGMA = cim.Gaussian(0.1)
OFFSETS = (0.15, 0.10, 0.05)
FLAVOUR = FLAVOURS[0]


class Dry(Boring):
    """Without dropout, whose random numbers depend on the order of the passes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = nn.Identity()


def ovf(**kwargs):
    return cim.NegativeFeedback(SIGMA, **{"mode": "ovf", "beta": 0.1, **kwargs})


def irs(**kwargs):
    return cim.NegativeFeedback(SIGMA, **{"mode": "irs", "beta": 0.1, "stages": ["conv", "norm"], **kwargs})


def chip(stream, index, sigma=0.1):
    return Chip(cim.Gaussian(sigma), 0, index, stream=stream, portable=False)


def gradients(flavour, callback, model, **kwargs):
    """What the optimizer gets at each step."""
    found = []
    step = model.optimizer_step

    def look(*args, **kwargs):
        closure = args[3] if len(args) > 3 else kwargs["optimizer_closure"]
        closure()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        return step(*args, **kwargs)

    model.optimizer_step = look
    fit(flavour, lambda _: {"callbacks": [callback]}, model=model, max_epochs=1, limit_val_batches=0, **kwargs)
    return found


def on_weights_of(model, programmed):
    """A separate module whose parameters are a chip's weights."""
    twin = copy.deepcopy(model)
    twin.load_state_dict(cim.export_state_dict(model, chip=programmed))
    return twin


def reference(model, batch, index, beta=0.1, scale=1.0):
    """Loss and gradients of OVF on batch ``index``, each pass on a module of its own."""
    passes = [chip("train/0", index)]
    passes += [chip(f"feedback{i}/0", index, 0.1 + offset) for i, offset in enumerate(OFFSETS)]
    twins = [on_weights_of(model, programmed) for programmed in passes]
    y, a, b, c = (twin(batch[0]) for twin in twins)
    loss = F.cross_entropy((y - beta * (a + 0.1 * b + 0.01 * c)) / 4, batch[1])
    (loss * scale).backward()
    names = dict(model.named_parameters())
    return loss.item(), {name: sum(dict(twin.named_parameters())[name].grad for twin in twins) for name in names}


class Spied(Dry):
    """Notes the weights that every forward computes with."""

    def forward(self, x):
        self.forwards = [*getattr(self, "forwards", []), self.weights()]
        return super().forward(x)
