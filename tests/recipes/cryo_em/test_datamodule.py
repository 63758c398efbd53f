import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from recipes.cryo_em.contrast import contrast
from recipes.cryo_em.ctf import ctf
from recipes.cryo_em.datamodule import CryoData
from recipes.cryo_em.export import export
from recipes.cryo_em.poses import angle_between
from recipes.cryo_em.simulate import Simulation, simulate
from recipes.cryo_em.structures import beads
from tests.recipes.cryo_em.sets import assert_same

pytest.importorskip("mrcfile")
pytest.importorskip("roma")

SMALL = {"source": "beads", "count": 40, "size": 16, "pixel_size": 6.0, "progress": False}


@pytest.fixture
def small(tmp_path):
    return lambda **options: CryoData(**{**SMALL, "cache": str(tmp_path / "cache"), **options})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    export(simulate(beads(), Simulation(count=40, size=16, pixel_size=6.0, shift=1.0)), folder)
    return folder


def of_files(folder, source, **options):
    names = {"star": "particles.star", "cs": "particles.cs", "cryodrgn": "particles.mrcs"}
    more = {"poses": str(folder / "poses.pkl"), "ctf": str(folder / "ctf.pkl")} if source == "cryodrgn" else {}
    return CryoData(source, path=str(folder / names[source]), **more, **options)


def test_cached_and_uncached_are_the_same_and_standardised(small):
    stored, held = small().particles, small(cache=None).particles
    assert_same(stored, held)
    assert torch.allclose(stored.images[:], held.images[:], atol=1e-5)
    assert float(stored.images[:].mean()) == pytest.approx(0, abs=1e-6)
    assert float(stored.images[:].std()) == pytest.approx(1, abs=1e-3)
    assert torch.equal(stored.labels, held.labels)
    assert stored.truth is not None


@pytest.mark.parametrize("source", ["star", "cs", "cryodrgn"])
def test_files_of_a_simulation_give_the_same_particles(small, files, source):
    expected, found = small(shift=1.0).particles, of_files(files, source).particles
    assert_same(found, expected)
    assert torch.allclose(found.images[:], expected.images[:], atol=1e-5)
    assert found.truth is None


def test_a_batch_has_what_a_model_needs(small):
    data = small(batch_size=4)
    batch = next(iter(data.train_dataloader()))
    rows = batch["index"]
    assert rows.shape == (4,)
    assert torch.equal(batch["image"], data.particles.images[rows])
    assert torch.equal(batch["rotation"], data.particles.rotations[rows])
    assert torch.equal(batch["shift"], data.particles.shifts[rows])
    assert torch.equal(batch["ctf"], ctf(data.particles.ctf[rows], 16, 6.0))
    assert sorted(batch) == ["ctf", "image", "index", "rotation", "shift"]


def rows_of(loader):
    return [batch["index"].tolist() for batch in loader]


def flat(loader):
    return [row for rows in rows_of(loader) for row in rows]


def test_epochs_are_shuffled_anew_and_repeatable(small):
    loader, again = small(seed=1).train_dataloader(), small(seed=1).train_dataloader()
    first, second = rows_of(loader), rows_of(loader)
    assert first != second
    assert [rows_of(again), rows_of(again)] == [first, second]
    assert len(loader) == len(first) == 2
    assert rows_of(small(seed=2).train_dataloader()) != first
    assert sorted(flat(small(batch_size=8).train_dataloader())) == list(range(40))


def test_a_loader_resumes_in_the_middle_of_an_epoch(small):
    loader = small(batch_size=4).train_dataloader()
    whole = rows_of(loader)
    other = small(batch_size=4).train_dataloader()
    batches = iter(other)
    for _ in range(3):
        next(batches)
    resumed = small(batch_size=4).train_dataloader()
    resumed.load_state_dict(other.state_dict())
    assert rows_of(resumed) == whole[3:]
    assert len(rows_of(resumed)) == 10


def test_fewer_images_than_a_batch_are_one_batch(small):
    loader = small(count=5).train_dataloader()
    assert len(loader) == 1
    assert [len(rows) for rows in rows_of(loader)] == [5]


def test_held_out_images_are_never_trained_on(small):
    data = small(holdout=0.25, batch_size=5)
    train, held = set(data.train_rows.tolist()), set(data.held_out_rows.tolist())
    assert len(held) == 10
    assert not train & held
    assert train | held == set(range(40))
    assert set(flat(data.train_dataloader())) == train
    assert flat(data.val_dataloader()) == sorted(held)
    assert len(data.train) == 30
    assert len(data.held_out) == 10
    assert small().held_out is None
    assert small().val_dataloader() == []
    assert flat(small().predict_dataloader()) == list(range(40))


def test_halves_are_disjoint_and_those_of_the_file_where_it_names_them(small, files, tmp_path):
    one, two = small(half=1).particles, small(half=2).particles
    assert torch.equal(torch.cat([one.labels, two.labels]).sort().values, small().particles.labels.sort().values)
    assert len(one) == len(two) == 20
    particles = simulate(beads(), Simulation(count=40, size=16, pixel_size=6.0))
    halves = (torch.arange(40) < 10).long() + 1
    export(type(particles)(**{**vars(particles), "half": halves}), tmp_path / "halves")
    assert len(of_files(tmp_path / "halves", "star", half=2).particles) == 10
    assert len(of_files(tmp_path / "halves", "cs", half=1).particles) == 30


