"""Evaluation on chips whose readings differ from batch to batch, and training on them."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import lightning_cim as cim
from lightning_cim.variation.read_noise import ReadNoise
from tests.evaluation.toys import Classifier

VARIATION = cim.Gaussian(0.2) + ReadNoise(0.1)


def data(size=64):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(size, 4, generator=generator)
    return TensorDataset(inputs, (inputs[:, 0] > inputs[:, 1]).long())


def trainer(**options):
    return L.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **options
    )


def evaluate(batch_size=16, workers=1, variation=VARIATION):
    loader = DataLoader(data(), batch_size=batch_size)
    found = cim.evaluate_chips(
        trainer(), Classifier(), loader, variation=variation, chips=6, k=50, workers=workers, progress=False
    )
    return found.of("test/loss").tolist()


def test_evaluation_is_reproducible_whoever_simulates_the_chips():
    found = evaluate()
    assert found == evaluate()
    assert found == pytest.approx(evaluate(workers=2), rel=1e-6)


def test_each_batch_is_a_reading_of_its_own():
    """One batch is one reading; more batches average over more of them, on the same stored chip."""
    stored = evaluate(variation=cim.Gaussian(0.2))
    once, often = evaluate(64), evaluate(4)
    assert once != pytest.approx(often, rel=1e-3)
    spread = [sum((a - b) ** 2 for a, b in zip(found, stored, strict=True)) for found in (once, often)]
    assert spread[0] > spread[1]


@pytest.mark.parametrize("every", [1, 3])
def test_a_resumed_run_reads_as_an_uninterrupted_one(tmp_path, every):
    def fit(epochs, checkpoint=None):
        torch.manual_seed(0)
        model = Classifier()
        injection = cim.VariationInjection(VARIATION, redraw_every_n_steps=every)
        run = trainer(max_epochs=epochs, callbacks=[injection])
        run.fit(model, DataLoader(data(), batch_size=16), ckpt_path=checkpoint)
        return model, run

    whole, _ = fit(2)
    _, half = fit(1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(2, tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
