"""What every optimizer promises: reproducible, resumable, within the space."""

import itertools
import json
import sys

import numpy as np
import pytest

from lightning_cim.codesign.llm.callable_backend import CallableBackend
from lightning_cim.codesign.optimizers.base import MAKERS, make_optimizer
from lightning_cim.codesign.space import Slot, Space
from lightning_cim.codesign.trial import Trial
from tests.codesign.spaces import SMALL, Hills, search, through_json

BUDGET = {"gp": 8, "tpe": 30}
GOALS = {"acc_mean": "maximize", "energy_pj": "minimize"}


def oracle():
    """A model that sees the history in the prompt only, so that it is as resumable as the optimizer around it."""

    def answer(messages, schema):
        turn = len(messages[-1]["content"]) + 7 * len(messages)
        values = {name: slot["enum"][turn % len(slot["enum"])] for name, slot in schema["properties"].items()}
        return json.dumps(values) if turn % 3 else "I cannot"

    return CallableBackend(answer)


CASES = {
    "random": {},
    "grid": {},
    "evolution": {"population": 6},
    "reinforce": {},
    "tpe": {"n_startup_trials": 5},
    "nsga2": {"population_size": 6},
    "gp": {"n_startup_trials": 4},
    "llm": {"backend": oracle()},
    "llm_naive": {"backend": oracle()},
    "llm_anonymous": {"backend": oracle()},
    "hybrid": {"first": "random", "then": "evolution", "warm": 4},
}


def made(name, seed=0, space=SMALL, **options):
    if name in ("tpe", "nsga2", "gp"):
        pytest.importorskip("optuna")
    if name == "gp":
        pytest.importorskip("scipy")
    return make_optimizer(name, space, seed, **{**CASES[name], **options})


def test_every_optimizer_is_a_case():
    assert set(CASES) == set(MAKERS)


@pytest.mark.parametrize("name", CASES)
def test_seeded_runs_are_reproducible_and_stay_in_the_space(name):
    budget = BUDGET.get(name, 40)
    first, second, other = (search(made(name, seed), Hills(SMALL), budget) for seed in (1, 1, 2))
    assert first == second
    assert [trial.design for trial in first] != [trial.design for trial in other]
    for trial in first:
        SMALL.validate(trial.design)
        assert trial.meta["source"] in {name, "llm", "fallback", "random", "evolution"}
        assert Trial.from_json(trial.to_json()) == trial


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kill", [1, 6])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(name, kill):
    """Only what is in files survives: the state and the history, both through JSON, in a new object."""
    budget = BUDGET.get(name, 40)
    whole = search(made(name, 5), Hills(SMALL), budget)
    killed = made(name, 5)
    history = search(killed, Hills(SMALL), kill)
    state = through_json(killed.state_dict())
    history = [Trial.from_json(trial.to_json()) for trial in history]
    resumed = made(name, 99)
    resumed.load_state_dict(state)
    assert search(resumed, Hills(SMALL), budget, history) == whole


@pytest.mark.parametrize("name", CASES)
def test_proposals_under_way_survive_a_kill(name):
    """Four workers: the state is taken while proposals are out, and trials come back in another order."""

    def run(optimizer, history, out, rounds):
        for _ in range(rounds):
            out = out + optimizer.ask(history, 4 - len(out))
            done, out = out[1:3][::-1], [out[0], *out[3:]]
            trials = [Hills(SMALL).trial(proposal, len(history) + place) for place, proposal in enumerate(done)]
            history = history + trials
            optimizer.tell(trials)
        return history, out

    half = 2 if name == "gp" else 5
    whole, _ = run(made(name, 3), [], [], 2 * half)
    killed = made(name, 3)
    history, out = run(killed, [], [], half)
    resumed = made(name, 77)
    resumed.load_state_dict(through_json(killed.state_dict()))
    assert run(resumed, history, out, half)[0] == whole


@pytest.mark.parametrize("name", CASES)
def test_states_are_not_exchanged(name):
    with pytest.raises(ValueError, match=r"state of optimizer 'another', not of"):
        made(name).load_state_dict({"name": "another"})


@pytest.mark.parametrize("name", CASES)
def test_trials_of_others_and_failures_are_taken_in(name):
    optimizer = made(name)
    rng = np.random.default_rng(0)
    history = [Trial(SMALL.sample(rng), {}, -1.0, "failed", {"reason": "broke"}, number) for number in range(3)]
    optimizer.tell(history)
    assert len(search(optimizer, Hills(SMALL), 12, history)) == 12


