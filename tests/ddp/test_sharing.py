"""Ranks share chips and programming, and find what one process finds, also where one of them fails."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_cim.evaluation.journal import CHIPS
from tests.ddp.sharing import RUNS, Classifier, chips, programmed
from tests.evaluation.toys import trainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*chips are few.*")]
ROOT = Path(__file__).parents[2]
PATIENCE = 120
FOREIGN = ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def start(folder, what, devices=2, nodes=1, **environment):
    own = {name: value for name, value in os.environ.items() if name not in FOREIGN and not name.startswith("SLURM")}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.ddp.sharing", *map(str, (folder, what, devices, nodes))],
        cwd=ROOT,
        env={**own, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process):
    """Exit status and output; a process that hangs is an error."""
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, output


def found_by(folder, processes, ranks):
    for process in processes:
        status, output = ended(process)
        assert status == 0, output[-4000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(ranks)]


def slurm(rank, nodes):
    """The variables that srun gives the one task of each node, as far as Lightning reads them."""
    about = {"JOB_ID": 7, "JOB_NAME": "chips", "NTASKS": nodes, "NTASKS_PER_NODE": 1, "NNODES": nodes}
    about |= {"PROCID": rank, "LOCALID": 0, "NODEID": rank, "NODELIST": "127.0.0.1"}
    port = {"MASTER_PORT": str(20000 + os.getpid() % 10000)}
    return {**{f"SLURM_{name}": str(value) for name, value in about.items()}, **port}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds, and the files it writes."""
    folder = tmp_path_factory.mktemp("alone")
    found = {f"chips {number}": chips(trainer(), number) for number in (1, 5)}
    found["chips, again"] = chips(trainer(), 5, csv=folder / "chips.csv")
    for run in RUNS:
        found[run] = programmed(None, run, csv=folder / f"{run}.csv")
    found["in two workers"] = programmed(None, "budget")
    found["given back"] = True
    return found, {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same(one, other, where=""):
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for name in one:
            assert_same(one[name], other[name], f"{where}/{name}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        np.testing.assert_array_equal(one, other, where)


@pytest.mark.parametrize(("ranks", "how"), [(2, "devices"), (3, "slurm nodes")])
def test_ranks_find_what_one_process_finds(tmp_path, alone, ranks, how):
    """5 chips and 1 chip on 2 and 3 ranks: shares are unequal, and some empty."""
    if how == "devices":
        processes = [start(tmp_path, "share", devices=ranks)]
    else:
        processes = [start(tmp_path, "share", 1, ranks, **slurm(rank, ranks)) for rank in range(ranks)]
    for found in found_by(tmp_path, processes, ranks):
        assert_same(found, {name: alone[0][name] for name in found})
    files = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv*")}
    assert files == alone[1]


def test_one_process_alone_has_chips_and_budgets_that_differ(alone):
    found, files = alone
    assert len(set(found["chips 5"]["test/loss"])) == 5
    assert len(set(found["budget"]["stops"])) > 1
    assert len(files) == 1 + len(RUNS)


def test_an_error_on_one_rank_reaches_the_user_and_keeps_what_the_others_did(tmp_path):
    begin = time.monotonic()
    status, output = ended(start(tmp_path, "raise"))
    assert status != 0
    assert time.monotonic() - begin < PATIENCE
    assert "rank 1 failed: ZeroDivisionError: no luck on this machine" in output
    assert "RuntimeError: rank 1 failed" in output  # on rank 0
    shares = [set(CHIPS.read(tmp_path / f"chips.csv.rank{rank}")[1]) for rank in range(2)]
    assert shares == [{0, 2, 4}, {1}]
    # the next start, with another number of processes, does the rest
    again = chips(trainer(), 6, tmp_path / "chips.csv", Classifier())
    assert again == chips(trainer(), 6, model=Classifier())
    assert [path.name for path in tmp_path.glob("*.csv*")] == ["chips.csv"]


def test_a_rank_that_is_killed_ends_the_others(tmp_path):
    status, output = ended(start(tmp_path, "die"))
    assert status != 0, output


def test_data_that_one_rank_cannot_read_ends_all(tmp_path):
    status, output = ended(start(tmp_path, "program"))
    assert status != 0
    assert "rank 1 failed: OSError: no such file on this machine" in output
