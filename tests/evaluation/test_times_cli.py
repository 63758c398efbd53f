"""``evaluate --times=[...]`` on the command line."""

import contextlib
import io

import numpy as np
import pytest
import yaml

import lightning_cim as cim
from lightning_cim.evaluation.retention_result import RetentionResult
from lightning_cim.variation.temporal import Drift
from tests.evaluation.toys import Classifier, Data, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*chips are few.*"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter.*"),
]

TRAINER = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
DRIFT = ["--cim.variation=lightning_cim.variation.temporal.Drift", "--cim.variation.nu=0.05"]


def run(*args):
    return cim.CIMCLI(Classifier, Data, trainer_defaults=TRAINER, args=["evaluate", "--chips=2", *args])


def by_api(variation, times):
    return cim.evaluate_chips(
        trainer(), Classifier(), loader(), variation=variation, chips=2, times=times, progress=False
    )


@pytest.mark.parametrize(
    ("given", "times"), [("[1s,1h,1 mo]", ["1s", "1h", "1mo"]), ("[1,60.5]", [1, 60.5]), ("['1s',3600]", ["1s", 3600])]
)
def test_evaluate_at_several_times(tmp_path, capsys, given, times):
    csv, plot = tmp_path / "chips.csv", tmp_path / "chips.png"
    run(*DRIFT, "--cim.variation.nu_std=0.1", f"--times={given}", f"--csv={csv}", f"--plot={plot}", "--k=20")
    expected = by_api(Drift(0.05, 0.1), times)
    assert expected.table(k=20) in capsys.readouterr().out
    found = RetentionResult.from_csv(csv)
    assert found.times == expected.times
    for time in times:
        np.testing.assert_array_equal(found.at(time).of("test/loss"), expected.at(time).of("test/loss"))
    assert plot.stat().st_size > 1000


def test_a_sum_and_times_from_a_config(tmp_path, capsys):
    parts = [
        {"class_path": "lightning_cim.Gaussian", "init_args": {"sigma": 0.1}},
        {"class_path": "lightning_cim.variation.temporal.Drift", "init_args": {"nu": 0.05}},
    ]
    variation = {"class_path": "lightning_cim.variation.composed.Composed", "init_args": {"parts": parts}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"cim": {"variation": variation}, "times": ["1h", "1d"]}))
    run(f"--config={path}")
    assert by_api(cim.Gaussian(0.1) + Drift(0.05), ["1h", "1d"]).table() in capsys.readouterr().out


def test_times_without_anything_that_depends_on_time_are_refused():
    said = io.StringIO()
    with pytest.raises(SystemExit), contextlib.redirect_stderr(said):
        run("--cim.sigma=0.1", "--times=[1s,1h]")
    assert "nothing in Gaussian(sigma=0.1" in said.getvalue()
    assert "depends on time" in said.getvalue()


def test_times_that_are_no_list_are_refused():
    said = io.StringIO()
    with pytest.raises(SystemExit), contextlib.redirect_stderr(said):
        run(*DRIFT, "--times=1h")
    assert "times" in said.getvalue()
