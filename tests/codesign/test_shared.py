import multiprocessing

import pytest

from lightning_cim.codesign import Objective, SharedSearch
from lightning_cim.codesign.shared import _without_password
from tests.codesign.evaluators import SPACE, BrokenEvaluator, ToyEvaluator

pytest.importorskip("optuna")

OBJECTIVE = Objective("acc_energy", limits={"area_mm2": 20.0})


def shared(storage, evaluator=None, budget=12, **options):
    options = {"objective": OBJECTIVE, **options}
    return SharedSearch(SPACE, evaluator or ToyEvaluator(), budget=budget, storage=storage, progress=False, **options)


def work(storage):
    shared(storage, budget=10).run()


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'search.db'}"


@pytest.mark.slow
def test_processes_share_one_budget(storage):
    shared(storage, budget=10)  # the tables are there before the race
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(storage,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    trials = shared(storage, budget=10).trials()
    assert 10 <= len(trials) <= 11  # two may begin the last one at the same moment
    assert [trial.number for trial in trials] == list(range(len(trials)))


def test_goes_on_where_another_process_stopped_and_trains_nothing_invalid(storage):
    shared(storage, budget=5).run()
    evaluator = ToyEvaluator()
    result = shared(storage, evaluator, budget=30).run()
    assert len(result.trials) == 30
    invalid = [trial for trial in result.trials if trial.status == "invalid"]
    assert all(trial.reward == -1 for trial in invalid)
    assert not {tuple(trial.design.values()) for trial in invalid} & {call[0] for call in evaluator.calls}
    assert len({call[0] for call in evaluator.calls}) == len(evaluator.calls)  # known designs are not trained again


def test_an_interrupted_episode_is_handed_out_again(storage):
    class Killed(ToyEvaluator):
        def evaluate(self, design, seed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared(storage, Killed(), budget=3).run()
    assert len(shared(storage, budget=3).run().trials) == 3


def test_an_episode_whose_process_died_is_given_up(storage):
    search = shared(storage, budget=3, lost_after=0.05)
    search._study.ask(search._distributions)  # and is never heard of again
    assert len(search.run().trials) == 3


def test_several_goals(storage):
    result = shared(storage, objective=Objective("pareto", limits={"area_mm2": 20.0}), sampler="nsga2", budget=15).run()
    assert len(result.trials) == 15
    assert result.pareto()


def test_failures_stop_it(storage):
    class Broken(BrokenEvaluator):
        def evaluate(self, design, seed):
            raise RuntimeError("no GPU")

    with pytest.raises(RuntimeError, match="3 evaluations in a row broke down"):
        shared(storage, Broken(), objective=Objective()).run()


def test_refuses_another_search_of_the_same_name(storage):
    shared(storage)
    with pytest.raises(ValueError, match="another search named 'codesign' \\(of another objective\\)"):
        shared(storage, objective=Objective("acc_latency"))
    shared(storage, objective=Objective("acc_latency"), name="other")


def test_a_storage_that_cannot_be_opened_is_one_line_without_the_password():
    with pytest.raises(ValueError, match="cannot open the storage") as caught:
        shared("sqlite:////nowhere/at/all/search.db")
    assert "\n" not in str(caught.value)
    assert _without_password("postgresql://anna:secret@host/db") == "postgresql://anna:***@host/db"


@pytest.mark.parametrize("options", [{"budget": 0}, {"sampler": "cmaes"}, {"lost_after": 0.0}])
def test_options_out_of_range_are_refused(storage, options):
    with pytest.raises(ValueError, match="SharedSearch: "):
        shared(storage, **options)
