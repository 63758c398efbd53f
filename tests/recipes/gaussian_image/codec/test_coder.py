import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.gaussian_image.codec.coder import Support, SymbolReader, SymbolWriter, probability_of
from recipes.gaussian_image.codec.errors import CodecError

pytest.importorskip("constriction")


@st.composite
def messages(draw):
    """Symbols with random statistics, many of them far from their mean."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(0, 60))
    spread = draw(st.sampled_from([0, 1, 30, 5000, 2**20]))
    symbols = rng.integers(-spread, spread + 1, count)
    mean = rng.integers(-(2**30), 2**30, count) >> rng.integers(0, 30, count)
    scale = rng.integers(0, 2**30, count) >> rng.integers(0, 30, count)
    return symbols, mean, scale


@given(st.lists(messages(), max_size=3))
def test_what_is_written_is_read(parts):
    writer = SymbolWriter()
    for symbols, mean, scale in parts:
        writer.gaussian(symbols, Support.of(symbols), mean, scale)
    reader = SymbolReader(writer.getvalue(), "test")
    for symbols, mean, scale in parts:
        assert reader.gaussian(Support.of(symbols), mean, scale).tolist() == symbols.tolist()


@given(st.integers(0, 2**32), st.integers(0, 300), st.floats(0, 1))
def test_bits_are_read_as_written(seed, count, share):
    bits = np.random.default_rng(seed).random(count) < share
    writer = SymbolWriter()
    writer.bits(bits, probability_of(bits))
    assert SymbolReader(writer.getvalue(), "test").bits(count, probability_of(bits)).tolist() == bits.tolist()


def test_length_is_the_ideal_code_length():
    rng = np.random.default_rng(0)
    mean, scale = rng.integers(-2000, 2000, 4000), rng.integers(64, 4000, 4000)
    symbols = np.rint(rng.normal(mean / 256, scale / 256)).astype(np.int64)
    writer = SymbolWriter()
    writer.gaussian(symbols, Support.of(symbols), mean, scale)

    def below(x, m, s):
        return 0.5 * math.erfc(-(x - m) / (s * math.sqrt(2)))

    ideal = -sum(
        math.log2(below(x + 0.5, m / 256, s / 256) - below(x - 0.5, m / 256, s / 256))
        for x, m, s in zip(symbols.tolist(), mean.tolist(), scale.tolist(), strict=True)
    )
    assert abs(8 * len(writer.getvalue()) - ideal) <= 0.002 * ideal + 32


def test_bits_cost_their_entropy():
    bits = np.random.default_rng(0).random(8000) < 0.1
    writer = SymbolWriter()
    writer.bits(bits, probability_of(bits))
    p = bits.mean()
    entropy = -8000 * (p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert abs(8 * len(writer.getvalue()) - entropy) <= 0.002 * entropy + 32


def test_a_symbol_outside_its_support_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        SymbolWriter().gaussian(np.array([5]), Support(0, 4), np.array([0]), np.array([256]))


@pytest.mark.parametrize(("low", "high"), [(0, 0), (3, 2), (-(2**21), 0), (0, 2**21)])
def test_a_support_without_probabilities_is_refused(low, high):
    with pytest.raises(CodecError, match="cannot be coded"):
        Support(low, high)


@settings(max_examples=60)
@given(st.binary(max_size=40), st.integers(0, 2**32))
def test_any_bytes_are_read_or_refused(data, seed):
    rng = np.random.default_rng(seed)
    support = Support(*sorted(rng.choice(np.arange(-50, 50), 2, replace=False).tolist()))
    mean, scale = rng.integers(-(2**16), 2**16, 200), rng.integers(0, 2**14, 200)
    try:
        symbols = SymbolReader(data, "test").gaussian(support, mean, scale)
    except CodecError:
        return
    assert symbols.min() >= support.low
    assert symbols.max() <= support.high


def test_damage_names_the_part_of_the_file():
    with pytest.raises(CodecError, match="block 3, bytes 5 to 7: the coded numbers are damaged"):
        SymbolReader(b"\xff" * 40, "block 3, bytes 5 to 7").bits(1000, 20000)


@pytest.mark.parametrize("ones", [0, 65536])
def test_a_certain_bit_is_refused(ones):
    with pytest.raises(CodecError, match="probability"):
        SymbolReader(b"", "test").bits(3, ones)


def test_streams_of_this_version_stay_readable():
    symbols = np.arange(-20, 21)
    mean, scale = symbols * 200, 1 + (symbols + 20) * 37
    data = bytes.fromhex("00000a00000affeb0bfff40cfff30dfff2301345b146c4b233fbd0e236296e4acadd979da5e66e3e")
    reader = SymbolReader(data, "test")
    assert reader.gaussian(Support(-30, 30), mean, scale).tolist() == symbols.tolist()
    assert reader.bits(41, 20000).tolist() == (symbols % 3 == 0).tolist()
