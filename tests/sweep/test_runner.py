import csv
import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib as mpl
import pytest
import yaml

from lightning_cim.sweep import run_offline
from lightning_cim.sweep.__main__ import main

mpl.use("agg")

PROGRAM = """
import importlib.util, os, sys, time
about = importlib.util.spec_from_file_location("report", os.environ["REPORT"])  # without the seconds that torch takes
module = importlib.util.module_from_spec(about)
about.loader.exec_module(module)
report = module.report
values = {k: float(v) for k, v in (w[2:].split("=") for w in sys.argv[1:])}
time.sleep(values.get("wait", 0))
with open(os.environ["LOG"], "a") as log:
    log.write(os.environ["WANDB_RUN_ID"] + " " + os.environ["WANDB_MODE"] + "\\n")
if values["x"] == 13:
    sys.exit("no luck")
report({"score": 1 - (values["x"] - 2) ** 2, "nan": float("nan")})
report({"other": values["x"]})
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("REPORT", str(Path(__file__).parents[2] / "lightning_cim" / "sweep" / "report.py"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def write(**changes):
        about = {
            "program": str(tmp_path / "program.py"),
            "method": "grid",
            "metric": {"name": "score", "goal": "maximize"},
            "parameters": {"x": {"values": [0, 1, 2, 3]}},
            **changes,
        }
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(about))
        return path

    return write


def log_of(tmp_path):
    return sorted((tmp_path / "log").read_text().split("\n")[:-1])


def test_a_grid_runs_every_point_once_and_knows_the_best(sweep, tmp_path):
    result = run_offline(sweep(), tmp_path / "out", jobs=2)
    assert [run.values for run in result.runs] == [{"x": x} for x in range(4)]
    assert [run.metrics for run in result.runs] == [{"score": 1 - (x - 2) ** 2, "other": x} for x in range(4)]
    assert result.best.index == 2
    (short,) = {line.split("-")[1] for line in log_of(tmp_path)}
    assert log_of(tmp_path) == [f"toy-{short}-000{x} offline" for x in range(4)]
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    assert [row["score"] for row in rows] == ["-3.0", "0.0", "1.0", "0.0"]
    assert run_offline(sweep(), tmp_path / "out") == result
    assert len(log_of(tmp_path)) == 4


def test_a_failed_run_is_said_and_the_others_go_on(sweep, tmp_path, capsys):
    path = sweep(parameters={"x": {"values": [13, 1]}})
    assert main([str(path), "--offline", f"--out={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr().out
    assert "best score: 0, run 1: x=1" in said
    assert "run 0 failed with status 1" in said
    assert "no luck" in (tmp_path / "out" / "runs" / "0000" / "log.txt").read_text()
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 5000


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_sweep_that_stopped_goes_on_as_if_it_had_not(sweep, tmp_path, method):
    space = {"x": {"min": 0.0, "max": 4.0}, "y": {"values": [1, 2]}, "z": {"min": 1, "max": 9}}
    path = sweep(method=method, parameters=space)
    whole = run_offline(path, tmp_path / "whole", count=5, jobs=2)
    run_offline(path, tmp_path / "parts", count=2, jobs=2)
    parts = run_offline(path, tmp_path / "parts", count=5, jobs=2)
    assert [run.values for run in parts.runs] == [run.values for run in whole.runs]
    assert len({run.values["x"] for run in whole.runs}) == 5


def test_bayes_comes_closer_than_its_beginning(sweep, tmp_path):
    path = sweep(method="bayes", parameters={"x": {"min": 0.0, "max": 40.0}})
    result = run_offline(path, tmp_path / "out", count=20)
    first = max(run.score("score") for run in result.runs[:10])
    assert result.best.score("score") > first


def test_a_kill_loses_at_most_the_runs_under_way(sweep, tmp_path):
    path = sweep(parameters={"x": {"values": [0, 1, 2, 3]}, "wait": {"value": 0.6}})
    words = [sys.executable, "-m", "lightning_cim.sweep", str(path), "--offline", f"--out={tmp_path / 'out'}"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while not (tmp_path / "out" / "runs" / "0001").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)  # its child, run 1, lives on
    process.wait()
    done = sorted((tmp_path / "out" / "runs").glob("*/run.json"))
    times = [file.stat().st_mtime_ns for file in done]
    result = run_offline(path, tmp_path / "out")
    assert [file.stat().st_mtime_ns for file in done] == times
    assert [run.metrics["other"] for run in result.runs] == [0, 1, 2, 3]


def test_a_run_left_behind_is_waited_for(sweep, tmp_path):
    path = sweep(parameters={"x": {"values": [1]}})
    folder = tmp_path / "out" / "runs" / "0000"
    folder.mkdir(parents=True)
    with open(folder / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = subprocess.Popen(["sleep", "1"], pass_fds=[lock.fileno()])
    run_offline(path, tmp_path / "out")
    assert left.poll() == 0


def started(path, out, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_cim.sweep", str(path), "--offline", f"--out={out}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows_of(out):
    rows = csv.DictReader((out / "results.csv").read_text().splitlines())
    return [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("method", ["grid", "bayes"])
def test_processes_that_share_a_folder_do_each_run_once(sweep, tmp_path, method):
    out = tmp_path / "out"
    space = {"values": list(range(8))} if method == "grid" else {"min": 0.0, "max": 4.0}
    path = sweep(method=method, parameters={"x": space, "wait": {"value": 0.3}})
    words = ("--jobs=2", "--agents=2", "--count=8")
    processes = [started(path, out, *words) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    done = log_of(tmp_path)
    assert len(done) == len(set(done)) == 8
    # the same values and numbers as one process with as many jobs as both
    run_offline(path, tmp_path / "alone", jobs=4, count=8)
    assert rows_of(out) == rows_of(tmp_path / "alone")
    assert len(rows_of(out)) == 8
    best = [line for text in said for line in text.splitlines() if line.startswith("best score")]
    assert len(best) == 2
    assert len(set(best)) == 1


def test_a_process_takes_over_from_one_that_is_killed(sweep, tmp_path):
    out = tmp_path / "out"
    path = sweep(parameters={"x": {"values": [0, 1, 2, 3, 4, 5]}, "wait": {"value": 0.5}})
    first, second = (started(path, out) for _ in range(2))
    while len(list(out.glob("runs/*/lock"))) < 2:
        time.sleep(0.02)
    first.kill()  # its child lives on
    first.communicate()
    said, _ = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert [row["other"] for row in rows_of(out)] == ["0.0", "1.0", "2.0", "3.0", "4.0", "5.0"]
    done = log_of(tmp_path)
    assert len(set(done)) == 6
    assert len(done) <= 7  # the run that lost its process is done again


def test_a_file_system_without_locks_is_said(sweep, tmp_path, monkeypatch, capsys):
    def refuse(file, how):
        raise OSError("No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert main([str(sweep()), "--offline", f"--out={tmp_path / 'out'}"]) == 2
    assert "does not lock files (No locks available); choose another --out" in capsys.readouterr().err


def test_a_folder_of_another_sweep_is_refused(sweep, tmp_path):
    run_offline(sweep(), tmp_path / "out", count=1)
    with pytest.raises(ValueError, match="holds another sweep"):
        run_offline(sweep(), tmp_path / "out", seed=1)


@pytest.mark.parametrize(
    ("changes", "words", "reason"),
    [
        ({"method": "random"}, [], "never ends; give --count"),
        ({}, ["--jobs=0"], "jobs must be at least 1"),
        ({}, ["--agents=0"], "agents must be at least 1"),
        ({}, ["--count=0"], "count must be at least 1"),
        ({"command": ["no-such-program"]}, [], "cannot run 'no-such-program'"),
        ({"method": "bayes", "parameters": {"x": {"mu": 0, "sigma": 1}}}, ["--count=1"], "bayes needs a range"),
    ],
)
def test_what_cannot_run_ends_in_one_line(sweep, tmp_path, capsys, changes, words, reason):
    assert main([str(sweep(**changes)), "--offline", f"--out={tmp_path / 'out'}", *words]) == 2
    assert reason in capsys.readouterr().err


def test_a_missing_file_ends_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none.yaml"), "--offline"]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_without_offline_the_commands_of_wandb_are_shown(capsys):
    assert main(["a.yaml"]) == 2
    assert "wandb sweep a.yaml" in capsys.readouterr().out


def test_the_metrics_that_were_reported_are_named_where_the_wanted_one_is_missing(sweep, tmp_path, capsys):
    path = sweep(metric={"name": "acc", "goal": "maximize"}, parameters={"x": {"values": [1]}})
    assert main([str(path), "--offline", f"--out={tmp_path / 'out'}"]) == 0
    assert "no run reported 'acc'; reported were: other, score" in capsys.readouterr().out
