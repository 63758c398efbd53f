import numpy as np
import pytest

from recipes.brain_mri.postprocess import anomaly_map, eroded, remove_small


def test_erosion_is_three_pixels_in_the_slice_at_width_96():
    mask = np.zeros((96, 96, 3), bool)
    mask[20:60, 30:50] = True
    left = eroded(mask)
    expected = np.zeros_like(mask)
    expected[23:57, 33:47] = True
    np.testing.assert_array_equal(left, expected)


@pytest.mark.parametrize(("width", "times"), [(24, 0), (25, 1), (49, 1), (64, 2), (96, 3)])
def test_erosion_follows_the_width(width, times):
    mask = np.ones((40, width, 1), bool)
    assert eroded(mask).sum() == (40 - 2 * times) * (width - 2 * times)


def test_erosion_by_the_cross_of_four_neighbours():
    mask = np.ones((25, 25, 1), bool)
    mask[12, 12] = False
    gone = np.argwhere(~eroded(mask)[2:-2, 2:-2, 0]) + 2
    assert sorted(map(tuple, gone.tolist())) == [(11, 12), (12, 11), (12, 12), (12, 13), (13, 12)]


def test_median_against_every_window():
    draw = np.random.default_rng(0)
    residual = draw.random((27, 26, 6)).astype(np.float32)
    mask = np.ones(residual.shape, bool)
    mask[:4] = False
    inside = np.where(eroded(mask), residual, 0)
    padded = np.pad(inside, 2, mode="symmetric")  # what scipy calls reflect
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5, 5))
    np.testing.assert_array_equal(anomaly_map(residual, mask), np.median(windows, axis=(3, 4, 5)).astype(np.float32))


def test_components_of_seven_go_and_of_eight_stay():
    binary = np.zeros((10, 10, 10), bool)
    binary[0, 0, 0:7] = True
    binary[5, 5, 0:8] = True
    kept = remove_small(binary)
    assert not kept[0].any()
    assert kept[5].sum() == 8


def test_corners_connect():
    binary = np.zeros((8, 8, 8), bool)
    binary[np.arange(8), np.arange(8), np.arange(8)] = True
    np.testing.assert_array_equal(remove_small(binary), binary)


def test_as_skimage_counts_filled_areas():
    measure = pytest.importorskip("skimage.measure")
    binary = np.random.default_rng(0).random((20, 20, 10)) > 0.93
    labels = measure.label(binary, connectivity=3)
    expected = np.zeros_like(binary)
    for region in measure.regionprops(labels):
        if region.area_filled > 7:
            expected |= labels == region.label
    assert 0 < expected.sum() < binary.sum()
    np.testing.assert_array_equal(remove_small(binary), expected)


def test_nothing_found_is_fine():
    assert not remove_small(np.zeros((3, 3, 3), bool)).any()


def test_bad_input():
    with pytest.raises(ValueError, match=r"one shape \(H, W, D\)"):
        anomaly_map(np.zeros((4, 4), np.float32), np.ones((4, 4), bool))
    with pytest.raises(ValueError, match=r"got \(4, 4, 4\), \(4, 4, 3\)"):
        anomaly_map(np.zeros((4, 4, 4), np.float32), np.ones((4, 4, 3), bool))
    with pytest.raises(ValueError, match=r"0 \.\. 25, got 26"):
        remove_small(np.ones((4, 4, 4), bool), 26)


def test_only_the_brain_is_filtered_and_nothing_is_cut():
    """Against the filter over the whole volume, for brains anywhere, also at its faces."""
    ndimage = pytest.importorskip("scipy.ndimage")
    draw = np.random.default_rng(1)
    for low, high in ((0, 6), (3, 14), (9, 15), (0, 15)):
        mask = np.zeros((15, 16, 15), bool)
        mask[low:high, low:high, low:high] = draw.random((high - low,) * 3) > 0.2
        residual = draw.random(mask.shape).astype(np.float32)
        expected = ndimage.median_filter(np.where(mask, residual, 0), size=5, mode="reflect")
        np.testing.assert_array_equal(anomaly_map(residual, mask), expected)
    assert not anomaly_map(residual, np.zeros_like(mask)).any()
