"""Callbacks that a file names: for every Trainer of either Lightning, and for none where there is no file."""

import importlib
import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim._enrol import CONFIG, callbacks_for
from tests.evaluation.toys import Classifier, Data
from tests.helpers.boring import FLAVOURS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SPARSE = {"class_path": "lightning_cim.StructuredSparsity", "init_args": {"pattern": "1:4"}}
INJECTION = {
    "class_path": "lightning_cim.VariationInjection",
    "init_args": {"variation": {"class_path": "lightning_cim.Gaussian", "init_args": {"sigma": 0.25}}, "seed": 4},
}
TRAINER = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    """As if this tree were installed: its entry points are those of pyproject.toml."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    groups = tomllib.loads(text)["project"]["entry-points"]
    points = [EntryPoint(name, value, group) for group, named in groups.items() for name, value in named.items()]

    def entry_points(group):
        return [point for point in points if point.group == group]

    for flavour in FLAVOURS:
        fabric = {"lightning.pytorch": "lightning.fabric", "pytorch_lightning": "lightning_fabric"}[flavour]
        monkeypatch.setattr(importlib.import_module(f"{fabric}.utilities.registry"), "entry_points", entry_points)
    monkeypatch.delenv(CONFIG, raising=False)


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Writes a file and names it in the environment."""

    def write(content, name="callbacks.yaml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        monkeypatch.setenv(CONFIG, str(path))
        return path

    return write


def trainer_of(flavour, **options):
    return importlib.import_module(flavour).Trainer(**TRAINER, **options)


def own(trainer):
    return [callback for callback in trainer.callbacks if type(callback).__module__.startswith("lightning_cim")]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_without_a_file_nothing_is_added_and_nothing_said(flavour, capfd):
    assert not own(trainer_of(flavour))
    assert "LIGHTNING_CIM_CONFIG" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("form", ["yaml", "json"])
def test_every_trainer_gets_the_callbacks_of_the_file(flavour, form, named, capsys):
    listed = {"callbacks": [INJECTION, SPARSE]}
    path = named(json.dumps(listed), "callbacks.json") if form == "json" else named(listed)
    first, second = own(trainer_of(flavour)), own(trainer_of(flavour))
    assert {type(callback) for callback in first} == {cim.VariationInjection, cim.StructuredSparsity}
    (injection,) = (callback for callback in first if isinstance(callback, cim.VariationInjection))
    assert (injection.variation, injection.seed) == (cim.Gaussian(0.25), 4)
    assert not set(first) & set(second)
    line = f"lightning_cim: {CONFIG}={path} adds VariationInjection, StructuredSparsity\n"
    assert capsys.readouterr().err.count(line) == 2


def test_names_of_classes_alone_are_found(named):
    named({"callbacks": [{"class_path": "StructuredSparsity"}]})
    assert [type(callback) for callback in callbacks_for(FLAVOURS[0])] == [cim.StructuredSparsity]


def test_evaluation_on_chips_has_each_callback_once(named):
    model, data = Classifier(), Data()
    wanted = cim.evaluate_chips(
        trainer_of(FLAVOURS[0], callbacks=[cim.StructuredSparsity("1:4")]),
        model,
        data,
        variation=cim.Gaussian(0.2),
        chips=3,
    )
    named({"callbacks": [SPARSE]})
    found = cim.evaluate_chips(trainer_of(FLAVOURS[0]), model, data, variation=cim.Gaussian(0.2), chips=3)
    assert found.values.keys() == wanted.values.keys()
    for name in wanted.values:
        assert found.values[name].tolist() == wanted.values[name].tolist()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("callbacks: [", "not YAML"),
        ("3", "expected one key, callbacks"),
        ("callbacks: []", "expected one key, callbacks"),
        ({"callbacks": [SPARSE], "trainer": {}}, "expected one key, callbacks"),
        ({"callbacks": [{"class_path": "lightning_cim.StructuredSparsety"}]}, "no attribute 'StructuredSparsety'"),
        ({"callbacks": [{"class_path": "pathlib.Path"}]}, "pathlib.Path does not correspond to a subclass of Callback"),
        ({"callbacks": [{**SPARSE, "init_args": {"patern": "1:4"}}]}, "patern"),
        ({"callbacks": [{**SPARSE, "init_args": {"pattern": "5:4"}}]}, "pattern"),
        ({"callbacks": [3]}, "Not a valid subclass of Callback"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_when_the_trainer_is_made(named, content, reason):
    path = named(content)
    with pytest.raises(MisconfigurationException, match=reason) as error:
        trainer_of(FLAVOURS[0])
    assert str(error.value).startswith(f"{CONFIG}={path}: ")


def test_a_file_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv(CONFIG, str(tmp_path / "none.yaml"))
    with pytest.raises(MisconfigurationException, match=r"none\.yaml: cannot be read: No such file"):
        trainer_of(FLAVOURS[0])


def test_without_jsonargparse_the_extra_is_named(named, monkeypatch):
    named({"callbacks": [SPARSE]})
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-cim\[cli\]'"):
        callbacks_for(FLAVOURS[0])
