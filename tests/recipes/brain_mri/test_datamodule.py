from dataclasses import replace

import lightning as L
import numpy as np
import pytest
import torch

from recipes.brain_mri import datamodule
from recipes.brain_mri.anatomy import ellipsoid
from recipes.brain_mri.datamodule import BrainData, Counts, EpochSampler, Files, SliceDataset, without_lesion_slices
from recipes.brain_mri.phantom import phantom

FEW = Counts(3, 2, 2, 2)


def data(**options):
    return BrainData(**{"source": "phantom", "size": 32, "counts": FEW, "cache": None, "batch_size": 8, **options})


def test_splits_have_their_sizes_kinds_and_nobody_twice():
    some = data(lesions="ms")
    splits = [some.train, some.healthy_val, some.lesion_val, some.lesion_test]
    assert [len(split) for split in splits] == [3, 2, 2, 2]
    assert [{volume.lesion for volume in split} for split in splits] == [{None}, {None}, {"ms"}, {"ms"}]
    healthy = [volume.healthy.tobytes() for split in splits for volume in split]
    assert len(set(healthy)) == 9
    assert len({volume.name for split in splits for volume in split}) == 9
    assert some.predict_volumes is some.lesion_test


def test_sizes_of_splits_do_not_move_each_other():
    more = data(counts=Counts(5, 3, 1, 4))
    few = data()
    for a, b in zip(few.train + few.lesion_test, more.train[:3] + more.lesion_test[:2], strict=True):
        assert np.array_equal(a.image, b.image)


def test_seeds_and_contrasts_differ():
    volumes = [data(**options).train[0].image for options in ({}, {"seed": 1}, {"contrast": "t2"}, {"noise": 0.1})]
    assert all(not np.array_equal(volumes[0], other) for other in volumes[1:])


def test_training_batches_are_slices_with_brain():
    some = data()
    batches = list(some.train_dataloader())
    image, mask = (torch.cat([batch[name] for batch in batches]) for name in ("image", "mask"))
    assert image.shape == mask.shape == (sum(v.mask.any((0, 1)).sum() for v in some.train), 1, 32, 32)
    assert image.dtype == torch.float32
    assert mask.dtype == torch.bool
    assert mask.flatten(1).any(1).all()
    assert (image[~mask] == 0).all()
    wanted = {v.image[:, :, k].tobytes() for v in some.train for k in range(v.depth) if v.mask[:, :, k].any()}
    assert {each.numpy().tobytes() for each in image} == wanted


def test_epochs_differ_and_are_functions_of_seed_and_number():
    loader = data().train_dataloader()
    first, second = (torch.cat([batch["image"] for batch in loader]) for _ in range(2))
    assert not torch.equal(first, second)
    again = data().train_dataloader()
    again.sampler.set_epoch(1)
    assert torch.equal(torch.cat([batch["image"] for batch in again]), second)


@pytest.mark.parametrize("draws", [None, 3, 7, 20])
def test_every_slice_comes_before_any_comes_twice(draws):
    sampler = EpochSampler(7, draws, 0)
    order = list(sampler)
    assert len(order) == len(sampler) == (draws or 7)
    counts = np.bincount(order, minlength=7)
    assert counts.max() - counts.min() <= 1


def test_slices_per_epoch_is_what_an_epoch_has():
    assert sum(len(batch["image"]) for batch in data(slices_per_epoch=20).train_dataloader()) == 20


def test_validation_is_in_order_and_test_batches_are_volumes():
    some = data()
    val = torch.cat([batch["image"] for batch in some.val_dataloader()])
    assert torch.equal(val, SliceDataset(some.healthy_val).image)
    for loader in (some.test_dataloader(), some.predict_dataloader()):
        for number, batch in enumerate(loader):
            assert int(batch["index"]) == number
            volume = some.lesion_test[number]
            assert batch["image"].shape == (volume.depth, 1, 32, 32)
            assert np.array_equal(batch["image"][5, 0].numpy(), volume.image[:, :, 5])
            assert np.array_equal(batch["mask"][5, 0].numpy(), volume.mask[:, :, 5])


