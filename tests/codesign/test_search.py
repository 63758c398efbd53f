import json

import pytest

from lightning_cim.codesign import (
    CoDesignSearch,
    EvaluationCache,
    Objective,
    Outcome,
    Proposal,
    Space,
    TabEvaluator,
    Trial,
    make_optimizer,
    read_trials,
    thresholds_of,
    times_of,
)
from tests.codesign.evaluators import SPACE, BrokenEvaluator, ToyEvaluator

OBJECTIVE = Objective("acc_energy", limits={"area_mm2": 20.0})
NAMES = ["random", "grid", "evolution", "reinforce"]


def optimizer(name, seed=0, space=SPACE):
    options = {"population": 5, "tournament": 2} if name == "evolution" else {}
    return make_optimizer(name, space, seed, **options)


def searched(name="evolution", budget=30, folder=None, evaluator=None, **options):
    evaluator = evaluator or ToyEvaluator()
    options = {"optimizer": optimizer(name), "objective": OBJECTIVE, **options}
    return CoDesignSearch(SPACE, evaluator, budget=budget, folder=folder, progress=False, **options).run()


class Scripted:
    """Proposes what it is told."""

    name = "scripted"

    def __init__(self, designs):
        self.designs, self.told = list(designs), []

    def ask(self, history, n=1):
        taken, self.designs = self.designs[:n], self.designs[n:]
        return [Proposal(design, {"source": "script"}) for design in taken]

    def tell(self, trials):
        self.told += trials

    def state_dict(self):
        return {"designs": self.designs}

    def load_state_dict(self, state):
        self.designs = list(state["designs"])


def design(channels=16, kernel=3, adc_bits=4, device="fefet"):
    return {"channels": channels, "kernel": kernel, "adc_bits": adc_bits, "device": device}


class TestInvalidDesigns:
    def test_never_reach_the_evaluator_and_score_minus_one(self):
        evaluator = ToyEvaluator()
        result = searched("random", 60, evaluator=evaluator)
        invalid = [trial for trial in result.trials if trial.status == "invalid"]
        assert invalid
        assert {trial.reward for trial in invalid} == {-1.0}
        trained = {call[0] for call in evaluator.calls}
        assert not trained & {tuple(trial.design.values()) for trial in invalid}
        for trial in result.trials:
            excess = evaluator.cost(trial.design)["area_mm2"] / 20 - 1
            assert (trial.status == "invalid") == (excess > 0)
            assert trial.meta["violations"] == [pytest.approx(excess)]
        assert "area_mm2" in invalid[0].meta["reason"]
        assert "more than 20" in invalid[0].meta["reason"]

    def test_of_the_limit_itself_are_valid(self):
        exact = Objective("acc_energy", limits={"area_mm2": ToyEvaluator().cost(design())["area_mm2"]})
        assert searched(optimizer=Scripted([design()]), budget=1, objective=exact).trials[0].status == "ok"


class TestDuplicates:
    def test_are_episodes_but_cost_no_training(self):
        evaluator = ToyEvaluator()
        script = Scripted([design(), design(32), design(), design()])
        result = searched(optimizer=script, budget=4, evaluator=evaluator)
        assert len(result.trials) == 4
        assert len(evaluator.calls) == 2
        assert [bool(trial.meta.get("duplicate")) for trial in result.trials] == [False, False, True, True]
        assert result.counts == {"ok": 4, "invalid": 0, "failed": 0, "duplicate": 2}
        assert [trial.reward for trial in result.trials][2:] == [result.trials[0].reward] * 2

    def test_of_another_search_are_taken_from_the_cache(self, tmp_path):
        first, second = ToyEvaluator(), ToyEvaluator()
        a = searched(evaluator=first, cache=EvaluationCache(SPACE, first.version, tmp_path))
        b = searched(evaluator=second, cache=EvaluationCache(SPACE, second.version, tmp_path))
        assert first.calls
        assert not second.calls
        assert a.trials == b.trials

    def test_of_another_seed_or_version_are_evaluated(self, tmp_path):
        cache = EvaluationCache(SPACE, "toy-1", tmp_path)
        cache.put(design(), 0, Outcome({"acc_mean": 0.5}))
        assert EvaluationCache(SPACE, "toy-1", tmp_path).get(design(), 0) == Outcome({"acc_mean": 0.5})
        assert EvaluationCache(SPACE, "toy-1", tmp_path).get(design(), 1) is None
        assert EvaluationCache(SPACE, "toy-2", tmp_path).get(design(), 0) is None

    def test_a_damaged_or_failed_entry_counts_as_unknown(self, tmp_path):
        cache = EvaluationCache(SPACE, "toy-1", tmp_path)
        cache.put(design(32), 0, Outcome(status="failed", reason="no"))
        assert not list(tmp_path.iterdir())
        cache.put(design(), 0, Outcome({"acc_mean": 0.5}))
        next(tmp_path.glob("*.json")).write_text('{"metrics": [')
        assert EvaluationCache(SPACE, "toy-1", tmp_path).get(design(), 0) is None


