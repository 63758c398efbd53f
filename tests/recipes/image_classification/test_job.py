import os

import pytest

from recipes.image_classification.job import Job, jobs_of, run_job, silence, write_whole
from recipes.image_classification.methods import METHODS, Method
from recipes.vision import _settings, command_line

pytest.importorskip("sklearn")


def test_jobs_train_once_what_does_not_depend_on_sigma():
    jobs = jobs_of(["none", "gaussian"], [0.1, 0.2], [0, 1])
    assert [job.name for job in jobs] == [
        "none-seed0",
        "gaussian-seed0-sigma0.1",
        "gaussian-seed0-sigma0.2",
        "none-seed1",
        "gaussian-seed1-sigma0.1",
        "gaussian-seed1-sigma0.2",
    ]
    assert jobs[0].sigmas == (0.1, 0.2)


def test_a_kill_leaves_no_half_file(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.json", "{}")
    assert not (tmp_path / "a.json").exists()


def test_an_interrupted_training_leaves_nothing_that_counts_as_done(tmp_path, monkeypatch):
    def stop(plan):
        raise KeyboardInterrupt

    monkeypatch.setitem(METHODS, "gaussian", Method("stops", "", stop, "#000000"))
    options = command_line().parse_args(["compare", "--fast", "--data.name=digits"]).compare
    job = Job("gaussian", 0.1, 0, (0.1,))
    with pytest.raises(KeyboardInterrupt):
        run_job(job, _settings(options), tmp_path)
    assert job.found(tmp_path) is None
    assert job.missing(tmp_path) == (0.1,)
    assert not list((tmp_path / "jobs").glob("*")) if (tmp_path / "jobs").exists() else True


def test_silence_gives_logging_back():
    import logging

    before = logging.root.manager.disable
    with silence():
        assert not logging.getLogger("pytorch_lightning.anything").isEnabledFor(logging.INFO)
    assert logging.root.manager.disable == before
