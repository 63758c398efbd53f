"""Fitting: it improves, repeats, resumes bit for bit, and keeps what a decoder needs."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

import lightning_cim as cim
from recipes.gaussian_image.hash_grid import HashConfig
from recipes.gaussian_image.module import CROSSBARS, TYPICAL_RMSE, SgiModule, load_structured, psnr


def picture(size=64):
    """Smooth shapes and an edge."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    disc = ((x - 0.2) ** 2 + (y + 0.1) ** 2 < 0.3).float()
    return torch.stack([0.3 + 0.3 * x, 0.5 + 0.3 * torch.sin(4 * y), 0.2 + 0.6 * disc], -1)


def module(**options):
    given = {"num_seeds": 40, "k": 4, "feat_dim": 8, "hidden": 8, "hash": HashConfig((5,), 64), "backend": "torch"}
    return SgiModule(picture(), **{**given, **options})


def trainer(steps, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return L.Trainer(max_steps=steps, max_epochs=1, **{**quiet, "enable_checkpointing": False, **options})


def loader(steps=100):
    return DataLoader([picture()] * steps, batch_size=None)


def decoded(fitted):
    with torch.no_grad():
        stored = fitted.structured.as_stored()
        return psnr(stored.render(stored.quantised(), 0, fitted.rasterize), picture()).item()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fit of 100 steps, with a checkpoint at step 70, between the second and the third level."""
    folder = tmp_path_factory.mktemp("sgi")
    fitted = module()
    saving = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=35)
    trainer(100, callbacks=[saving], enable_checkpointing=True).fit(fitted, loader())
    return fitted, folder


def test_a_small_fit_improves(whole):
    fitted, _ = whole
    assert decoded(fitted) >= decoded(module()) + 8
    assert decoded(fitted) > 20


def test_resuming_is_bit_for_bit(whole):
    fitted, folder = whole
    resumed = module()
    trainer(100).fit(resumed, loader(), ckpt_path=str(folder / "step=70.ckpt"))
    for name, value in fitted.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_seed_decides_everything():
    fits = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(fits))  # the global state does not matter
        fits.append(module(seed=seed))
        trainer(8).fit(fits[-1], loader(8))
    assert torch.equal(fits[0].structured.feature, fits[1].structured.feature)
    assert not torch.equal(fits[0].structured.feature, fits[2].structured.feature)


def test_a_checkpoint_gives_the_model_back_without_the_image(whole):
    _, folder = whole
    path = folder / "step=70.ckpt"
    model = load_structured(path)
    again = module()
    again.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert model.config == again.structured.config
    assert all(torch.equal(a, b) for a, b in zip(model.quantised(), again.structured.quantised(), strict=True))


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such checkpoint"):
        load_structured(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt: not a checkpoint"):
        load_structured(tmp_path / "other.ckpt")


def test_the_rate_weight_trades_quality_for_size():
    found = []
    for rate_weight in (0.0002, 0.02):
        fitted = module(rate_weight=rate_weight)
        trainer(60).fit(fitted, loader(60))
        with torch.no_grad():
            stats = fitted.structured.context()
            rate = fitted._rate(fitted.structured.attributes(), stats, torch.Generator().manual_seed(0))
        found.append((rate.total.item(), decoded(fitted)))
    (large, good), (small, bad) = found
    assert small < 0.9 * large
    assert bad < good


def test_a_bit_is_worth_as_many_db_in_every_image():
    fitted, weights = module(), []
    for rmse in (TYPICAL_RMSE, TYPICAL_RMSE / 10):
        mse = torch.tensor(rmse**2, requires_grad=True)
        (slope,) = torch.autograd.grad(fitted._error(torch.zeros(1), mse), mse)
        weights.append(slope.item() * rmse**2)  # of a relative change, which is a change in dB
    assert weights[0] == pytest.approx(weights[1])
    mse = torch.tensor(TYPICAL_RMSE**2, requires_grad=True)
    (slope,) = torch.autograd.grad(module(loss="rmse")._error(torch.zeros(1), mse), mse)
    assert slope.item() * TYPICAL_RMSE**2 == pytest.approx(weights[0])


def test_authors_behaviour_runs_and_differs():
    fitted = module(authors=True, hidden=0)
    assert fitted.structured.config.hidden == fitted.structured.config.feat_dim
    trainer(30).fit(fitted, loader(30))
    assert fitted.schedule.rate_from == 0.8
    assert fitted.structured.config.density == ()
    assert fitted.structured.config.step_s == 0.25
    assert all(bool(parameter.isfinite().all()) for parameter in fitted.parameters())


def test_variation_reaches_only_the_crossbars():
    fitted = module()
    injection = cim.VariationInjection(cim.Gaussian(0.05), mapping=CROSSBARS)
    trainer(20, callbacks=[injection]).fit(fitted, loader(20))
    clean = module()
    trainer(20).fit(clean, loader(20))
    assert not torch.equal(clean.structured.feature, fitted.structured.feature)
    result = cim.evaluate_chips(trainer(-1), fitted, loader(1), variation=cim.Gaussian(0.1), chips=3, mapping=CROSSBARS)
    assert result.mean("psnr") < decoded(fitted)


def test_bad_options_end_before_anything_is_fitted():
    with pytest.raises(ValueError, match="want \\(height, width, 3\\)"):
        SgiModule(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="rate_weight"):
        module(rate_weight=-1.0)
    with pytest.raises(ValueError, match="decay_from"):
        module(decay_from=2.0)
    with pytest.raises(ValueError, match="max_steps"):
        L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(
            module(), loader(1)
        )
