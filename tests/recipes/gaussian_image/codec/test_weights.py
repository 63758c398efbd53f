import tracemalloc
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.codec.weights import read_weights, write_weights

GENERATOR = torch.Generator().manual_seed(0)
TENSORS = {"a.weight": torch.randn(7, 5, generator=GENERATOR), "a.bias": torch.tensor([1.0, -0.0])}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}


def test_weights_come_back_in_half_precision():
    back = read_weights(write_weights(TENSORS), SHAPES)
    assert list(back) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert back[name].dtype == torch.float32
        assert torch.equal(back[name], tensor.half().float())


def test_upper_bytes_are_deflated():
    weights = {"w": torch.randn(4000, generator=GENERATOR) * 0.1}
    assert len(write_weights(weights)) < 0.9 * 8000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 7e4])
def test_weights_beyond_half_precision_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"a\.bias cannot be written in half precision"):
        write_weights({**TENSORS, "a.bias": torch.tensor([value, 0.0])})


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data):
    try:
        back = read_weights(data, SHAPES)
    except CodecError:
        return
    assert {name: tensor.shape for name, tensor in back.items()} == SHAPES


def test_a_small_file_that_inflates_without_end_is_refused():
    bomb = zlib.compress(bytes(50_000_000), 9)
    tracemalloc.start()
    with pytest.raises(CodecError, match="37 in the networks"):
        read_weights(len(bomb).to_bytes(4, "little") + bomb + bytes(37), SHAPES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_infinite_weights_in_a_file_are_refused():
    data = bytearray(write_weights({"w": torch.zeros(3)}))
    upper = zlib.compress(bytes([0, 0x7C, 0]), 9)
    with pytest.raises(CodecError, match="not finite"):
        read_weights(len(upper).to_bytes(4, "little") + upper + bytes(data[-3:]), {"w": torch.Size([3])})
