"""Chips under a verified shared block, and chips whose values were read back."""

import pytest
import torch

from lightning_cim.chip import Chip, ChipPopulation, Mapping, chip_weights, on_chip
from lightning_cim.chip.deployed import VERIFIED, ReadBackChip, deployed_chip
from lightning_cim.chip.shared_block import WEIGHT, shared_block_of
from lightning_cim.variation import Gaussian
from tests.chip.shared_block_toys import IMAGES, randomised, with_block
from tests.helpers.stage_nets import mlp, vgg8


def test_a_deployed_chip_has_the_backbone_of_its_chip_and_a_verified_block():
    net = mlp(4, 8, 8, 2)
    _, block = with_block(net, 3, 4)
    randomised(block)
    backbone = ChipPopulation(net, Gaussian(sigma=0.3), seed=2)[5]
    found = chip_weights(net, deployed_chip(backbone, seed=7, index=1))
    expected = chip_weights(net, backbone)
    assert set(found) == set(expected) == {"0.weight", "2.weight", "4.weight", WEIGHT}
    for name in ("0.weight", "2.weight", "4.weight"):
        assert torch.equal(found[name], expected[name])
    verified = chip_weights(net, Chip(VERIFIED, 7, 1, stream="verified"))[WEIGHT]
    assert torch.equal(found[WEIGHT], verified)
    again = chip_weights(net, deployed_chip(backbone, seed=7, index=2))
    assert torch.equal(again["2.weight"], expected["2.weight"])
    assert not torch.equal(again[WEIGHT], found[WEIGHT])
    deviation = deployed_chip(backbone, seed=7, index=1).deviation(WEIGHT, block.weight)
    torch.testing.assert_close(block.weight.detach() + deviation, verified)


def test_ideal_devices_under_a_verified_block():
    net = mlp(4, 8, 8, 2)
    randomised(with_block(net, 3, 4)[1])
    found = chip_weights(net, deployed_chip(None))
    assert torch.equal(found["2.weight"], net[2].weight)
    assert not torch.equal(found[WEIGHT], shared_block_of(net).weight)


def test_the_block_is_mapped_whatever_the_mapping():
    net = vgg8()
    randomised(with_block(net, *IMAGES)[1])
    chip = deployed_chip(ChipPopulation(net, Gaussian(sigma=0.3), mapping=Mapping(targets=["conv"]))[0])
    assert WEIGHT in chip_weights(net, chip)
    assert "22.weight" not in chip_weights(net, chip)


def test_a_read_back_chip_holds_the_measured_values_exactly():
    net = mlp(4, 8, 2)
    values = {name: torch.randn_like(value) for name, value in net.state_dict().items()}
    chip = ReadBackChip(measured=values)
    chip.check(net)
    found = chip_weights(net, chip)
    assert set(found) == {"0.weight", "2.weight"}
    assert all(torch.equal(found[name], values[name]) for name in found)
    with on_chip(net, chip):
        net(torch.ones(1, 4)).sum().backward()
    assert net[2].weight.grad is not None
    torch.testing.assert_close(chip.deviation("0.weight", net[0].weight) + net[0].weight, values["0.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("0.weight"), "no values of '0.weight' .nearest: '2.weight'"),
        (lambda values: values.update({"0.weight": torch.zeros(3)}), r"of '0.weight' .* shape \(8, 4\), got \(3,\)"),
        (lambda values: values["2.weight"].fill_(torch.nan), "16 that are not finite"),
    ],
)
def test_read_back_values_that_do_not_fit(change, message):
    net = mlp(4, 8, 2)
    values = {name: value.clone() for name, value in net.state_dict().items() if name.endswith("weight")}
    change(values)
    with pytest.raises(ValueError, match=message):
        ReadBackChip(measured=values).check(net)
