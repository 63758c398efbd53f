"""A rule-based stand-in for a language model, whose answers the replay files hold. NO LANGUAGE MODEL is behind them.

It reads the prompt as a model would and answers in JSON: at first a designer's rule of thumb, then the best design so
far with one slot moved to a neighbouring value, in a fixed order of slots. It shows the machinery at work, and is no
evidence about what language models know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_cim.codesign import CoDesignSearch
from lightning_cim.codesign.llm import CallableBackend, LLMOptimizer
from recipes.hardware_search.problems import Problem

LABEL = "rule-based expert; no language model"
ORDER = ("adc_bits", "xbar", "cell_bits", "c12", "c34", "c56", "k12", "k34", "k56", "device", "mux")
"""What to move first: ADCs cost most."""
_TRIED = re.compile(r"^- (reward (?P<reward>-?[\d.]+)|invalid|failed)[^{]*(?P<design>\{.*\})$", re.MULTILINE)


def answer(messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> str:
    """A design as JSON.

    Args:
        messages: The conversation; the history is read from its first question.
        schema: Of a design.
    """
    values = {name: list(slot["enum"]) for name, slot in schema["properties"].items()}
    tried = [
        (float(found["reward"] or "-1"), json.loads(found["design"]))
        for found in _TRIED.finditer(messages[1]["content"])
    ]
    if not tried:
        return json.dumps({name: _rule_of_thumb(name, allowed) for name, allowed in values.items()})
    known = [design for _, design in tried]
    for _, best in sorted(tried, key=lambda entry: -entry[0]):
        for name in sorted(values, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
            place = values[name].index(best[name])
            for other in (place - 1, place + 1):
                if 0 <= other < len(values[name]):
                    design = {**best, name: values[name][other]}
                    if design not in known:
                        return json.dumps(design)
    return json.dumps(known[0])


def _rule_of_thumb(name: str, allowed: Sequence[Any]) -> Any:
    """Channels that grow with depth, small kernels, moderate hardware, the device of the highest resistance."""
    if name.startswith("c") and name != "cell_bits":
        depth = int(name[-1]) / 6
        return allowed[min(round(depth * (len(allowed) - 1)), len(allowed) - 1)]
    if name.startswith("k"):
        return 3 if 3 in allowed else allowed[0]
    if name == "device":
        return allowed[-1]
    return allowed[(len(allowed) - 1) // 2]


def record(problem: Problem, episodes: int, path: Path) -> int:
    """Write the expert's answers in a search down, for ``--llm.backend=replay``.

    Args:
        problem: What is searched.
        episodes: Of the search.
        path: The replay file.

    Returns:
        How many answers there are.
    """
    replies: list[str] = []

    def recorded(messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> str:
        replies.append(answer(messages, schema))
        return replies[-1]

    optimizer = LLMOptimizer(
        problem.space, backend=CallableBackend(recorded, LABEL), task=problem.objective.task(problem.about)
    )
    CoDesignSearch(problem.space, problem.evaluator, optimizer, problem.objective, episodes, progress=False).run()
    lines = [json.dumps({"reply": reply, "backend": LABEL}) + "\n" for reply in replies]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)
