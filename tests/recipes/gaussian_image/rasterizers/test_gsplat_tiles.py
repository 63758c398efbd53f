"""All of the CUDA path but its kernels, on a CPU: gsplat's torch implementation stands for its kernels."""

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from recipes.gaussian_image.rasterizers import gsplat_tiles, rasterizer, torch_tiles
from recipes.gaussian_image.rasterizers.binning import bin_by_torch
from tests.recipes.gaussian_image.rasterizers.cases import assert_image_close, draw_and_pull, gaussians

FOUND = importlib.util.find_spec("gsplat")


@pytest.fixture(scope="module")
def tools():
    """gsplat's ``_torch_impl`` alone: importing the package takes seconds and this file needs none of it."""
    if FOUND is None:
        pytest.skip("needs gsplat")
    path = Path(FOUND.origin).parent / "cuda" / "_torch_impl.py"
    if not path.exists():
        pytest.skip("this gsplat has no torch implementation")
    spec = importlib.util.spec_from_file_location("gsplat_torch_implementation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return SimpleNamespace(isect_tiles=module._isect_tiles, isect_offset_encode=module._isect_offset_encode)


@pytest.mark.parametrize(("height", "width"), [(48, 40), (17, 70), (1, 1)])
def test_gsplat_lists_every_pair_that_torch_lists(tools, height, width):
    means, conics, _ = gaussians(40, height, width, seed=width)
    ours = bin_by_torch(means, conics, height, width, 16)
    theirs = gsplat_tiles.bin_by_tools(tools, means, conics, height, width, 16)
    assert (theirs.tiles_x, theirs.tiles_y) == (ours.tiles_x, ours.tiles_y)
    assert theirs.offsets.shape == ours.offsets.shape
    assert theirs.offsets[-1] == theirs.ids.shape[0]
    listed = [set(zip(p.tile_of_pair().tolist(), p.ids.tolist(), strict=True)) for p in (ours, theirs)]
    assert listed[0] <= listed[1]
    assert len(listed[1]) == theirs.ids.shape[0]


def test_the_sum_over_gsplats_list(tools):
    case = gaussians(60, 48, 40, seed=2)
    draw = partial(torch_tiles.rasterize, tile=16, binning=partial(gsplat_tiles.bin_by_tools, tools))
    image, grads = draw_and_pull(draw, case, 48, 40)
    assert_image_close(image, case, 48, 40)
    _, expected = draw_and_pull(partial(torch_tiles.rasterize, tile=16), case, 48, 40)
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=0.0, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_on_the_image(tools, count):
    means, conics = torch.full((count, 2), -500.0), torch.tensor([[1.0, 0.0, 1.0]]).repeat(count, 1)
    pairs = gsplat_tiles.bin_by_tools(tools, means, conics, 20, 20, 16)
    assert pairs.offsets.tolist() == [0] * 5
    assert pairs.ids.numel() == 0


class TestLoading:
    """What ``load_gsplat`` says, with pretended machines."""

    @pytest.fixture(autouse=True)
    def fresh(self):
        gsplat_tiles.load_gsplat.cache_clear()
        yield
        gsplat_tiles.load_gsplat.cache_clear()

    def test_without_a_gpu_gsplat_is_not_imported(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setitem(sys.modules, "gsplat", None)  # an import would raise ImportError instead
        for blend in ("sum", "alpha"):
            with pytest.raises(RuntimeError, match="needs a CUDA GPU"):
                rasterizer("gsplat", blend)
        with pytest.raises(RuntimeError, match="needs a CUDA GPU"):
            rasterizer("triton")

    def test_missing_gsplat_names_the_extra(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setitem(sys.modules, "gsplat", None)
        with pytest.raises(ImportError, match=r"lightning-cim\[sgi-cuda\]"):
            rasterizer("gsplat")

    def test_gsplat_without_kernels_is_told_from_a_missing_one(self, monkeypatch, tools):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        on_cpu(monkeypatch)
        fake = ModuleType("gsplat")

        def no_kernels(*args):
            raise AttributeError("'NoneType' object has no attribute 'intersect_tile'")

        fake.isect_tiles = no_kernels
        monkeypatch.setitem(sys.modules, "gsplat", fake)
        with pytest.raises(ImportError, match=r"do not build or run here.*nvcc"):
            rasterizer("gsplat")

    def test_sum_and_alpha_through_a_gsplat_that_works(self, monkeypatch, tools):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setitem(sys.modules, "recipes.gaussian_image.rasterizers.triton_sum", None)
        monkeypatch.setattr(gsplat_tiles, "check_gaussians", lambda *a, **k: None)
        on_cpu(monkeypatch)
        fake = ModuleType("gsplat")
        fake.isect_tiles, fake.isect_offset_encode = tools.isect_tiles, tools.isect_offset_encode
        fake.rasterize_to_pixels = composited
        monkeypatch.setitem(sys.modules, "gsplat", fake)
        case = gaussians(20, 20, 36, smallest=1.0, largest=6.0)
        assert_image_close(rasterizer("gsplat")(*case, 20, 36), case, 20, 36)
        alpha = rasterizer("gsplat", "alpha")
        one = [values[:1] for values in case]
        one[0][:] = 10.5
        torch.testing.assert_close(alpha(*one, 20, 36)[10, 10], 0.999 * one[2][0])  # nothing in front of it
        assert torch.equal(alpha(*(values[:0] for values in case), 20, 36), torch.zeros(20, 36, 3))


def on_cpu(monkeypatch):
    """Let the probe's tensors for the GPU lie on the CPU."""
    for name in ("ones", "tensor"):
        made = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, made=made, device=None, **k: made(*a, **k))


def composited(means, conics, colors, opacities, width, height, tile, begins, ids):
    """Front-to-back compositing of one image as gsplat documents it, pixel by pixel."""
    assert means.shape[0] == conics.shape[0] == colors.shape[0] == opacities.shape[0] == 1
    assert begins.shape == (1, -(-height // tile), -(-width // tile))
    assert begins.dtype == ids.dtype == torch.int32
    image, flat = torch.zeros(1, height, width, colors.shape[2]), [*begins.flatten().tolist(), len(ids)]
    for row in range(height):
        for column in range(width):
            at, left = row // tile * begins.shape[2] + column // tile, 1.0
            for g in ids[flat[at] : flat[at + 1]].tolist():
                dx, dy = column + 0.5 - means[0, g, 0], row + 0.5 - means[0, g, 1]
                q = conics[0, g]
                weight = opacities[0, g] * torch.exp(-(q[0] * dx * dx + q[2] * dy * dy) / 2 - q[1] * dx * dy)
                weight = weight.clamp(max=0.999)
                if weight >= 1 / 255:
                    image[0, row, column] += left * weight * colors[0, g]
                    left = left * (1 - weight)
    return image, None
