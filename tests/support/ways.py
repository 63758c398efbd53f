"""Ways of running a Trainer, and what each callback must do under them."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import lightning_cim as cim
from tests.helpers.boring import FLAVOURS, data, make, make_trainer

SIGMA = cim.Gaussian(0.2)


class Plain:
    """A small network; keeps the weights that each backward pass belongs to. Nothing in the step breaks a graph."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 3)
        self.seen = []

    def features(self, x):
        return torch.relu(self.norm(self.conv(x)))

    def forward(self, x):
        return self.linear(self.features(x).flatten(1))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0].to(self.linear.weight.dtype)), batch[1])

    def on_before_backward(self, loss):
        held = {"conv": self.conv._parameters["weight"], "linear": self.linear._parameters["weight"]}
        self.seen.append({name: weight.detach().clone() for name, weight in held.items()})

    def validation_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0].to(self.linear.weight.dtype)), batch[1])
        self.log("val/loss", loss, batch_size=len(batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Manual(Plain):
    """Steps its two optimizers itself."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.0) for part in (self.conv, self.linear)]


class Checkpointed(Plain):
    """Computes its features again in the backward pass."""

    def features(self, x):
        return checkpoint(super().features, x, use_reentrant=False)


class CompiledPart(Plain):
    """Compiles one of its modules."""

    def __init__(self):
        super().__init__()
        self.conv = torch.compile(self.conv, backend="eager")

    def on_before_backward(self, loss):
        held = {"conv": self.conv._orig_mod._parameters["weight"], "linear": self.linear._parameters["weight"]}
        self.seen.append({name: weight.detach().clone() for name, weight in held.items()})


def _compiled(model):
    return torch.compile(model, backend="eager")


def _as_it_is(model):
    return model


def _nothing_more(flavour):
    return []


def _auto(flavour):
    return "auto"


def _callback(name, **options):
    return lambda flavour: [getattr(importlib.import_module(f"{flavour}.callbacks"), name)(**options)]


def _sharded(name):
    """A strategy of that name; the real one would not start without GPUs."""

    def arranged(flavour):
        base = importlib.import_module(f"{flavour}.strategies").SingleDeviceStrategy
        return type(name, (base,), {})(device="cpu")

    return arranged


@dataclass(frozen=True)
class Way:
    """A row of the matrix.

    Attributes:
        name: As the page shows it.
        options: Of the Trainer.
        base: The module.
        wrapped: What is done to the module first.
        extra: Makes callbacks of the flavour that run as well.
        strategy: Makes the strategy of the flavour.
        flavour: Which Lightning.
        injects: Whether the strategy itself deviates weights.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    base: type = Plain
    wrapped: Callable[[nn.Module], nn.Module] = _as_it_is
    extra: Callable[[str], list[Any]] = _nothing_more
    strategy: Callable[[str], Any] = _auto
    flavour: str = FLAVOURS[0]
    injects: bool = False

    def fit(self, callback):
        """Two batches, one validation; the module, and its parameters before."""
        model = make(self.flavour, self.base)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        settings = {"max_epochs": 1, "num_sanity_val_steps": 0, "strategy": self.strategy(self.flavour), **self.options}
        trainer = make_trainer(self.flavour, callbacks=[callback, *self.extra(self.flavour)], **settings)
        trainer.fit(self.wrapped(model), data(2), data(2, seed=2))
        now = dict(model.named_parameters())
        assert all(torch.equal(now[name], value.to(now[name].dtype)) for name, value in before.items()), "not clean"
        return model


PRECISIONS = ["64-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true"]
WAYS = [
    *[Way(f"`{flavour}`", flavour=flavour) for flavour in FLAVOURS],
    *[Way(f"precision `{name}`", {"precision": name}) for name in PRECISIONS],
    Way("manual, two optimizers", base=Manual),
    Way("gradient accumulation", {"accumulate_grad_batches": 2}),
    Way("gradient clipping", {"gradient_clip_val": 0.5}),
    Way("activation checkpointing", base=Checkpointed),
    Way("compiled module", wrapped=_compiled),
    Way("compiled part", base=CompiledPart),
    Way("weight averaging (SWA)", extra=_callback("StochasticWeightAveraging", swa_lrs=0.01, swa_epoch_start=1)),
    Way("strategy `cim`", strategy=lambda flavour: "cim", injects=True),
    Way("strategy `fsdp`", strategy=_sharded("FSDPStrategy")),
    Way("strategy `deepspeed`", strategy=_sharded("DeepSpeedStrategy")),
    Way("strategy `ModelParallelStrategy`", strategy=_sharded("ModelParallelStrategy")),
]
TWO_PROCESSES = [
    Way("strategy `ddp`, 2 processes", {"devices": 2}, strategy=lambda flavour: "ddp"),
    Way("strategy `cim_ddp`, 2 processes", {"devices": 2}, strategy=lambda flavour: "cim_ddp", injects=True),
]
ON_GPUS = ["accelerator `gpu`", "precision `transformer-engine`"]


def injection(way):
    """``VariationInjection``."""
    _deviated(way.fit(cim.VariationInjection(SIGMA)))


def trice(way):
    """``RightCensoredTraining``."""
    callback = cim.RightCensoredTraining(SIGMA, chips=2, k=50, monitor="val/loss")
    _deviated(way.fit(callback))
    assert len(callback.history.rows) == 1


def ovf(way):
    """``NegativeFeedback(mode="ovf")``."""
    _deviated(way.fit(cim.NegativeFeedback(SIGMA, mode="ovf", beta=0.1)))


def irs(way):
    """``NegativeFeedback(mode="irs")``."""
    callback = cim.NegativeFeedback(SIGMA, mode="irs", beta=0.1, stages=["norm"])
    _deviated(way.fit(callback))
    assert callback.state_dict()["heads"]


def shared_block(way):
    """``TinySharedBlock``: both batches on the same chip."""
    model = way.fit(cim.TinySharedBlock(SIGMA, chip=1, at=["norm"], monitor="val/loss"))
    first, second = _last_two(model)
    assert torch.equal(first["linear"], second["linear"])
    assert not torch.equal(first["linear"], model.linear.weight)


def precision(way):
    """``MixedPrecision``: at most four values an output."""
    model = way.fit(cim.MixedPrecision(2))
    assert way.injects or all(row.unique().numel() <= 4 for row in _last_two(model)[0]["linear"])
    assert not torch.equal(_last_two(model)[0]["linear"], model.linear.weight)


def sparsity(way):
    """``StructuredSparsity``: half of the weights are zero."""
    model = way.fit(cim.StructuredSparsity("2:4"))
    assert (_last_two(model)[0]["linear"] == 0).float().mean() == 0.5


def crossbar(way):
    """``Crossbar``: its ADCs have ranges."""
    callback = cim.Crossbar(rows=8, adc_bits=6, dac_bits=6)
    way.fit(callback)
    assert callback.state_dict()


def monte_carlo(way):
    """``MonteCarloEvaluation``: two chips that differ."""
    callback = cim.MonteCarloEvaluation(SIGMA, chips=2)
    way.fit(callback)
    assert len(set(callback.result.of("val/loss"))) == 2


CALLBACKS = {
    "injection": injection,
    "TRICE": trice,
    "NeFT ovf": ovf,
    "NeFT irs": irs,
    "TSB": shared_block,
    "precision": precision,
    "sparsity": sparsity,
    "crossbar": crossbar,
    "chips": monte_carlo,
}


def _last_two(model):
    assert len(model.seen) >= 2 or model.trainer.world_size > 1
    return model.seen[-2:] if len(model.seen) > 1 else model.seen * 2


def _deviated(model):
    first, second = _last_two(model)
    for name, layer in (("conv", model.conv), ("linear", model.linear)):
        clean = getattr(layer, "_orig_mod", layer).weight
        assert not torch.equal(first[name], clean)
        assert first is second or not torch.equal(first[name], second[name])
