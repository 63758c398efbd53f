"""The Triton kernels in Triton's interpreter, which needs no GPU but must be chosen before Triton is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.gaussian_image.rasterizers import rasterizer, reference
from tests.recipes.gaussian_image.rasterizers.cases import (
    assert_gradients_close,
    assert_image_close,
    draw_and_pull,
    gaussians,
)

ROOT = Path(__file__).parents[4]
INTERPRETED = """
from functools import partial
import torch
from recipes.gaussian_image.rasterizers import reference, torch_tiles
from recipes.gaussian_image.rasterizers.triton_sum import TritonSum
from tests.recipes.gaussian_image.rasterizers.cases import *
torch.set_num_threads(1)
draw = partial(torch_tiles.rasterize, tile=16, kernel=TritonSum.apply)
for channels, count in ((3, 60), (1, 5), (5, 5), (3, 0)):
    case = gaussians(count, 33, 20, channels=channels)
    image, grads = draw_and_pull(draw, case, 33, 20)
    assert_image_close(image, case, 33, 20)
    if count:
        expected = draw_and_pull(reference.rasterize, case, 33, 20, dtype=torch.float64)[1]
        assert_gradients_close(grads, expected, by_gaussian=1e-3)
print("drawn")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_kernels_against_the_dense_sum():
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("drawn\n"), done.stderr


@pytest.mark.parametrize("kernel", ["_add", "_pull"])
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_kernels_compile_for_a_gpu_that_is_not_here(kernel, tmp_path, monkeypatch):
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.compiler")
    targets = pytest.importorskip("triton.backends.compiler")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from recipes.gaussian_image.rasterizers import triton_sum

    function = getattr(triton_sum, kernel)
    constants = {"PADDED": 4, "TILE": 16, "LIMIT": triton_sum.CUT}
    types = {"offsets": "*i64", "ids": "*i64", "channels": "i32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in function.arg_names}
    source = compiler.ASTSource(fn=function, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=targets.GPUTarget("cuda", 80, 32))
    assert f".entry {kernel}" in compiled.asm["ptx"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("backend", ["triton", "gsplat", "torch", "auto"])
def test_on_a_gpu(backend):
    try:
        draw = rasterizer(backend)
    except ImportError as error:
        pytest.skip(str(error))
    case = gaussians(200, 48, 40)
    image, grads = draw_and_pull(draw, [values.cuda() for values in case], 48, 40)
    assert_image_close(image.cpu(), case, 48, 40)
    expected = draw_and_pull(reference.rasterize, case, 48, 40, dtype=torch.float64)[1]
    assert_gradients_close([grad.cpu() for grad in grads], expected, by_gaussian=1e-3)
