import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from recipes.arrhythmia.contest import save_strips
from recipes.arrhythmia.datamodule import ECGData
from recipes.arrhythmia.records import Strip

TINY = {"patients": 4, "strips": 2, "val_patients": 2, "test_patients": 3, "batch_size": 16}


class Watcher(L.LightningModule):
    """Trains one layer and remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(512, 2)
        self.seen = []

    def training_step(self, batch, index):
        x, y = batch
        self.seen.append((self.current_epoch, index, x.clone(), y.clone()))
        return nn.functional.cross_entropy(self.layer(x.flatten(1)), y)

    def validation_step(self, batch, index):
        x, y = batch
        self.log("val/loss", nn.functional.cross_entropy(self.layer(x.flatten(1)), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(tmp_path, data, ckpt=None, **options):
    torch.manual_seed(0)
    module = Watcher()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, **{"enable_checkpointing": False, "num_sanity_val_steps": 0, **options},
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt)
    return module, trainer


def recordings(patients=10, seconds=12.4):
    rng = np.random.default_rng(0)
    n = int(250 * seconds)
    return [
        Strip((0.1 * rng.standard_normal(n)).astype(np.float32), rhythm, f"S{i:02d}")
        for i in range(patients)
        for rhythm in ("SR", "VT")
    ]


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "strips.npz"
    save_strips(path, recordings())
    return str(path)


def test_batches_have_the_promised_shapes_and_cover_the_split():
    data = ECGData(**TINY)
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 3
    assert sum(len(y) for _, y in batches) == 4 * 2 * 6
    for x, y in batches:
        assert (x.shape[1:], x.dtype, y.dtype) == ((1, 512), torch.float32, torch.int64)
    for part, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        x, y = (torch.cat(column) for column in zip(*loader, strict=True))
        assert np.array_equal(x[:, 0].numpy(), data.windows(part).x)
        assert np.array_equal(y.numpy(), data.windows(part).y)
    assert len(data.strips("test")) == 3 * 12


def test_without_augmentation_an_epoch_is_a_permutation_of_its_windows():
    data = ECGData(**TINY, augment=False)
    x = torch.cat([x for x, _ in data.train_dataloader()])[:, 0].numpy()
    windows = data.windows("train").x
    assert not np.array_equal(x, windows)
    assert sorted(map(bytes, x)) == sorted(map(bytes, windows))


def test_every_epoch_has_new_patients_and_none_of_another_split():
    data = ECGData(**TINY)
    epochs = [set(data.epoch_windows(epoch).patient) for epoch in range(3)]
    others = [set(data.windows("val").patient), set(data.windows("test").patient)]
    assert [len(part) for part in (*epochs, *others)] == [4, 4, 4, 2, 3]
    assert len(set().union(*epochs, *others)) == 17


def test_text_says_how_many_windows_each_split_has():
    data = ECGData(**TINY)
    assert "not set up" in str(data)
    data.setup()
    assert "train 48, val 144, test 216" in str(data)


def test_split_sizes_do_not_move_other_splits():
    small, large = ECGData(**TINY), ECGData(**{**TINY, "val_patients": 5, "patients": 6})
    assert np.array_equal(small.windows("test").x, large.windows("test").x)
    assert np.array_equal(small.windows("train").x, large.windows("train").x[: len(small.windows("train"))])


def test_the_trainer_sees_new_patients_each_epoch_and_the_same_ones_again_by_seed(tmp_path):
    runs = [fit(tmp_path, ECGData(**TINY, seed=seed), max_epochs=2)[0].seen for seed in (0, 0, 1)]
    assert [(epoch, index) for epoch, index, _, _ in runs[0]] == [(e, i) for e in range(2) for i in range(3)]
    for (_, _, x, y), (_, _, again_x, again_y) in zip(runs[0], runs[1], strict=True):
        assert torch.equal(x, again_x)
        assert torch.equal(y, again_y)
    assert not torch.equal(runs[0][0][2], runs[0][3][2])
    assert not torch.equal(runs[0][0][2], runs[2][0][2])


@pytest.mark.parametrize(
    "saving",
    [
        {"every_n_epochs": 1, "save_on_train_epoch_end": True},
        {"every_n_epochs": 1, "save_on_train_epoch_end": False, "monitor": "val/loss"},
        {"every_n_train_steps": 3},
        {"every_n_train_steps": 4},
        {"every_n_train_steps": 5},
    ],
)
@pytest.mark.parametrize("limit", [1.0, 2])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(tmp_path, saving, limit):
    whole, _ = fit(tmp_path, ECGData(**TINY), max_epochs=4, limit_train_batches=limit)
    keep = ModelCheckpoint(tmp_path / "ckpt", "{step}", save_top_k=-1, **saving)
    options = {"enable_checkpointing": True, "callbacks": [keep], "limit_train_batches": limit}
    fit(tmp_path, ECGData(**TINY), max_epochs=3, **options)
    first = min((tmp_path / "ckpt").glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    done = int(first.stem.split("=")[1])
    resumed, _ = fit(tmp_path, ECGData(**TINY), ckpt=str(first), max_epochs=4, limit_train_batches=limit)
    assert len(resumed.seen) == len(whole.seen) - done
    for one, other in zip(whole.seen[done:], resumed.seen, strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[2], other[2])
    assert torch.equal(whole.layer.weight, resumed.layer.weight)


def test_ranks_share_an_epoch_without_overlap(monkeypatch):
    seen, lengths = [], []
    for rank in range(2):
        data = ECGData(**TINY, augment=False)
        loader = data.train_dataloader()
        monkeypatch.setattr(loader, "_rank", lambda rank=rank: (rank, 2))
        seen.append([bytes(x.numpy()) for batch, _ in loader for x in batch])
        lengths.append(len(loader))
    assert lengths == [2, 2]
    assert len(set(seen[0]) | set(seen[1])) == 48


def test_folds_of_recordings_test_every_patient_once(archive):
    tested = []
    for fold in range(5):
        data = ECGData("contest", archive, fold=fold)
        parts = [set(data.windows(part).patient) for part in ("train", "val", "test")]
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        assert len(set().union(*parts)) == 10
        tested += sorted(parts[2])
        starts = data.windows("train")
        assert set(np.diff(starts.start[starts.y == 1])) >= {80}
        assert data.windows("test").start.tolist()[:3] == [0, 512, 1024]
    assert sorted(tested) == [f"S{i:02d}" for i in range(10)]


def test_recordings_split_the_same_under_every_seed_but_in_another_order(archive):
    one, other = ECGData("contest", archive, seed=0, augment=False), ECGData("contest", archive, seed=1, augment=False)
    assert np.array_equal(one.windows("train").x, other.windows("train").x)
    assert not torch.equal(next(iter(one.train_dataloader()))[0], next(iter(other.train_dataloader()))[0])


def test_contest_folder_with_index_files_uses_the_official_split(tmp_path):
    lines = {"train": [], "test": []}
    for strip in recordings(4, 5):
        name = f"{strip.patient}-{strip.rhythm}-1.txt"
        (tmp_path / name).write_text("\n".join(map(str, strip.signal)))
        lines["test" if strip.patient == "S03" else "train"].append(f"{int(strip.rhythm == 'VT')},{name}")
    for part, rows in lines.items():
        (tmp_path / f"{part}.csv").write_text("\n".join(["label,Filename", *rows]))
    files = {"train_index": str(tmp_path / "train.csv"), "test_index": str(tmp_path / "test.csv")}
    data = ECGData("contest", str(tmp_path), **files)
    assert set(data.windows("test").patient) == {"S03"}
    assert set(data.windows("train").patient) | set(data.windows("val").patient) == {"S00", "S01", "S02"}

    (tmp_path / "test.csv").write_text("\n".join(["label,Filename", *lines["test"], lines["train"][0]]))
    with pytest.raises(ValueError, match=r"and test: S00"):
        ECGData("contest", str(tmp_path), **files).setup()


def test_wfdb_records_are_read_and_hash_split(tmp_path):
    wfdb = pytest.importorskip("wfdb", reason="WFDB records are an optional extra")
    rng = np.random.default_rng(0)
    for i in range(12):
        x = rng.standard_normal((5000, 1))
        wfdb.wrsamp(f"r{i}", 250, ["mV"], ["ECG"], x, fmt=["16"], write_dir=str(tmp_path))
        wfdb.wrann(f"r{i}", "atr", np.array([0, 2500]), ["+", "+"], aux_note=["(N", "(VT"], write_dir=str(tmp_path))
    data = ECGData("wfdb", str(tmp_path), folds=3, fold=1)
    assert len(set(data.windows("test").patient)) == 4
    assert set(data.windows("train").rhythm) == {"SR", "VT"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mit"}, "name must be"),
        ({"name": "contest"}, "needs root"),
        ({"name": "contest", "root": "/nowhere/at/all"}, "does not exist"),
        ({"root": "x"}, "no root and no folds"),
        ({"fold": 1}, "no root and no folds"),
        ({"name": "wfdb", "root": "x", "fold": 5}, "between 0 and 4"),
        ({"name": "contest", "root": "x", "train_index": "a.csv"}, "both train_index and test_index"),
        ({"name": "wfdb", "root": "x", "train_index": "a", "test_index": "b"}, "belong to name=contest"),
        ({"name": "contest", "root": "x", "patient_map": "a"}, "belongs to name=wfdb"),
        ({"name": "contest", "root": "x", "fast": True}, "fast shrinks"),
        ({"window": 4000}, "longer than a simulated strip"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"difficulty": "easy"}, "difficulty must be"),
        ({"test_patients": 200_000}, "at most 100000"),
    ],
)
def test_contradictions_are_refused_early(arguments, message):
    with pytest.raises(ValueError, match=message):
        ECGData(**arguments).setup()


def test_training_on_one_class_is_refused(tmp_path):
    path = tmp_path / "strips.npz"
    save_strips(path, [strip for strip in recordings() if strip.rhythm == "SR"])
    with pytest.raises(ValueError, match="lack VA strips"):
        ECGData("contest", str(path)).setup()
    save_strips(path, recordings(seconds=2))
    with pytest.raises(ValueError, match="as long as a window"):
        ECGData("contest", str(path)).setup()
