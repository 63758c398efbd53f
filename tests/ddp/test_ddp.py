"""Promise 5: ranks draw different training chips and hold equal weights; evaluation chips are the same on any rank."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lightning_cim as cim
from lightning_cim.chip.snapshots import snapshot_heads
from lightning_cim.chip.stages import Block
from tests.ddp.scenarios import CHIPS, TEST, WITH_PRECISION, evaluated, only_monte_carlo
from tests.helpers.boring import BATCHES, FLAVOURS, assert_equal, data, make, make_trainer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
JOBS = list(zip(FLAVOURS, ("cim_ddp", "ddp"), strict=False))


@pytest.fixture(scope="module", params=JOBS, ids="-".join)
def job(request, tmp_path_factory):
    """Flavour, and what rank 0 and rank 1 found."""
    flavour, strategy = request.param
    folder = tmp_path_factory.mktemp("ddp")
    environment = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE")}
    process = subprocess.run(
        [sys.executable, "-m", "tests.ddp.job", str(folder), flavour, strategy],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return flavour, [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def restored(flavour, state):
    model = make(flavour)
    model.load_state_dict(state)
    return model


def test_ranks_draw_different_chips_and_hold_equal_weights(job):
    _, (first, second) = job
    chips = [*first["fit"]["seen"], *second["fit"]["seen"]]
    # each rank sees half of the batches, for two epochs
    assert len(chips) == 2 * BATCHES
    assert all(not torch.equal(a["conv.weight"], b["conv.weight"]) for a, b in itertools.combinations(chips, 2))
    assert_equal(first["fit"]["parameters"], second["fit"]["parameters"])


def test_ranks_draw_the_same_chips_on_request(job):
    _, (first, second) = job
    assert_equal(first["same chips"], second["same chips"])
    assert len(first["same chips"]["seen"]) == BATCHES


def test_the_check_of_equal_weights_can_fail(job):
    _, (first, second) = job
    with pytest.raises(AssertionError, match="differs by"):
        assert_equal(first["broken"]["parameters"], second["broken"]["parameters"])


def test_chips_without_a_fit_are_those_of_one_process(job):
    flavour, ranks = job
    alone = evaluated(make_trainer(flavour), make(flavour, seed=0))
    assert len(set(alone["test/loss"])) == CHIPS
    for rank, found in enumerate(ranks):
        assert found["no fit"] == alone
        assert found["no fit, one chip"] == {name: values[:1] for name, values in alone.items()}
        assert_equal(dict(found["no fit, given back"]), dict(make(flavour, seed=rank).state_dict()))


def test_every_chip_sees_the_whole_data(job):
    _, ranks = job
    # ranks simulate 3 and 2 of the 5 chips, and then 1 and 0
    assert [found["no fit, batches"] for found in ranks] == [(3 + 1) * len(TEST), 2 * len(TEST)]


def test_chips_after_a_fit_are_those_of_one_process(job):
    flavour, ranks = job
    alone = evaluated(make_trainer(flavour), restored(flavour, ranks[0]["after fit, state"]))
    assert ranks[0]["after fit"] == alone
    assert ranks[1]["after fit"] == alone
    written = ranks[0]["after fit, csv"]
    assert {name: list(written.of(name)) for name in written.metrics} == alone
    assert ranks[0]["after fit, files"] == ["chips.csv"]


@pytest.mark.parametrize("mode", ["ovf", "irs"])
def test_negative_feedback_keeps_ranks_together(job, mode):
    _, (first, second) = job
    assert len(first[mode]["seen"]) == (4 * BATCHES if mode == "ovf" else BATCHES + 1)  # and the dry run
    assert not torch.equal(first[mode]["seen"][-1]["conv.weight"], second[mode]["seen"][-1]["conv.weight"])
    assert_equal(first[mode]["parameters"], second[mode]["parameters"])


def test_snapshot_heads_are_averaged_over_ranks(job):
    _, (first, second) = job
    weights = first["irs, heads"]["weights"]
    assert_equal(dict(weights), dict(second["irs, heads"]["weights"]))
    untrained = restored_heads(weights)
    assert all(not torch.equal(value, untrained[name]) for name, value in weights.items())


def restored_heads(weights):
    """The heads as drawn: equal on both ranks before any step."""
    torch.manual_seed(0)
    heads = snapshot_heads([Block("norm", "norm", 4, 1, (4, 4, 2, 2), (4, 4, 2, 2))], outputs=3, network=84)
    assert {name: value.shape for name, value in heads.state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }
    return heads.state_dict()


def test_shared_block_is_trained_together(job):
    flavour, (first, second) = job
    assert_equal(first["block"], second["block"])
    assert any(value.abs().max() > 0 for value in first["block"].values())
    assert first["block, report"] == second["block, report"]
    clean = dict(make(flavour, seed=0).named_parameters())  # rank 0's weights, which DDP gives to all
    for rank in (first, second):
        for name, parameter in clean.items():
            assert torch.equal(rank["block, backbone"][name], parameter.detach()), name


def test_penalty_keeps_ranks_together(job):
    _, (first, second) = job
    assert_equal(first["correctnet"]["parameters"], second["correctnet"]["parameters"])


def test_monte_carlo_evaluation_logs_what_one_process_logs(job):
    flavour, ranks = job
    callback = only_monte_carlo()
    trainer = make_trainer(flavour, callbacks=[callback])
    trainer.validate(restored(flavour, ranks[0]["monte carlo, state"]), data(2, seed=2), verbose=False)
    alone = {name: list(callback.result.of(name)) for name in callback.result.metrics}
    logged = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("cim/")}
    assert len(logged) >= 12
    for found in ranks:
        assert found["monte carlo"] == alone
        for name, value in logged.items():
            assert found["monte carlo, logged"][name] == pytest.approx(value, nan_ok=True, abs=0), name


def test_activation_ranges_are_those_of_all_ranks(job):
    flavour, ranks = job
    assert ranks[0]["precision, ranges"] == ranks[1]["precision, ranges"]
    callback = cim.MixedPrecision(**WITH_PRECISION)
    callback.load_state_dict(ranks[0]["precision, ranges"])
    trainer = make_trainer(flavour, callbacks=[callback])
    alone = evaluated(trainer, restored(flavour, ranks[0]["precision, state"]))
    assert ranks[0]["precision"] == alone
    assert ranks[1]["precision"] == alone
