import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.arrhythmia.contest import (
    HOPS,
    load_strips,
    overlap_hop,
    read_folder,
    read_index,
    read_segment,
    save_strips,
)
from recipes.arrhythmia.records import Strip


def wave(n, seed=0):
    return np.round(np.random.default_rng(seed).standard_normal(n) * 0.1, 4).astype(np.float32)


def write_segment(path, values):
    path.write_text("\n".join(f"{value:.6f}" for value in values) + "\n")


def write_strip(folder, patient, rhythm, signal, hop, first=1):
    """Cut as the contest did; return the next free number."""
    starts = range(0, len(signal) - 1250 + 1, hop)
    for number, start in enumerate(starts, first):
        write_segment(folder / f"{patient}-{rhythm}-{number}.txt", signal[start : start + 1250])
    return first + len(starts)


def test_overlapping_segments_are_joined_to_the_strips_they_came_from(tmp_path):
    tachycardia, sinus, other = wave(2000, 1), wave(2000, 2), wave(1550, 3)
    # Ten and more files: the order is that of the numbers, not of the letters.
    write_strip(tmp_path, "S03", "VT", tachycardia, 50)
    following = write_strip(tmp_path, "S03", "SR", sinus, 150)
    write_strip(tmp_path, "S03", "SR", other, 150, first=following)
    strips = read_folder(tmp_path)
    assert [(s.patient, s.rhythm) for s in strips] == [("S03", "SR"), ("S03", "SR"), ("S03", "VT")]
    for strip, expected in zip(strips, [sinus, other, tachycardia], strict=True):
        np.testing.assert_array_equal(strip.signal, expected)


def test_a_lost_sample_starts_a_new_strip(tmp_path):
    signal = wave(1250 + 50 + 51 + 50)
    write_segment(tmp_path / "S01-VT-1.txt", signal[:1250])
    write_segment(tmp_path / "S01-VT-2.txt", signal[50:1300])
    write_segment(tmp_path / "S01-VT-3.txt", signal[101:1351])
    write_segment(tmp_path / "S01-VT-4.txt", signal[151:1401])
    strips = read_folder(tmp_path)
    np.testing.assert_array_equal(strips[0].signal, signal[:1300])
    np.testing.assert_array_equal(strips[1].signal, signal[101:1401])
    assert len(strips) == 2


def test_a_repeated_number_starts_a_new_strip(tmp_path):
    signal = wave(1300)
    write_segment(tmp_path / "S01-VT-01.txt", signal[:1250])
    write_segment(tmp_path / "S01-VT-1.txt", signal[50:])
    assert [len(strip.signal) for strip in read_folder(tmp_path)] == [1250, 1250]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700))
def test_overlap_is_found_at_known_hops_only(hop):
    signal = wave(1250 + 700)
    found = overlap_hop(signal[:1250], signal[hop : hop + 1250])
    assert found == (hop if hop in HOPS else None)


def lines(**changes):
    text = ["0.125"] * 1250
    for number, value in changes.items():
        text[int(number.removeprefix("line")) - 1] = value
    return "\n".join(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(line17="NaN"), r"S01-SR-1\.txt, line 17: 'NaN'.*finite"),
        (lines(line3="1e60"), r"S01-SR-1\.txt, line 3: .*finite"),
        (lines(line1250="0.1.2"), r"S01-SR-1\.txt, line 1250: '0\.1\.2' is not a number"),
        (lines(line8=""), r"S01-SR-1\.txt, line 8: '' is not a number"),
        ("0.1\n" * 1249, r"S01-SR-1\.txt, line 1250: .*1250 lines.*has 1249"),
        ("0.1\n" * 1251, r"S01-SR-1\.txt, line 1251: .*1250 lines.*has 1251"),
        ("", r"S01-SR-1\.txt, line 1: .*has 0"),
    ],
)
def test_a_bad_file_names_itself_and_the_line(tmp_path, text, message):
    (tmp_path / "S01-SR-1.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_a_flat_strip_and_a_binary_file_name_the_place(tmp_path):
    (tmp_path / "S01-SR-1.txt").write_text(lines())
    with pytest.raises(ValueError, match=f"{tmp_path.name}.*S01.*flat"):
        read_folder(tmp_path)
    (tmp_path / "S01-SR-1.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        read_folder(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_content_ends_in_another_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("segment") / "S01-SR-1.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"S01-SR-1\.txt"):
        read_segment(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("S01-XX-1.txt", "unknown rhythm 'XX'"), ("notes.txt", "must have the form"), ("S1-SR.txt", "form")],
)
def test_other_file_names_are_refused(tmp_path, name, message):
    (tmp_path / name).write_text(lines())
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no Sxx-RHYTHM"):
        read_folder(tmp_path)


