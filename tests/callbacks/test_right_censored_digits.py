"""S5 on the digits net: TRICE's search closes in on a sigma that is as good as the deployed one."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import lightning_cim as cim
from lightning_cim.callbacks.judging import Judge, Yardstick
from lightning_cim.callbacks.right_censored import RightCensoredTraining
from lightning_cim.callbacks.weight_sets import tensors_of
from tests.helpers.boring import FLAVOURS, make, make_trainer
from tests.helpers.digits import digits, digits_cnn, full_scale


class Digits:
    """The digits net as a LightningModule."""

    def __init__(self, epochs):
        super().__init__()
        self.net, self.epochs = digits_cnn(), epochs

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)]


def digits_run(callback, seed, epochs):
    train, val, _ = digits()
    generator = torch.Generator().manual_seed(seed)
    model = make(FLAVOURS[0], Digits, seed=seed, epochs=epochs)
    trainer = make_trainer(FLAVOURS[0], callbacks=[callback], max_epochs=epochs, num_sanity_val_steps=0)
    trainer.fit(model, DataLoader(train, 64, shuffle=True, generator=generator), DataLoader(val, 297))
    return model, trainer


@pytest.mark.slow
def test_s5_the_search_on_digits():
    """The interval shrinks, and the selected KPP is not more than 3 points below a run at the deployed sigma."""
    deployment, epochs = full_scale(0.3), 8
    gaps, shrunken = [], []
    for seed in range(3):
        search = RightCensoredTraining(deployment, chips=20, cutoff=2.0, seed=seed, warmup_epochs=1)
        digits_run(search, seed, epochs)
        fixed = cim.VariationInjection(cim.RightCensoredGaussian(deployment.std, cutoff=2.0), seed=seed)
        model, trainer = digits_run(fixed, seed, epochs)
        judge = Judge(trainer, model, Yardstick(deployment, chips=20, seed=seed))
        reference = judge.scores({"mid": tensors_of(model)})["mid"].value
        gaps.append(search.history.best.score - reference)
        shrunken.append(search.interval.width / (2 * deployment.std))
    assert max(shrunken) <= 0.75 ** (epochs - 1)
    assert sorted(gaps)[1] >= -0.03
