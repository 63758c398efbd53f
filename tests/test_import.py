"""What an import costs, and which rooms may know which."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_cim as cim

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_cim"
HEAVY = ("matplotlib", "jsonargparse", "wandb", "scipy", "pytorch_lightning")
LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric")
NO_LIGHTNING = ("variation", "chip", "evaluation", "programming")
# variation <- chip <- {evaluation, programming} <- callbacks <- strategies, cli; codesign uses evaluation.
ALLOWED = {
    "variation": set(),
    "chip": {"variation"},
    "evaluation": {"variation", "chip"},
    "programming": {"variation", "chip"},
    "codesign": {"variation", "chip", "evaluation"},
    "callbacks": {"variation", "chip", "evaluation", "programming"},
    "strategies": {"variation", "chip", "evaluation", "programming", "callbacks"},
    "sweep": set(),
    "cli": {"variation", "chip", "evaluation", "programming", "callbacks", "strategies", "sweep"},
}
PUBLIC_ROOMS = ("codesign", "sweep")
"""Imported as they are, because few users need them: their names are not among lightning_cim's own."""
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path):
    """Every absolute module name that a file imports, inside functions and ``TYPE_CHECKING`` too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_at_once(path):
    """Modules that a file imports when it is imported itself: not inside functions, not for type checkers only."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def printed_by(code):
    """What a fresh interpreter prints in its last line, read as JSON."""
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(found.stdout.splitlines()[-1])


def test_import_adds_nothing_heavy_to_lightning_and_no_room():
    code = """
import json, sys
import lightning.pytorch
before = set(sys.modules)
import lightning_cim
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    added = printed_by(code)
    assert not [name for name in HEAVY if name in added]
    assert {name.split(".")[1] for name in added if name.startswith("lightning_cim.")} == {"_registry"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_modules_are_imported_where_they_are_used(path):
    """Lightning may load them too, so that their absence from ``sys.modules`` alone would prove little."""
    assert not [module for module in imports_at_once(path) if module.split(".")[0] in HEAVY]


def test_strategies_are_known_to_a_pytorch_lightning_imported_before():
    pytest.importorskip("pytorch_lightning")
    code = """
import json
import pytorch_lightning
import lightning_cim
from pytorch_lightning.strategies import StrategyRegistry
print(json.dumps(StrategyRegistry.available_strategies()))
"""
    assert {"cim", "cim_ddp"} <= set(printed_by(code))


def test_rooms_below_lightning_run_without_it():
    """variation and chip import torch only, also indirectly; the package's own __init__ registers strategies."""
    code = """
import sys, types
package = types.ModuleType("lightning_cim")
package.__path__ = [PATH]
sys.modules["lightning_cim"] = package
import lightning_cim.chip, lightning_cim.variation
import json
print(json.dumps(sorted(sys.modules)))
""".replace("PATH", repr(str(PACKAGE)))
    loaded = printed_by(code)
    assert "lightning_cim.chip.scope" in loaded
    assert not [name for name in ("lightning", "pytorch_lightning", "torchmetrics", "matplotlib") if name in loaded]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = room_of(path)
    for module in imports_of(path):
        head, *rest = module.split(".")
        assert head not in ("recipes", "tests", "benchmarks")
        if room in NO_LIGHTNING:
            assert head not in LIGHTNING, f"{path} imports {module}"
        if head == "lightning_cim" and room in ALLOWED and not rest[0].startswith("_"):
            assert rest[0] in ALLOWED[room] | {room}, f"{path} imports {module}"


NAMES = ("data", "digest", "files", "plotting", "progress", "tables", "undisturbed")
SHARED = sorted(PACKAGE / f"_{name}.py" for name in NAMES)


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.name)
def test_what_any_room_may_use_needs_no_room_and_no_lightning(path):
    for module in imports_of(path):
        head, *rest = module.split(".")
        assert head not in (*LIGHTNING, "torchmetrics"), f"{path} imports {module}"
        assert head != "lightning_cim" or rest[0].startswith("_"), f"{path} imports {module}"


def test_every_room_has_its_rule():
    assert {room_of(path) for path in FILES if not room_of(path).startswith("_")} <= set(ALLOWED)


def test_recipes_use_public_names_only():
    for path in (ROOT / "recipes").rglob("*.py"):
        for module in imports_of(path):
            if module.startswith("lightning_cim"):
                *inside, name = module.split(".")
                room = PACKAGE.joinpath(*inside[1:])
                is_public = not inside or (room.is_dir() and (inside == ["lightning_cim"] or inside[1] in PUBLIC_ROOMS))
                assert is_public, f"{path} imports {module}"
                names = importlib.import_module(".".join(inside)).__all__ if inside else [name]
                assert name in (*names, *PUBLIC_ROOMS) or (room / name).is_dir(), f"{path} imports {module}"


@pytest.mark.parametrize("name", cim.__all__)
def test_public_names_resolve_and_are_documented(name):
    value = getattr(cim, name)
    assert value.__name__ == name
    assert value.__doc__
    assert value.__doc__.strip()
    assert name in dir(cim)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'lightning_cim' has no attribute 'Gausian'"):
        _ = cim.Gausian