class TestResuming:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("killed_at", [1, 7, 14])
    def test_equals_an_uninterrupted_search(self, name, killed_at, tmp_path):
        whole = searched(name, 25, tmp_path / "whole")  # of which some are invalid, or known
        killing = Killing(killed_at)
        with pytest.raises(KeyboardInterrupt):
            searched(name, 25, tmp_path / "killed", evaluator=killing)
        path = tmp_path / "killed" / "trials.jsonl"
        assert not path.exists() or len(read_trials(path)) < 25
        resumed = searched(name, 25, tmp_path / "killed")
        assert resumed.trials == whole.trials
        for file in ("trials.jsonl", "search.json"):
            assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()

    @pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
    def test_works_with_optuna(self, sampler, tmp_path):
        pytest.importorskip("optuna")
        whole = searched(optimizer=optimizer_of(sampler), budget=25)
        with pytest.raises(KeyboardInterrupt):
            searched(optimizer=optimizer_of(sampler), budget=25, folder=tmp_path, evaluator=Killing(9))
        assert searched(optimizer=optimizer_of(sampler), budget=25, folder=tmp_path).trials == whole.trials

    @pytest.mark.parametrize("name", NAMES)
    def test_a_torn_last_line_is_evaluated_again(self, name, tmp_path):
        whole = searched(name, 12, tmp_path / "whole")
        searched(name, 12, tmp_path / "torn")
        lines = (tmp_path / "torn" / "trials.jsonl").read_bytes()
        (tmp_path / "torn" / "trials.jsonl").write_bytes(lines[:-7])
        assert searched(name, 12, tmp_path / "torn").trials == whole.trials
        assert (tmp_path / "torn" / "trials.jsonl").read_bytes() == lines

    def test_does_not_ask_again_for_what_was_proposed(self, tmp_path):
        designs = [design(channels) for channels in (16, 32, 64)]
        with pytest.raises(KeyboardInterrupt):
            searched(optimizer=Scripted(designs), budget=3, folder=tmp_path, evaluator=Killing(2))
        fresh = Scripted([])
        result = searched(optimizer=fresh, budget=3, folder=tmp_path)
        assert [trial.design["channels"] for trial in result.trials] == [16, 32, 64]
        assert len(fresh.told) == 2  # the first one is part of the state that was loaded

    def test_with_more_budget_goes_on(self, tmp_path):
        searched("evolution", 10, tmp_path)
        assert searched("evolution", 25, tmp_path).trials == searched("evolution", 25).trials

    def test_a_finished_search_is_only_read(self, tmp_path):
        searched("random", 10, tmp_path)
        evaluator = ToyEvaluator()
        assert len(searched("random", 10, tmp_path, evaluator=evaluator).trials) == 10
        assert not evaluator.calls

    def test_refuses_the_folder_of_another_search(self, tmp_path):
        searched("random", 3, tmp_path)
        with pytest.raises(ValueError, match="another search"):
            searched("random", 3, tmp_path, objective=Objective("acc_latency"))
        with pytest.raises(ValueError, match="another search"):
            searched("evolution", 3, tmp_path)

    def test_says_where_a_file_is_damaged(self, tmp_path):
        searched("random", 4, tmp_path)
        path = tmp_path / "trials.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], "{}", *lines[2:]]) + "\n")
        with pytest.raises(ValueError, match=r"trials.jsonl, line 2: a trial has the fields"):
            searched("random", 4, tmp_path)
        path.write_text("\n".join([lines[0], lines[2]]) + "\n")
        with pytest.raises(ValueError, match=r"line 2: expected trial 1, got 2"):
            searched("random", 4, tmp_path)
        path.write_text(lines[0] + "\n")
        with pytest.raises(ValueError, match="files of two runs"):
            searched("random", 4, tmp_path)

    def test_needs_the_progress_file(self, tmp_path):
        searched("random", 4, tmp_path)
        (tmp_path / "progress.json").unlink()
        with pytest.raises(ValueError, match=r"no progress\.json"):
            searched("random", 6, tmp_path)