@pytest.mark.parametrize("name", ["evolution", "llm"])
def test_no_design_comes_twice_while_others_are_left(name):
    space = Space((Slot("a", (1, 2, 3)), Slot("b", (1, 2, 3, 4))))
    found = search(made(name, space=space), Hills(space), 12)
    assert len({space.encode(trial.design) for trial in found}) == 12
    assert len(search(made(name, space=space), Hills(space), 15)) == 15


def test_grid_visits_all_designs_once_and_ends():
    grid = made("grid")
    designs = [proposal.design for proposal in grid.ask([], 1000)]
    assert sorted(map(SMALL.encode, designs)) == sorted(map(SMALL.encode, SMALL.designs()))
    assert grid.ask([]) == []


@pytest.mark.parametrize("sizes", [(1,), (2,), (3,), (2, 2), (4, 5, 6), (7, 7, 7)])
def test_grid_covers_spaces_of_any_size(sizes):
    space = Space(tuple(Slot(f"s{place}", tuple(range(size))) for place, size in enumerate(sizes)))
    found = make_optimizer("grid", space, seed=3).ask([], space.cardinality + 5)
    assert len({space.key(proposal.design) for proposal in found}) == space.cardinality == len(found)


def test_the_first_steps_of_the_grid_touch_every_value():
    """Single steps would leave the first slots at their first value for ten thousands of proposals."""
    space = Space.preset("tab")
    codes = np.array([space.encode(p.design) for p in make_optimizer("grid", space).ask([], 60)])
    assert [len(set(column)) for column in codes.T] == [len(slot.values) for slot in space.slots]


def test_reinforce_follows_the_written_formula():
    """Against the textbook update in plain Python, over two batches."""
    space = Space((Slot("a", (1, 2, 3)), Slot("b", (1, 2))))
    optimizer = make_optimizer("reinforce", space, learning_rate=0.3, batch=2, decay=0.5)
    rewards, designs = [0.2, 0.8, 0.1, 0.6], [(0, 1), (2, 0), (1, 1), (2, 1)]
    optimizer.tell([Trial(space.decode(c), {}, r, "ok") for c, r in zip(designs, rewards, strict=True)])
    logits, baseline, square = [[0.0] * 3, [0.0] * 2], rewards[0], None
    batch = []
    for codes, reward in zip(designs, rewards, strict=True):
        advantage = reward - baseline
        baseline = 0.5 * baseline + 0.5 * reward
        square = (advantage**2 or None) if square is None else 0.5 * square + 0.5 * advantage**2
        batch.append((codes, advantage))
        if len(batch) == 2:
            old = [list(row) for row in logits]
            for slot, row in enumerate(old):
                total = sum(np.exp(value) for value in row)
                for value in range(len(row)):
                    p = np.exp(row[value]) / total
                    mean = sum(a / square**0.5 * ((c[slot] == value) - p) for c, a in batch) / 2
                    logits[slot][value] += 0.3 * mean
            batch = []
    expected = [np.exp(row) / np.exp(row).sum() for row in map(np.array, logits)]
    for policy, right in zip(optimizer.probabilities(), expected, strict=True):
        np.testing.assert_allclose(policy, right, rtol=1e-12)


def test_evolution_and_reinforce_beat_random_search():
    """The bars of the specification: by the median over 20 paired seeds, on the space of 1.25 million designs."""
    space = Space.preset("tab")
    objective = Hills(space, seed=11)

    def best(name, seed, budget=500):
        return max(trial.reward for trial in search(make_optimizer(name, space, seed), objective, budget))

    seeds = range(20)
    random = [best("random", seed) for seed in seeds]
    for name in ("evolution", "reinforce"):
        wins = sum(best(name, seed) > found for seed, found in zip(seeds, random, strict=True))
        assert wins >= 12, f"{name} beats random search in {wins} of 20 paired seeds"


