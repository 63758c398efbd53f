"""Partial sums of blocks of rows: each is what an unrolled loop gives, and together they are the plain layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.tiles import partial_sums, row_tiles, tileable_layers, tiles_of
from tests.helpers.unrolled import blocks_of_rows

CPU = torch.device("cpu")
MODES = ["zeros", "reflect", "replicate", "circular"]
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def sums_of(layer, x, rows):
    return list(partial_sums(layer, x, layer.weight, tiles_of(layer, rows, CPU)))


def check_equals_plain(layer, x, rows):
    """The sum and its gradients are the plain layer's."""
    x = x.detach().clone().requires_grad_()
    plain = layer(x)
    toward = torch.randn(plain.shape, dtype=plain.dtype, generator=torch.Generator().manual_seed(9))
    expected = torch.autograd.grad(plain, [x, layer.weight], toward)
    tiled = sum(sums_of(layer, x, rows))
    if layer.bias is not None:
        tiled = tiled + layer.bias.reshape(-1, *[1] * (layer.weight.ndim - 2))
    torch.testing.assert_close(tiled, plain, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(torch.autograd.grad(tiled, [x, layer.weight], toward), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


LAYERS = {
    "linear": (nn.Linear(10, 3), (4, 10)),
    "linear on tokens": (nn.Linear(10, 3), (2, 5, 10)),
    "linear on a vector": (nn.Linear(10, 3), (10,)),
    "no bias": (nn.Linear(7, 2, bias=False), (4, 7)),
    "conv1d": (nn.Conv1d(3, 4, 5), (2, 3, 11)),
    "conv2d": (nn.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 5)),
    "conv2d of one image": (nn.Conv2d(3, 4, 3), (3, 6, 5)),
    "conv3d": (nn.Conv3d(2, 4, (2, 3, 1)), (2, 2, 4, 5, 3)),
    "strided": (nn.Conv2d(3, 4, 3, stride=(2, 1), padding=(1, 0)), (2, 3, 7, 6)),
    "dilated": (nn.Conv2d(3, 4, 3, dilation=(2, 1), padding=2), (2, 3, 7, 6)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (2, 6, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5)),
    "grouped, dilated, strided": (nn.Conv1d(6, 6, 3, groups=3, dilation=2, stride=2), (2, 6, 12)),
    "same": (nn.Conv2d(3, 4, (3, 2), padding="same", dilation=2), (2, 3, 6, 6)),
    **{f"conv2d, {mode}": (nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode=mode), (2, 3, 6, 5)) for mode in MODES[1:]},
    "same, circular": (nn.Conv1d(3, 4, 4, padding="same", padding_mode="circular"), (2, 3, 9)),
    "conv3d, circular": (nn.Conv3d(2, 2, 2, padding=1, padding_mode="circular"), (1, 2, 3, 3, 3)),
}


@pytest.mark.parametrize("rows", [None, 1, 4, 9, 1000])
@pytest.mark.parametrize("name", LAYERS)
def test_sum_equals_the_plain_layer(name, rows):
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    check_equals_plain(layer.double(), torch.randn(shape, dtype=torch.float64), rows)