def test_an_index_selects_files(tmp_path):
    write_strip(tmp_path, "S01", "VT", wave(1350), 50)
    write_strip(tmp_path, "S02", "SR", wave(1250), 150)
    index = tmp_path / "train.csv"
    index.write_text("label,Filename\n1,S01-VT-2.txt\n1,S01-VT-3.txt\n")
    assert read_index(index) == ["S01-VT-2.txt", "S01-VT-3.txt"]
    strips = read_folder(tmp_path, index)
    assert len(strips) == 1
    np.testing.assert_array_equal(strips[0].signal, wave(1350)[50:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Filename,label\n", "line 1: the header"),
        ("label,Filename\n1,S01-SR-1.txt\n", "line 2: label 1 contradicts the rhythm SR"),
        ("label,Filename\n0,S01-SR-1.txt\n2,S01-VT-1.txt\n", "line 3: expected 0 or 1"),
        ("label,Filename\n0\n", "line 2: expected"),
        ("label,Filename\n0,S01-SR-9.txt\n", "S01-SR-9.txt is listed but is not in"),
        ("label,Filename\n0,other.txt\n", "line 2: other.txt: the file name"),
    ],
)
def test_a_bad_index_names_the_line(tmp_path, text, message):
    index = tmp_path / "train.csv"
    index.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path, index)


def test_archive_round_trip(tmp_path):
    strips = [Strip(wave(1250, 1), "SR", "S01"), Strip(wave(1777, 2), "VFb", "S02")]
    path = tmp_path / "strips.npz"
    save_strips(path, strips)
    loaded = load_strips(path)
    assert [(s.rhythm, s.patient) for s in loaded] == [("SR", "S01"), ("VFb", "S02")]
    for one, other in zip(strips, loaded, strict=True):
        np.testing.assert_allclose(one.signal, other.signal, atol=5.1e-5)
    with np.load(path) as archive:
        assert archive["signal"].dtype == np.int16
        assert archive["offsets"].tolist() == [0, 1250, 3027]


def test_samples_too_large_for_the_archive_say_which_resolution_fits(tmp_path):
    strip = Strip(wave(1250) * 100, "SR", "S01")
    with pytest.raises(ValueError, match="use lsb_mv >="):
        save_strips(tmp_path / "strips.npz", [strip])
    save_strips(tmp_path / "strips.npz", [strip], lsb_mv=2e-3)
    with pytest.raises(ValueError, match="onset"):
        save_strips(tmp_path / "strips.npz", [Strip(wave(1250), "VT", "S01", onset=3)])
    with pytest.raises(ValueError, match="no strip"):
        save_strips(tmp_path / "strips.npz", [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rhythm": None}, "'rhythm'.*missing"),
        ({"rhythm": np.array(["XX"])}, "strip 0: unknown rhythm 'XX'"),
        ({"offsets": np.array([0, 9999])}, "offsets must rise"),
        ({"offsets": np.array([0, 5, 1250])}, "3 offsets, 1 patients"),
        ({"sample_rate_hz": np.float32(360)}, "360"),
        ({"signal": np.zeros(1250, np.int16)}, "strip 0.*flat"),
        ({"signal": np.zeros(1250)}, "int16"),
    ],
)
def test_a_bad_archive_names_the_field(tmp_path, change, message):
    path = tmp_path / "strips.npz"
    save_strips(path, [Strip(wave(1250), "SR", "S01")])
    with np.load(path) as archive:
        data = {**archive, **change}
    np.savez(path, **{name: value for name, value in data.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        load_strips(path)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "strips.npz"
    path.write_text("hello")
    with pytest.raises(ValueError, match="not an npz"):
        load_strips(path)
