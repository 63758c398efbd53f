import math
import multiprocessing
import os

import numpy as np
import pytest
import torch

from tests.recipes.gaussian_image.rasterizers.cases import assert_image_close, draw_and_pull, gaussians

njit = pytest.importorskip("numba").njit
numba_spans = pytest.importorskip("recipes.gaussian_image.rasterizers.numba_spans", exc_type=ImportError)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_same_bits_for_any_number_of_threads(threads, monkeypatch):
    monkeypatch.setattr(numba_spans, "CHUNK", 64)  # so that the few Gaussians of a test make several tasks
    case = gaussians(300, 100, 90)
    threads(1)
    image, grads = draw_and_pull(numba_spans.rasterize, case, 100, 90)
    for count in (2, 3, 5):
        threads(count)
        again, grads_again = draw_and_pull(numba_spans.rasterize, case, 100, 90)
        assert torch.equal(image, again)
        assert all(torch.equal(a, b) for a, b in zip(grads, grads_again, strict=True))


def test_the_recurrence_holds_over_long_rows():
    """Sigma 700 on 4096 columns, where two float32 products a pixel would be off by several per cent."""
    means, colors = torch.tensor([[2000.0, 1.0], [-300.0, 0.0]]), torch.tensor([[1.0], [1.0]])
    conics = torch.tensor([[700.0**-2, 0.0, 700.0**-2], [700.0**-2, 1e-7, 0.02]])
    image = numba_spans.rasterize(means, conics, colors, 3, 4096)
    assert_image_close(image, (means, conics, colors), 3, 4096, tolerance=1e-6)


def test_bands_do_not_show(monkeypatch):
    case = gaussians(100, 60, 50)
    image = numba_spans.rasterize(*case, 60, 50)
    monkeypatch.setattr(numba_spans, "BAND", 7)
    assert torch.equal(numba_spans.rasterize(*case, 60, 50), image)


def test_an_image_of_more_cells_than_sixteen_bits_count():
    order = numba_spans._neighbours_together(torch.rand(50, 2) * 1e5, 100_000, 100_000)
    assert sorted(order.tolist()) == list(range(50))


def test_exponential():
    exp = njit(lambda x: numba_spans._exp(x))
    for x in [0.0, -1e-9, *np.linspace(-690.0, 690.0, 4001)]:
        assert exp(x) == pytest.approx(math.exp(x), rel=3e-10)
    assert exp(-1e9) < 1e-300
    assert math.isfinite(exp(1e9))


def test_float64_is_refused():
    with pytest.raises(ValueError, match=r"torch.float64: this rasterizer takes torch.float32"):
        numba_spans.rasterize(*(values.double() for values in gaussians(3, 8, 8)), 8, 8)


def _mark(begin, end, places):
    places[begin:end] += 1


def _marked_in_child(queue):
    places = np.zeros(20)
    numba_spans._in_threads(_mark, 20, 3, places)
    queue.put(places.tolist())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*")
def test_threads_work_in_a_forked_process(threads):
    """Threads do not survive a fork: a pool kept from the parent would wait for ever."""
    threads(2)
    places = np.zeros(20)
    numba_spans._in_threads(_mark, 20, 3, places)
    assert places.tolist() == [1.0] * 20
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_marked_in_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=20) == [1.0] * 20
    finally:
        child.join(timeout=5)
        if child.is_alive():
            child.kill()
