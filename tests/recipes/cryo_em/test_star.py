from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.cryo_em.star import read_star, write_star

TEXT = """
# version 30001
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
1 'group one' # a comment
2 "it's"

data_general
_rlnKind    7
_rlnName    it's

data_particles
loop_
_rlnImageName
_rlnX
000001@a#b.mrcs -1.5
000002@a.mrcs 2e3
"""


def test_tables_loops_values_quotes_and_comments(tmp_path):
    (tmp_path / "x.star").write_text(TEXT)
    tables = read_star(tmp_path / "x.star")
    assert list(tables) == ["optics", "general", "particles"]
    assert tables["optics"].text("rlnOpticsGroupName") == ["group one", "it's"]
    assert tables["general"].numbers("rlnKind").tolist() == [7.0]
    assert tables["general"].text("rlnName") == ["it's"]
    assert tables["particles"].numbers("rlnX").tolist() == [-1.5, 2000.0]
    assert tables["particles"].text("rlnImageName")[0] == "000001@a#b.mrcs"
    assert tables["particles"].numbers("rlnY", 4.0).tolist() == [4.0, 4.0]
    assert len(tables["particles"]) == 2
    assert "rlnX" in tables["particles"]


WORD = st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126, exclude_characters='"'), min_size=1)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            WORD.filter(lambda word: word.strip()),
            st.floats(allow_nan=False, allow_infinity=False, width=32),
            st.integers(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("star") / "x.star"
    words, floats, integers = (list(column) for column in zip(*rows, strict=True))
    write_star(path, {"particles": {"a": words, "b": floats, "c": integers}})
    table = read_star(path)["particles"]
    assert table.text("a") == words
    assert torch.equal(table.numbers("b").float(), torch.tensor(floats))
    assert [int(word) for word in table.text("c")] == integers


def test_starfile_reads_what_is_written_and_writes_what_is_read(tmp_path):
    starfile = pytest.importorskip("starfile")
    write_star(
        tmp_path / "x.star", {"optics": {"g": [1]}, "particles": {"image": ["1@a.mrcs", "2@a.mrcs"], "v": [0.1, 2.0]}}
    )
    frames = starfile.read(tmp_path / "x.star", always_dict=True)
    assert frames["particles"]["image"].tolist() == ["1@a.mrcs", "2@a.mrcs"]
    assert frames["particles"]["v"].tolist() == [0.1, 2.0]
    starfile.write(frames, tmp_path / "y.star")
    assert read_star(tmp_path / "y.star")["particles"].numbers("v").tolist() == [0.1, 2.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no data_ table"),
        ("rubbish\n", "x.star:1: 'rubbish' before the first data_ line"),
        ("data_a\nloop_\n_x\n_y\n1 2\n3\n", "x.star:6: 1 values in a row of 2 columns"),
        ("data_a\nloop_\n_x\n_x\n", "x.star:4: column _x a second time"),
        ("data_a\ndata_a\n", "x.star:2: a second table"),
        ("data_a\n_x\n", "x.star:2: _x needs one value, it has 0"),
        ("data_a\nloop_\n_x\nloop_\n", "x.star:4: a second loop_"),
        ("data_a\n1 2\n", "x.star:2: '1' is neither"),
    ],
)
def test_broken_files_are_refused_with_their_line(tmp_path, text, message):
    (tmp_path / "x.star").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_star(tmp_path / "x.star")


@pytest.mark.parametrize("word", ["abc", "nan", "inf", "1,5"])
def test_a_word_that_is_no_number_is_refused_with_its_line(tmp_path, word):
    (tmp_path / "x.star").write_text(f"data_\nloop_\n_v\n1\n{word}\n")
    table = read_star(tmp_path / "x.star")[""]
    with pytest.raises(ValueError, match=rf"x\.star:5: _v is '{word}'"):
        table.numbers("v")
    with pytest.raises(ValueError, match="no column _w"):
        table.text("w")


def test_unreadable_files_and_unwritable_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not a readable text file"):
        read_star(tmp_path / "missing.star")
    (tmp_path / "binary.star").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="not a readable text file"):
        read_star(tmp_path / "binary.star")
    with pytest.raises(ValueError, match="differ in length"):
        write_star(tmp_path / "x.star", {"a": {"x": [1], "y": [1, 2]}})
    with pytest.raises(ValueError, match="cannot be written"):
        write_star(tmp_path / "x.star", {"a": {"x": ["two\nlines"]}})


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "x.star"
    path.write_text("data_a\nloop_\n_x\n" + text, encoding="utf-8")
    with suppress(ValueError):
        assert "a" in read_star(path)
