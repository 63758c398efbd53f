import io

import numpy as np
import pytest
import torch

from recipes.gaussian_image import classical

Image = pytest.importorskip("PIL.Image")


def photograph(height=48, width=40):
    y, x = torch.meshgrid(torch.linspace(0, 6, height), torch.linspace(0, 6, width), indexing="ij")
    return torch.stack([0.5 + 0.4 * torch.sin(x * y + k) for k in range(3)], 2)


@pytest.mark.parametrize("name", classical.CODECS)
def test_larger_settings_make_larger_and_better_files(name):
    found = classical.measure(photograph(), [name])
    if isinstance(found[0], classical.Skipped):
        pytest.skip(found[0].reason)
    points = [point for point in found if isinstance(point, classical.Point)]
    assert len(points) >= 5
    assert points[0].file_bytes < points[-1].file_bytes
    assert points[0].quality.psnr + 3 < points[-1].quality.psnr
    for point in points:
        assert point.bpp == pytest.approx(8 * point.file_bytes / (48 * 40))
        assert point.encode_seconds >= 0
        assert point.decode_seconds >= 0


def test_a_point_is_what_pillow_writes():
    image = photograph()
    point = classical.measure(image, ["JPEG"])[3]
    pixels = (image * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=35, optimize=True)
    decoded = np.asarray(Image.open(file)) / 255
    assert point.setting == 35
    assert point.file_bytes == len(file.getvalue())
    assert point.quality.psnr == pytest.approx(-10 * np.log10(np.mean((decoded - image.numpy()) ** 2)), abs=1e-3)


def test_a_codec_that_pillow_lacks_is_skipped_with_its_reason(monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda feature: feature != "avif")
    found = classical.measure(photograph(), ["AVIF", "JPEG"])
    assert isinstance(found[0], classical.Skipped)
    assert "avif" in found[0].reason
    assert isinstance(found[1], classical.Point)


def test_unknown_codecs():
    with pytest.raises(ValueError, match="BPG"):
        classical.measure(photograph(), ["BPG"])
