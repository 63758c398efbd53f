"""The command line: every subcommand, options short and long, and configs that come back."""

import contextlib
import io
import json
import re

import pytest
import torch
import yaml

import lightning_cim as cim
from tests.evaluation.toys import Classifier, Data, by_hand, population

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*chips are few.*"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter.*"),
]

TRAINER = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Keeping(Classifier):
    """Keeps the first weight of its first training step."""

    def training_step(self, batch, batch_idx):
        self.seen = self.net[0].weight.detach().clone()
        return super().training_step(batch, batch_idx)


def run(*args, tmp_path, model=Keeping, **options):
    arguments = [*args[:1], f"--trainer.default_root_dir={tmp_path}", *args[1:]]
    return cim.CIMCLI(model, Data, trainer_defaults=TRAINER, args=arguments, **options)


def printed(*args, **options):
    """What a command that exits at once prints, and its exit status."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        run(*args, **options)
    return stop.value.code, out.getvalue(), err.getvalue()


def injections(cli):
    return [callback for callback in cli.trainer.callbacks if isinstance(callback, cim.VariationInjection)]


def test_fit_injects_what_sigma_says(tmp_path):
    cli = run("fit", "--cim.sigma=0.2", "--cim.seed=7", "--cim.warmup_steps=3", "--model.lr=0", tmp_path=tmp_path)
    (injection,) = injections(cli)
    assert (injection.variation, injection.seed, injection.warmup_steps) == (cim.Gaussian(0.2), 7, 3)
    assert cli.trainer.global_step == 3
    assert not torch.equal(cli.model.seen, cli.model.net[0].weight)


@pytest.mark.parametrize("args", [[], ["--cim.sigma=0"]])
def test_no_variation_is_a_plain_fit(tmp_path, args):
    cli = run("fit", "--model.lr=0", *args, tmp_path=tmp_path)
    assert len(injections(cli)) == len(args)
    assert torch.equal(cli.model.seen, cli.model.net[0].weight)


@pytest.mark.parametrize("name", ["RightCensoredGaussian", "lightning_cim.RightCensoredGaussian"])
def test_any_variation_by_class(tmp_path, name):
    cli = run(
        "fit", f"--cim.variation={name}", "--cim.variation.sigma=0.1", "--cim.variation.cutoff=1.5", tmp_path=tmp_path
    )
    assert injections(cli)[0].variation == cim.RightCensoredGaussian(0.1, 1.5)


def test_mapping_and_callbacks_from_a_config(tmp_path):
    config = {
        "trainer": {"callbacks": [{"class_path": "lightning_cim.StructuredSparsity", "init_args": {"pattern": "2:4"}}]},
        "cim": {"sigma": 0.1, "mapping": {"exclude": ["net.0"]}},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    cli = run("fit", f"--config={path}", "--model.lr=0", tmp_path=tmp_path)
    assert injections(cli)[0].mapping == cim.Mapping(exclude=["net.0"])
    assert sum(isinstance(callback, cim.StructuredSparsity) for callback in cli.trainer.callbacks) == 1
    assert (cli.model.seen == 0).sum() == 16


def test_a_single_callback_need_not_be_a_list(tmp_path):
    cli = run("fit", "--trainer.callbacks=lightning_cim.StructuredSparsity", "--cim.sigma=0.1", tmp_path=tmp_path)
    assert len(injections(cli)) == 1
    assert sum(isinstance(callback, cim.StructuredSparsity) for callback in cli.trainer.callbacks) == 1


@pytest.mark.parametrize("subcommand", ["validate", "test"])
def test_other_loops_are_clean(tmp_path, subcommand):
    cli = run(subcommand, "--cim.sigma=0.5", tmp_path=tmp_path)
    prefix = "val" if subcommand == "validate" else "test"
    _, (loss,) = by_hand(cli.model, [cim.Chip(cim.Gaussian(0.0), 0, 0)])
    assert float(cli.trainer.callback_metrics[f"{prefix}/loss"]) == pytest.approx(loss, rel=1e-5)


def test_evaluate_prints_the_table_and_writes_files(tmp_path, capsys):
    csv, plot = tmp_path / "chips.csv", tmp_path / "chips.png"
    cli = run(
        "evaluate",
        "--cim.sigma=0.3",
        "--cim.seed=2",
        "--chips=6",
        "--k=20",
        f"--csv={csv}",
        f"--plot={plot}",
        tmp_path=tmp_path,
    )
    shown = capsys.readouterr().out
    assert "KPP 20 % [95 % interval]" in shown
    assert "6 chips; variation: Gaussian(sigma=0.3), seed: 2, stage: test" in shown
    result = cim.ChipResult.from_csv(csv)
    _, losses = by_hand(cli.model, population(cli.model, 6, seed=2))
    assert result.values["test/loss"] == pytest.approx(losses, rel=1e-5)
    assert plot.stat().st_size > 1000


def test_evaluate_takes_weights_and_masks_from_a_checkpoint(tmp_path):
    options = [
        "--trainer.callbacks+=lightning_cim.StructuredSparsity",
        "--trainer.callbacks.pattern=1:4",
        "--trainer.callbacks.mapping.exclude=[net.2]",
    ]
    fitted = run("fit", "--model.lr=0.5", *options, tmp_path=tmp_path)
    path = tmp_path / "run.ckpt"
    fitted.trainer.save_checkpoint(path)
    csv = tmp_path / "chips.csv"
    run("evaluate", "--cim.sigma=0", "--chips=1", f"--ckpt_path={path}", f"--csv={csv}", *options, tmp_path=tmp_path)
    sparse = next(c for c in fitted.trainer.callbacks if isinstance(c, cim.StructuredSparsity))
    stored = Classifier()
    stored.load_state_dict(cim.export_state_dict(fitted.model, [sparse]))
    assert (stored.net[0].weight == 0).sum() == 24
    _, losses = by_hand(stored, [cim.Chip(cim.Gaussian(0.0), 0, 0)])
    assert cim.ChipResult.from_csv(csv).values["test/loss"] == pytest.approx(losses, rel=1e-5)


def test_evaluate_without_a_variation_is_refused(tmp_path):
    for words, reason in (
        (["--chips=2"], "evaluate needs a variation: --cim.sigma=0.1"),
        (["--cim.sigma=0.1", "--chips=0"], "chips"),
        (["--cim.sigma=0.1", "--chips=2", "--k=200"], "0 < k < 100"),
    ):
        code, _, said = printed("evaluate", *words, tmp_path=tmp_path)
        assert code == 2
        assert reason in said


PROGRAM = ["--cim.sigma=0.5", "--cim.seed=3", "--chips=3", "--granularity=0.25"]


def test_program_prints_the_table_and_writes_files(tmp_path, capsys):
    csv, plot = tmp_path / "scores.csv", tmp_path / "curve.png"
    cli = run("program", *PROGRAM, "--verify_fraction=0.5", f"--csv={csv}", f"--plot={plot}", tmp_path=tmp_path)
    shown = capsys.readouterr().out
    assert "accuracy mean ± 95 %" in shown
    assert "verified 50.0 % of 48 weights; NWC 0.500 (verifying only), 0.550 (all writes)" in shown
    model = cli.model
    accuracies, _ = by_hand(model, population(model, 3, cim.Gaussian(0.5), seed=3))
    rows = [line.split(",") for line in csv.read_text().splitlines()[2:]]
    found = [float(row[-1]) for row in rows if row[1] == "0"]
    assert found == pytest.approx(accuracies)
    assert plot.stat().st_size > 1000


def test_program_with_a_budget_and_another_method(tmp_path, capsys):
    run("program", *PROGRAM, "--max_drop=1", "--method=random", "--simulate=true", tmp_path=tmp_path)
    shown = capsys.readouterr().out
    assert "drop within max_drop=1 on all 3 chips" in shown
    assert "random; ideal accuracy" in shown
    assert "residual: WriteVerify(" in shown


def test_program_takes_weights_and_masks_from_a_checkpoint(tmp_path, capsys):
    options = [
        "--trainer.callbacks+=lightning_cim.StructuredSparsity",
        "--trainer.callbacks.pattern=1:4",
        "--trainer.callbacks.mapping.exclude=[net.2]",
    ]
    fitted = run("fit", "--model.lr=0.5", *options, tmp_path=tmp_path)
    path = tmp_path / "run.ckpt"
    fitted.trainer.save_checkpoint(path)
    csv = tmp_path / "scores.csv"
    cli = run(
        "program",
        *PROGRAM,
        "--verify_fraction=0",
        f"--ckpt_path={path}",
        f"--csv={csv}",
        *options,
        tmp_path=tmp_path,
    )
    assert "verified 0.0 % of 24 weights" in capsys.readouterr().out
    sparse = next(c for c in fitted.trainer.callbacks if isinstance(c, cim.StructuredSparsity))
    stored = Classifier()
    stored.load_state_dict(cim.export_state_dict(fitted.model, [sparse]))
    (accuracy,), _ = by_hand(stored, [cim.Chip(cim.Gaussian(0.0), 0, 0)])
    about = json.loads(csv.read_text().splitlines()[0].removeprefix("# lightning_cim programming "))
    assert about["ideal"] == pytest.approx(accuracy)
    assert cli.model._trainer is None


def test_program_without_a_variation_or_a_budget_is_refused(tmp_path):
    for words, reason in (
        (["--max_drop=0.1"], "program needs a variation: --cim.sigma=0.1"),
        (["--cim.sigma=0.1"], "give either verify_fraction"),
        (["--cim.sigma=0.1", "--verify_fraction=0.1", "--granularity=7"], "granularity"),
        (["--cim.sigma=0.1", "--verify_fraction=0.1", "--chips=0"], "chips"),
    ):
        code, _, said = printed("program", *words, tmp_path=tmp_path)
        assert code == 2
        assert reason in said


class Broken(Keeping):
    """Its own error, of a kind that the command line knows too."""

    def test_step(self, batch, batch_idx):
        raise ValueError("a bug of the user's")


def test_an_error_of_the_users_keeps_its_traceback(tmp_path):
    with pytest.raises(ValueError, match="a bug of the user's"):
        run("evaluate", "--cim.sigma=0.1", "--chips=2", tmp_path=tmp_path, model=Broken)


def test_printed_config_reads_back_to_itself(tmp_path):
    status, first, _ = printed(
        "fit",
        "--cim.variation=Gaussian",
        "--cim.variation.sigma=0.2",
        "--cim.mapping.exclude=[net.0]",
        "--print_config",
        tmp_path=tmp_path,
    )
    assert status == 0
    path = tmp_path / "config.yaml"
    path.write_text(first)
    _, second, _ = printed("fit", f"--config={path}", "--print_config", tmp_path=tmp_path)
    assert yaml.safe_load(first) == yaml.safe_load(second)
    assert yaml.safe_load(first)["cim"]["mapping"]["exclude"] == ["net.0"]
    cli = run("fit", f"--config={path}", tmp_path=tmp_path)
    assert injections(cli)[0].variation == cim.Gaussian(0.2)
    assert injections(cli)[0].mapping == cim.Mapping(exclude=["net.0"])


def test_the_config_is_saved_beside_the_run_and_reaches_its_logger(tmp_path):
    logger = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={tmp_path}"]
    cli = run("fit", "--cim.sigma=0.2", "--model.lr=0.25", *logger, tmp_path=tmp_path)
    folder = tmp_path / "lightning_logs" / "version_0"
    saved, logged = (yaml.safe_load((folder / name).read_text()) for name in ("config.yaml", "hparams.yaml"))
    for config in (saved, logged):
        assert config["cim"]["sigma"] == 0.2
        assert config["model"]["lr"] == 0.25
    rerun = run("fit", f"--config={folder / 'config.yaml'}", "--trainer.logger=false", tmp_path=tmp_path)
    for name, value in cli.model.state_dict().items():
        assert torch.equal(value, rerun.model.state_dict()[name])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cim": {"simga": 0.1}}, "simga"),
        ({"cimm": {"sigma": 0.1}}, "cimm"),
        ({"trainer": {"max_epoch": 3}}, "max_epoch"),
        ({"model": {"learning_rate": 0.1}}, "learning_rate"),
        ({"cim": {"sigma": "high"}}, "sigma"),
        ({"cim": {"variation": {"class_path": "Gausian", "init_args": {"sigma": 0.1}}}}, "Gausian"),
        ({"cim": {"variation": {"class_path": "Gaussian", "init_args": {"sigm": 0.1}}}}, "sigm"),
    ],
)
def test_a_typo_in_a_config_exits_and_names_it(tmp_path, config, message):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    status, _, error = printed("fit", f"--config={path}", tmp_path=tmp_path)
    assert status == 2
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "args",
    [
        ["--cim.sigma=-1"],
        ["--cim.sigma=.nan"],
        ["--cim.sigma=0.1", "--cim.variation=Gaussian", "--cim.variation.sigma=0.1"],
    ],
)
def test_meaningless_options_are_refused(tmp_path, args, capsys):
    with pytest.raises(SystemExit) as stop:
        run("fit", *args, tmp_path=tmp_path)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "sigma must be a finite number >= 0" in said or "give either --cim.sigma or --cim.variation" in said


def test_strategy_by_name(tmp_path):
    cli = run("fit", "--trainer.strategy=cim", "--model.lr=0", tmp_path=tmp_path)
    assert isinstance(cli.trainer.strategy, cim.CIMStrategy)
    assert not torch.equal(cli.model.seen, cli.model.net[0].weight)


def test_strategy_with_options_from_a_config(tmp_path):
    strategy = {
        "class_path": "lightning_cim.CIMStrategy",
        "init_args": {
            "variation": {"class_path": "lightning_cim.Gaussian", "init_args": {"sigma": 0.3}},
            "redraw_every_n_steps": 2,
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"strategy": strategy}}))
    cli = run("fit", f"--config={path}", tmp_path=tmp_path)
    (injection,) = injections(cli)
    assert injection.variation == cim.Gaussian(0.3)
    assert injection.redraw_every_n_steps == 2


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["--help"], ["fit", "evaluate", "program"]),
        (["fit", "--help"], ["--cim.sigma", "--cim.variation", "--cim.mapping", "--cim.validation_chips"]),
        (["evaluate", "--help"], ["--chips", "--csv", "--plot", "--workers", "--cim.sigma"]),
        (["program", "--help"], ["--max_drop", "--verify_fraction", "--method", "--csv", "--plot", "--cim.sigma"]),
    ],
)
def test_help_shows_every_option(args, options):
    out = io.StringIO()
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(out):
        cim.CIMCLI(Keeping, Data, args=args)
    assert stop.value.code == 0
    for option in options:
        assert re.search(re.escape(option) + r"\b", out.getvalue()), option


def test_a_sweep_gets_to_know_what_came_out(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    monkeypatch.setenv("LIGHTNING_CIM_METRICS", str(path))
    run("evaluate", "--cim.sigma=0.1", "--chips=2", tmp_path=tmp_path)
    found = json.loads(path.read_text())
    assert found["cim/acc_worst"] <= found["cim/acc_mean"] <= 1
    run("validate", tmp_path=tmp_path)
    assert set(json.loads(path.read_text())) > set(found)
