import json
import sys
from pathlib import Path

import pytest

from lightning_cim.sweep.command import command_of

VALUES = {
    "cim.sigma": 0.1,
    "model.bn": True,
    "model.skip": False,
    "model.sizes": [1, 2],
    "name": "a b",
    "x": None,
}


def test_words_are_those_that_lightning_cli_reads(tmp_path):
    words = command_of(["${env}", "python", "${program}", "fit", "${args}"], "x.py", VALUES, tmp_path)
    assert words[:3] == [sys.executable, "x.py", "fit"]
    assert words[3:] == [
        "--cim.sigma=0.1",
        "--model.bn=true",
        "--model.skip=false",
        "--model.sizes=[1, 2]",
        "--name=a b",
        "--x=null",
    ]


def test_the_other_macros(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", "/data")
    few = {"a": 1, "b": True, "c": False}
    assert command_of(["x", "${args_no_boolean_flags}"], "p", few, tmp_path) == ["x", "--a=1", "--b"]
    assert command_of(["x", "${args_no_hyphens}"], "p", {"a": 1}, tmp_path) == ["x", "a=1"]
    assert command_of(["x", "${args_no_equals}"], "p", {"a": 1}, tmp_path) == ["x", "--a", "1"]
    assert command_of(["x", "--root=${envvar:SOMEWHERE}/a"], "p", {}, tmp_path) == ["x", "--root=/data/a"]
    assert json.loads(command_of(["x", "${args_json}"], "p", few, tmp_path)[1]) == few
    path = command_of(["${interpreter}", "${args_json_file}"], "p", few, tmp_path)[1]
    assert json.loads(Path(path).read_text()) == few


def test_an_unknown_macro_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"unknown macro \$\{arg\}"):
        command_of(["x", "${arg}"], "p", {}, tmp_path)
