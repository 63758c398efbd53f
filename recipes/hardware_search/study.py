"""Searches of several optimizers, several seeds each, in one folder; a killed study continues."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import track

from lightning_cim.codesign import CoDesignSearch, EvaluationCache, Optimizer, SearchResult, make_optimizer, read_trials
from recipes.hardware_search.problems import Problem

EXPERT_START = "expert-start"
"""The control arm: a language model's first guess, then local search."""
LLM = ("llm", "llm_naive", "llm_anonymous")
ARMS = ("evolution", "random", "reinforce", "llm", EXPERT_START)


@dataclass(frozen=True)
class LanguageModel:
    """Where answers of the arms ``llm`` and ``expert-start`` come from.

    Attributes:
        backend: ``replay`` (recorded), ``openai`` (any compatible endpoint) or ``llamacpp`` (a model file).
        options: Of the backend: ``model``, ``base_url``, ``key_env`` of openai; ``path`` of replay; ``model_path`` of
            llamacpp. The key itself is read from the environment.
        budget: Episodes of the arm ``llm``.
        seeds: Searches of the arm ``llm``; a recording has one.
        retries: Further calls where an answer is of no use.
        on_error: Where no answer comes: a mutation stands in (``fallback``), or the search stops and can be continued.
    """

    backend: Literal["replay", "openai", "llamacpp"] = "replay"
    options: dict[str, Any] = field(default_factory=dict)
    budget: int = 20
    seeds: int = 1
    retries: int = 3
    on_error: Literal["fallback", "stop"] = "fallback"


@dataclass(frozen=True)
class Plan:
    """Which searches are made.

    Attributes:
        arms: Names of optimizers, or ``expert-start``.
        budget: Episodes of each search.
        seeds: Of each arm.
        seed: The first of them, and of the evaluations.
        workers: Processes that evaluate designs.
        wandb: Whether to log the first seed of every arm to W&B, offline.
        language: Source of answers.
    """

    arms: Sequence[str]
    budget: int
    seeds: int
    seed: int = 0
    workers: int = 1
    wandb: bool = False
    language: LanguageModel = field(default_factory=LanguageModel)


Results = dict[str, list[SearchResult]]


def run_study(problem: Problem, plan: Plan, out: Path) -> Results:
    """Run all searches, or the rest of them.

    Args:
        problem: What is searched.
        plan: The searches.
        out: Folder; receives one folder a search.

    Returns:
        By arm, one result a seed.

    Raises:
        ValueError: Options that do not fit, or a folder of other searches.
        ImportError: A package is missing.
    """
    _check(problem, plan)
    folder = None if problem.is_tabulated else out / "cache"
    cache = EvaluationCache(problem.space, problem.evaluator.version, folder)
    jobs = [(arm, seed) for arm in plan.arms for seed in range(plan.seed, plan.seed + _seeds(arm, plan))]
    results: Results = {arm: [] for arm in plan.arms}
    for arm, seed in track(jobs, "searches", disable=len(jobs) == 1):
        home = folder_of(out, arm, seed)
        loggers = [_wandb(home, arm)] if plan.wandb and seed == plan.seed else []
        search = CoDesignSearch(
            problem.space,
            problem.evaluator,
            optimizer_of(arm, seed, problem, plan.language, home),
            problem.objective,
            min(plan.budget, plan.language.budget) if arm in LLM else plan.budget,
            plan.seed,
            home,
            cache=cache,
            workers=plan.workers,
            loggers=loggers,
            progress=len(jobs) == 1,
        )
        results[arm].append(search.run())
        for logger in loggers:
            logger.experiment.finish()
    return results


def optimizer_of(arm: str, seed: int, problem: Problem, language: LanguageModel, home: Path) -> Optimizer:
    """The optimizer of an arm."""
    options = {"path": str(problem.replay)} if language.backend == "replay" else {}
    llm: dict[str, Any] = {
        "backend": {"name": language.backend, **options, **language.options},
        "task": problem.objective.task(problem.about),
        "retries": language.retries,
        "on_error": language.on_error,
        "transcript": home / "transcript.jsonl",
    }
    if arm in LLM:
        return make_optimizer(arm, problem.space, seed, **llm)
    if arm == EXPERT_START:
        local = {**problem.evolution, "initial": 1}
        return make_optimizer("hybrid", problem.space, seed, warm=1, first_options=llm, then_options=local)
    if arm == "evolution":
        return make_optimizer(arm, problem.space, seed, **problem.evolution)
    if problem.objective.reward_name == "pareto":
        return make_optimizer(arm, problem.space, seed, objectives=problem.objective.directions)
    return make_optimizer(arm, problem.space, seed)


def folder_of(out: Path, arm: str, seed: int) -> Path:
    """Of one search."""
    return out / "arms" / arm / f"seed-{seed:03d}"


def rewards_of(out: Path) -> dict[str, list[np.ndarray]]:
    """Rewards of all searches in a folder, by arm.

    Raises:
        ValueError: There are none.
    """
    found: dict[str, list[np.ndarray]] = {}
    for path in sorted(out.glob("arms/*/seed-*/trials.jsonl")):
        rewards = np.array([trial.reward for trial in read_trials(path)])
        found.setdefault(path.parent.parent.name, []).append(rewards)
    if not found:
        raise ValueError(f"{out} holds no searches: give the folder of `search`")
    return found


def claim(out: Path, config: Mapping[str, Any]) -> None:
    """Make the folder, or see that it belongs to the same study; budgets and seeds may grow.

    Raises:
        ValueError: It belongs to another.
    """
    kept = {name: value for name, value in config.items() if name not in GROWING}
    path, text = out / "config.json", json.dumps(kept, indent=1, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out} holds a study with other options (see {path}): choose another --out, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


GROWING = ("budget", "seeds", "top", "baseline", "optimizers", "out", "config", "wandb", "export_wandb_sweep", "fast")
"""Options that a continued study may change."""


def _seeds(arm: str, plan: Plan) -> int:
    if arm not in LLM:
        return plan.seeds
    return 1 if plan.language.backend == "replay" else plan.language.seeds


def _check(problem: Problem, plan: Plan) -> None:
    if not plan.arms or len(set(plan.arms)) != len(plan.arms):
        raise ValueError(f"give some optimizers, each once, got {list(plan.arms)}")
    for name in ("budget", "seeds"):
        if getattr(plan, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(plan, name)}")
    if problem.objective.reward_name == "pareto":
        scalar = [arm for arm in plan.arms if arm not in ("tpe", "nsga2", "gp")]
        if scalar:
            raise ValueError(f"the reward 'pareto' has several goals, which {', '.join(scalar)} cannot take: use nsga2")


def _wandb(home: Path, arm: str) -> Any:
    try:
        import wandb
        from lightning.pytorch.loggers import WandbLogger
    except ImportError as error:
        raise ImportError("--wandb needs wandb: pip install 'lightning-cim[wandb]'") from error
    home.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        project="codesign", name=arm, save_dir=str(home), offline=True, settings=wandb.Settings(silent=True)
    )
