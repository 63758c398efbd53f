"""Chips on disk: killed writers, strangers' files and broken lines."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim._journal import Journal
from lightning_cim.evaluation.journal import CHIPS, PREFIX, read_rows, write_rows

ABOUT = {"fingerprint": "abc", "seed": 1}
ROWS = {0: {"acc": 0.1, "loss": 1e-17}, 1: {"acc": 1 / 3, "loss": 2.0}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "chips.csv"
    journal = Journal(path, ABOUT, CHIPS)
    for chip, row in ROWS.items():
        journal.add(chip, row)
    return path


def test_every_chip_is_on_disk_as_soon_as_it_is_added(tmp_path):
    journal = Journal(tmp_path / "chips.csv", ABOUT, CHIPS)
    for chip, row in ROWS.items():
        journal.add(chip, row)
        assert read_rows(journal.path)[1][chip] == row


def test_an_existing_file_is_continued(path):
    journal = Journal(path, ABOUT, CHIPS)
    assert journal.rows == ROWS
    journal.add(5, {"acc": 0.0, "loss": 0.0})
    assert list(read_rows(path)[1]) == [0, 1, 5]


def test_every_cut_of_the_file_is_read_up_to_its_last_whole_line(path):
    """A kill can come after any byte of an appended line; the first line is written in one go."""
    text = path.read_text()
    for length in range(text.index("\n") + 1, len(text)):
        path.write_text(text[:length])
        whole = text[:length].count("\n")
        journal = Journal(path, ABOUT, CHIPS)
        assert journal.rows == {chip: ROWS[chip] for chip in range(max(0, whole - 2))}
        for chip in range(len(journal.rows), len(ROWS)):
            journal.add(chip, ROWS[chip])
        assert path.read_text() == text


def test_a_kill_while_an_existing_file_is_opened_loses_nothing(path, monkeypatch):
    text = path.read_text()

    def killed(self, text, **options):
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        Journal(path, ABOUT, CHIPS)
    monkeypatch.undo()
    assert path.read_text() == text
    assert Journal(path, ABOUT, CHIPS).rows == ROWS
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_of_another_evaluation_is_refused_and_kept(path):
    text = path.read_text()
    with pytest.raises(ValueError, match=r"chips\.csv holds chips of another evaluation .*Choose another csv path"):
        Journal(path, {"fingerprint": "other"}, CHIPS)
    assert path.read_text() == text


def test_an_empty_file_is_a_new_one(tmp_path):
    path = tmp_path / "chips.csv"
    path.touch()
    assert Journal(path, ABOUT, CHIPS).rows == {}
    assert read_rows(path) == (ABOUT, {})


@pytest.mark.parametrize(
    ("line", "number"),
    [("2,0.5", 5), ("two,0.5,1.0", 5), ("2,0.5,high", 5), ("2,0.5,1.0,3.0", 5), ("", 5)],
)
def test_a_broken_line_is_named(path, line, number):
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=rf"chips\.csv, line {number}: expected 3 numbers, got '{line}'"):
        read_rows(path)


@pytest.mark.parametrize("first", ["chip,acc", "# another tool", PREFIX + "{broken", PREFIX + "[1]"])
def test_files_that_hold_no_chips_are_refused_by_their_first_line(tmp_path, first):
    path = tmp_path / "chips.csv"
    path.write_text(first + "\nchip,acc\n0,1.0\n")
    with pytest.raises(ValueError, match=r"chips\.csv, line 1: not a file of chips"):
        read_rows(path)


@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1), min_size=1, unique=True
    ),
    chips=st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_round_trip_is_exact(tmp_path_factory, names, chips, data):
    values = st.floats(allow_nan=False)
    rows = {chip: {name: data.draw(values) for name in names} for chip in chips}
    path = tmp_path_factory.mktemp("journal") / "chips.csv"
    write_rows(path, {"fingerprint": "abc", "note": 'µ, "q"'}, rows)
    about, read = read_rows(path)
    assert about == json.loads(json.dumps({"fingerprint": "abc", "note": 'µ, "q"'}))
    assert read == rows
