"""No code of the package or of a recipe opens a file in a way that could run what is in it."""

import ast
from pathlib import Path

import pytest
import torch

from lightning_cim._files import tensors_of
from lightning_cim.cli import _checkpoint

ROOT = Path(__file__).parents[2]
FILES = sorted(path for room in ("lightning_cim", "recipes") for path in (ROOT / room).rglob("*.py"))
MODULES = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
CALLS = ("eval", "exec", "compile", "__import__", "execfile")
UNPACKING = ("extractall", "unpack_archive")
ALLOWED = {
    ("lightning_cim/_files.py", "pickle"): "catches its error; torch.load refuses objects unless a user asked for them",
    ("lightning_cim/_files.py", "torch.load"): "weights_only is an argument, True unless a command line says otherwise",
    ("recipes/cryo_em/cryodrgn_files.py", "pickle"): "an unpickler that finds numpy's arrays and nothing else",
}
"""File and what it does, with the reason why that is safe."""


def dotted(node):
    """A name such as ``torch.load`` as it is written; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inside = dotted(node.value)
        return f"{inside}.{node.attr}" if inside else f".{node.attr}"
    return ""


def is_constant(call, name, *values):
    """Whether a call is given one of these values under a name."""
    return any(
        word.arg == name and isinstance(word.value, ast.Constant) and word.value.value in values
        for word in call.keywords
    )


def risks(source):
    """What in a source could run code that a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield node.module
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            last = name.rpartition(".")[2]
            given = [word.arg for word in node.keywords]
            if name in CALLS or last in UNPACKING:
                yield name
            if name == "torch.load" and not is_constant(node, "weights_only", True):
                yield name
            if name in ("np.load", "numpy.load") and not is_constant(node, "allow_pickle", False):
                yield name
            if last == "load_from_checkpoint" and not is_constant(node, "weights_only", True):
                yield last
            if name.startswith("yaml.") and last in ("load", "load_all", "unsafe_load", "full_load"):
                yield name
            if name.startswith("yaml.compose") and "Loader" not in given:
                yield name
            if is_constant(node, "shell", True) or name in ("os.system", "os.popen"):
                yield "shell"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_opened_can_run(path):
    name = str(path.relative_to(ROOT))
    assert not [risk for risk in risks(path.read_text(encoding="utf-8")) if (name, risk) not in ALLOWED]


def test_the_allow_list_has_no_entry_too_many():
    found = {(str(path.relative_to(ROOT)), risk) for path in FILES for risk in risks(path.read_text(encoding="utf-8"))}
    assert set(ALLOWED) <= found


@pytest.mark.parametrize(
    ("source", "risk"),
    [
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("torch.load(path, weights_only=asked)", "torch.load"),
        ("Model.load_from_checkpoint(path)", "load_from_checkpoint"),
        ("np.load(path)", "np.load"),
        ("np.load(path, allow_pickle=True)", "np.load"),
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import joblib as j", "joblib"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("yaml.compose(text)", "yaml.compose"),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("subprocess.run(text, shell=True)", "shell"),
        ("os.system(text)", "shell"),
        ("tarfile.open(path).extractall()", ".extractall"),
    ],
)
def test_what_could_run_is_found(source, risk):
    assert list(risks(source)) == [risk]


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "model.eval()",
        "re.compile(text)",
        "torch.compile(model)",
    ],
)
def test_what_cannot_run_is_left_alone(source):
    assert not list(risks(source))


class Runs:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_that_would_run_something_is_refused_unless_asked_for(tmp_path):
    torch.save({"state_dict": {}, "extra": Runs(tmp_path / "ran")}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad\.ckpt: not a file of tensors and plain values\. .*--weights_only=false"):
        _checkpoint(str(tmp_path / "bad.ckpt"), True)
    with pytest.raises(ValueError, match=r"bad\.ckpt: not a file of tensors"):
        tensors_of(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()
    _checkpoint(str(tmp_path / "bad.ckpt"), False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read: No such file"), (b"x", "not a file of"), ({}, "has no state_dict")]
)
def test_other_files_are_no_checkpoints(tmp_path, content, reason):
    path = tmp_path / "a.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=rf"a\.ckpt: .*{reason}"):
        _checkpoint(str(path), True)
