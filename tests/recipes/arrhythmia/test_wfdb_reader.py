import logging
import sys

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

from recipes.arrhythmia.wfdb_reader import read_folder, read_patient_map, read_record

wfdb = pytest.importorskip("wfdb", reason="WFDB records are an optional extra")


def wave(seconds, rate=250, seed=0):
    t = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(seed)
    return 0.5 * np.sin(2 * np.pi * 20 * t) + 0.2 * np.sin(2 * np.pi * 40 * t + 1) + 0.05 * rng.standard_normal(len(t))


def write(folder, name, signals, marks, rate=250, fmt="16", names=("ECG",), unit="mV"):
    """Write a record; `marks` are (second, symbol, aux_note)."""
    signals = np.atleast_2d(signals).T
    count = signals.shape[1]
    wfdb.wrsamp(
        name, rate, [unit] * count, list(names), signals, fmt=[fmt] * count, write_dir=str(folder),
        adc_gain=[500.0] * count, baseline=[0] * count,
    )  # fmt: skip
    seconds, symbols, notes = zip(*marks, strict=True)
    at = np.round(np.array(seconds) * rate).astype(int)
    wfdb.wrann(name, "atr", at, list(symbols), aux_note=list(notes), write_dir=str(folder))


def filtered(x):
    return sosfiltfilt(butter(2, (15, 55), "bandpass", fs=250, output="sos"), x)


@pytest.mark.parametrize("fmt", ["212", "16"])
def test_rhythms_last_to_the_next_change_and_the_beginning_is_unknown(tmp_path, fmt):
    x = wave(40)
    write(tmp_path, "418", x, [(2, "+", "(N"), (10, "+", "(VT\x00"), (15, "+", "(AFIB "), (20, "+", "(VFIB")], fmt=fmt)
    strips = read_folder(tmp_path)
    assert [(s.rhythm, len(s.signal), s.patient) for s in strips] == [
        ("SR", 2000, "418"), ("VT", 1250, "418"), ("AFb", 1250, "418"), ("VFb", 5000, "418"),
    ]  # fmt: skip
    # Quantised to 1 / 500 mV in the file; filtered as one record before it was cut.
    np.testing.assert_allclose(strips[1].signal, filtered(x)[2500:3750], atol=2e-3)


def test_360_hz_comes_out_at_250_hz_with_its_times(tmp_path):
    x360, x250 = wave(30, 360), wave(30, 250)  # the same tones, other noise
    write(tmp_path, "207", x360, [(1, "+", "(N"), (12, "+", "(VFL"), (18, "+", "(N")], rate=360, fmt="212")
    strips = read_folder(tmp_path)
    assert [(s.rhythm, len(s.signal)) for s in strips] == [("SR", 2750), ("VFt", 1500), ("SR", 3000)]
    assert np.corrcoef(strips[1].signal, filtered(x250)[3000:4500])[0, 1] > 0.97


def test_beat_symbols_of_fibrillation_override_the_rhythm(tmp_path):
    marks = [(0.1, "+", "(N"), (5, "[", ""), (11, "]", ""), (20, "[", ""), (25, "N", "")]
    write(tmp_path, "cu01", wave(40), marks)
    strips = read_folder(tmp_path)
    # The second bracket stays open; nothing is known behind the last annotation of a record with beats.
    assert [(s.rhythm, len(s.signal)) for s in strips] == [("SR", 1225), ("VFb", 1500), ("SR", 2250), ("VFb", 1250)]


def test_a_closing_bracket_alone_is_ignored_with_a_warning(tmp_path):
    write(tmp_path, "cu02", wave(20), [(0, "+", "(N"), (5, "]", ""), (19, "N", "")])
    with pytest.warns(UserWarning, match=r"cu02.*sample 1250"):
        strips = read_folder(tmp_path)
    assert [(s.rhythm, len(s.signal)) for s in strips] == [("SR", 4750)]


def test_what_has_no_rhythm_is_dropped_and_counted(tmp_path, caplog):
    marks = [
        (0, "+", "(NOISE"),
        (4, "+", "(HGEA"),
        (8, "+", "(ASYS"),
        (10, "+", "(FOO"),
        (12, "+", ""),
        (14, "+", "(VT"),
    ]
    write(tmp_path, "r", wave(20), marks)
    with caplog.at_level(logging.INFO):
        strips = read_folder(tmp_path)
    assert [(s.rhythm, len(s.signal)) for s in strips] == [("VT", 1500)]
    assert "dropped 4 s annotated NOISE" in caplog.text
    assert "dropped 2 s annotated FOO" in caplog.text


