"""Whatever is in a file, it is a device or a ValueError that names file and line."""

import math
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_cim.variation.conductance import Device, Polynomial, SaturatingExponential, Table, linear
from lightning_cim.variation.device_file import DeviceFile
from lightning_cim.variation.level_file import device_from_csv, read_levels
from lightning_cim.variation.measured import Measured

GOOD = """name = "cell"

[conductance]
unit = "uS"
min = 1.0
max = 50.0

[[programming]]
day = 0
sigma = { model = "linear", intercept = 0.5, slope = 0.02 }

[[programming]]
day = 1
max = 40.0
sigma = { model = "table", conductances = [0, 60], values = [1, 2] }
shift = { model = "constant", value = -0.5 }
"""


def test_a_file_is_a_device_for_each_condition():
    file = DeviceFile("cell.toml", GOOD.encode())
    assert file.options == {"day": [0, 1]}
    assert file.device({}) == file.device({"day": 0}) == Device("cell (day=0)", "uS", 1.0, 50.0, linear(0.5, 0.02))
    later = Device("cell (day=1)", "uS", 1.0, 40.0, Table((0.0, 60.0), (1.0, 2.0)), Polynomial((-0.5,)))
    assert file.device({"day": 1}) == later


@pytest.mark.parametrize(
    ("model", "curve"),
    [
        ('model = "constant", value = 2', Polynomial((2.0,))),
        ('model = "polynomial", coefficients = [1, 2.5], reference = 50', Polynomial((1.0, 2.5), 50.0)),
        ('model = "polynomial", coefficients = [1, 2.5]', Polynomial((1.0, 2.5))),
        ('model = "saturating_exponential", amplitude = 3, decay = 7.0', SaturatingExponential(3.0, 7.0)),
    ],
)
def test_models(model, curve):
    text = GOOD.replace('model = "linear", intercept = 0.5, slope = 0.02', model)
    assert DeviceFile("cell.toml", text.encode()).device({}).sigma == curve


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('"cell"', "cell", 1, "not a TOML file"),
        ('name = "cell"', "name = 3", 1, r'name = "..." is missing or not a text'),
        ('unit = "uS"', 'unit = "ohm"', 4, "unit must be one of S, mS, uS"),
        ("min = 1.0", "min = true", 5, "min must be a number of at most 1e[+]12, got True"),
        ("min = 1.0", "min = nan", 5, "min must be a number"),
        ("min = 1.0\n", "", 3, "min must be a number of at most 1e[+]12, got None"),
        ("max = 50.0", "max = 1e999", 6, "max must be a number"),
        ("max = 50.0", "max = 0.5", 8, "g_max=0.5 must be larger than g_min=1 uS"),
        ("max = 50.0", "max = 50.0\nvalid = [1]", 7, r"valid must be \[lowest, highest\], got 1 numbers"),
        ("max = 50.0", "max = 50.0\nvalid = [2, 50]", 9, r"g_min is 1 uS, but .* between 2 and 50 uS"),
        ("max = 50.0", "max = 50.0\nvalid = 3", 7, "valid must be a list of numbers, got 3"),
        ("[conductance]", "[conductence]", 1, r"\[conductance\] is missing"),
        ('"linear"', '"lineer"', 10, "model must be one of constant, linear, polynomial"),
        ("slope = 0.02", "slop = 0.02", 10, "linear knows intercept, slope; not 'slop'"),
        (", slope = 0.02", "", 10, "linear needs slope"),
        ("slope = 0.02", "slope = -0.02", 8, "a standard deviation cannot be negative"),
        ("max = 40.0", "max = []", 14, r"max must be a number of at most 1e[+]12, got \[\]"),
        ("day = 1", "day = [1]", 13, r"day must be a number or text, got \[1\]"),
        ("[0, 60]", "[60, 0]", 15, "levels of a table must increase"),
        ("[0, 60]", '[0, "60"]', 15, "conductances must be a number"),
        ("value = -0.5", "value = '-0.5'", 16, "value must be a number"),
        ('{ model = "constant", value = -0.5 }', "3", 16, "shift = { model = ... } is missing or not a table"),
        ('sigma = { model = "table"', 'sigmo = { model = "table"', 15, "sigmo must be a number or text"),
        ('sigma = { model = "table", conductances = [0, 60], values = [1, 2] }', "", 12, "sigma = .* is missing"),
    ],
)
def test_mistakes_are_named_with_their_line(old, new, line, message):
    assert GOOD.count(old) == 1
    with pytest.raises(ValueError, match=rf"^cell\.toml:{line}: .*{message}"):
        DeviceFile("cell.toml", GOOD.replace(old, new).encode())


