import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.gaussian_image import rasterizers
from recipes.gaussian_image.rasterizers import rasterizer
from tests.recipes.gaussian_image.rasterizers.cases import gaussians

ROOT = Path(__file__).parents[4]
NAME = "recipes.gaussian_image.rasterizers"


@pytest.fixture(autouse=True)
def _decide_again():
    rasterizers._best.cache_clear()
    yield
    rasterizers._best.cache_clear()


def in_a_fresh_process(code, home):
    """What it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("backend", ["numba", "torch", "reference", "auto"])
def test_each_backend_draws(backend):
    if backend == "numba":
        pytest.importorskip("numba")
    case = gaussians(20, 10, 12, smallest=0.5, largest=3.0)
    image = rasterizer(backend)(*case, 10, 12)
    torch.testing.assert_close(image, rasterizer("reference")(*case, 10, 12), rtol=0.0, atol=1e-4)


def test_what_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"no backend 'cuda'.*gsplat"):
        rasterizer("cuda")
    with pytest.raises(ValueError, match="no blend 'max'"):
        rasterizer("torch", "max")
    with pytest.raises(ValueError, match="backend 'gsplat', not 'auto'"):
        rasterizer("auto", "alpha")


def test_auto_tells_its_choice_once(caplog):
    pytest.importorskip("numba")
    draw = rasterizer("auto")
    with caplog.at_level(logging.INFO, NAME):
        for _ in range(2):
            draw(*gaussians(2, 8, 8), 8, 8)
    assert [record.getMessage() for record in caplog.records] == ["rasterizer: numba on cpu"]


def test_auto_without_numba_warns_and_falls_back(caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, f"{NAME}.numba_spans", None)
    monkeypatch.delattr(rasterizers, "numba_spans", raising=False)
    image = rasterizer("auto")(*gaussians(2, 8, 8), 8, 8)
    assert image.shape == (8, 8, 3)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "torch on cpu" in record.getMessage()
    assert "lightning-cim[sgi]" in record.getMessage()


def test_auto_on_a_gpu_goes_on_to_what_loads(caplog, monkeypatch):
    """The order gsplat, triton, torch, with the reasons, decided without a GPU."""

    def fails(name):
        def load():
            raise ImportError(f"no {name} here")

        return load

    monkeypatch.setitem(rasterizers._LOADERS, "gsplat", fails("gsplat"))
    monkeypatch.setitem(rasterizers._LOADERS, "triton", lambda: "triton's")
    with caplog.at_level(logging.INFO, NAME):
        assert rasterizers._best("cuda") == "triton's"
    assert caplog.messages == ["rasterizer: triton on cuda; not gsplat: no gsplat here"]
    caplog.clear()
    rasterizers._best.cache_clear()
    monkeypatch.setitem(rasterizers._LOADERS, "triton", fails("triton"))
    from recipes.gaussian_image.rasterizers import torch_tiles

    assert rasterizers._best("cuda") is torch_tiles.rasterize
    assert "not gsplat: no gsplat here; not triton: no triton here" in caplog.text


def test_explicit_numba_that_is_missing_names_the_extra(tmp_path):
    code = f"""
import json, sys
sys.modules["numba"] = None
from {NAME} import rasterizer
try:
    rasterizer("numba")
except ImportError as error:
    print(json.dumps(str(error)))
"""
    message, _ = in_a_fresh_process(code, tmp_path)
    assert "pip install 'lightning-cim[sgi]'" in message


@pytest.mark.parametrize("gsplat", ["absent", "present"])
def test_a_cpu_machine_never_touches_gsplat(tmp_path, gsplat):
    """Neither imported nor compiled, and no backend's package is imported before it is asked for."""
    code = f"""
import json, logging, sys, torch
logging.basicConfig(level=logging.INFO)
if {gsplat == "absent"}:
    sys.modules["gsplat"] = None
from {NAME} import gsplat_tiles, rasterizer
early = [name for name in ("numba", "triton", "gsplat", "nerfacc") if sys.modules.get(name)]
image = rasterizer("auto")(torch.ones(1, 2), torch.tensor([[1.0, 0.0, 1.0]]), torch.ones(1, 3), 4, 4)
print(json.dumps([early, bool(sys.modules.get("gsplat")), image.sum().item() > 0]))
"""
    answer, log = in_a_fresh_process(code, tmp_path)
    assert answer == [[], False, True]
    assert log.count("rasterizer: ") == 1
    assert not list(tmp_path.rglob("torch_extensions"))
