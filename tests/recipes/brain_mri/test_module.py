"""Training passes, maps and what they must not see, on phantoms."""

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from recipes.brain_mri.module import BrainModule
from recipes.brain_mri.phantom import phantom
from recipes.brain_mri.postprocess import anomaly_map
from recipes.brain_mri.residuals import residual

SIZE = 32


class Phantoms(L.LightningDataModule):
    def __init__(self, contrast="flair"):
        super().__init__()
        self.train = [phantom(seed, SIZE, contrast) for seed in range(2)]
        self.lesion_test = self.predict_volumes = [phantom(seed, SIZE, contrast, "tumour") for seed in range(8, 10)]

    def batches(self, volumes):
        slices = [(v.image[..., z], v.mask[..., z]) for v in volumes for z in range(4, 12)]
        pairs = [
            {"image": torch.from_numpy(i.copy())[None], "mask": torch.from_numpy(m.copy())[None]} for i, m in slices
        ]
        return DataLoader(pairs, batch_size=4)

    def train_dataloader(self):
        return self.batches(self.train)

    def val_dataloader(self):
        return self.batches(self.train[:1])

    def test_dataloader(self):
        return DataLoader([{"index": at} for at in range(2)])


def trainer(**options):
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                     enable_model_summary=False, **options)  # fmt: skip


def module(**options):
    return BrainModule(**{"arch": "ae", "size": SIZE, "width": 4, **options})


def test_seed_decides_the_weights_whatever_came_before():
    first = module(seed=3)
    torch.rand(5)
    again, other = module(seed=3), module(seed=4)
    pairs = [(a, b, c) for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True)]
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize(("contrast", "inverted"), [("flair", False), ("t2", True)])  # the phantom has much CSF
def test_fit_decides_on_the_inversion_and_the_checkpoint_keeps_it(contrast, inverted, tmp_path):
    data, fitted = Phantoms(contrast), module()
    mean = np.mean([v.image[v.mask].mean() for v in data.train])
    assert (mean > 0.5) == inverted
    fit = trainer(max_epochs=1)
    fit.fit(fitted, datamodule=data)
    fit.save_checkpoint(tmp_path / "x.ckpt")
    loaded = BrainModule.load_from_checkpoint(tmp_path / "x.ckpt")
    assert bool(loaded.air.inverted) == inverted
    assert loaded.air.mu.item() == pytest.approx(mean, abs=1e-4)
    assert np.array_equal(loaded.anomaly_maps(data.lesion_test[0]), fitted.anomaly_maps(data.lesion_test[0]))


@pytest.mark.parametrize("air", ["on", "off"])
def test_maps_are_residuals_of_what_the_network_saw_and_pictures_are_not_inverted(air):
    volume, model = phantom(8, SIZE, "flair", "tumour"), module(air=air)
    found = model.examine(volume, ["l1", "fq"])
    model.eval()
    seen = np.where(volume.mask & (air == "on"), 1 - volume.image, volume.image).astype(np.float32)
    with torch.no_grad():
        image = torch.from_numpy(seen).permute(2, 0, 1)[:, None]
        out = model.network(image)
    for kind in ("l1", "fq"):
        raw = residual(kind, out, image)[:, 0].permute(1, 2, 0).numpy()
        assert np.allclose(found.maps[kind], anomaly_map(raw, volume.mask), atol=1e-6)
    expected = out[:, 0].permute(1, 2, 0).numpy()
    expected = np.where(volume.mask & (air == "on"), 1 - expected, expected)
    assert np.allclose(found.reconstruction, expected, atol=1e-6)
    assert not np.allclose(found.maps["l1"], found.maps["fq"])


def test_examining_leaves_training_mode_and_batch_statistics_alone():
    model = module(air="off").train()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    model.anomaly_maps(phantom(0, SIZE))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


def test_the_loss_does_what_its_options_say():
    batch = {"image": torch.rand(2, 1, SIZE, SIZE), "mask": torch.ones(2, 1, SIZE, SIZE, dtype=torch.bool)}
    image = batch["image"]
    values = {}
    for loss, loss_range in (("l1", "unit"), ("l1", "symmetric"), ("l2", "unit"), ("fq", "unit")):
        model = module(loss=loss, loss_range=loss_range, air="off")
        out = model.network.training_pass(image, torch.Generator()).reconstruction
        values[loss, loss_range] = model._loss(image, torch.Generator()).item()
        if loss_range == "unit":
            assert values[loss, loss_range] == pytest.approx(residual(loss, out, image).mean().item(), rel=1e-5)
    assert values["l1", "symmetric"] == pytest.approx(2 * values["l1", "unit"], rel=1e-5)


def test_validation_uses_the_same_noise_every_time():
    model = module(arch="dae", air="off")
    logged = []
    model.log_dict = lambda found, **_: logged.append(found)
    batch = {"image": torch.rand(2, 1, SIZE, SIZE), "mask": torch.ones(2, 1, SIZE, SIZE, dtype=torch.bool)}
    for _ in range(2):
        model.eval().validation_step(batch, 0)
    assert logged[0]["val/loss"] == logged[1]["val/loss"]
    assert set(logged[0]) == {"val/loss", "val/l1", "val/ssim", "val/fq"}


def test_testing_logs_dice_once_a_threshold_is_set():
    data, model = Phantoms(), module(air="off")
    assert set(trainer().test(model, datamodule=data, verbose=False)[0]) == {"test/auprc"}
    model.threshold = 0.05
    found = trainer().test(model, datamodule=data, verbose=False)[0]
    assert 0 < found["test/dice"] < 1


def test_bad_options_and_volumes_are_refused():
    for options, word in (({"residual": "l3"}, "residual"), ({"loss": "mse"}, "loss"), ({"lr": 0.0}, "lr=0"),
                          ({"loss_range": "wide"}, "loss_range"), ({"air": "maybe"}, "air")):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            module(**options)
    with pytest.raises(ValueError, match="48 x 48, the model was trained on 32 x 32"):
        module(air="off").anomaly_maps(phantom(0, 48))
    with pytest.raises(ValueError, match="max_epochs"):
        trainer(max_epochs=-1).fit(module(), datamodule=Phantoms())