def test_long_gaps_and_flat_stretches_cut_and_short_gaps_are_bridged(tmp_path):
    x = wave(40)
    whole = filtered(x)
    x[1000:1100] = np.nan  # .4 s
    x[3000:3025] = np.nan  # .1 s
    x[5000:5200] = x[5000]  # .8 s
    write(tmp_path, "r", x, [(0, "+", "(N")])
    strips = read_folder(tmp_path)
    assert [len(s.signal) for s in strips] == [1000, 3900, 4800]
    np.testing.assert_allclose(strips[1].signal[200:1700], whole[1300:2800], atol=2e-3)


def test_a_record_without_a_single_sample_gives_no_strip(tmp_path):
    write(tmp_path, "r", np.full(2500, np.nan), [(0, "+", "(N")])
    with pytest.raises(ValueError, match="no stretch of signal has a known rhythm"):
        read_folder(tmp_path)


@pytest.mark.parametrize(("names", "chosen"), [(("V5", "MLII"), 1), (("MLII", "II"), 1), (("x", "y"), 0)])
def test_channel_is_chosen_by_name(tmp_path, names, chosen):
    two = np.stack([wave(10, seed=1), 3 * wave(10, seed=2)])
    write(tmp_path, "r", two, [(0, "+", "(N")], names=names)
    np.testing.assert_allclose(read_folder(tmp_path)[0].signal, filtered(two[chosen]), atol=2e-3)


def test_units_are_converted_or_refused(tmp_path):
    write(tmp_path, "r", 1000 * wave(10) / 30, [(0, "+", "(N")], unit="uV")
    np.testing.assert_allclose(read_folder(tmp_path)[0].signal, filtered(wave(10)) / 30, atol=2e-3)
    write(tmp_path, "s", wave(10), [(0, "+", "(N")], unit="mmHg")
    with pytest.raises(ValueError, match=r"s\.hea: unit 'mmHg'"):
        read_folder(tmp_path)


def test_slow_records_are_refused(tmp_path):
    write(tmp_path, "r", wave(10, 100), [(0, "+", "(N")], rate=100)
    with pytest.raises(ValueError, match=r"100\.0 Hz cannot carry"):
        read_folder(tmp_path)


def test_records_of_one_patient_are_merged(tmp_path):
    for name in ("201", "202", "a", "b"):
        write(tmp_path, name, wave(5), [(0, "+", "(N")])
    assert {s.patient for s in read_folder(tmp_path)} == {"201", "a", "b"}
    table = tmp_path / "patients.csv"
    table.write_text("record,patient\na,anna\nb,anna\n")
    assert {s.patient for s in read_folder(tmp_path, table)} == {"201", "anna"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n", "line 1"), ("record,patient\na\n", "line 2"), ("record,patient\na,x\na,y\n", "line 3.*twice")],
)
def test_a_bad_patient_map_names_the_line(tmp_path, text, message):
    table = tmp_path / "patients.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_patient_map(table)


def test_records_without_annotations_do_not_count_and_broken_ones_are_named(tmp_path):
    write(tmp_path, "r", wave(5), [(0, "+", "(N")])
    (tmp_path / "r.atr").rename(tmp_path / "r.qrs")
    with pytest.raises(ValueError, match="no record with a"):
        read_folder(tmp_path)
    write(tmp_path, "s", wave(5), [(0, "+", "(N")])
    (tmp_path / "s.hea").write_text("garbage")
    with pytest.raises(ValueError, match="s: wfdb cannot read this record"):
        read_folder(tmp_path)


def test_without_wfdb_the_message_names_the_extra(tmp_path, monkeypatch):
    write(tmp_path, "r", wave(5), [(0, "+", "(N")])
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(ImportError, match=r"lightning_cim\[ecg\]"):
        read_record(tmp_path / "r")


def test_a_record_of_several_segments_is_read_as_one(tmp_path):
    x = wave(20)
    for name, part in (("m_1", x[:2500]), ("m_2", x[2500:])):
        wfdb.wrsamp(
            name,
            250,
            ["mV"],
            ["ECG"],
            part[:, None],
            fmt=["16"],
            write_dir=str(tmp_path),
            adc_gain=[500.0],
            baseline=[0],
        )
    (tmp_path / "m.hea").write_text("m/2 1 250 5000\nm_1 2500\nm_2 2500\n")
    wfdb.wrann("m", "atr", np.array([0]), ["+"], aux_note=["(VT"], write_dir=str(tmp_path))
    (strip,) = read_folder(tmp_path)
    np.testing.assert_allclose(strip.signal, filtered(x), atol=2e-3)
