import pytest
import torch

from recipes.gaussian_image.rasterizers import reference, torch_tiles
from tests.recipes.gaussian_image.rasterizers.cases import assert_image_close, draw_and_pull, gaussians


def test_blocks_hold_every_pair_once_within_the_budget(monkeypatch):
    monkeypatch.setitem(torch_tiles.BUDGET, "cpu", 8 * 8 * 10)
    means, conics, _ = gaussians(60, 40, 50, smallest=1.0, largest=20.0)
    tiles = torch_tiles.bin_by_torch(means, conics, 40, 50, 8)
    assert tiles.offsets.diff().max() > 10  # so that some tile is cut into pieces
    seen = []
    for tile, ids, valid in torch_tiles._blocks(tiles):
        assert ids.numel() <= 10
        assert valid.sum() >= ids.numel() / torch_tiles.PADDING
        seen += [(int(t), int(g)) for t, row, keep in zip(tile, ids, valid, strict=True) for g in row[keep]]
    assert sorted(seen) == sorted(zip(tiles.tile_of_pair().tolist(), tiles.ids.tolist(), strict=True))


def test_small_blocks_give_the_same_image_and_gradients(monkeypatch):
    case = gaussians(150, 48, 40, smallest=0.5, largest=20.0)
    image, grads = draw_and_pull(torch_tiles.rasterize, case, 48, 40)
    monkeypatch.setitem(torch_tiles.BUDGET, "cpu", 8 * 8 * 10)
    small, small_grads = draw_and_pull(torch_tiles.rasterize, case, 48, 40)
    torch.testing.assert_close(small, image, rtol=0.0, atol=1e-5)
    for a, b in zip(small_grads, grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-5 * b.abs().max().item())
    assert_image_close(small, case, 48, 40)


def test_float64_to_the_last_digits():
    case = gaussians(60, 20, 24)
    image, grads = draw_and_pull(torch_tiles.rasterize, case, 20, 24, dtype=torch.float64)
    expected, true = draw_and_pull(reference.rasterize, case, 20, 24, dtype=torch.float64)
    torch.testing.assert_close(image, expected, rtol=0.0, atol=1e-11)
    for grad, wanted in zip(grads, true, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-9, atol=1e-10 * wanted.abs().max().item())


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="needs torch 2.9")
def test_fast_products_are_switched_off_inside_and_restored(monkeypatch):
    seen = []
    whole = torch_tiles._weights
    monkeypatch.setattr(torch_tiles, "_weights", lambda *a: seen.append(torch_tiles._precision()) or whole(*a))
    torch.set_float32_matmul_precision("medium")
    try:
        draw_and_pull(torch_tiles.rasterize, gaussians(10, 9, 9), 9, 9)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(seen) >= 2  # forward and backward
    assert set(seen) == {("ieee", "ieee")}


def test_memory_does_not_grow_with_the_weights():
    """Between forward and backward only the inputs and the list of pairs are kept."""
    leaves = [values.requires_grad_() for values in gaussians(20, 64, 64, smallest=5.0, largest=20.0)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        torch_tiles.rasterize(*leaves, 64, 64)
    assert set(kept) == {leaf.data_ptr() for leaf in leaves}
