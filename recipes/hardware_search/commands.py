"""What the subcommands of the recipe do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_cim.codesign import Evaluator, SharedSearch, Space, guarded, speed_up_table, to_wandb_sweep
from lightning_cim.codesign.cost import HardwareCost, design_cost, hardware_of, network_of
from lightning_cim.sweep import report
from recipes._tables import text
from recipes.hardware_search import outcome
from recipes.hardware_search.evaluator import DigitsEvaluator
from recipes.hardware_search.expert import record as record_expert
from recipes.hardware_search.problems import Goal, Problem, problem
from recipes.hardware_search.study import LanguageModel, Plan, claim, rewards_of, run_study

Options = dict[str, Any]
FAST_DIGITS = {"epochs": 3, "chips": 4, "final_chips": 8, "train_images": 512, "batch_size": 32}


def search(options: Options, command: str) -> Any:
    """Compare optimizers."""
    found = _problem(options)
    if options["export_wandb_sweep"] is not None:
        return _export(found, options)
    if options["storage"] is not None:
        return _share(found, options)
    small = (30, 2) if found.is_tabulated else (4, 1)
    plan = Plan(
        options["optimizers"],
        options["budget"] or (small[0] if options["fast"] else found.budget),
        options["seeds"] or (small[1] if options["fast"] else found.seeds),
        options["seed"],
        options["workers"],
        options["wandb"],
        LanguageModel(**options["llm"]),
    )
    out = Path(options["out"])
    claim(out, options)
    landscape = outcome.write_landscape(found, out)
    results = run_study(found, plan, out)
    numbers = outcome.finish(found, plan, landscape, results, options["baseline"], options["top"], out, command)
    arms = {arm: {"best": entry["best"]} for arm, entry in numbers["arms"].items()}
    report({"reward": numbers["winners"][0]["final_reward"], **arms})
    return numbers


def speedup(out: Path, baseline: str) -> list[list[str]]:
    """Compare the searches of a folder, whose thresholds were set when they were made.

    Raises:
        ValueError: No searches, no thresholds, or no such baseline.
    """
    rewards, path = rewards_of(out), out / outcome.THRESHOLDS
    thresholds = json.loads(path.read_text(encoding="utf-8"))["thresholds"] if path.exists() else {}
    if not thresholds:
        raise ValueError(f"{out} has no thresholds: the rewards of all designs are known for the space tab only")
    rows = speed_up_table(rewards, thresholds, baseline)
    print(text((rows[0], rows[1:])))
    return rows


def cost(options: Options, command: str) -> dict[str, Any]:
    """What one design costs: layer by layer, and under every preset and ADC."""
    found = _problem(options)
    design = _completed(found.space, options["design"])
    network = found.space.name if found.space.name in ("tab", "lcda", "digits") else "tab"
    shapes = tuple(network_of(design, network))
    print(HardwareCost(design_cost(design, network), hardware_of(design), shapes, ()).table())
    cases = [("neurosim22", adc) for adc in ("flash", "sar", "isaac", "survey")] + [("isaac32", None)]
    rows, numbers = [], {}
    for preset, adc in cases:
        try:
            each = design_cost(design, network, preset, adc=adc)
        except ValueError as error:
            print(f"{preset}: {error}")
            continue
        name = preset if adc is None else f"{preset}, {adc} ADC"
        numbers[name] = {"energy_pj": each.energy_pj, "latency_ns": each.latency_ns, "area_mm2": each.area_mm2}
        rows.append([name, *(f"{value:.4g}" for value in numbers[name].values()), f"{each.tops_per_w:.3g}"])
    print(f"\n{text((['preset', 'energy, pJ', 'latency, ns', 'area, mm2', 'TOPS/W'], rows))}")
    return {"design": design, "costs": numbers}


def record(options: Options, command: str) -> int:
    """Write a replay file of the rule-based expert."""
    count = record_expert(_problem(options), options["episodes"], Path(options["path"]))
    print(f"{count} answers of the rule-based expert (no language model): {options['path']}")
    return count


def evaluate(words: Sequence[str]) -> dict[str, float]:
    """Score one design, given slot by slot, and tell a sweep.

    Raises:
        ValueError: A slot has a value that is not allowed, or the evaluation broke down.
    """
    parser = argparse.ArgumentParser(prog="codesign.py evaluate", allow_abbrev=False)
    parser.add_argument("--space", default="tab", help="tab, digits, lcda, or a YAML file")
    parser.add_argument("--seed", type=int, default=0, help="of the evaluation")
    parser.add_argument("--fast", action="store_true", help="train for a moment only")
    known, _ = parser.parse_known_args([word for word in words if word not in ("-h", "--help")])
    found = _problem({"space": known.space, "fast": known.fast, "goal": {}, "digits": {}})
    for slot in found.space.slots:
        kind = type(slot.values[0])
        parser.add_argument(f"--{slot.name}", type=kind, choices=slot.values, required=True, help=slot.about)
    given = vars(parser.parse_args(list(words)))
    design = {name: given[name] for name in found.space.names}
    evaluator: Evaluator = found.evaluator
    metrics = evaluator.cost(design)
    over = {name: value for name, value in found.objective.violations(metrics).items() if value > 0}
    if over:
        metrics = {**metrics, "reward": -1.0}
    else:
        outcome = guarded(evaluator, design, known.seed)
        if outcome.status != "ok":
            raise ValueError(f"the evaluation broke down: {outcome.reason}")
        metrics = {**outcome.metrics, "reward": found.objective.reward(outcome.metrics)}
    print("\n".join(f"{name} {value:.6g}" for name, value in metrics.items()))
    report(metrics)
    return metrics


def _problem(options: Mapping[str, Any]) -> Problem:
    digits = DigitsEvaluator(**{**options["digits"], **(FAST_DIGITS if options.get("fast") else {})})
    return problem(options["space"], Goal(**options["goal"]), digits)


def _completed(space: Space, given: Mapping[str, Any]) -> dict[str, Any]:
    middle = space.decode([(len(slot.values) - 1) // 2 for slot in space.slots])
    design = {**middle, **given}
    space.validate(design)
    return design


def _export(found: Problem, options: Options) -> dict[str, Any]:
    sweep = to_wandb_sweep(found.space, arguments=("evaluate", f"--space={options['space']}"))
    Path(options["export_wandb_sweep"]).write_text(yaml.safe_dump(sweep, sort_keys=False), encoding="utf-8")
    print(f"wrote {options['export_wandb_sweep']}: wandb sweep FILE, or python -m lightning_cim.sweep FILE --offline")
    return sweep


def _share(found: Problem, options: Options) -> dict[str, Any]:
    if len(options["optimizers"]) != 1:
        raise ValueError("machines share the search of one optimizer: give --optimizers=[tpe], [nsga2] or [gp]")
    sampler = options["optimizers"][0]
    shared = SharedSearch(
        found.space,
        found.evaluator,
        found.objective,
        options["budget"] or found.budget,
        options["storage"],
        f"{found.space.name}-{sampler}-{options['seed']}",
        sampler=sampler,
        seed=options["seed"],
    )
    result = shared.run()
    print(result.table())
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    result.to_json(out / "shared.json")
    return {"best": result.best.reward, "episodes": len(result.trials)}