class Killing(ToyEvaluator):
    """Killed in the middle of the n-th evaluation, counted from 1."""

    def __init__(self, turn):
        super().__init__()
        self._turn = turn

    def evaluate(self, design, seed):
        if len(self.calls) + 1 == self._turn:
            raise KeyboardInterrupt
        return super().evaluate(design, seed)


def optimizer_of(sampler):
    return make_optimizer(sampler, SPACE, 3)


class TestWorkers:
    @pytest.mark.slow
    def test_find_what_one_process_finds_in_batches(self, tmp_path):
        result = searched("evolution", 8, tmp_path, workers=2)
        assert [trial.number for trial in result.trials] == list(range(8))
        by_hand, history = optimizer("evolution"), []
        while len(history) < 8:
            for proposal in by_hand.ask(history, 2):
                trial = result.trials[len(history)]
                assert trial.design == proposal.design
                history.append(trial)
            by_hand.tell(history[-2:])

    def test_share_a_design_that_is_proposed_twice_at_once(self):
        result = searched(optimizer=Scripted([design()] * 3), budget=3)
        assert result.counts["duplicate"] == 2


class TestFailures:
    def test_are_trials_with_a_reason_and_stop_a_search_that_only_fails(self, tmp_path):
        script = [design(device="rram"), design(), design(32, device="rram")]
        result = searched(optimizer=Scripted(script), budget=3, evaluator=BrokenEvaluator())
        assert [trial.status for trial in result.trials] == ["failed", "ok", "failed"]
        assert result.trials[0].meta["reason"] == "RuntimeError: out of memory"
        assert result.trials[0].reward == -1.0
        failing = [design(channels, device="rram") for channels in (16, 32, 64, 128)]
        with pytest.raises(RuntimeError, match="3 evaluations in a row broke down"):
            searched(optimizer=Scripted(failing), budget=4, folder=tmp_path, evaluator=BrokenEvaluator())
        assert len(read_trials(tmp_path / "trials.jsonl")) == 3

    def test_a_metric_that_is_not_finite_is_one(self):
        class NaN(ToyEvaluator):
            def evaluate(self, design, seed):
                return Outcome({"acc_mean": float("nan"), **self.cost(design)})

        trial = searched(optimizer=Scripted([design()]), budget=1, evaluator=NaN()).trials[0]
        assert trial.status == "failed"
        assert "acc_mean" in trial.meta["reason"]


class TestOutput:
    def test_an_exhausted_optimizer_ends_the_search(self):
        small = searched("grid", 500)
        assert len(small.trials) == SPACE.cardinality
        best = max((t for t in small.trials if t.status == "ok"), key=lambda trial: trial.reward)
        assert small.best == best

    def test_loggers_get_every_trial_once(self, tmp_path):
        class Logger:
            def __init__(self):
                self.rows = []

            def log_metrics(self, metrics, step=None):
                self.rows.append((step, metrics["codesign/best_reward"]))

        logger = Logger()
        result = searched("random", 10, loggers=[logger])
        assert logger.rows == [(n, best) for n, best in enumerate(result.best_so_far)]

    def test_table_plots_and_json(self, tmp_path):
        pytest.importorskip("matplotlib").use("Agg")
        result = searched("random", 30)
        text = str(result)
        assert f"{result.best.reward:.4f}" in text
        assert "30 episodes of random" in text
        result.plot()
        result.plot_pareto()
        result.to_json(tmp_path / "result.json")
        found = json.loads((tmp_path / "result.json").read_text())
        assert found["best"][0]["reward"] == result.best.reward
        assert len(found["pareto"]) == len(result.pareto())

    def test_nothing_valid_is_said_with_the_reasons(self):
        none = searched("random", 5, objective=Objective(limits={"area_mm2": 1e-3}))
        with pytest.raises(ValueError, match="none of the 5 trials could be evaluated"):
            _ = none.best
        assert "5 invalid" in none.table()

    def test_options_out_of_range_are_refused(self):
        with pytest.raises(ValueError, match="budget must be at least 1"):
            searched(budget=0)
        with pytest.raises(ValueError, match="workers must be at least 1"):
            searched(workers=0)


