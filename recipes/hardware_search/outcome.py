"""What a study has come to: tables, figures, ``metrics.json``, ``pareto.json`` and ``report.html``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cim.codesign import (
    SearchResult,
    TabEvaluator,
    Winner,
    best_at,
    budget_ratio,
    rescore,
    speed_up_table,
    thresholds_of,
)
from recipes._page import Part, write_page
from recipes._tables import Cells, text
from recipes.hardware_search import figures
from recipes.hardware_search.problems import Problem
from recipes.hardware_search.study import LLM, Plan, Results

BASELINE_EPISODES, LLM_EPISODES = 500, 20
"""LCDA's budgets, whose ratio is its speed-up."""
THRESHOLDS = "thresholds.json"
"""File of the thresholds."""


def finish(
    problem: Problem,
    plan: Plan,
    landscape: Mapping[str, Any],
    results: Results,
    baseline: str,
    top: int,
    out: Path,
    command: str,
) -> Any:
    """Write and print everything.

    Args:
        problem: That was searched.
        plan: The searches.
        landscape: As :func:`write_landscape` found it, before the searches.
        results: Of them.
        baseline: Arm that others are compared with.
        top: Best designs of all searches that are scored anew.
        out: Folder.
        command: That made them.

    Returns:
        What ``metrics.json`` holds.
    """
    thresholds, optimum = landscape["thresholds"], landscape["optimum"]
    rewards = {arm: [result.rewards for result in found] for arm, found in results.items()}
    speed = _cells(speed_up_table(rewards, thresholds, baseline)) if thresholds and baseline in rewards else None
    trials = [trial for found in results.values() for result in found for trial in result.trials]
    pooled = SearchResult(problem.space, problem.objective, tuple(trials))
    winners = rescore(pooled, problem.evaluator, top, plan.seed)
    front = pooled.pareto()
    found: dict[str, Any] = {
        "command": command,
        "space": problem.space.name,
        "about": problem.about,
        "objective": problem.objective.to_dict(),
        "thresholds": thresholds,
        "optimum": optimum,
        "arms": {arm: _summary(searches, optimum) for arm, searches in results.items()},
        "speedup": None if speed is None else [dict(zip(speed[0], row, strict=True)) for row in speed[1]],
        "winners": [
            {
                "design": w.trial.design,
                "search": w.trial.metrics,
                "final": w.metrics,
                "search_reward": w.trial.reward,
                "final_reward": w.reward,
            }
            for w in winners
        ],
    }
    (out / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    pareto = [{"design": trial.design, "metrics": trial.metrics, "reward": trial.reward} for trial in front]
    (out / "pareto.json").write_text(json.dumps(pareto, indent=1), encoding="utf-8")
    parts = _parts(problem, plan, results, winners, speed, optimum, baseline)
    _write(parts, problem, results, pooled, out, command)
    return found


def write_landscape(problem: Problem, out: Path) -> Any:
    """Thresholds and optimum, written to ``thresholds.json`` before any search.

    Where the space is not tabulated there are none. A study that is continued keeps them.
    """
    path = out / THRESHOLDS
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = {"thresholds": {}, "optimum": None}
    if problem.is_tabulated:
        assert isinstance(problem.evaluator, TabEvaluator)
        landscape = problem.evaluator.landscape(problem.objective)
        found = {"thresholds": thresholds_of(landscape), "optimum": float(landscape.max())}
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def arms_table(results: Results, optimum: float | None) -> Cells:
    """A row an arm: best after so many episodes, regret, rates, time and tokens."""
    episodes = sorted({count for found in results.values() for count in best_at([r.rewards for r in found])})
    head = ["optimizer", "seeds", "episodes", *(f"best@{count}" for count in episodes)]
    head += ["best", *([] if optimum is None else ["regret"]), "invalid", "duplicate", "fallback", "s", "tokens"]
    rows = []
    for arm, found in results.items():
        numbers = _summary(found, optimum)
        cells = [arm, str(numbers["seeds"]), str(numbers["episodes"])]
        cells += [f"{numbers['best_at'][count]:.4f}" if count in numbers["best_at"] else "" for count in episodes]
        cells += [f"{numbers['best']:.4f}", *([] if optimum is None else [f"{numbers['regret']:.4f}"])]
        cells += [f"{numbers[name]:.1%}" for name in ("invalid", "duplicate")]
        replies = numbers["replies"]
        cells += ["" if replies is None else f"{numbers['fallback']:.0%}", f"{numbers['seconds']:.1f}"]
        rows.append([*cells, "" if replies is None else str(replies["prompt_tokens"] + replies["completion_tokens"])])
    return head, rows


def winners_cells(winners: list[Winner]) -> Cells:
    """A row a design: what the search thought of it, and what is left on held-out data with fresh chips."""
    accuracies = [name for name in winners[0].metrics if name.startswith("acc")]
    hardware = [name for name in winners[0].metrics if name not in accuracies]
    head = ["reward, search", "reward, final", *(f"{a}, {when}" for a in accuracies for when in ("search", "final"))]
    rows = []
    for winner in winners:
        row = [f"{winner.trial.reward:.4f}", f"{winner.reward:.4f}"]
        row += [f"{found[name]:.4f}" for name in accuracies for found in (winner.trial.metrics, winner.metrics)]
        row += [f"{winner.metrics[name]:.4g}" for name in hardware]
        rows.append([*row, ", ".join(f"{name} {value}" for name, value in winner.trial.design.items())])
    return [*head, *hardware, "design"], rows


def _summary(found: list[Any], optimum: float | None) -> dict[str, Any]:
    rewards = [result.rewards for result in found]
    count = sum(map(len, rewards))
    replies = found[0].replies
    return {
        "seeds": len(found),
        "episodes": len(rewards[0]),
        "best_at": best_at(rewards),
        "best": float(np.median([best.max() for best in rewards])),
        "regret": None if optimum is None else optimum - float(np.median([best.max() for best in rewards])),
        **{name: sum(result.counts[name] for result in found) / count for name in ("invalid", "failed", "duplicate")},
        "seconds": sum(sum(result.seconds.values()) for result in found),
        "fallback": None if replies is None else replies.fallback_rate,
        "replies": None if replies is None else asdict(replies),
    }


def _parts(
    problem: Problem,
    plan: Plan,
    results: Results,
    winners: list[Winner],
    speed: Cells | None,
    optimum: float | None,
    baseline: str,
) -> list[Part]:
    objective = problem.objective
    known = "" if optimum is None else f" The best of all {problem.space.cardinality:,} designs has {optimum:.4f}."
    parts: list[Part] = [
        ("p", f"{problem.about} Reward: {objective.formula}; {', '.join(objective.limits_in_words)}.{known}"),
        ("h2", "Optimizers"),
        ("table", arms_table(results, optimum)),
        (
            "note",
            "Median over seeds of the best reward after so many episodes; duplicates are episodes, too. Few seeds rank"
            " no optimizers.",
        ),
    ]
    if any(arm in LLM for arm in results) and plan.language.backend == "replay":
        parts.append(
            (
                "note",
                "llm and expert-start replay recorded answers of a rule-based expert, NOT of a language"
                " model: they show the machinery, and say nothing about language models. All seeds of expert-start"
                " share one first guess, whose luck its intervals leave out.",
            )
        )
    for arm, found in results.items():
        replies = found[0].replies
        if arm in LLM and replies is not None:
            parts += [("h3", f"Replies: {arm}"), ("pre", replies.table())]
    if speed is not None:
        parts += [
            ("h2", f"Speed-up over {baseline}"),
            (
                "p",
                "Thresholds were set before the runs, from the rewards of all designs. A time is the first episode"
                " that reaches one; seeds that do not are censored. Intervals: bootstrap over seeds. Where more than"
                " half of the seeds of an arm miss a threshold there is a bound and no number.",
            ),
            ("table", speed),
            ("note", budget_ratio(BASELINE_EPISODES, LLM_EPISODES)),
        ]
    parts += [
        ("h2", "Best designs of all searches"),
        ("table", winners_cells(winners)),
        (
            "note",
            "final: fresh chips and held-out data, where there is any. Report these; those of the search are too good"
            " on average, as the best of many chances.",
        ),
    ]
    return parts


def _write(
    parts: list[Part], problem: Problem, results: Results, pooled: SearchResult, out: Path, command: str
) -> None:
    curves = figures.curves(results)
    pareto = figures.pareto(pooled)
    for name, figure in (("curves", curves), ("pareto", pareto)):
        figure.savefig(out / f"{name}.png", dpi=120)
    page = [*parts, ("h2", "Figures"), ("figure", curves), ("figure", pareto), ("note", f"Made by: {command}")]
    write_page(out / "report.html", f"Co-design: {problem.space.name}", page)
    for kind, content in parts:
        print(text(content) if kind == "table" else f"\n{content}")  # type: ignore[arg-type]
    print(f"\nreport: {out / 'report.html'}")


def _cells(rows: list[list[str]]) -> Cells:
    return rows[0], rows[1:]
