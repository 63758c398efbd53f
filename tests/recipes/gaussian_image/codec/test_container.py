import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.gaussian_image.codec.container import MAGIC, SECTIONS, Container, join, split
from recipes.gaussian_image.codec.errors import CodecError

contents = st.lists(st.binary(max_size=30), min_size=len(SECTIONS) + 1, max_size=len(SECTIONS) + 1)


def container(parts):
    return Container(dict(zip(SECTIONS, parts, strict=False)), memoryview(parts[-1]))


@given(contents)
def test_what_is_joined_is_split(parts):
    data = join(container(parts))
    back = split(data)
    assert [*back.sections.values(), bytes(back.blocks)] == parts
    assert sum(back.sizes().values()) == len(data)


@given(contents, st.data())
def test_a_flipped_bit_before_the_blocks_is_found(parts, draw):
    data = bytearray(join(container(parts)))
    position = draw.draw(st.integers(0, len(data) - len(parts[-1]) - 1))
    data[position] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises(CodecError):
        split(bytes(data))


@given(contents, st.data())
def test_a_cut_before_the_blocks_is_found(parts, draw):
    data = join(container(parts))
    with pytest.raises(CodecError):
        split(data[: draw.draw(st.integers(0, len(data) - len(parts[-1]) - 1))])


def test_errors_say_what_and_where():
    data = join(container([b"abcd", b"ef", b"", b"gh", b"blocks"]))
    with pytest.raises(CodecError, match="not a structured Gaussian image"):
        split(b"GIF89a")
    with pytest.raises(CodecError, match="version 7; this program reads version 1"):
        split(MAGIC + b"\x07" + data[5:])
    with pytest.raises(CodecError, match="inside its settings that goes to 17"):
        split(data[:15])
    with pytest.raises(CodecError, match="networks, bytes 25 to 27: damaged"):
        split(data.replace(b"ef", b"eg"))
    with pytest.raises(CodecError, match="ends before its version"):
        split(MAGIC)
