import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_cim as cim
from recipes.cryo_em.datamodule import CryoData
from recipes.cryo_em.maps import write_map
from recipes.cryo_em.module import CROSSBARS, CryoModule, load_model
from recipes.cryo_em.poses import Pose
from recipes.cryo_em.support import distances, sphere

SIZE = 16


def data(**options):
    return CryoData(
        "beads",
        count=96,
        size=SIZE,
        pixel_size=6.0,
        cache=None,
        progress=False,
        **{"shift": 1.0, "snr": 1.0, **options},
    )


def module(particles, **options):
    few = {"queries": 2, "channels": 8, "hidden": 4, "heads": 2, "blocks": 1, "encoder_width": 16, "encoder_depth": 2}
    return CryoModule(SIZE, particles.pixel_size, len(particles.particles), **{**few, **options})


def prepared(particles, **options):
    made = module(particles, **options)
    made.prepare(particles.train_dataloader())
    return made


def trainer(folder, steps, **options):
    return L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"enable_checkpointing": False, **options},
    )


class Kill(L.Callback):
    """Ends a run the hard way."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


@pytest.mark.parametrize("pose", ["given", "refine", "encoder"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, pose):
    particles = data()
    whole = prepared(particles, pose=pose)
    trainer(tmp_path, 20).fit(whole, datamodule=particles)

    particles, killed = data(), prepared(data(), pose=pose)
    saving = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=8)
    with pytest.raises(RuntimeError, match="killed"):  # in the middle of the second epoch of 6 steps
        trainer(tmp_path, 20, enable_checkpointing=True, callbacks=[saving, Kill(10)]).fit(killed, datamodule=particles)
    particles = data()
    resumed = module(particles, pose=pose)  # not prepared: consensus and support are in the checkpoint
    trainer(tmp_path, 20).fit(resumed, datamodule=particles, ckpt_path=str(tmp_path / "last.ckpt"))
    found, wanted = resumed.state_dict(), whole.state_dict()
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_the_loss_falls_below_the_consensus(tmp_path):
    particles = data(snr=10.0)
    made = prepared(particles, smooth=0.5)
    with torch.no_grad():
        batch = next(iter(particles.predict_dataloader()))
        before = made._unseen(batch).item()
    trainer(tmp_path, 150).fit(made, datamodule=particles)
    with torch.no_grad():
        after = made._unseen(batch).item()
    assert after < 0.99 * before


def test_poses_change_only_after_their_share_of_the_run(tmp_path):
    particles = data()
    made = prepared(particles, pose="refine")
    trainer(tmp_path, 20, callbacks=[Until(made, 6)]).fit(made, datamodule=particles)
    assert made.model.poses.rotation.abs().sum() > 0


class Until(L.Callback):
    """Poses are as given up to a step."""

    def __init__(self, module, step):
        self.module, self.step = module, step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        moved = module.model.poses.rotation.abs().sum() > 0
        assert moved == (trainer.global_step > self.step)


def test_noise_of_latents_is_a_function_of_seed_and_step_and_ends_with_training(tmp_path):
    particles = data()
    made = prepared(particles)
    batch = next(iter(particles.predict_dataloader()))
    pose = Pose(batch["rotation"], batch["shift"])
    made.trainer = trainer(tmp_path, 1)
    with torch.no_grad():
        made.train()
        first, second = made.predict(batch, pose), made.predict(batch, pose)
        made.eval()
        third, fourth = made.predict(batch, pose), made.predict(batch, pose)
    assert torch.allclose(first, second, atol=1e-2 * first.abs().max())  # but for the reference, which follows
    assert torch.equal(third, fourth)
    assert (first - third).norm() > 3 * (first - second).norm()


def test_a_mask_of_ones_own(tmp_path):
    particles, mask = data(), distances(SIZE) < 4
    write_map(tmp_path / "mask.mrc", mask.float(), 6.0)
    made = prepared(particles, mask=str(tmp_path / "mask.mrc"))
    assert torch.equal(made.model.support, mask & sphere(SIZE))
    write_map(tmp_path / "small.mrc", mask[:8, :8, :8].float(), 6.0)
    with pytest.raises(ValueError, match=r"small.mrc: the mask has shape"):
        prepared(particles, mask=str(tmp_path / "small.mrc"))


def test_crossbars_are_what_the_documentation_says():
    names = {target.name for target in CROSSBARS.resolve(module(data()))}
    assert "model.volume.table" in names
    assert {"model.encoder.first.weight", "model.head.lift.weight", "model.head.density.weight"} <= names
    assert "model.decoder.blocks.0.cross_attention.key.weight" in names
    assert not any("norm" in name or "bias" in name or "base" in name or "queries" in name for name in names)


def test_training_under_variation_leaves_clean_weights_that_differ(tmp_path):
    ends = []
    for sigma in (0.0, 0.2):
        particles = data()
        made = prepared(particles)
        injection = cim.VariationInjection(cim.Gaussian(sigma), CROSSBARS)
        trainer(tmp_path, 8, callbacks=[injection]).fit(made, datamodule=particles)
        ends.append(made.model.volume.table.detach().clone())
    assert not torch.equal(*ends)


def test_a_checkpoint_opens_without_particles(tmp_path):
    particles = data()
    made = prepared(particles)
    runner = trainer(tmp_path, 2)
    runner.fit(made, datamodule=particles)
    runner.save_checkpoint(tmp_path / "run.ckpt")
    model, batch = load_model(tmp_path / "run.ckpt"), next(iter(particles.predict_dataloader()))
    with torch.no_grad():
        assert torch.equal(model.volumes(model.encode(batch)), made.model.volumes(made.model.encode(batch)))
    (tmp_path / "other.ckpt").write_bytes(b"")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of"):
        load_model(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="no such checkpoint"):
        load_model(tmp_path / "none.ckpt")


def test_fitting_wants_a_consensus_map_first(tmp_path):
    particles = data()
    with pytest.raises(ValueError, match="call prepare"):
        trainer(tmp_path, 2).fit(module(particles), datamodule=particles)
