import pytest
import yaml

from lightning_cim.codesign import Space, to_wandb_sweep
from lightning_cim.sweep import SweepFile


def test_has_every_slot_with_its_values_and_is_a_sweep_file(tmp_path):
    space = Space.preset("tab")
    sweep = to_wandb_sweep(space, arguments=("evaluate", "--space=tab"))
    assert {name: tuple(found["values"]) for name, found in sweep["parameters"].items()} == {
        slot.name: slot.values for slot in space.slots
    }
    assert sweep["metric"] == {"name": "reward", "goal": "maximize"}
    program = tmp_path / "recipe.py"
    program.write_text("")
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**sweep, "program": str(program)}))
    assert SweepFile.read(path).method == "bayes"


def test_refuses_a_method_that_wandb_does_not_have():
    with pytest.raises(ValueError, match="grid, random and bayes"):
        to_wandb_sweep(Space.preset("tab"), method="evolution")