class Seen(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.sums = torch.nn.Linear(1, 1), []

    def training_step(self, batch, _):
        self.sums.append(batch["image"].sum().item())
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def test_a_trainer_numbers_the_epochs():
    seen = Seen()
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(seen, datamodule=data())
    loader = data().train_dataloader()
    wanted = [batch["image"].sum().item() for _ in range(2) for batch in loader]
    assert seen.sums == pytest.approx(wanted)


def test_slices_with_lesions_are_no_training_data():
    volume = phantom(1, 32, lesion="tumour")
    rest = without_lesion_slices(volume)
    assert not (rest.mask & volume.seg.any((0, 1))).any()
    assert len(SliceDataset([rest])) == (volume.mask.any((0, 1)) & ~volume.seg.any((0, 1))).sum() > 0
    assert without_lesion_slices(phantom(1, 32)).mask.any()
    with pytest.raises(ValueError, match="no slice"):
        SliceDataset([replace(volume, mask=np.zeros_like(volume.mask))])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"source": "dicom"}, "source is 'dicom'"),
        ({"contrast": "pd"}, "contrast is 'pd'"),
        ({"lesions": "stroke"}, "lesions is 'stroke'"),
        ({"size": 8}, "size is too small"),
        ({"batch_size": 0}, "batch_size"),
        ({"slices_per_epoch": 0}, "slices_per_epoch"),
        ({"counts": Counts(train=None)}, "no end of subjects"),
    ],
)
def test_wrong_options_are_refused_at_once(options, says):
    with pytest.raises(ValueError, match=says):
        data(**options)


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match=r"counts.train is 0"):
        Counts(train=0)
    with pytest.raises(ValueError, match=r"counts.lesion_val is -1"):
        Counts(lesion_val=-1)


def test_synthetic_volumes_are_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(datamodule, "mni152", lambda: ellipsoid(32))
    some = data(source="synthetic", counts=Counts(1, 1, 1, 1), cache=str(tmp_path))
    some.setup("fit")
    some.setup("test")
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(datamodule, "mni152", None)  # not needed any more
    again = data(source="synthetic", counts=Counts(1, 1, 1, 1), cache=str(tmp_path))
    assert np.array_equal(some.lesion_test[0].image, again.lesion_test[0].image)
    assert again.lesion_test[0].seg.any()


@pytest.fixture
def files(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="NIfTI files need nibabel")

    def put(name, values):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([4.0, 4, 4, 1])), path)

    for number in range(5):
        put(f"healthy/IXI{number:03d}-Guys-FLAIR.nii.gz", phantom(number, 48).image * 500)
        sick = phantom(50 + number, 48, lesion="tumour")
        put(f"sick/B_{number}/B_{number}_flair.nii.gz", sick.image * 500)
        put(f"sick/B_{number}/B_{number}_seg.nii.gz", sick.seg.astype(np.uint8))
    return tmp_path


def test_files_are_split_by_patient(files):
    some = data(
        source="nifti", size=48, counts=Counts(None, 2, 2, None), healthy=Files(str(files / "healthy")),
        diseased=Files(str(files / "sick")),
    )  # fmt: skip
    names = [[volume.name for volume in split] for split in
             (some.train, some.healthy_val, some.lesion_val, some.lesion_test)]  # fmt: skip
    assert [len(each) for each in names] == [3, 2, 2, 3]
    assert len({name for each in names for name in each}) == 10
    assert {volume.lesion for volume in some.lesion_test} == {"tumour"}
    assert some.lesion_test[0].native.shape == (48, 48, 25)
    capped = data(source="nifti", size=48, counts=Counts(1, 2, 2, 1), healthy=some.healthy, diseased=some.diseased)
    assert [volume.name for volume in capped.train + capped.lesion_test] == [names[0][0], names[3][0]]


def test_patients_can_lend_their_healthy_slices(files):
    some = data(source="nifti", size=48, counts=Counts(None, 1), healthy=Files(str(files / "sick")))
    slices = SliceDataset(some.train)
    assert 0 < len(slices) < sum(volume.depth for volume in some.train)
    for volume in some.train + some.healthy_val:
        assert not (volume.mask.any((0, 1)) & volume.seg.any((0, 1))).any()


def test_any_source_can_predict_files(files):
    some = data(size=48, predict=Files(str(files / "healthy")))
    assert [volume.name for volume in some.predict_volumes] == [f"IXI{number:03d}-Guys" for number in range(5)]
    assert all(volume.native is not None for volume in some.predict_volumes)


@pytest.mark.parametrize(
    ("options", "split", "says"),
    [
        ({}, "train", "needs healthy.images"),
        ({}, "lesion_test", "needs diseased.images"),
        ({"healthy": "healthy", "counts": Counts(None, 5)}, "train", "5 scans, but healthy_val alone takes 5"),
        ({"diseased": "healthy", "counts": FEW}, "lesion_test", "no lesions marked.*diseased.segs"),
        ({"healthy": "nowhere"}, "train", "nowhere: no such file or folder"),
    ],
)
def test_missing_files_are_said(files, options, split, says):
    options = {name: Files(str(files / each)) if isinstance(each, str) else each for name, each in options.items()}
    some = data(**{"source": "nifti", "size": 48, "counts": Counts(None, 1), **options})
    with pytest.raises(ValueError, match=says):
        getattr(some, split)
