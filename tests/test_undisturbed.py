"""Random states and modes are given back, whatever runs inside."""

import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from lightning_cim._undisturbed import evaluating, in_eval_mode, isolated_rng


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def drawn():
    return torch.rand(2).tolist(), np.random.rand(), random.random()


def test_a_seed_starts_everything_and_nothing_is_seen_outside():
    torch.manual_seed(1)
    before = states()
    with isolated_rng(5):
        first = drawn()
    with isolated_rng(5):
        assert drawn() == first
    with isolated_rng(2**40 + 6):
        assert drawn() != first
    assert states() == before


def test_without_a_seed_draws_go_on_from_where_they_are():
    with isolated_rng():
        first = drawn()
    assert drawn() == first


def test_states_come_back_after_an_error():
    before = states()
    with contextlib.suppress(RuntimeError), isolated_rng(0):
        drawn()
        raise RuntimeError
    assert states() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA may have started")
def test_cuda_is_not_started_and_will_start_from_torchs_own_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: pytest.fail("started CUDA"))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(7)
    with isolated_rng(5):
        pass
    assert seeds == [7, 5, 7]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_generators_of_gpus_are_given_back_too():
    torch.rand(1, device="cuda")
    before = torch.cuda.get_rng_state_all()
    with isolated_rng(5):
        first = torch.rand(2, device="cuda")
    with isolated_rng(5):
        assert torch.equal(torch.rand(2, device="cuda"), first)
    assert all(torch.equal(a, b) for a, b in zip(torch.cuda.get_rng_state_all(), before, strict=True))


@pytest.mark.parametrize("block", [in_eval_mode, evaluating])
def test_each_mode_comes_back_after_an_error(block):
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    model[1][1].eval()
    before = [module.training for module in model.modules()]
    with contextlib.suppress(RuntimeError), block(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert [module.training for module in model.modules()] == before


def test_gradients_can_be_recorded_in_inference_mode():
    layer = nn.Linear(2, 1)
    before = states()
    with torch.inference_mode(), evaluating(layer):
        first = torch.rand(2)
        layer(first).sum().backward()
    assert torch.equal(layer.weight.grad[0], first)
    with evaluating(layer):
        assert torch.equal(torch.rand(2), first)
    assert states() == before
