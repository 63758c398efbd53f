import contextlib
import math
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.gaussian_image.baselines import file, half_file
from recipes.gaussian_image.baselines.gaussian_image import GaussianImage, GaussianImageConfig
from recipes.gaussian_image.baselines.plane import Values
from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.rasterizers import rasterizer
from tests.recipes.gaussian_image.baselines.small import fitted_gaussian_image, fitted_lig

pytest.importorskip("constriction")
draw = rasterizer("auto")


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_quantised_file_gives_back_every_bit_and_the_same_picture():
    model = fitted_gaussian_image()
    decoded = file.decode(file.encode(model))
    assert decoded.config == model.config
    assert equal(decoded.values, model.stored())
    assert torch.equal(decoded.render(draw), model.render(model.stored(), draw))


def test_a_quantised_file_decodes_in_a_process_of_its_own(tmp_path):
    model = fitted_gaussian_image()
    file.encode(model, tmp_path / "x.gim")
    code = (
        "import sys, numpy as np; from recipes.gaussian_image.baselines import file;"
        "values = file.decode(open(sys.argv[1], 'rb').read()).values;"
        "sys.stdout.buffer.write(b''.join(part.numpy().tobytes() for part in values))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.gim"], capture_output=True, check=True)
    assert done.stdout == b"".join(part.numpy().tobytes() for part in model.stored())


def test_a_quantised_file_is_as_short_as_its_symbols_entropies():
    config = GaussianImageConfig(64, 64, 4000, xy_bits=10, shape_bits=6, entries=16)
    model = GaussianImage(config)
    generator = torch.Generator().manual_seed(0)
    model.plane.load(
        Values(
            torch.rand(4000, 2, generator=generator) * 64,
            torch.randn(4000, 3, generator=generator) + 4,
            torch.randn(4000, 3, generator=generator),
        )
    )
    model.start_quantisers()
    values = model.plane.values()
    columns = torch.cat([model.shapes.symbols(values.shape), model.colors.symbols(values.color)], 1).numpy().T
    bits = 4000 * 20 - math.lgamma(4001) / math.log(2)
    for column in columns:
        share = np.bincount(column)[np.bincount(column) > 0] / 4000
        bits -= 4000 * (share * np.log2(share)).sum()
    tables = 3 * 64 + 2 * 16 + 2 * 16 * 3 * 2 + 24
    assert bits / 8 + tables < len(file.encode(model)) < 1.02 * bits / 8 + tables + 64


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=2000))
def test_tables_are_0_exactly_where_a_symbol_does_not_occur(symbols):
    table = file.table_of(np.array(symbols), 10)
    assert set(np.nonzero(table)[0]) == set(symbols)
    assert table.max() == 255


def test_the_most_frequent_symbol_is_255_however_often_it_occurs():
    assert all(file.table_of(np.zeros(count, np.int64), 2).tolist() == [255, 0] for count in range(1, 1000))


def test_a_model_that_was_not_quantised_is_refused():
    with pytest.raises(ValueError, match="start_quantisers"):
        file.encode(fitted_gaussian_image(60, 1.0))


def test_numbers_that_are_not_finite_are_refused():
    model = GaussianImage(fitted_gaussian_image().config)
    model.load_state_dict(fitted_gaussian_image().state_dict())
    with torch.no_grad():
        model.plane.shape[3, 1] = torch.nan
    with pytest.raises(ValueError, match="shape"):
        file.encode(model)
    with pytest.raises(ValueError, match="half precision"):
        half_file.encode(model)


@pytest.mark.parametrize("name", ["gaussian_image", "lig"])
def test_a_half_file_gives_back_the_rounded_gaussians_and_their_picture(name):
    model = fitted_lig() if name == "lig" else fitted_gaussian_image(60, 1.0)
    planes = model.planes if name == "lig" else (model.plane,)
    data = half_file.encode(model)
    decoded = half_file.decode(data)
    expected = tuple(half_file.rounded(plane.values(), plane.size) for plane in planes)
    assert all(equal(one, other) for one, other in zip(decoded.values, expected, strict=True))
    drawn = model.render(expected if name == "lig" else expected[0], draw)
    assert torch.equal(decoded.render(draw), drawn)
    free = model.render(model.values() if name == "lig" else model.plane.values(), draw)
    assert (drawn - free).abs().max() < 0.02
    assert len(data) - 90 * half_file.BYTES < 70


def test_rounded_positions_are_near_inside_the_picture_and_around_it():
    xy = (torch.rand(100, 2, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2) * torch.tensor([40.0, 28.0])
    values = Values(xy, torch.ones(100, 3), torch.ones(100, 3))
    off = (half_file.rounded(values, (28, 40)).xy - xy).abs()
    assert (off <= 1.5 * torch.tensor([20.0, 14.0]) / 65536 + 2e-6).all()


FILES = {
    "quantised": (lambda: file.encode(fitted_gaussian_image()), file.decode),
    "half": (lambda: half_file.encode(fitted_lig()), half_file.decode),
}


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_a_codec_error(kind, data):
    make, decode = FILES[kind]
    whole = bytearray(make())
    if data.draw(st.booleans()):
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        broken = whole.copy()
        broken[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CodecError):
        decode(bytes(broken))


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_behind_a_right_checksum_is_a_codec_error_or_a_picture(kind, data):
    make, decode = FILES[kind]
    whole = bytearray(make())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(9, min(len(whole) - 1, 120)))] ^= data.draw(st.integers(1, 255))
    whole[5:9] = struct.pack("<I", zlib.crc32(bytes(whole[9:])))
    with contextlib.suppress(CodecError):
        decode(bytes(whole))
