import json

from lightning_cim.codesign import Space
from lightning_cim.codesign.llm.prompt import Prompter
from lightning_cim.codesign.trial import Trial
from recipes.hardware_search.expert import answer

SPACE = Space.preset("tab")


def asked(history):
    messages = Prompter(SPACE).messages(history, [trial.design for trial in history])
    return json.loads(answer(messages, SPACE.to_json_schema()))


def test_starts_with_a_rule_of_thumb_and_moves_the_best_design_by_one_slot():
    first = asked([])
    SPACE.validate(first)
    assert first["c12"] < first["c34"] < first["c56"]
    history = [Trial(first, {}, 0.5, "ok"), Trial({**first, "k12": 7}, {}, -1.0, "invalid", {"reason": "x"}, 1)]
    second = asked(history)
    assert sum(first[name] != second[name] for name in first) == 1
    third = asked([*history, Trial(second, {}, 0.6, "ok", {}, 2)])
    assert sum(second[name] != third[name] for name in first) == 1
    assert third not in (first, second)
