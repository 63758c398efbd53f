"""What W&B and TensorBoard see of chips: a real offline W&B run, and stand-ins that keep what they were given."""

import json
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

import lightning_cim as cim
from lightning_cim.callbacks.chip_logging import log_chips, log_devices
from tests.evaluation.toys import VARIATION, Classifier, loader, trainer

mpl.use("agg")
RESULT = cim.ChipResult({"val/acc": np.array([0.5, 0.7, 0.9]), "val/loss": np.array([3.0, 2.0, 1.0])}, [0, 1, 2])
pytestmark = pytest.mark.filterwarnings("ignore:.*chips are few.*")


class WandbLogger:
    def __init__(self):
        self.tables, self.images, self.logged, self.artifacts = {}, {}, {}, []
        self.experiment = SimpleNamespace(
            id="abc", log=lambda values, commit: self.logged.update(values), log_artifact=self._keep
        )

    def _keep(self, artifact):
        entry = artifact.manifest.entries["device.json"]
        self.artifacts.append((artifact.type, json.loads(open(entry.local_path).read())))  # noqa: SIM115

    def log_table(self, name, columns, data):
        self.tables[name] = (columns, data)

    def log_image(self, name, images):
        self.images[name] = images


class TensorBoardLogger:
    def __init__(self):
        self.histograms, self.figures = {}, {}
        self.experiment = SimpleNamespace(
            add_histogram=lambda name, values, step: self.histograms.update({name: (values.tolist(), step)}),
            add_figure=lambda name, figure, step: self.figures.update({name: step}),
        )


def test_wandb_gets_a_row_a_chip_a_histogram_and_a_plot():
    pytest.importorskip("wandb")
    logger = WandbLogger()
    log_chips([logger], RESULT, 1.0, 7)
    assert logger.tables == {
        "cim/chips": (["chip", "val/acc", "val/loss"], [[0, 0.5, 3.0], [1, 0.7, 2.0], [2, 0.9, 1.0]])
    }
    assert set(logger.images) == {"cim/acc_over_chips", "cim/loss_over_chips"}
    assert sum(logger.logged["cim/acc_histogram"].histogram) == 3


def test_tensorboard_gets_histograms_and_plots():
    logger = TensorBoardLogger()
    log_chips([logger, SimpleNamespace()], RESULT, 1.0, 7)
    assert logger.histograms["cim/acc_histogram"] == ([0.5, 0.7, 0.9], 7)
    assert logger.figures == {"cim/acc_over_chips": 7, "cim/loss_over_chips": 7}


def test_measured_devices_become_an_artifact():
    pytest.importorskip("wandb")
    logger = WandbLogger()
    log_devices([logger, TensorBoardLogger()], cim.Measured.preset("pcm-joshi2020") + cim.Gaussian(0.1))
    ((kind, content),) = logger.artifacts
    assert kind == "device-data"
    assert content["device"]["g_max"] == cim.Measured.preset("pcm-joshi2020").device.g_max
    log_devices([logger], cim.Gaussian(0.1))
    assert len(logger.artifacts) == 1


def test_an_offline_run_of_wandb_takes_all_of_it(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger as Real

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = Real(save_dir=str(tmp_path), offline=True, project="chips")
    callback = cim.MonteCarloEvaluation(cim.Measured.preset("pcm-joshi2020") + VARIATION, chips=3, k=20)
    over = trainer(callbacks=[callback], logger=logger)
    over.fit(Classifier(), loader(), loader())
    summary = dict(logger.experiment.summary)
    logger.experiment.finish()
    assert summary["cim/acc_mean"] == pytest.approx(callback.result.mean("val/acc"))
    assert {"cim/chips", "cim/acc_histogram", "cim/acc_over_chips"} <= set(summary)
    assert next((tmp_path / "wandb").glob("offline-run-*/files/media/table/cim/*.json")).stat().st_size > 50
