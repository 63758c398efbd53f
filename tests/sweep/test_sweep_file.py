import pytest
import yaml

from lightning_cim.sweep import SweepFile

GOOD = {
    "program": "train.py",
    "method": "grid",
    "metric": {"name": "cim/acc_mean", "goal": "maximize"},
    "parameters": {"cim.sigma": {"values": [0.0, 0.1]}},
    "command": ["${env}", "python", "${program}", "fit", "${args}"],
}


def read(tmp_path, **changes):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**GOOD, **changes}.items() if value is not ...}))
    return SweepFile.read(path)


def test_a_file_is_read(tmp_path):
    sweep = read(tmp_path, run_cap=5)
    assert (sweep.name, sweep.program, sweep.method, sweep.metric) == ("a", "train.py", "grid", "cim/acc_mean")
    assert (sweep.goal, sweep.run_cap) == ("maximize", 5)
    assert [parameter.values for parameter in sweep.parameters] == [(0.0, 0.1)]


def test_goal_and_command_have_wandbs_defaults(tmp_path):
    sweep = read(tmp_path, metric={"name": "loss"}, command=...)
    assert sweep.goal == "minimize"
    assert sweep.command == ("${env}", "${interpreter}", "${program}", "${args}")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "hyperband"}, "method must be one of grid, random, bayes"),
        ({"parameters": {}}, "parameters must name at least one"),
        ({"parameters": {"x": {"min": 0.0, "max": 1.0}}}, "parameter x: a grid needs"),
        ({"metric": {"goal": "maximize"}}, "metric needs a name"),
        ({"metric": {"name": "a", "goal": "max"}}, "metric.goal must be one of"),
        ({"method": "bayes", "metric": ...}, "bayes needs a metric"),
        ({"command": "python x.py"}, "command must be a list"),
        ({"program": ...}, "program must name a script"),
        ({"run_cap": 0}, "run_cap must be"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate needs W&B's server"),
        ({"paramters": {}}, "unknown key paramters"),
    ],
)
def test_what_cannot_run_offline_is_refused_with_the_files_name(tmp_path, changes, reason):
    with pytest.raises(ValueError, match=reason) as error:
        read(tmp_path, **changes)
    assert "a.yaml" in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "3", "- a", "\x80"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.yaml"):
        SweepFile.read(path)