def test_a_control_that_does_not_move(small):
    assert not small(frames="one").particles.truth.mobile.any()


def test_images_of_files_are_counted_and_downsampled_with_their_shifts(files):
    whole, small = of_files(files, "star").particles, of_files(files, "star", count=10, size=8).particles
    assert len(small) == 10
    assert (small.size, small.pixel_size) == (8, 12.0)
    assert torch.allclose(small.shifts, whole.shifts[::4] / 2)
    with pytest.raises(ValueError, match="cannot be downsampled to 64"):
        _ = of_files(files, "star", size=64).particles
    with pytest.raises(ValueError, match="count=41 images were asked for; there are 40"):
        _ = of_files(files, "star", count=41).particles


def test_the_wrong_sign_of_contrast_is_noticed_and_the_right_one_is_not(files):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = of_files(files, "star").particles
    assert contrast(right.images) < -5
    with pytest.warns(UserWarning, match="look bright where they should look dark"):
        wrong = of_files(files, "star", invert=False).particles
    assert torch.allclose(wrong.images[:], -right.images[:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "tiff"}, "one of sim, beads, star"),
        ({"source": "star"}, "needs a path"),
        ({"source": "sim", "path": "x.star"}, "path is for files"),
        ({"source": "beads", "invert": False}, "invert is for files"),
        ({"source": "beads", "poses": "x.pkl"}, "poses is for files"),
        ({"source": "star", "path": "x", "snr": 1.0}, "snr is for simulations"),
        ({"source": "star", "path": "x", "frames": "one"}, "frames is for simulations"),
        ({"source": "star", "path": "x", "poses": "y"}, "needs poses"),
        ({"source": "cryodrgn", "path": "x"}, "needs poses"),
        ({"source": "star", "path": "x", "passthrough": "y"}, "passthrough is for"),
        ({"source": "star", "path": "x", "pixel_size": 2.0}, "pixel_size is read from the file"),
        ({"holdout": 1.0}, "holdout=1.0"),
        ({"half": 3}, "half=3"),
        ({"frames": "two"}, "frames=two"),
        ({"batch_size": 0}, "at least 1"),
        ({"count": 0}, "at least 1"),
        ({"snr": -1.0}, "snr"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        CryoData(**options)


def test_a_hold_out_of_everything_is_refused(small):
    with pytest.raises(ValueError, match="leaves none of 2 images"):
        _ = small(count=2, holdout=0.9).train_rows


def test_missing_files_are_named_when_set_up(tmp_path):
    with pytest.raises(ValueError, match=r"none\.star: not a readable"):
        CryoData("star", path=str(tmp_path / "none.star")).setup()


class Recorder(L.LightningModule):
    """Sees rows go by."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch["index"].tolist())
        return self.weight * batch["image"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def trainer(tmp_path, steps, **more):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(max_steps=steps, accelerator="cpu", default_root_dir=tmp_path, **quiet, **more)


@pytest.mark.filterwarnings("ignore:.*no `validation_step`.*")
def test_a_fit_killed_in_an_epoch_goes_on_with_the_batches_it_would_have_seen(small, tmp_path):
    whole, part, rest = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, 25, enable_checkpointing=False).fit(whole, small(batch_size=4))
    saving = ModelCheckpoint(tmp_path, filename="x", every_n_train_steps=13)
    trainer(tmp_path, 13, callbacks=[saving]).fit(part, small(batch_size=4))
    trainer(tmp_path, 25, enable_checkpointing=False).fit(rest, small(batch_size=4), ckpt_path=tmp_path / "x.ckpt")
    assert part.seen + rest.seen == whole.seen
    assert len(whole.seen) == 25


def test_poses_can_be_given_wrong():
    options = {"count": 12, "size": 16, "pixel_size": 6.0, "cache": None, "progress": False, "seed": 3}
    right, wrong = CryoData("beads", **options), CryoData("beads", pose_errors=(2.0, 1.0), **options)
    assert torch.equal(wrong.particles.images[slice(None)], right.particles.images[slice(None)])
    assert torch.equal(wrong.true_poses.rotation, right.particles.rotations)
    assert torch.equal(wrong.true_poses.shift, right.particles.shifts)
    off = angle_between(wrong.particles.rotations, right.particles.rotations)
    assert off.tolist() == pytest.approx([2.0] * 12, abs=1e-2)
    assert (wrong.particles.shifts - right.particles.shifts).norm(dim=1).tolist() == pytest.approx([1.0] * 12)
    assert torch.equal(
        wrong.particles.rotations, CryoData("beads", pose_errors=(2.0, 1.0), **options).particles.rotations
    )
    with pytest.raises(ValueError, match="neither negative"):
        CryoData("beads", pose_errors=(-1.0, 0.0), **options)
    with pytest.raises(ValueError, match="pose_errors is for simulations"):
        CryoData("star", path="p.star", pose_errors=(1.0, 0.0))