@pytest.fixture(scope="module")
def tab():
    space = Space.preset("tab")
    return space, TabEvaluator(space), Objective(limits={"area_mm2": 100.0})


@pytest.mark.slow
def test_optimizers_on_tab_reach_what_they_should(tab):
    space, evaluator, objective = tab
    target = thresholds_of(evaluator.landscape(objective))["top 0.1%"]
    cache = EvaluationCache(space, evaluator.version)

    def rewards(name, budget):
        searches = (
            CoDesignSearch(
                space, evaluator, make_optimizer(name, space, seed), objective, budget, cache=cache, progress=False
            )
            for seed in range(20)
        )
        return [search.run().rewards for search in searches]

    assert times_of(rewards("evolution", 300), target).reached >= 0.6
    random, reinforce = rewards("random", 500), rewards("reinforce", 500)
    # A design in a thousand: 1 - 0.999^500 = 39 % of the seeds find one; 20 seeds leave that 3 standard errors.
    assert 0.1 <= times_of(random, target).reached <= 0.75
    better = sum(a.max() > b.max() for a, b in zip(reinforce, random, strict=True))
    assert better >= 12


class TestTabEvaluator:
    def test_agrees_with_its_own_landscape(self, tab):
        space, evaluator, objective = tab
        landscape = evaluator.landscape(objective)
        assert landscape.shape == (space.cardinality,)
        import numpy as np

        rng = np.random.default_rng(0)
        sizes = [len(slot.values) for slot in space.slots]
        for _ in range(50):
            found = space.sample(rng)
            cost = evaluator.cost(found)
            place = np.ravel_multi_index(space.encode(found), sizes)
            valid = all(value <= 0 for value in objective.violations(cost).values())
            expected = objective.reward(evaluator.evaluate(found, 0).metrics) if valid else -1.0
            assert landscape[place] == pytest.approx(expected, abs=1e-12)

    def test_agrees_with_the_scalar_cost_model_and_formula(self, tab):
        import numpy as np

        from lightning_cim.codesign.cost import design_cost
        from lightning_cim.codesign.tab_evaluator import surrogate

        space, evaluator, _ = tab
        found = space.sample(np.random.default_rng(1))
        metrics, cost = evaluator.evaluate(found, 0).metrics, design_cost(found, "tab")
        for name in ("energy_pj", "latency_ns", "area_mm2"):
            assert metrics[name] == pytest.approx(getattr(cost, name))
        mean, std = surrogate(space, np.array([space.encode(found)]))
        assert (metrics["acc_mean"], metrics["acc_std"]) == (mean[0], std[0])

    def test_has_the_trends_it_claims(self, tab):
        space, evaluator, _ = tab
        middle = space.decode([(len(slot.values) - 1) // 2 for slot in space.slots])

        def accuracy(**change):
            return evaluator.evaluate({**middle, **change}, 0).metrics["acc_mean"]

        assert accuracy(cell_bits=1) > accuracy(cell_bits=4)
        assert accuracy(device="fefet") > accuracy(device="rram-hrs")
        assert accuracy(adc_bits=8, xbar=256) > accuracy(adc_bits=4, xbar=256)
        assert accuracy(c34=128, c56=128) > accuracy(c34=16, c56=16)

    def test_tabulates_no_space_that_is_too_large(self):
        evaluator = TabEvaluator(Space.preset("lcda"))
        with pytest.raises(ValueError, match="too many for a table"):
            evaluator.landscape(Objective())


def test_a_trial_with_an_unknown_slot_is_refused():
    with pytest.raises(ValueError, match="no slots"):
        searched(optimizer=Scripted([{**design(), "colour": "red"}]), budget=1)


def test_trials_survive_json():
    for trial in searched("random", 20).trials:
        assert Trial.from_json(trial.to_json()) == trial
