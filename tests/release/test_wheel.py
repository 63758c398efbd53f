"""What a user installs: built from the tree, put into an environment of its own, and used from an empty folder."""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import lightning_cim as cim

pytest.importorskip("hatchling", reason="hatchling (the extra dev) builds the wheel")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DATA = ("variation/presets/*.toml", "codesign/presets/*.yaml", "codesign/cost/*.yaml", "py.typed")
EXTRAS = ("matplotlib", "jsonargparse", "wandb", "optuna", "openai", "scipy", "sklearn", "timm", "torchvision", "numba")


def build(target, source, folder):
    """The one file that hatchling makes of a source tree."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=source,
        capture_output=True,
        check=True,
    )
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A Python that has the wheel, and of what this one has everything else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if path.endswith("site-packages")]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], check=True
    )
    (site / "shared.pth").write_text("\n".join(shared))
    return python


def contents(wheel):
    with zipfile.ZipFile(wheel) as file:
        return {info.filename: file.read(info) for info in file.infolist()}


def run(python, code, folder, **environment):
    """What code prints in its last line, read as JSON, and all of its stderr; run in an empty folder."""
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LIGHTNING_CIM_CONFIG")}
    done = subprocess.run(
        [python, "-c", code], cwd=folder, env={**plain, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_the_wheel_holds_the_package_its_data_and_the_licence_and_nothing_else(wheel):
    names = set(contents(wheel))
    about = f"lightning_cim-{cim.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"lightning_cim", about}
    assert f"{about}/licenses/LICENSE" in names
    package = ROOT / "lightning_cim"
    wanted = {path for pattern in ("**/*.py", *DATA) for path in package.glob(pattern)}
    assert {name for name in names if not name.startswith(about)} == {str(path.relative_to(ROOT)) for path in wanted}


def test_the_sdist_has_what_tests_and_recipes_need_and_no_results(sdist):
    with tarfile.open(sdist) as file:
        names = {name.split("/", 1)[1] for name in file.getnames()}
    needed = ["LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "Makefile"]
    assert {*needed, "recipes/ecg.py", "tests/conftest.py", "docs/index.md", "lightning_cim/py.typed"} <= names
    tops = {name.split("/")[0] for name in names}
    assert not tops & {"runs", "build", "dist", ".venv", "shared", "lightning_logs"}


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_tree(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert contents(build("wheel", source, tmp_path / "wheel")) == contents(wheel)


def test_the_metadata_say_what_pyproject_says(wheel):
    about = Parser().parsestr(contents(wheel)[f"lightning_cim-{cim.__version__}.dist-info/METADATA"].decode())
    assert (about["Name"], about["Version"], about["License-Expression"]) == (
        "lightning-cim",
        cim.__version__,
        "Apache-2.0",
    )
    core = {line.split(";")[0].strip() for line in about.get_all("Requires-Dist") if "extra ==" not in line}
    names = {line.split(">")[0].split("!")[0].strip() for line in core}
    assert names == {"lightning", "numpy", "rich", "tomli", "torch", "torchmetrics"}


def test_it_imports_alone_with_every_preset_and_no_extra(installed, tmp_path):
    code = """
import json, sys
from pathlib import Path
import lightning.pytorch
before = set(sys.modules)
import lightning_cim as cim
added = sorted(set(sys.modules) - before)
presets = []
for name in cim.Measured.list():
    try:
        presets.append(str(cim.Measured.preset(name)))
    except ValueError as error:
        assert "give sigma" in str(error), error
        presets.append(str(cim.Measured.preset(name, sigma=0.1)))
spaces = [len(cim.codesign.Space.preset(name).slots) for name in cim.codesign.space.PRESETS]
for name in cim.__all__:
    if name != "CIMCLI":  # needs the extra cli
        getattr(cim, name)
home = Path(cim.__file__).parent
print(json.dumps([str(home), cim.__version__, added, len(presets), spaces, (home / "py.typed").exists()]))
"""
    (home, version, added, presets, spaces, is_typed), _ = run(installed, code, tmp_path)
    assert Path(home).is_relative_to(installed.parents[1])
    assert version == cim.__version__
    assert not [name for name in added if name.split(".")[0] in EXTRAS]
    assert presets == len(list((ROOT / "lightning_cim/variation/presets").glob("*.toml")))
    assert all(spaces)
    assert is_typed


TRAINERS = """
for flavour in ("lightning.pytorch", "pytorch_lightning"):
    trainer = importlib.import_module(flavour).Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    names.append([type(callback).__name__ for callback in trainer.callbacks])
"""


def test_trainers_of_both_lightnings_get_callbacks_only_while_a_file_is_named(installed, tmp_path):
    pytest.importorskip("pytorch_lightning")
    path = tmp_path / "callbacks.yaml"
    path.write_text("callbacks: [{class_path: lightning_cim.StructuredSparsity, init_args: {pattern: '1:4'}}]\n")
    code = f"import importlib, json, os\nnames = []\n{TRAINERS}os.environ.pop('LIGHTNING_CIM_CONFIG')\n{TRAINERS}"
    found, said = run(installed, code + "print(json.dumps(names))", tmp_path, LIGHTNING_CIM_CONFIG=str(path))
    assert [names.count("StructuredSparsity") for names in found] == [1, 1, 0, 0]
    assert said.count(f"lightning_cim: LIGHTNING_CIM_CONFIG={path} adds StructuredSparsity\n") == 2
