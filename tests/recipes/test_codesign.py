"""The co-design recipe through its own command line, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_cim.codesign.llm import BackendError
from lightning_cim.sweep import SweepFile
from recipes.codesign import main

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "configs"
SLOTS = {"c12": 8, "c34": 8, "c56": 8, "k12": 3, "k34": 3, "k56": 3, "xbar": 128}
SLOTS |= {"adc_bits": 6, "cell_bits": 2, "device": "fefet"}


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    out = tmp_path_factory.mktemp("codesign") / "tab"
    args = ["search", "--fast", "--budget=60", "--seeds=3", f"--out={out}"]
    return out, main(args), args


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    pytest.importorskip("sklearn")
    pytest.importorskip("wandb")
    out = tmp_path_factory.mktemp("codesign") / "digits"
    args = ["search", "--fast", "--space=digits", "--optimizers=[evolution,llm]", "--budget=6", "--wandb"]
    return out, main([*args, f"--out={out}", "--baseline=evolution"])


class TestSearch:
    def test_writes_everything(self, tab):
        out, found, _ = tab
        for name in ("metrics.json", "pareto.json", "config.json", "report.html", "curves.png", "pareto.png"):
            assert (out / name).stat().st_size > 0, name
        assert json.loads((out / "thresholds.json").read_text())["thresholds"] == found["thresholds"]
        assert (out / "thresholds.json").stat().st_mtime <= min(p.stat().st_mtime for p in out.glob("arms/*/*/*.jsonl"))
        assert {arm: entry["seeds"] for arm, entry in found["arms"].items()} == {
            "evolution": 3,
            "random": 3,
            "reinforce": 3,
            "llm": 1,
            "expert-start": 3,
        }
        assert found["arms"]["llm"]["replies"]["valid"] == found["arms"]["llm"]["episodes"] == 20
        assert all(entry["best"] <= found["optimum"] for entry in found["arms"].values())
        page = (out / "report.html").read_text()
        for words in ("SYNTHETIC", "NOT of a language model", "budget ratio", "Speed-up over reinforce"):
            assert words in page, words

    def test_a_finished_one_is_read_again_and_a_killed_one_goes_on(self, tab, monkeypatch):
        out, found, args = tab
        store = out / "arms" / "evolution" / "seed-001" / "trials.jsonl"
        whole = store.read_bytes()
        store.write_bytes(whole[: len(whole) - 5])  # killed while it wrote the last trial
        again = main(args)
        assert store.read_bytes() == whole
        assert again["winners"] == found["winners"]

    def test_refuses_the_folder_of_other_options(self, tab):
        _, _, args = tab
        with pytest.raises(ValueError, match="study with other options"):
            main([*args, "--goal.reward=acc_latency"])

    def test_speedup_compares_with_another_baseline(self, tab, capsys):
        out, found, _ = tab
        rows = main(["speedup", str(out), "--baseline=random"])
        assert rows[0][-1] == "speed-up over random (95% CI)"
        assert {row[0] for row in rows[1:]} == {f"{name} ({value:.4f})" for name, value in found["thresholds"].items()}
        with pytest.raises(ValueError, match="baseline 'tpe' is none of the arms"):
            main(["speedup", str(out), "--baseline=tpe"])

    def test_few_seeds_give_no_speed_up(self, tab):
        _, found, _ = tab
        key = "speed-up over reinforce (95% CI)"
        assert {row[key] for row in found["speedup"] if row["arm"] not in ("reinforce", "llm")} == {
            "not given: 3 of at least 20 seeds"
        }

    def test_the_config_file_parses_and_is_the_default(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["search", f"--config={CONFIGS / 'codesign.yaml'}", "--print_config"])
        assert stop.value.code in (0, None)
        parsed = yaml.safe_load(capsys.readouterr().out)
        assert (parsed["space"], parsed["budget"], parsed["seeds"]) == ("tab", 500, 20)
        assert parsed["digits"]["chips"] == 12

    def test_own_space(self, tmp_path):
        slots = [{"name": name, "values": [value]} for name, value in SLOTS.items() if name not in ("adc_bits", "c12")]
        slots += [{"name": "adc_bits", "values": [4, 5, 6]}, {"name": "c12", "values": [16, 32]}]
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"name": "mine", "slots": slots}))
        found = main(
            ["search", f"--space={path}", "--optimizers=[grid]", "--budget=10", "--seeds=1", f"--out={tmp_path / 'o'}"]
        )
        assert found["arms"]["grid"]["episodes"] == 6
        assert found["arms"]["grid"]["regret"] == pytest.approx(0)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--optimizers=[magic]"], "no optimizer 'magic'"),
            (["--optimizers=[random,random]"], "each once"),
            (["--goal.reward=pareto"], "evolution, random, reinforce, llm, expert-start cannot take"),
            (["--space=moon"], "no design space 'moon'"),
            (["--storage=sqlite://", "--optimizers=[tpe,gp]"], "search of one optimizer"),
            (["--llm.backend=replay", "--llm.options={path: nowhere.jsonl}", "--optimizers=[llm]"], "nowhere.jsonl"),
        ],
    )
    def test_says_what_is_wrong(self, words, message, tmp_path):
        with pytest.raises((ValueError, OSError), match=message):
            main(["search", "--fast", f"--out={tmp_path}", *words])

    def test_a_missing_key_is_one_line(self, tmp_path, monkeypatch):
        pytest.importorskip("openai")
        for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
            monkeypatch.delenv(name, raising=False)
        words = ["--optimizers=[llm]", "--llm.backend=openai", "--llm.options={model: some}"]
        with pytest.raises(ValueError, match="no key: set the environment variable OPENAI_API_KEY"):
            main(["search", "--fast", f"--out={tmp_path}", *words])

    def test_an_endpoint_that_does_not_answer_stops_resumable_or_is_stood_in_for(self, tmp_path):
        pytest.importorskip("openai")
        options = "{model: some, base_url: 'http://127.0.0.1:9/v1', max_retries: 0, timeout: 5}"
        words = ["--optimizers=[llm]", "--llm.backend=openai", f"--llm.options={options}", "--budget=3"]
        with pytest.raises(BackendError):
            main(["search", *words, "--llm.on_error=stop", f"--out={tmp_path / 'stop'}"])
        with pytest.warns(RuntimeWarning, match="stands in for the model"):
            found = main(["search", *words, f"--out={tmp_path / 'go'}"])
        assert found["arms"]["llm"]["fallback"] == 1.0
        assert "not a result about the model" in (tmp_path / "go" / "report.html").read_text()

    def test_several_goals_by_optuna(self, tmp_path):
        pytest.importorskip("optuna")
        words = ["--optimizers=[nsga2]", "--goal.reward=pareto", "--budget=25", "--seeds=1", f"--out={tmp_path}"]
        assert main(["search", "--space=tab", *words])["arms"]["nsga2"]["episodes"] == 25

    def test_a_storage_is_shared(self, tmp_path):
        pytest.importorskip("optuna")
        words = ["--optimizers=[tpe]", f"--storage=sqlite:///{tmp_path / 's.db'}", f"--out={tmp_path}"]
        assert main(["search", *words, "--budget=3"])["episodes"] == 3
        assert main(["search", *words, "--budget=5"])["episodes"] == 5


class TestDigits:
    def test_trains_and_writes_a_front_and_an_offline_run(self, digits):
        out, found = digits
        assert {arm: entry["episodes"] for arm, entry in found["arms"].items()} == {"evolution": 6, "llm": 6}
        front = json.loads((out / "pareto.json").read_text())
        assert front
        assert all(0 <= point["metrics"]["acc_mean"] <= 1 for point in front)
        assert list(out.glob("arms/evolution/seed-000/wandb/offline-run-*/run-*.wandb"))
        assert found["thresholds"] == {}
        assert "speedup" in found
        assert "SYNTHETIC" not in (out / "report.html").read_text()

    def test_final_scores_are_of_other_data_and_chips(self, digits):
        _, found = digits
        for winner in found["winners"]:
            assert winner["final"]["energy_pj"] == winner["search"]["energy_pj"]
            assert winner["final"]["acc_mean"] != winner["search"]["acc_mean"]


class TestOtherCommands:
    def test_cost_prints_layers_and_every_preset(self, capsys):
        found = main(["cost", "--space=digits", "--design={adc_bits: 4}"])
        text = capsys.readouterr().out
        assert found["design"]["adc_bits"] == 4
        assert {"neurosim22, flash ADC", "neurosim22, survey ADC", "isaac32"} <= set(found["costs"])
        for words in ("conv1", "fc2", "TOPS/W", "isaac32"):
            assert words in text, words
        with pytest.raises(ValueError, match="adc_bits"):
            main(["cost", "--design={adc_bits: 40}"])

    def test_an_exported_sweep_is_one_whose_points_are_evaluated(self, tmp_path, capsys):
        path = tmp_path / "sweep.yaml"
        main(["search", f"--export-wandb-sweep={path}"])
        sweep = yaml.safe_load(path.read_text())
        assert set(sweep["parameters"]) == set(SLOTS)
        sweep["program"] = str(ROOT / sweep["program"])
        path.write_text(yaml.safe_dump(sweep))
        assert SweepFile.read(path).metric == "reward"
        point = [f"--{name}={found['values'][0]}" for name, found in sweep["parameters"].items()]
        metrics = main([*sweep["command"][3:-1], *point])
        assert "reward" in metrics

    def test_evaluate_scores_one_design(self, capsys):
        words = [
            f"--{name}={16 if name.startswith('c') and name != 'cell_bits' else value}" for name, value in SLOTS.items()
        ]
        metrics = main(["evaluate", *words])
        assert metrics["reward"] == pytest.approx(metrics["acc_mean"] - (metrics["energy_pj"] / 8e7) ** 0.5)
        with pytest.raises(SystemExit):
            main(["evaluate", *words, "--adc_bits=99"])

    @pytest.mark.parametrize("space", ["tab"])
    def test_the_replay_file_is_what_record_writes(self, space, tmp_path, capsys):
        path = tmp_path / "replay.jsonl"
        main(["record", f"--space={space}", str(path)])
        assert path.read_bytes() == (CONFIGS / "codesign-replay.jsonl").read_bytes()
        assert "no language model" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["codesign-replay.jsonl", "codesign-replay-digits.jsonl"])
    def test_replay_files_say_who_answered(self, name):
        for line in (CONFIGS / name).read_text().splitlines():
            assert json.loads(line)["backend"] == "rule-based expert; no language model"

    def test_an_error_is_one_line(self):
        done = subprocess.run(
            [sys.executable, "recipes/codesign.py", "speedup", "nowhere"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: nowhere holds no searches")
        assert "Traceback" not in done.stderr
