"""Ranks share pairs of chip and time, and find what one process finds."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lightning_cim as cim
from lightning_cim.evaluation.journal import CHIP_TIMES
from lightning_cim.evaluation.retention_result import RetentionResult
from tests.evaluation.aging import Growing
from tests.evaluation.toys import Classifier, loader, trainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*chips are few.*")]

ROOT = Path(__file__).parents[2]
CHIPS, TIMES, MORE = 3, ["1s", "1h", "1d"], ["1s", "1min", "1h", "1d"]

# Each rank writes what it got, and how many passes it ran.
SCRIPT = """
import os, sys
from tests.evaluation.test_times_ddp import MORE, TIMES, Counting, evaluate
from tests.evaluation.toys import trainer

folder, over = sys.argv[1], trainer(strategy="ddp", devices=2)
for name, times in (("first", TIMES), ("more", MORE)):
    model = Counting()
    evaluate(model, times, over, csv=f"{folder}/chips.csv").to_csv(f"{folder}/{name}-{over.global_rank}-{model.runs}")
"""


class Counting(Classifier):
    runs = 0

    def on_test_epoch_end(self):
        self.runs += 1


def evaluate(model, times, over, csv=None):
    return cim.evaluate_chips(
        over, model, loader(), variation=Growing(), chips=CHIPS, times=times, csv=csv, progress=False
    )


def test_two_ranks_find_what_one_process_finds_and_share_the_passes(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE")}
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    process = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    # 9 pairs are 5 and 4, and of the 3 pairs of the time that came later, 2 and 1.
    files = {"first": ["first-0-5", "first-1-4"], "more": ["more-0-2", "more-1-1"]}
    for name, times in (("first", TIMES), ("more", MORE)):
        assert sorted(path.name for path in tmp_path.glob(f"{name}-*")) == files[name]
        alone = evaluate(Classifier(), times, trainer())
        for file in files[name]:
            found = RetentionResult.from_csv(tmp_path / file)
            assert found.times == alone.times
            for one, other in zip(found.results.values(), alone.results.values(), strict=True):
                assert one.chips == other.chips
                for metric in other.metrics:
                    np.testing.assert_array_equal(one.values[metric], other.values[metric])
    _, rows = CHIP_TIMES.read(tmp_path / "chips.csv")
    assert rows == CHIP_TIMES.read(tmp_path / "more-0-2")[1]
    assert [path.name for path in tmp_path.glob("chips.csv*")] == ["chips.csv"]