def test_evolution_reaches_the_top_thousandth_within_300_episodes():
    space = Space.preset("tab")
    objective = Hills(space, seed=11)
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(len(slot.values), size=200_000) for slot in space.slots])
    scores = sum(worth[row] for worth, row in zip(objective.worth, codes, strict=True))
    scores = scores + sum(pair[a, b] for pair, a, b in zip(objective.pairs, codes, codes[1:], strict=False))
    weights = sum(weight[row] for weight, row in zip(objective.weight, codes, strict=True))
    rewards = np.where(weights > objective.limit, -1.0, 1 / (1 + np.exp(-scores / 2)))
    target = np.quantile(rewards, 0.999)
    reached = [
        max(trial.reward for trial in search(make_optimizer("evolution", space, seed), objective, 300)) >= target
        for seed in range(20)
    ]
    assert sum(reached) >= 12, f"{sum(reached)} of 20 seeds"


def test_nsga2_finds_trade_offs_of_several_goals():
    found = search(made("nsga2", objectives=GOALS), Hills(SMALL), 60)
    front = [t for t in found if t.status == "ok" and not any(dominates(other, t) for other in found)]
    assert len({SMALL.encode(trial.design) for trial in front}) >= 2


def dominates(one, other):
    if one.status != "ok":
        return False
    better = [
        one.metrics["acc_mean"] - other.metrics["acc_mean"],
        other.metrics["energy_pj"] - one.metrics["energy_pj"],
    ]
    return min(better) >= 0 and max(better) > 0


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_several_goals_resume_too(name):
    whole = search(made(name, 5, objectives=GOALS), Hills(SMALL), 25)
    killed = made(name, 5, objectives=GOALS)
    history = search(killed, Hills(SMALL), 11)
    resumed = made(name, 0, objectives=GOALS)
    resumed.load_state_dict(through_json(killed.state_dict()))
    assert search(resumed, Hills(SMALL), 25, history) == whole


def test_a_missing_objective_is_reported():
    optimizer = made("nsga2", objectives={"latency_ns": "minimize"})
    with pytest.raises(ValueError, match="trial 0 has no metric 'latency_ns', which is an objective of nsga2"):
        search(optimizer, Hills(SMALL), 30)


def test_constraints_reach_optuna():
    optimizer = made("tpe")
    history = search(optimizer, Hills(SMALL), 20)
    expected = [trial.meta["violations"] for trial in history]
    assert [list(trial.constraints.values()) for trial in optimizer._study.trials] == expected
    assert any(trial.status == "invalid" for trial in history)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("annealing", {}, "there is no optimizer 'annealing': choose one of random, grid"),
        ("evolution", {"population": 1}, "population must be at least 2"),
        ("evolution", {"tournament": 30}, "tournament must lie in 1 to population=20, got 30"),
        ("evolution", {"initial": 0}, "initial must be at least 1"),
        ("evolution", {"poplation": 9}, r"make_optimizer\('evolution'\).*poplation"),
        ("reinforce", {"learning_rate": 0}, "learning_rate must be greater than 0"),
        ("reinforce", {"decay": 1.0}, r"decay must lie in \[0, 1\)"),
        ("reinforce", {"batch": 0}, "batch must be at least 1"),
        ("nsga2", {"objectives": {"acc": "up"}}, "acc is to 'maximize' or to 'minimize', got 'up'"),
        ("tpe", {"startup": 3}, r"make_optimizer\('tpe'\).*startup"),
        ("hybrid", {"first": "random", "warm": 0}, "warm must be at least 1"),
        ("llm", {}, r"make_optimizer\('llm'\).*backend"),
    ],
)
def test_wrong_options_are_one_clear_line(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(name, SMALL, **options)


@pytest.mark.parametrize("name", ["tpe", "nsga2", "gp"])
def test_missing_optuna_names_the_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=rf"the optimizer '{name}' needs optuna: pip install 'lightning-cim\[tune\]'"):
        make_optimizer(name, SMALL)


def test_hybrid_hands_over_and_evolution_starts_from_the_warm_trials():
    optimizer = made("hybrid", warm=3)
    history = search(optimizer, Hills(SMALL), 8)
    assert [trial.meta["source"] for trial in history] == ["random"] * 3 + ["evolution"] * 5
    changed = [
        min(sum(a != b for a, b in zip(new, old, strict=True)) for old in earlier)
        for new, earlier in (
            (SMALL.encode(history[n].design), [SMALL.encode(trial.design) for trial in history[:n]])
            for n in range(3, 8)
        )
    ]
    assert changed == [1] * 5


def test_a_hand_over_within_one_ask():
    optimizer = made("hybrid", warm=3)
    sources = [proposal.meta["source"] for proposal in itertools.chain(optimizer.ask([], 2), optimizer.ask([], 3))]
    assert sources == ["random"] * 3 + ["evolution"] * 2