def test_devices_known_by_a_ratio_only():
    file = DeviceFile("x.toml", b'name = "x"\nlevel_preset = "RRAM4"')
    with pytest.raises(
        ValueError, match=r"x.toml: x is known by the ratio of its levels only; use LevelGaussian.preset"
    ):
        file.device({})
    with pytest.raises(ValueError, match=r"^x.toml:2: level_preset must be one of RRAM1, FeFET2, RRAM4, FeFET6"):
        DeviceFile("x.toml", b'name = "x"\nlevel_preset = "RRAM5"')


def test_missing_programming_and_other_bytes():
    head = GOOD[: GOOD.index("[[programming]]")]
    for text in (head, head + "programming = []", head + "programming = 3"):
        with pytest.raises(ValueError, match=r"^x\.toml:\d+: .*"):
            DeviceFile("x.toml", text.encode())
    with pytest.raises(ValueError, match=r"^x\.toml:2: not UTF-8 text: byte 0xff"):
        DeviceFile("x.toml", b"# ok\nname = \xff")
    with pytest.raises(ValueError, match=r"^x\.toml:1: nested too deeply"):
        DeviceFile("x.toml", b"a = " + b"[" * 100_000)
    with pytest.raises(ValueError, match=r"^x\.toml:\d+: "):
        DeviceFile("x.toml", b"a = " + b"9" * 5000)


LINE = re.compile(r"^x\.\w+:([1-9]\d*): ")


def refusal(read, *arguments, **options):
    """The message of the ValueError that refuses a file, or None; any other exception passes through."""
    try:
        read(*arguments, **options)
    except ValueError as error:
        return str(error)
    return None


def refused_with_a_line(read, content):
    """Whether the content is refused, after a check that a line of the file is named."""
    message = refusal(read, "x.file", content)
    if message is None:
        return False
    found = LINE.match(message)
    assert found, message
    assert int(found.group(1)) <= content.count(b"\n") + content.count(b"\r") + 1, message
    return True


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=150, deadline=None)
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b'name = "\\ud800"')
def test_garbage_is_no_device(content):
    assert refused_with_a_line(DeviceFile, content)


SCALARS = st.sampled_from(
    [
        "0",
        "-1",
        "1e308",
        "-1e-308",
        "nan",
        "inf",
        "true",
        '"x"',
        "[]",
        "[1, 2]",
        "{}",
        "1979-05-27",
        "10.5",
        "[[1]]",
        "''",
    ]
)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_device_is_a_device_or_refused(data):
    """Values and lines of a good file are replaced, dropped and doubled."""
    lines = GOOD.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(lines) - 1))
        change = data.draw(st.sampled_from(["value", "drop", "double", "cut", "number"]))
        if change == "value" and "=" in lines[i]:
            lines[i] = lines[i].split("=")[0] + "= " + data.draw(SCALARS)
        elif change == "number":
            lines[i] = re.sub(r"[0-9.]+", data.draw(SCALARS), lines[i], count=1)
        elif change == "cut":
            lines[i] = lines[i][: data.draw(st.integers(0, len(lines[i])))]
        elif change == "drop":
            lines[i] = ""
        else:
            lines.insert(i, lines[i])
    content = "\n".join(lines).encode()
    if not refused_with_a_line(DeviceFile, content):
        file = DeviceFile("x.file", content)
        if file.level_preset is None:
            assert math.isfinite(Measured(file.device({})).std)


READINGS = b"target_uS,reading_uS\n10,11\n10,9\n20,20\n20,23\n20,17\n"


