from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.codec.fields import pack, signature, unpack


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...]
    steps: tuple[float, float, float]


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner
    name: Literal["a", "long name"]
    flag: bool

    def __post_init__(self):
        if self.count == 13:
            raise ValueError("13 is refused")


@dataclass(frozen=True)
class Renamed:
    number: int
    inner: Inner
    name: Literal["a", "long name"]
    flag: bool


counts = st.integers(-(2**63), 2**63 - 1).filter(lambda count: count != 13)
inners = st.builds(
    Inner,
    st.lists(st.integers(0, 2**40), max_size=20).map(tuple),
    st.tuples(*[st.floats(allow_nan=False)] * 3),
)


@given(st.builds(Outer, counts, inners, st.sampled_from(["a", "long name"]), st.booleans()))
def test_what_is_packed_is_unpacked(settings):
    back = unpack(Outer, pack(settings), {})
    assert back == settings
    assert type(back.flag) is bool


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    try:
        back = unpack(Outer, signature(Outer).to_bytes(2, "little") + data, {})
    except CodecError:
        return
    assert isinstance(back, Outer)


def test_a_refused_value_names_the_reason():
    data = bytearray(pack(Outer(12, Inner((), (0.0, 0.0, 0.0)), "a", True)))
    data[2] = 26
    with pytest.raises(CodecError, match="13 is refused"):
        unpack(Outer, bytes(data), {})


def test_bytes_left_over_are_refused():
    data = pack(Inner((1,), (0.0, 0.0, 0.0)))
    with pytest.raises(CodecError, match="1 bytes too many"):
        unpack(Inner, data + b"\0", {})
    with pytest.raises(CodecError, match="end after"):
        unpack(Inner, data[:-1], {})


def test_other_fields_are_another_version():
    assert signature(Outer) != signature(Renamed)
    with pytest.raises(CodecError, match="another version"):
        unpack(Renamed, pack(Outer(1, Inner((), (0.0, 0.0, 0.0)), "a", True)), {})


@dataclass(frozen=True)
class Listed:
    values: list[int]


def test_a_type_that_cannot_be_written_is_refused():
    with pytest.raises(TypeError, match="list"):
        pack(Listed([1]))


def test_numbers_beyond_64_bits_are_refused():
    with pytest.raises(ValueError, match="64 bits"):
        pack(Inner((2**63,), (0.0, 0.0, 0.0)))


def test_a_number_beyond_its_limit_is_refused_before_it_is_used():
    data = pack(Outer(12, Inner((5, 700), (0.0, 0.0, 0.0)), "a", True))
    with pytest.raises(CodecError, match="sizes = 700; a file holds at most 600"):
        unpack(Outer, data, {"sizes": 600})
    assert unpack(Outer, data, {"sizes": 700, "count": 12}).inner.sizes == (5, 700)
