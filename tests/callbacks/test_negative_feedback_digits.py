"""S3 on the digits net: both modes of NeFT train stably and stay close to plain injection; no claim that they win.

``pytest -s`` prints the figures: mean accuracy over chips, one value a seed.
"""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import lightning_cim as cim
from lightning_cim.chip import snapshots
from tests.helpers.boring import FLAVOURS, make, make_trainer
from tests.helpers.digits import digits, digits_cnn, full_scale

SIGMA, EPOCHS, CHIPS = full_scale(0.3), 20, 20
CALLBACKS = {
    "injection": lambda seed: cim.VariationInjection(SIGMA, seed=seed),
    "ovf": lambda seed: cim.NegativeFeedback(SIGMA, mode="ovf", seed=seed),
    "irs": lambda seed: cim.NegativeFeedback(SIGMA, mode="irs", seed=seed),
    "irs, beta 0.1": lambda seed: cim.NegativeFeedback(SIGMA, mode="irs", beta=0.1, seed=seed),
}


class Digits:
    def __init__(self):
        super().__init__()
        self.net = digits_cnn()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        self.log("test/acc", (self(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)]


def accuracy_on_chips(callback, seed):
    train, _, test = digits()
    model = make(FLAVOURS[0], Digits, seed=seed)
    trainer = make_trainer(FLAVOURS[0], callbacks=[callback], max_epochs=EPOCHS, num_sanity_val_steps=0)
    generator = torch.Generator().manual_seed(seed)
    trainer.fit(model, DataLoader(train, batch_size=64, shuffle=True, generator=generator))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*chips are few.*")
        loader = DataLoader(test, batch_size=500)
        return cim.evaluate_chips(trainer, model, loader, variation=SIGMA, chips=CHIPS, progress=False).mean("test/acc")


@pytest.mark.slow
def test_heads_of_published_size_take_over_from_a_small_network(monkeypatch):
    """Why heads shrink with their network: published ones have 23 times the weights of this one."""
    monkeypatch.setattr(snapshots, "SHARE", float("inf"))
    large = accuracy_on_chips(CALLBACKS["irs, beta 0.1"](0), 0)
    monkeypatch.undo()
    sized = accuracy_on_chips(CALLBACKS["irs, beta 0.1"](0), 0)
    print(f"heads of published size: {100 * large:.1f}, of their network's: {100 * sized:.1f}")
    assert large < sized - 0.1


@pytest.mark.slow
def test_both_modes_stay_close_to_injection():
    found = {
        name: [accuracy_on_chips(make_one(seed), seed) for seed in range(3)] for name, make_one in CALLBACKS.items()
    }
    print({name: [round(100 * value, 1) for value in values] for name, values in found.items()})
    for mode in ("ovf", "irs", "irs, beta 0.1"):
        differences = [ours - plain for ours, plain in zip(found[mode], found["injection"], strict=True)]
        assert sorted(differences)[1] >= -0.04, found
