"""Which chip each batch of a fit computes on, and what is logged."""

import lightning as L
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

import lightning_cim as cim
from tests.evaluation.toys import VARIATION, Classifier, by_hand, loader, trainer


class Recording(Classifier):
    """Records the first weight as each step sees it; lr=0 keeps the clean weights."""

    def __init__(self, lr: float = 0.0):
        super().__init__(lr)
        self.seen, self.seen_in_validation = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(self.net[0].weight.detach().clone())
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.seen_in_validation.append(self.net[0].weight.detach().clone())
        super().validation_step(batch, batch_idx)


class Logged(L.Callback):
    """Collects ``cim/sigma`` batch by batch; None where it was not logged."""

    def __init__(self):
        self.sigmas = []

    def on_train_batch_end(self, trainer, *_):
        self.sigmas.append(trainer.logged_metrics.get("cim/sigma"))


def fit(injection, model=None, validation=False, **options):
    model = model or Recording()
    trainer(callbacks=[injection], num_sanity_val_steps=0, **options).fit(
        model, loader(8), loader() if validation else None
    )
    return model


def train_chip(index, variation=VARIATION, seed=0, stream="train/0"):
    return cim.Chip(variation, seed, index, stream=stream)


def assert_on_chips(model, chips):
    clean = model.net[0].weight.detach()
    assert len(model.seen) == len(chips)
    for seen, chip in zip(model.seen, chips, strict=True):
        torch.testing.assert_close(seen, clean + chip.deviation("net.0.weight", clean))


def test_every_batch_is_on_a_chip_of_its_own():
    model = fit(cim.VariationInjection(VARIATION, seed=4))
    assert_on_chips(model, [train_chip(i, seed=4) for i in range(6)])
    assert not torch.equal(model.seen[0], model.seen[1])


def test_batches_share_a_chip_when_redrawn_less_often():
    model = fit(cim.VariationInjection(VARIATION, redraw_every_n_steps=4), max_epochs=2)
    assert_on_chips(model, [train_chip(i // 4) for i in range(12)])


def test_a_shared_chip_scales_with_the_weights_of_each_step():
    model = fit(cim.VariationInjection(VARIATION, redraw_every_n_steps=6), Recording(lr=1.0))
    reference = Recording(lr=1.0)
    optimizer = reference.configure_optimizers()
    chip = train_chip(0)
    for batch, seen in zip(loader(8), model.seen, strict=True):
        optimizer.zero_grad()
        with cim.on_chip(reference, chip):
            torch.testing.assert_close(reference.net[0].weight.detach(), seen)
            torch.nn.functional.cross_entropy(reference(batch[0]), batch[1]).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name])


def test_same_across_ranks_uses_a_stream_without_the_rank():
    model = fit(cim.VariationInjection(VARIATION, same_across_ranks=True))
    assert_on_chips(model, [train_chip(i, stream="train/shared") for i in range(6)])


def test_warm_up_grows_linearly_to_the_full_size():
    logged = Logged()
    model = Recording()
    injection = cim.VariationInjection(VARIATION, warmup_steps=4)
    trainer(callbacks=[injection, logged]).fit(model, loader(8))
    shares = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert_on_chips(model, [train_chip(i, VARIATION.scaled(share)) for i, share in enumerate(shares)])
    assert [float(sigma) for sigma in logged.sigmas[:5]] == pytest.approx([0.3 * share for share in shares[:5]])


@pytest.mark.parametrize(("variation", "sigma"), [(VARIATION, 0.3), (cim.Gaussian(0.03) + cim.Gaussian(0.04), 0.05)])
def test_sigma_is_logged(variation, sigma):
    logged = Logged()
    trainer(callbacks=[cim.VariationInjection(variation), logged]).fit(Classifier(), loader(8))
    assert float(logged.sigmas[0]) == pytest.approx(sigma)


def test_validation_and_test_are_clean_by_default():
    model = fit(cim.VariationInjection(VARIATION), validation=True, val_check_interval=2)
    assert len(model.seen_in_validation) == 9  # three validations of three batches in the middle of the epoch
    for seen in model.seen_in_validation:
        assert torch.equal(seen, model.net[0].weight)


@pytest.mark.parametrize("chips", [1, 3])
def test_validation_chips_log_the_mean_over_held_chips(chips):
    model = Recording()
    held = [cim.Chip(VARIATION, 2, index, stream="validation") for index in range(chips)]
    over = trainer(callbacks=[cim.VariationInjection(VARIATION, seed=2, validation_chips=chips)], max_epochs=2)
    over.fit(model, loader(8), loader())
    accuracies, losses = by_hand(model, held)
    assert float(over.callback_metrics["val/acc"]) == pytest.approx(accuracies.mean(), abs=1e-6)
    assert float(over.callback_metrics["val/loss"]) == pytest.approx(losses.mean(), rel=1e-5)
    by_validate = over.validate(model, loader(), verbose=False)[0]
    assert by_validate["val/loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_held_chips_are_neither_training_nor_test_chips():
    weight = torch.ones(100)
    draws = [
        cim.Chip(VARIATION, 0, 0, stream=stream).deviation("w", weight) for stream in ("chip", "validation", "train/0")
    ]
    correlation = np.corrcoef(torch.stack(draws).numpy()) - np.eye(3)
    assert np.abs(correlation).max() < 0.5


def test_a_new_callback_with_the_state_goes_on_with_the_next_chip():
    first = cim.VariationInjection(VARIATION)
    fit(first)
    second = cim.VariationInjection(VARIATION)
    second.load_state_dict(first.state_dict())
    assert_on_chips(fit(second), [train_chip(i) for i in range(6, 12)])


def test_mapping_is_obeyed():
    model = fit(cim.VariationInjection(VARIATION, cim.Mapping(exclude=["net.0"])))
    assert all(torch.equal(seen, model.net[0].weight) for seen in model.seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"variation": 0.1},
            r"VariationInjection: variation must be a Variation such as Gaussian\(sigma=0.1\), got 0.1",
        ),
        ({"redraw_every_n_steps": 0}, "VariationInjection: redraw_every_n_steps must be at least 1, got 0"),
        ({"warmup_steps": -1}, "VariationInjection: warmup_steps must be at least 0, got -1"),
        ({"validation_chips": -1}, "VariationInjection: validation_chips must be at least 0, got -1"),
        ({"mapping": ["conv"]}, r"VariationInjection: mapping must be a Mapping, got \['conv'\]"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(MisconfigurationException, match=message):
        cim.VariationInjection(**{"variation": VARIATION, **options})


def test_two_injections_on_one_trainer_are_refused():
    class Second(cim.VariationInjection):
        pass

    over = trainer(callbacks=[cim.VariationInjection(VARIATION), Second(VARIATION)])
    with pytest.raises(MisconfigurationException, match="stage 'program' already; one each: compose variations with"):
        over.fit(Classifier(), loader())
