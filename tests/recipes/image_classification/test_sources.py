import numpy as np
import pytest
import torch

from recipes.image_classification.datamodule import ImageData
from recipes.image_classification.sources import Images, read


def write_npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8),
        "train_labels": np.arange(60, dtype=np.uint8) % 3,
        "test_images": rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8),
        "test_labels": np.arange(12, dtype=np.uint8) % 3,
        "classes": np.array(["cat", "dog", "eel"]),
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return arrays


def test_npz_keeps_pixels_and_labels_and_cuts_validation_from_training(tmp_path):
    arrays = write_npz(tmp_path / "a.npz")
    data = ImageData("npz", str(tmp_path / "a.npz"), val_share=0.2)
    data.setup()
    assert [len(data.images(part)) for part in ("train", "val", "test")] == [48, 12, 12]
    assert torch.equal(data.images("test").x, torch.from_numpy(arrays["test_images"]).permute(0, 3, 1, 2))
    pool = {image.tobytes() for image in arrays["train_images"].transpose(0, 3, 1, 2)}
    parts = [{x.numpy().tobytes() for x in data.images(part).x} for part in ("train", "val")]
    assert parts[0] | parts[1] == pool
    assert not parts[0] & parts[1]
    assert data.classes == ["cat", "dog", "eel"]
    assert data.augment is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": None}, "no array train_labels"),
        ({"test_images": None}, "no array test_images"),
        ({"train_images": np.zeros((60, 8, 8, 3))}, "must be uint8.*float64"),
        ({"train_images": np.zeros((60, 3, 8, 8), np.uint8)}, r"height, width, 1 or 3.*\(60, 3, 8, 8\)"),
        ({"train_labels": np.zeros(59, np.uint8)}, "must be 60 integers"),
        ({"test_labels": np.full(12, 3)}, "label 3, but only 3 classes"),
        ({"test_labels": np.full(12, -1)}, "negative label -1"),
    ],
)
def test_a_broken_npz_says_what_is_wrong(changes, message, tmp_path):
    write_npz(tmp_path / "broken.npz", **changes)
    with pytest.raises(ValueError, match=f"broken.npz.*{message}"):
        read("npz", str(tmp_path / "broken.npz"), None)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="not an npz"):
        read("npz", str(tmp_path / "text.npz"), None)


def write_folder(root, classes, each=4, colour=True):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("torchvision")
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 256, (10, 14, 3) if colour else (10, 14), dtype=np.uint8)
            image.fromarray(pixels).save(root / name / f"{number}.png")


def test_a_folder_with_splits_is_taken_as_it_is(tmp_path):
    for part, each in (("train", 5), ("val", 2), ("test", 3)):
        write_folder(tmp_path / part, ("bee", "ant"), each)
    data = ImageData("folder", str(tmp_path), size=8)
    data.setup()
    assert [len(data.images(part)) for part in ("train", "val", "test")] == [10, 4, 6]
    assert data.classes == ["ant", "bee"]
    assert data.shape == (3, 8)


def test_a_folder_without_splits_is_split_by_seed(tmp_path):
    write_folder(tmp_path, ("bee", "ant"), 20, colour=False)
    data = ImageData("folder", str(tmp_path), size=8)
    data.setup()
    assert [len(data.images(part)) for part in ("train", "val", "test")] == [32, 4, 4]
    assert torch.bincount(data.images("test").y).tolist() == [2, 2]


def test_folders_that_do_not_fit_say_why(tmp_path):
    write_folder(tmp_path / "a" / "train", ("bee", "ant"))
    write_folder(tmp_path / "a" / "test", ("bee", "cow"))
    with pytest.raises(ValueError, match=r"has classes.*cow.*but train has"):
        read("folder", str(tmp_path / "a"), 8)
    write_folder(tmp_path / "b", ("bee", "ant"))
    (tmp_path / "b" / "bee" / "0.png").write_text("no image")
    with pytest.raises(ValueError, match=r"0\.png is not a readable image"):
        read("folder", str(tmp_path / "b"), 8)
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="Couldn't find any class folder"):
        read("folder", str(tmp_path / "c"), 8)


def test_torchvision_that_is_not_downloaded_says_how(tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=r"CIFAR10 is not in.*data.download=true"):
        read("CIFAR10", str(tmp_path), None)


def test_small_differences_are_padded_and_others_interpolated():
    images = Images(torch.full((2, 1, 28, 28), 200, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    padded = images.sized(32)
    assert padded.x[:, :, 2:30, 2:30].eq(200).all()
    assert int(padded.x.sum()) == 2 * 28 * 28 * 200
    assert images.sized(14).x.eq(200).all()
    assert images.sized(14).x.shape == (2, 1, 14, 14)
    assert images.sized(None) is images
