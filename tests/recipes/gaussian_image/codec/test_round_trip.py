import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from recipes.gaussian_image import quantise
from recipes.gaussian_image.codec.decoder import decode
from recipes.gaussian_image.codec.encoder import encode
from recipes.gaussian_image.context import KINDS
from recipes.gaussian_image.rasterizers import rasterizer
from recipes.gaussian_image.structured import Attributes
from tests.recipes.gaussian_image.codec.small import CONFIG, small_model

pytest.importorskip("constriction")

MODEL = small_model()
FILE = encode(MODEL, seeds_per_block=30)
DRAW = rasterizer("torch")


def same(attributes, others):
    return all(torch.equal(part, other) for part, other in zip(attributes, others, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"authors": True},
        {"hidden": 0},
        {"levels": 1, "k": 1},
        {"num_seeds": 1},
        {"height": 64, "width": 64, "feat_dim": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("seeds_per_block", [7, 512])
def test_attributes_and_networks_come_back_bit_for_bit(changes, seeds_per_block):
    model = small_model(dataclasses.replace(CONFIG, **changes))
    image = decode(encode(model, seeds_per_block=seeds_per_block))
    assert image.config == model.config
    assert same(image.attributes, model.quantised())
    assert torch.equal(image.model.context.grid.bits(), model.context.grid.bits())
    for name, parameter in model.networks().items():
        assert torch.equal(image.model.networks()[name], parameter.half().float()), name


@pytest.mark.parametrize("level", [0, 1])
def test_the_file_renders_as_the_quantised_model(level):
    image = decode(FILE)
    with torch.no_grad():
        expected = MODEL.as_stored().render(MODEL.quantised(), level, DRAW)
    assert torch.equal(image.render(level=level, draw=DRAW), expected)
    if level == 0:
        assert torch.equal(decode(FILE).render(draw=DRAW), expected)


def test_sizes_add_up_to_the_file():
    image = decode(FILE)
    assert sum(image.sizes.values()) == len(FILE)
    assert image.sizes["blocks"] == sum(block.length for block in image.blocks)
    assert image.sizes["index"] == 18 * len(image.blocks)
    assert 2 <= len(image.blocks) <= 8


def test_bits_are_what_was_estimated():
    stats = MODEL.context.coding_stats()
    symbols = MODEL.symbols(stats)
    estimate = sum(quantise.symbol_bits(symbols[kind], stats[kind]) for kind in KINDS)
    image = decode(encode(MODEL))
    assert abs(8 * image.sizes["blocks"] - estimate) <= 0.02 * estimate + 8 * 64
    with torch.no_grad():
        trained = sum(
            quantise.bits(quantise.rounded(x, s.step), s.mean, s.scale, s.step).sum().item()
            for x, s in zip(MODEL.attributes(), MODEL.context().values(), strict=True)
        )
        grid = MODEL.context.grid.cost().item()
    assert abs(8 * image.sizes["blocks"] - trained) <= 0.02 * trained + 8 * 64
    assert abs(8 * image.sizes["hash grid"] - grid) <= 0.02 * grid + 8 * 64


CHILD = """
import sys, torch
torch.set_num_threads(int(sys.argv[3]))
torch.set_default_dtype(getattr(torch, sys.argv[4]))
from recipes.gaussian_image.codec.decoder import decode
with torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[5] == "autocast"):
    image = decode(open(sys.argv[1], "rb").read())
    from recipes.gaussian_image.rasterizers import rasterizer
    torch.save([tuple(image.attributes), image.render(draw=rasterizer("torch"))], sys.argv[2])
"""


# Kernels for processors without fused multiply-add or wide vectors, of OpenBLAS and of torch.
OLD_MACHINE = {"OPENBLAS_CORETYPE": "Nehalem", "ATEN_CPU_CAPABILITY": "default"}


@pytest.mark.parametrize(
    ("how", "environment"),
    [(("1", "float32", "plain"), OLD_MACHINE), (("2", "float64", "autocast"), {})],
    ids=["old-machine", "autocast"],
)
def test_a_fresh_process_decodes_the_file_alone(tmp_path, how, environment):
    (tmp_path / "image.sgi").write_bytes(FILE)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "image.sgi"), str(tmp_path / "decoded.pt"), *how]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, **environment})
    attributes, picture = torch.load(tmp_path / "decoded.pt")
    assert same(attributes, MODEL.quantised())
    with torch.no_grad():
        expected = MODEL.as_stored().render(MODEL.quantised(), 0, DRAW)
    assert picture.dtype == torch.float32
    assert (picture - expected).abs().max() < 1e-2
    assert (picture - expected).abs().mean() < 1e-6


def test_files_do_not_depend_on_threads_autocast_or_default_type():
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert encode(MODEL, seeds_per_block=30) == FILE
        with torch.autocast("cpu", torch.bfloat16):
            assert encode(MODEL, seeds_per_block=30) == FILE
        torch.set_default_dtype(torch.float64)
        assert encode(MODEL, seeds_per_block=30) == FILE
        assert same(decode(FILE).attributes, MODEL.quantised())
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)


def test_the_codec_leaves_random_numbers_and_gradients_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    decode(encode(MODEL))
    assert torch.equal(torch.rand(2), expected)
    assert all(parameter.requires_grad for parameter in MODEL.parameters())


def test_a_file_is_written_where_asked(tmp_path):
    assert encode(MODEL, tmp_path / "image.sgi") == (tmp_path / "image.sgi").read_bytes()


def test_what_no_file_can_hold_is_refused():
    model = small_model()
    model.offset.data[4, 1, 0] = float("nan")
    with pytest.raises(ValueError, match="attribute 'd' of seed 4 is not finite"):
        encode(model)
    model = small_model()
    model.positions[3] += 0.5
    with pytest.raises(ValueError, match="positions are not those"):
        encode(model)
    model = small_model()
    model.shape_mlp[0].bias.data[0] = 1e6
    with pytest.raises(ValueError, match=r"shape_mlp\.0\.bias cannot be written"):
        encode(model)
    with pytest.raises(ValueError, match="seeds_per_block is 0"):
        encode(MODEL, seeds_per_block=0)


def test_an_outlier_is_kept():
    model = small_model()
    model.feature.data[7, 2] = 2000.0
    image = decode(encode(model))
    assert same(image.attributes, model.quantised())
    step = model.context.coding_stats()["f"].step[7, 0]
    assert abs(image.attributes.f[7, 2].item() - 2000) <= step


def test_attributes_of_a_quantised_model_are_a_fixed_point():
    image = decode(FILE)
    stats = image.model.context.coding_stats()
    for kind, part in zip(KINDS, image.attributes, strict=True):
        again = quantise.values(quantise.symbols(part, stats[kind]), stats[kind])
        assert torch.equal(part, again)
    assert isinstance(image.attributes, Attributes)
    assert np.isfinite(image.attributes.s.numpy()).all()
