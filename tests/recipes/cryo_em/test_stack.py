import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.cryo_em.stack import MrcStack, TensorStack, as_index, fourier_crop, pixel_size_of, write_mrcs

mrcfile = pytest.importorskip("mrcfile")

IMAGES = torch.randn(9, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def files(tmp_path):
    write_mrcs(tmp_path / "a.mrcs", TensorStack(IMAGES[:5]), 1.5)
    write_mrcs(tmp_path / "b.mrcs", TensorStack(IMAGES[5:]), 1.5)
    return [tmp_path / "a.mrcs", tmp_path / "b.mrcs"]


@pytest.mark.parametrize(
    "index", [3, -1, slice(1, 8, 3), [8, 0, 5, 0], np.array([2, 7]), torch.tensor([4]), torch.arange(9) % 2 == 0]
)
def test_a_stack_of_files_is_indexed_as_a_tensor(files, index):
    expected = IMAGES[index].reshape(-1, 6, 6)
    for stack in (MrcStack(files), TensorStack(IMAGES)):
        assert torch.equal(stack[index], expected)
        assert stack[index].dtype == torch.float32


def test_a_written_stack_is_read_by_mrcfile(files):
    with mrcfile.open(files[0]) as opened:
        assert np.array_equal(opened.data, IMAGES[:5].numpy())
        assert opened.is_image_stack()
        assert float(opened.voxel_size.x) == pytest.approx(1.5)
    assert mrcfile.validate(files[0])
    assert pixel_size_of(files[1]) == pytest.approx(1.5)
    assert not list(files[0].parent.glob("*.part"))


def test_rows_of_a_star_file_choose_images_of_files(files):
    stack = MrcStack(files, torch.tensor([1, 0, 1]), torch.tensor([3, 0, 0]))
    assert torch.equal(stack[:], IMAGES[[8, 0, 5]])


def test_subsets_of_subsets_read_the_right_images(files):
    stack = MrcStack(files).subset([8, 2, 4, 6]).subset(slice(1, 3))
    assert len(stack) == 2
    assert torch.equal(stack[:], IMAGES[[2, 4]])


def test_a_stack_survives_pickling_without_its_pixels(files):
    stack = MrcStack(files)
    stack[:]
    sent = pickle.dumps(stack)
    assert torch.equal(pickle.loads(sent)[:], IMAGES)
    assert not stack.__getstate__()["_maps"]


def test_more_files_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.cryo_em.stack.OPEN_FILES", 2)
    for at in range(5):
        write_mrcs(tmp_path / f"{at}.mrcs", TensorStack(IMAGES[at : at + 1]), 1.0)
    stack = MrcStack([tmp_path / f"{at}.mrcs" for at in range(5)])
    assert torch.equal(stack[[4, 1, 3, 0, 2]], IMAGES[[4, 1, 3, 0, 2]])
    assert len(stack._maps) <= 2


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process's memory from /proc")
def test_a_stack_larger_than_may_be_read_is_never_loaded_whole(tmp_path):
    count, size = 4000, 256  # 1 GiB, of which the disk holds next to nothing
    write_mrcs(tmp_path / "large.mrcs", TensorStack(torch.ones(1, size, size)), 1.0)
    with (tmp_path / "large.mrcs").open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<i", count))
        file.seek(28)
        file.write(struct.pack("<3i", size, size, 1))
        file.truncate(1024 + 4 * count * size * size)
    before = resident()
    stack = MrcStack([tmp_path / "large.mrcs"])
    assert len(stack) == count
    assert float(stack[0].sum()) == size * size
    assert float(stack[[count - 1, count // 2]].sum()) == 0
    assert len(stack.subset(slice(0, count, 2))) == count // 2
    assert resident() - before < 50e6


def test_standardising_gives_mean_zero_and_deviation_one_and_inverts(files):
    plain = MrcStack(files).standardised()[:]
    assert float(plain.mean()) == pytest.approx(0, abs=1e-6)
    assert float(plain.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert torch.allclose(MrcStack(files).standardised(invert=True)[:], -plain)
    assert torch.allclose(plain, (IMAGES - IMAGES.mean()) / IMAGES.std(correction=0), atol=1e-6)
    assert torch.equal(MrcStack(files).inverted()[:], -IMAGES)


def test_of_a_large_stack_a_sample_is_standardised():
    images = torch.cat([torch.full((50, 2, 2), 3.0), torch.full((50, 2, 2), 5.0)])
    sampled = TensorStack(images).standardised(sample=10)
    assert sampled[0].unique().tolist() == [-1.0]
    assert sampled[99].unique().tolist() == [1.0]


def wave(size, frequency_y, frequency_x, phase=0.3):
    at = (torch.arange(size) - size // 2) * (24 / size)
    return torch.cos(2 * torch.pi / 24 * (frequency_y * at[:, None] + frequency_x * at[None, :]) + phase)


@pytest.mark.parametrize(("old", "new"), [(24, 12), (24, 8), (12, 9), (9, 6)])
def test_downsampling_keeps_low_waves_where_they_are_and_drops_high_ones(old, new):
    low, high = wave(old, 1, -2) + 0.5, wave(old, new // 2 + 1, 0) if old // 2 > new // 2 + 1 else 0
    found = TensorStack((low + high)[None]).downsampled(new)[0][0]
    assert torch.allclose(found, wave(new, 1, -2) + 0.5, atol=1e-5)


def test_downsampling_to_the_same_size_changes_nothing_and_up_is_refused():
    stack = TensorStack(IMAGES)
    assert stack.downsampled(6) is stack
    assert torch.allclose(fourier_crop(IMAGES, 6), IMAGES, atol=1e-6)
    with pytest.raises(ValueError, match="cannot be downsampled to 8"):
        stack.downsampled(8)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float16])
def test_other_number_types_are_read(tmp_path, dtype):
    values = np.arange(32).reshape(2, 4, 4).astype(dtype)
    mrcfile.write(tmp_path / "x.mrcs", values)
    assert np.array_equal(MrcStack([tmp_path / "x.mrcs"])[:].numpy(), values.astype(np.float32))


def test_one_image_in_two_dimensions_is_a_stack_of_one(tmp_path):
    mrcfile.write(tmp_path / "x.mrc", np.ones((4, 4), np.float32))
    assert MrcStack([tmp_path / "x.mrc"])[:].shape == (1, 4, 4)


def test_a_bad_pixel_is_named_when_read(tmp_path):
    images = np.ones((3, 4, 4), np.float32)
    images[1, 2, 2] = np.nan
    mrcfile.write(tmp_path / "x.mrcs", images)
    stack = MrcStack([tmp_path / "x.mrcs"])
    assert stack[0].sum() == 16
    with pytest.raises(ValueError, match=r"x\.mrcs: image 2 \(from 1\)"):
        stack[:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"not an image at all"), "not a readable MRC file"),
        (lambda path: mrcfile.write(path, np.ones((2, 4, 6), np.float32)), "4 x 6"),
        (lambda path: mrcfile.write(path, np.ones((2, 4, 4), np.complex64)), "complex"),
    ],
)
def test_files_that_are_no_stack_are_refused_by_name(tmp_path, make, message):
    make(tmp_path / "bad.mrcs")
    with pytest.raises(ValueError, match=rf"bad\.mrcs.*{message}"):
        MrcStack([tmp_path / "bad.mrcs"])


def test_a_file_cut_short_is_refused(tmp_path):
    write_mrcs(tmp_path / "x.mrcs", TensorStack(IMAGES), 1.0)
    whole = (tmp_path / "x.mrcs").read_bytes()
    (tmp_path / "x.mrcs").write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"x\.mrcs"):
        MrcStack([tmp_path / "x.mrcs"])


def test_images_that_are_not_there_and_sizes_that_differ_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match=r"a\.mrcs: image 6 \(from 1\) was asked for; the file holds 5"):
        MrcStack(files, torch.tensor([1, 0]), torch.tensor([0, 5]))
    write_mrcs(tmp_path / "c.mrcs", TensorStack(torch.ones(1, 4, 4)), 1.0)
    with pytest.raises(ValueError, match="expected 6 x 6"):
        MrcStack([*files, tmp_path / "c.mrcs"])
    with pytest.raises(ValueError, match="no image files"):
        MrcStack([])
    (tmp_path / "c.mrcs.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="decompress"):
        MrcStack([tmp_path / "c.mrcs.gz"])


def test_bad_tensors_and_indices_are_refused():
    with pytest.raises(ValueError, match="squares"):
        TensorStack(torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match="image 1"):
        TensorStack(torch.tensor([0.0, float("inf")])[:, None, None].expand(2, 2, 2))
    with pytest.raises(ValueError, match="constant"):
        TensorStack(torch.ones(3, 2, 2)).standardised()
    with pytest.raises(IndexError):
        as_index([5], 5)
    with pytest.raises(IndexError):
        as_index([True, False], 3)