@given(data=st.data(), dims=st.integers(1, 3), rows=st.integers(1, 30), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_sum_equals_any_convolution(data, dims, rows, seed):
    def each(least, most):
        return tuple(data.draw(st.integers(least, most)) for _ in range(dims))

    groups = data.draw(st.integers(1, 3))
    kernel, dilation, padding = each(1, 3), each(1, 2), each(0, 2)
    size = tuple(d * (k - 1) + 2 + extra for k, d, extra in zip(kernel, dilation, each(1, 2), strict=True))
    torch.manual_seed(seed)
    layer = CONV[dims](
        groups * data.draw(st.integers(1, 3)),
        groups * data.draw(st.integers(1, 2)),
        kernel,
        each(1, 2),
        padding,
        dilation,
        groups,
        data.draw(st.booleans()),
        data.draw(st.sampled_from(MODES)),
        dtype=torch.float64,
    )
    check_equals_plain(layer, torch.randn(2, layer.in_channels, *size, dtype=torch.float64), rows)


@pytest.mark.parametrize("rows", [None, 3, 9, 12])
@pytest.mark.parametrize(
    "name", ["linear", "conv1d", "conv2d, reflect", "conv3d", "strided", "dilated", "grouped", "depthwise"]
)
def test_each_block_is_what_unrolled_loops_give(name, rows):
    layer, shape = LAYERS[name]
    x = torch.randn(shape, dtype=torch.float64)
    found, expected = sums_of(layer.double(), x, rows), blocks_of_rows(layer, x, rows)
    assert len(found) == len(expected)
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.detach(), torch.from_numpy(reference), rtol=1e-12, atol=1e-12)


@given(channels=st.integers(1, 7), kernel=st.sampled_from([(), (1,), (3,), (2, 3), (3, 1, 2)]), rows=st.integers(1, 50))
def test_every_row_lies_in_exactly_one_block(channels, kernel, rows):
    used = torch.zeros(channels, *kernel, dtype=torch.int)
    tiles = row_tiles(channels, kernel, rows, CPU)
    for tile in tiles:
        here = torch.ones(tile.channels, *kernel, dtype=torch.bool) if tile.mask is None else tile.mask
        assert 0 < here.sum() <= rows
        used[tile.first : tile.first + tile.channels] += here
    assert (used == 1).all()
    assert len(tiles) == -(-used.numel() // rows)


def test_float32_sums_are_close_to_the_plain_layer():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(16, 8, 3, padding=1), torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(sum(sums_of(layer, x, 20)) + layer.bias.view(-1, 1, 1), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [(nn.Linear(4, 2), (3, 5), 1), (nn.Conv2d(4, 2, 1, groups=2), (2, 3, 5, 5), 1), (nn.Conv1d(4, 2, 1), (4,), -1)],
)
def test_inputs_of_other_channels_are_refused(layer, shape, axis):
    with pytest.raises(ValueError, match=rf"was given an input of shape .*axis {axis} should have 4"):
        sums_of(layer, torch.zeros(shape), 2)


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(x.relu())


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight * 2, bias)


class OnlyANewName(nn.Conv2d):
    pass


def patched():
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose1d(2, 2, 2),
        nn.ConvTranspose2d(2, 2, 2),
        nn.Bilinear(2, 2, 2),
        nn.LSTM(2, 2),
        nn.GRUCell(2, 2),
        nn.MultiheadAttention(2, 1),
        OwnForward(2, 2),
        OwnConvForward(2, 2, 2),
        patched(),
    ],
)
def test_layers_that_compute_otherwise_are_refused_by_name(layer):
    model = nn.ModuleDict({"fine": nn.Linear(2, 2), "odd": layer, "other": OnlyANewName(2, 2, 2)})
    with pytest.raises(ValueError, match=rf"not around odd \({type(layer).__name__}\).*Mapping\(exclude="):
        tileable_layers(Mapping().resolve(model))
    found = tileable_layers(Mapping(exclude=["odd"]).resolve(model))
    assert [path for path, _ in found] == ["fine", "other"]


def test_an_output_projection_that_is_never_called_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(2, 1))
    with pytest.raises(ValueError, match=r"not around 1.out_proj \(NonDynamicallyQuantizableLinear\)"):
        tileable_layers(Mapping(exclude=["1.in_proj_weight"]).resolve(model))


def test_blocks_that_were_cut_in_inference_can_be_trained_on():
    layer = nn.Conv1d(2, 3, 5).double()
    row_tiles.cache_clear()
    with torch.inference_mode():
        tiles_of(layer, 3, CPU)
    check_equals_plain(layer, torch.randn(2, 2, 9, dtype=torch.float64), 3)
