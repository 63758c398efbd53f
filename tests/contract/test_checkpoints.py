"""Promise 2: a checkpoint of a noisy run loads strictly where lightning_cim is not installed."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers.boring import FLAVOURS, assert_equal, fit
from tests.helpers.cases import ALL

ROOT = Path(__file__).parents[2]

READER = """
import json, sys
sys.modules["lightning_cim"] = None  # any import of it fails from here on
import torch
from tests.helpers.boring import data, make, make_trainer, variant

try:
    import lightning_cim
except ImportError:
    pass
else:
    raise SystemExit("lightning_cim is not blocked")
for flavour, path in json.load(sys.stdin):
    state = torch.load(path, weights_only=True)["state_dict"]
    make(flavour, seed=3).load_state_dict(state, strict=True)
    model = variant(flavour).load_from_checkpoint(path, strict=True)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    make_trainer(flavour).validate(make(flavour), data(), ckpt_path=path, verbose=False)
    print("read", path)
"""


def test_loads_strictly_without_the_package(tmp_path):
    files = []
    for flavour in FLAVOURS:
        saver = importlib.import_module(f"{flavour}.callbacks").ModelCheckpoint
        for arrange in ALL:
            folder = tmp_path / flavour / arrange.__name__
            savers = [
                saver(folder, "full-{step}", every_n_train_steps=3, save_top_k=-1),
                saver(folder, "weights-{step}", every_n_train_steps=2, save_top_k=1, save_weights_only=True),
            ]
            run = fit(flavour, arrange, extra=savers, enable_checkpointing=True, max_epochs=1)
            run.trainer.save_checkpoint(folder / "end.ckpt")
            run.trainer.save_checkpoint(folder / "end-weights.ckpt", weights_only=True)
            written = sorted(folder.glob("*.ckpt"))
            assert sorted(path.stem for path in written) == ["end", "end-weights", "full-step=3", "weights-step=4"]
            files += [(flavour, str(path)) for path in written]
    process = subprocess.run(
        [sys.executable, "-c", READER], input=json.dumps(files), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.count("read ") == len(files)


def test_holds_the_clean_weights(tmp_path):
    for arrange in ALL:
        run = fit(FLAVOURS[0], arrange, max_epochs=1)
        run.trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=True)
        state = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
        assert_equal(dict(state), {name: value.detach() for name, value in run.model.state_dict().items()})
