from dataclasses import asdict

import numpy as np
import pytest
import torch

from recipes.gaussian_image.codec.commands import decode_file, encode_file, encode_model
from recipes.gaussian_image.codec.decoder import decode
from recipes.gaussian_image.codec.encoder import encode
from recipes.gaussian_image.rasterizers import rasterizer
from tests.recipes.gaussian_image.codec.small import small_model

pytest.importorskip("constriction")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("codec") / "image.sgi"
    encode_model(small_model(), path, seeds_per_block=20)
    return path


def test_encoding_tells_the_size_of_the_file(tmp_path):
    told = encode_model(small_model(), tmp_path / "image.sgi")
    size = (tmp_path / "image.sgi").stat().st_size
    assert f"{size} bytes, {8 * size / (70 * 99):.3f} bit/pixel" in told
    assert "networks" in told


def test_a_checkpoint_is_written_as_its_model(tmp_path):
    model = small_model()
    state = {f"structured.{name}": value for name, value in model.state_dict().items()}
    torch.save({"sgi_config": asdict(model.config), "state_dict": state}, tmp_path / "fit.ckpt")
    encode_file(tmp_path / "fit.ckpt", tmp_path / "image.sgi", seeds_per_block=30)
    assert (tmp_path / "image.sgi").read_bytes() == encode(model, seeds_per_block=30)
    with pytest.raises(ValueError, match=r"none\.ckpt: no such checkpoint"):
        encode_file(tmp_path / "none.ckpt", tmp_path / "image.sgi")


def test_a_picture_is_the_rendering_in_8_bits(path, tmp_path):
    told = decode_file(path, tmp_path / "new" / "part.png", region=(5, 6, 45, 36), size=(60, 80), backend="torch")
    assert "60 x 80 pixels" in told
    rendered = decode(path.read_bytes()).render((5, 6, 45, 36), (60, 80), draw=rasterizer("torch"))
    written = np.asarray(Image.open(tmp_path / "new" / "part.png")) / 255
    assert written.shape == (60, 80, 3)
    assert np.abs(written - rendered.clamp(0, 1).numpy()).max() <= 0.5 / 255 + 1e-6


def test_a_level_is_a_size(path, tmp_path):
    decode_file(path, tmp_path / "half.png", level=1, backend="torch")
    assert Image.open(tmp_path / "half.png").size == (50, 35)


def test_errors_name_the_file(path, tmp_path):
    with pytest.raises(ValueError, match=r"missing\.sgi: no such file"):
        decode_file(tmp_path / "missing.sgi", tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.nothing: not the ending"):
        decode_file(path, tmp_path / "a.nothing")
    (tmp_path / "bad.sgi").write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"bad\.sgi: the file ends inside its blocks"):
        decode_file(tmp_path / "bad.sgi", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
