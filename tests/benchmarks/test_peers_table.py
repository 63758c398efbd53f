"""What the peers benchmark counts and prints."""

import importlib.metadata
import json
import re
from pathlib import Path

import peers
import pytest
from packaging.requirements import Requirement
from peers_install import closure, installed_bytes, requirements_of, source_bytes
from peers_lines import count_lines
from peers_toolkits import TOOLKITS

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def test_lines_between_marks_are_counted_without_blanks_and_comments(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("a\n# >>> train\nb\n\n# why\n  c  # kept\n# <<<\nd\n# >>> other\ne\n# <<<\n# >>> train\nf\n# <<<\n")
    assert count_lines(path, "train") == 3
    assert count_lines(path, "other") == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n", r"x\.py: no region 'train'"),
        ("# >>> train\na\n", r"x\.py: region 'train' does not end"),
        ("a\n# <<<\n", r"x\.py:2: '# <<<' closes nothing"),
        ("# >>> train\n# >>> train\n", r"x\.py:2: region 'train' is still open"),
    ],
)
def test_marks_that_do_not_match_are_refused_with_their_line(tmp_path, source, message):
    path = tmp_path / "x.py"
    path.write_text(source)
    with pytest.raises(ValueError, match=message):
        count_lines(path, "train")


def test_every_contestant_has_marked_lines_for_both_uses():
    for toolkit in TOOLKITS:
        assert count_lines(BENCHMARKS / toolkit.source, toolkit.region) > 0, toolkit.name
        assert count_lines(BENCHMARKS / toolkit.source, "evaluate") > 0, toolkit.name


def test_closure_follows_requirements_and_their_extras():
    lightning = closure(["lightning"])
    assert {"lightning", "torch", "torchmetrics", "lightning-utilities"} <= lightning
    assert "aiohttp" in lightning  # by way of fsspec[http]
    assert "aiohttp" not in closure(["fsspec"])
    assert closure(["torch"]) < lightning
    assert closure(['numpy; python_version < "3"']) == set()


def test_what_is_not_installed_has_no_size():
    with pytest.raises(ValueError, match="no-such-thing is not installed"):
        closure(["No_Such.Thing>=1"])


def test_sizes_are_those_of_the_files(tmp_path):
    on_disk = sum(
        Path(file.locate()).stat().st_size for file in importlib.metadata.files("torchmetrics") if file.suffix == ".py"
    )
    assert on_disk <= installed_bytes(["torchmetrics"]) < 1.2 * on_disk
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_bytes(b"12345")
    (tmp_path / "sub" / "b.toml").write_bytes(b"678")
    (tmp_path / "sub" / "a.pyc").write_bytes(b"9" * 100)
    assert source_bytes(tmp_path) == 8


def test_dependencies_are_read_from_the_project():
    assert {"torch", "lightning", "numpy"} <= {
        Requirement(text).name for text in requirements_of(ROOT / "pyproject.toml")
    }


def test_pins_cover_what_the_benchmark_installs_and_are_exact():
    pins = dict(re.findall(r"^([a-z-]+)==([0-9.]+)$", (BENCHMARKS / "peers_requirements.txt").read_text(), re.M))
    assert set(pins) == {"aihwkit", "aihwkit-lightning", "lightning", "rich", "torch", "torchvision"}
    allowed = {Requirement(text).name: Requirement(text).specifier for text in requirements_of(ROOT / "pyproject.toml")}
    for name in ("torch", "lightning", "rich"):
        assert pins[name] in allowed[name], name


def test_a_toolkit_that_cannot_run_here_gets_a_reason_and_no_time():
    def broken():
        raise RuntimeError("Invalid weights dimensions: expected [2,2] tensor\nand a long tail")

    here, row = TOOLKITS[0], peers.Row("step")
    assert peers.prepared(row, here, broken) is None
    assert row.cells[here.name] == "fails: Invalid weights dimensions: expected [2,2] tensor"
    assert peers.prepared(row, here, lambda: "made") == "made"
    with pytest.raises(ZeroDivisionError):
        peers.prepared(row, here, lambda: 1 / 0)


def test_ratios_go_to_each_rows_own_base(monkeypatch):
    times = {"clean": [4.0, 6.0], "fast": [2.0, 2.0], "lightning_cim": [4.0, 3.0]}
    monkeypatch.setattr(peers, "interleave", lambda variants, rounds: times)
    rows = [peers.Row("a"), peers.Row("b", base="fast")]
    peers.contest(rows, "clean", 2, {}, 2)
    assert rows[0].cells["lightning_cim"] == {"minima": 0.75, "median": 0.75}
    assert rows[1].cells["lightning_cim"] == {"minima": 1.5, "median": 1.75}
    assert [row.base for row in rows] == ["2e+03 ms", "1e+03 ms"]
    header, body = peers.table(rows)
    assert header[:3] == ["", "clean", "lightning_cim"]
    assert body[1][:3] == ["b", "1e+03 ms", "1.50 (1.75)"]


def test_the_report_is_written_as_json_and_markdown(tmp_path):
    rows = [peers.Row("step", "1 ms", {"lightning_cim": {"minima": 1.0, "median": 1.1}, "plain PyTorch": "8"})]
    peers.write(tmp_path / "new", {"date": "2026-11-24"}, rows, ["a note"])
    report = json.loads((tmp_path / "new" / "peers.json").read_text())
    assert report["rows"][0]["cells"]["lightning_cim"] == {"minima": 1.0, "median": 1.1}
    page = (tmp_path / "new" / "peers.md").read_text()
    assert "| step | 1 ms | 1.00 (1.10) |" in page
    assert page.endswith("- a note\n")


def test_nonsense_options_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["peers.py", "--rounds=0"])
    with pytest.raises(SystemExit):
        peers.main()
    assert "--rounds and --chips must be at least 1" in capsys.readouterr().err