def test_readings_become_levels():
    unit, levels, line = read_levels("x.csv", b"\xef\xbb\xbf# note\n\n target_\xc2\xb5S , reading_uS\n" + READINGS[21:])
    assert (unit, line) == ("uS", 3)
    assert [(level.target, level.mean, level.readings) for level in levels] == [(10.0, 10.0, 2), (20.0, 20.0, 3)]
    assert [level.std for level in levels] == pytest.approx([math.sqrt(2), 3.0])


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (b"20,23", b"20,2e", 5, "'2e' is not a number"),
        (b"20,23", b"20,nan", 5, "'nan' is not a number"),
        (b"20,23", b"20,1e13", 5, "is not a number of at most"),
        (b"20,23", b"20", 5, "2 values expected, got 1"),
        (b"20,23", b"20,23,3", 5, "2 values expected, got 3"),
        (b"10,9\n", b"", 2, "the target 10 has one reading; a std needs two or more"),
        (b"reading_uS", b"reading_nS", 1, "all columns must have one unit"),
        (b"reading_uS", b"reading", 1, "columns must be target_uS,reading_uS or level_uS,mean_uS,std_uS"),
        (b"reading_uS", b"mean_uS", 1, "columns must be"),
        (b"reading_uS", b"reading_uS,reading_uS", 1, "columns must be"),
        (b"_uS", b"_ohm", 1, "all columns must have one unit"),
        (b"20,23\n20,17\n", b"", 4, "the target 20 has one reading"),
        (READINGS[21:], b"10,11\n10,9\n", 3, "two or more levels are needed, got 1"),
        (READINGS, b"", 1, "no header"),
        (b"20,23", b"20,2\xff", 5, "not UTF-8 text: byte 0xff"),
        (b"10,11\n10,9\n", b"20.000000001,5\n20.000000001,5\n", 1, "levels of a table must increase"),
    ],
)
def test_mistakes_in_readings(tmp_path, old, new, line, message):
    assert old in READINGS
    path = tmp_path / "x.csv"
    path.write_bytes(READINGS.replace(old, new))
    with pytest.raises(ValueError, match=rf"x\.csv:{line}: .*{message}"):
        device_from_csv(path)


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        ("1,1,0.1\n2,2,-0.1", 3, "std must be at least 0, got -0.1"),
        ("1,1,0.1\n2,2,0.1\n1,1,0.2", 4, "the level 1 stands on line 2 already"),
        ("1,1,0.1", 2, "two or more levels are needed, got 1"),
    ],
)
def test_mistakes_in_levels(tmp_path, rows, line, message):
    path = tmp_path / "x.csv"
    path.write_text(f"level_uS,mean_uS,std_uS\n{rows}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"x\.csv:{line}: {message}"):
        device_from_csv(path)


def test_a_fit_that_dips_below_zero_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("level_uS,mean_uS,std_uS\n0,0,1\n1,1,0.01\n2,2,0.01\n3,3,1\n4,4,3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.csv:1: .*a standard deviation cannot be negative. Use a lower degree"):
        device_from_csv(path, fit="polynomial", degree=2)
    assert device_from_csv(path).sigma_at(1.0) == 0.01


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=150, deadline=None)
@example(b"\x00")
@example(b'"')
@example(b"target_uS,reading_uS\r10,\r\n10")
def test_garbage_is_no_table(content):
    assert refused_with_a_line(read_levels, content)


CELLS = st.floats(allow_nan=True).map(repr) | st.integers(-5, 50).map(str) | st.text(max_size=4)


@given(
    header=st.sampled_from(["target_uS,reading_uS", "level_nA,mean_nA,std_nA", "target_S,reading_uS"]),
    rows=st.lists(st.lists(CELLS, min_size=2, max_size=3), max_size=8),
    fit=st.sampled_from([{}, {"fit": "polynomial", "degree": 1}, {"fit": "polynomial", "degree": 0}]),
)
@settings(max_examples=150, deadline=None)
def test_any_rows_are_a_device_or_refused(tmp_path_factory, header, rows, fit):
    content = "\n".join([header, *(",".join(row) for row in rows)]).encode("utf-8", "surrogatepass")
    path = tmp_path_factory.getbasetemp() / "x.csv"
    path.write_bytes(content)
    message = refusal(device_from_csv, path, **fit)
    if message is None:
        assert math.isfinite(Measured(device_from_csv(path, **fit)).std)
    else:
        assert re.search(r"x\.csv:[1-9]\d*: ", message), message
