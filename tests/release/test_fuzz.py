"""Whatever is in a file, it is read, or refused by an error that names the file; nothing else, and soon."""

import warnings

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lightning_cim._compat import MisconfigurationException
from tests.release.files import kinds

KINDS = kinds()
TOKENS = [b"[", b"{", b"}", b"]", b'"', b"'", b":", b"- ", b",", b"\n", b"\t", b"\r", b"#", b"&a ", b"*a", b"!!python/"]
TOKENS += [b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\\ud800", b"\\", b"%", b"|", b"null", b"true", b".nan"]
TOKENS += [b"9" * 5000, b"1e999", b"-1", b"NaN", b"Infinity", b"0x1F", b"1_0", b"2020-13-45"]
TOKENS += [b"[" * 5000, b"{a: " * 3000, b"9" * 300]
BOMB = b"[%s]" % b",".join(b"&a%d [%s]" % (i, b",".join([b"*a%d" % (i - 1)] * 9) if i else b"x") for i in range(30))
"""A kilobyte of YAML after which *a29 has 9^29 elements, were it written out."""
BOMBS = {
    "method": ("sweep, random", f"description: {BOMB.decode()}\nmethod: *a29\n"),
    "parameters": ("sweep, random", f"description: {BOMB.decode()}\nmethod: grid\nparameters: *a29\n"),
    "parameter": ("sweep, random", f"description: {BOMB.decode()}\nmethod: grid\nparameters: {{a: *a29}}\n"),
    "name": ("space", f"about: {BOMB.decode()}\nname: *a29\nslots: [{{name: a, values: [1]}}]\n"),
    "slot": ("space", f"about: {BOMB.decode()}\nslots: [{{name: *a29, values: [1]}}]\n"),
    "slots": ("space", f"about: {BOMB.decode()}\nslots: *a29\n"),
    "unit": ("space", f"slots: [{{name: a, values: [1], unit: {BOMB.decode()}}}]\n"),
    "values": ("space", f"slots: [{{name: a, values: {BOMB.decode()}}}]\n"),
}


@st.composite
def damaged(draw, whole):
    """A good file in which a few places were cut, repeated or overwritten."""
    content = whole
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 12)))
        new = draw(st.sampled_from(TOKENS) | st.binary(max_size=8) | st.just(content[start : start + 200] * 2))
        content = content[:start] + new + content[end:]
    return content


def check(kind, folder, content):
    """A file is read, or refused by a short message with its name; any other error passes through."""
    path = folder / kind.name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refusal = refused(kind, path)
    assert str(folder) in refusal
    assert len(refusal) < 20_000


def refused(kind, path):
    try:
        kind.read(path)
    except (ValueError, MisconfigurationException) as error:
        return str(error)
    return str(path)


@pytest.mark.parametrize("name", KINDS)
def test_a_good_file_is_read(tmp_path, name):
    path = tmp_path / KINDS[name].name
    path.write_bytes(KINDS[name].content)
    KINDS[name].read(path)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_by_name(tmp_path_factory, name, data):
    kind = KINDS[name]
    check(kind, tmp_path_factory.mktemp("fuzz"), data.draw(damaged(kind.content)))


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=100) | st.lists(st.sampled_from(TOKENS), max_size=6).map(b"".join))
@example(content=b"[" * 100_000 + b"\n")
@example(content=b"9" * 5000 + b"\n")
@example(content=b"parameters: &a [*a]\nprogram: x\nmethod: grid\n")
@example(content=b"&a [*a]")
def test_any_bytes_are_read_or_refused_by_name(tmp_path_factory, name, content):
    check(KINDS[name], tmp_path_factory.mktemp("fuzz"), content)


@pytest.mark.parametrize("where", BOMBS)
def test_aliases_that_multiply_fill_neither_memory_nor_message(tmp_path, where):
    name, content = BOMBS[where]
    path = tmp_path / "a.yaml"
    path.write_text(content)
    refusal = refused(KINDS[name], path)
    assert str(path) in refusal
    assert len(str(path)) < len(refusal) < 1000
