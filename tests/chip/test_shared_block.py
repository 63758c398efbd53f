"""The tiny shared block: folding, sharing, and what must survive copying, saving and compiling."""

import copy
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_cim.chip import Chip, ChipPopulation, Mapping, chip_weights, on_chip
from lightning_cim.chip.deployed import VERIFIED, ReadBackChip, deployed_chip
from lightning_cim.chip.shared_block import (
    NAME,
    WEIGHT,
    SharedBlock,
    backbone_weights,
    block_share,
    call_sites,
    insert_shared_block,
    remove_shared_block,
    shared_block_of,
)
from lightning_cim.chip.stages import Block, trace_blocks
from lightning_cim.variation import Gaussian
from tests.helpers.stage_nets import Recurrent, ResNet, mlp, vgg8

IMAGES = (2, 3, 32, 32)


def randomised(block):
    """A block that does something."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    return block


def with_block(net, *shape, width=None):
    net.eval()
    blocks = trace_blocks(net, lambda: net(torch.zeros(shape)))
    return blocks, insert_shared_block(net, blocks, width)


def reference(block, x, channel_dim):
    """The block's output, channel by channel."""
    moved = x.movedim(channel_dim, 0) if x.ndim > 2 else x.movedim(-1, 0)
    out = torch.zeros_like(moved)
    for channel in range(len(moved)):
        group, row = divmod(channel, block.width)
        total = torch.zeros_like(moved[0])
        for column in range(block.width):
            source = group * block.width + column
            if source < len(moved):  # padded channels are zero
                total = total + block.weight[row, column] * moved[source]
        out[channel] = total + block.bias[row]
    return out.movedim(0, channel_dim) if x.ndim > 2 else out.movedim(0, -1)


@pytest.mark.parametrize(
    ("shape", "channel_dim"),
    [
        ((2, 12, 3, 5), 1),
        ((2, 10, 3, 5), 1),  # does not divide
        ((2, 3, 2, 2), 1),  # narrower than the block
        ((2, 8, 7), 1),
        ((2, 8, 2, 3, 2), 1),
        ((2, 7, 12), -1),
        ((2, 7, 10), -1),
        ((5, 12), -1),
        ((5, 10), 1),
        ((2, 3, 4, 9), -1),
    ],
)
def test_folding_against_a_loop(shape, channel_dim):
    torch.manual_seed(0)
    block, x = randomised(SharedBlock(4)), torch.randn(shape)
    torch.testing.assert_close(block(x, channel_dim), reference(block, x, channel_dim))


def test_gradients_of_a_folded_block():
    torch.manual_seed(0)
    block, x = randomised(SharedBlock(4)).double(), torch.randn(2, 10, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(block, {"weight": w}, (x, 1)), (x, block.weight)
    )


def test_channels_last_images():
    block, x = randomised(SharedBlock(4)), torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(block(x, 1), block(x.contiguous(), 1))


@pytest.mark.parametrize(
    ("make", "shape", "sites"),
    [
        (vgg8, IMAGES, 6),
        (ResNet, IMAGES, 9),
        (lambda: mlp(4, 8, 8, 8, 2), (3, 4), 3),
        (Recurrent, (3, 5, 3), 2),
    ],
)
def test_insertion_is_the_identity_with_one_parameter_and_many_call_sites(make, shape, sites):  # E17
    torch.manual_seed(0)
    net, x = make().eval(), torch.randn(shape)
    before, keys, names = net(x), list(net.state_dict()), [name for name, _ in net.named_parameters()]
    calls = []
    _, block = with_block(net, *shape)
    block.register_forward_hook(lambda module, args, output: calls.append(None) if len(args) > 1 else None)
    assert torch.equal(net(x), before)
    assert len(calls) == len(call_sites(net)) == sites
    assert list(net.state_dict()) == [*keys, f"{NAME}.weight", f"{NAME}.bias"]
    assert [name for name, _ in net.named_parameters()] == [*names, f"{NAME}.weight", f"{NAME}.bias"]
    assert sum(parameter is block.weight for parameter in net.parameters()) == 1
    randomised(block)
    assert not torch.equal(net(x), before)


def test_a_vit_gets_its_block_along_the_last_dimension():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=12, num_heads=2, depth=3, num_classes=3
    ).eval()
    x = torch.randn(2, 3, 16, 16)
    before = net(x)
    _, block = with_block(net, *x.shape)
    assert (block.width, len(call_sites(net))) == (12, 3)
    assert torch.equal(net(x), before)
    seen = []
    net.blocks[0].register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    randomised(block)
    net(x)
    (inputs, output), plain = seen[0], copy.deepcopy(net.blocks[0])
    plain._forward_hooks.clear()
    torch.testing.assert_close(output, plain(inputs) + reference(block, plain(inputs), -1))


def test_gradients_add_up_over_the_call_sites():
    torch.manual_seed(0)
    net, x = mlp(4, 8, 8, 2).double(), torch.randn(3, 4, dtype=torch.double)
    _, block = with_block(net.float(), 3, 4)
    net.double()
    randomised(block)
    net(x).sum().backward()
    weights = [block.weight.detach().clone().requires_grad_() for _ in range(2)]
    hidden = F.relu(net[0](x).detach())
    hidden = hidden + F.linear(hidden, weights[0], block.bias)
    hidden = F.relu(F.linear(hidden, net[2].weight, net[2].bias))
    hidden = hidden + F.linear(hidden, weights[1], block.bias)
    F.linear(hidden, net[4].weight, net[4].bias).sum().backward()
    torch.testing.assert_close(block.weight.grad, weights[0].grad + weights[1].grad)


def test_tuples_keep_their_other_parts():
    net = Recurrent().eval()
    x = torch.randn(2, 5, 3)
    sequence, last = net.gru(x)
    _, block = with_block(net, 2, 5, 3, width=8)
    randomised(block)
    changed, same = net.gru(x)
    assert torch.equal(same, last)
    torch.testing.assert_close(changed, sequence + reference(block, sequence, -1))


def test_copies_use_their_own_block():
    net = vgg8().eval()
    x = torch.randn(IMAGES)
    before = net(x)
    with_block(net, *IMAGES)
    twin = copy.deepcopy(net)
    assert shared_block_of(twin) is not shared_block_of(net)
    assert all(hook.block is shared_block_of(twin) for _, hook in call_sites(twin))
    randomised(shared_block_of(twin))
    assert torch.equal(net(x), before)
    assert not torch.equal(twin(x), before)
    remove_shared_block(twin)
    assert len(call_sites(net)) == 6


def test_a_saved_network_comes_back_with_its_block():
    net = vgg8().eval()
    x = torch.randn(IMAGES)
    _, block = with_block(net, *IMAGES)
    randomised(block)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(x), net(x))
    assert len(call_sites(loaded)) == 6
    with torch.no_grad():
        shared_block_of(loaded).weight.zero_()
        shared_block_of(loaded).bias.zero_()
    assert not torch.equal(loaded(x), net(x))
    remove_shared_block(loaded)
    assert not any(module._forward_hooks for module in loaded.modules())


def test_hooks_of_a_loaded_network_are_not_overwritten_in_a_fresh_process(tmp_path):
    """Hooks are numbered by a counter of the process; a loaded one must move the counter on."""
    net = mlp(4, 8, 8, 2)
    with_block(net, 3, 4)
    torch.save(net, tmp_path / "net.pt")
    code = (
        "import sys, torch\n"
        "net = torch.load(sys.argv[1], weights_only=False)\n"
        "for i in range(100):\n"
        "    net[1].register_forward_hook(lambda *_: None)\n"
        "print(sum(type(hook).__name__ == 'AddShared' for hook in net[1]._forward_hooks.values()))\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "net.pt"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "1"


def test_state_dict_round_trip_into_a_fresh_network():
    torch.manual_seed(0)
    net, x = ResNet().eval(), torch.randn(IMAGES)
    blocks, block = with_block(net, *IMAGES)
    randomised(block)
    fresh = ResNet().eval()
    insert_shared_block(fresh, blocks)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x), net(x))
    with pytest.raises(RuntimeError, match=NAME):
        ResNet().load_state_dict(net.state_dict())


@pytest.mark.parametrize("compiled_before", [False, True])
def test_compiled_networks_see_the_block(compiled_before):
    torch.manual_seed(0)
    net, x = vgg8().eval(), torch.randn(IMAGES)
    before = net(x)
    fast = torch.compile(net, backend="eager", fullgraph=True)
    if compiled_before:
        fast(x)
    _, block = with_block(net, *IMAGES)
    assert torch.equal(fast(x), before)
    randomised(block)
    torch.testing.assert_close(fast(x), net(x))
    assert not torch.allclose(fast(x), before)
    remove_shared_block(net)
    assert torch.equal(fast(x), before)


def test_a_compiled_part_that_ran_before_sees_the_block():
    """torch guards no hooks of modules inside compiled code, so what was compiled must be forgotten."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = torch.compile(mlp(4, 8, 8, 8)[:4], backend="eager"), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.body(x))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(3, 4)
    before = net(x)
    randomised(with_block(net, 3, 4)[1])
    assert not torch.allclose(net(x), before)
    remove_shared_block(net)
    assert torch.equal(net(x), before)


def test_stages_are_the_same_with_a_block():
    for net in (vgg8(), ResNet()):
        blocks, _ = with_block(net, *IMAGES)
        assert trace_blocks(net, lambda net=net: net(torch.zeros(IMAGES))) == blocks


def test_removal_leaves_nothing():
    net = ResNet().eval()
    keys = list(net.state_dict())
    with_block(net, *IMAGES)
    remove_shared_block(net)
    assert list(net.state_dict()) == keys
    assert shared_block_of(net) is None
    assert not any(module._forward_hooks for module in net.modules())
    with pytest.raises(ValueError, match="ResNet has no shared block"):
        remove_shared_block(net)
    with pytest.raises(ValueError, match="ResNet has no shared block"):
        block_share(net)


def test_named_stages_need_a_run():
    net, x = ResNet().eval(), torch.zeros(IMAGES)
    with pytest.raises(ValueError, match=r"stages by name \(layer1, layer2\) need run="):
        insert_shared_block(net, ["layer1", "layer2"])
    block = insert_shared_block(net, ["layer1", "layer2"], run=lambda: net(x))
    assert [path for path, _ in call_sites(net)] == ["layer1", "layer2"]
    assert block.width == 4
    with pytest.raises(ValueError, match="has a shared block already"):
        insert_shared_block(net, ["layer1"], run=lambda: net(x))


def stage(channels):
    return Block("0", "0", channels, -1, (1, channels), (1, channels))


@pytest.mark.parametrize(
    ("channels", "width"),
    [((64, 128, 256, 512), 64), ((16, 32, 32), 16), ((256, 512), 64), ((48, 80), 16), ((12,), 12)],
)
def test_default_width(channels, width):
    assert insert_shared_block(mlp(4, 8, 2), [stage(c) for c in channels]).width == width


def test_a_useless_width_is_said():
    with pytest.warns(UserWarning, match="have 24, 35 channels; their common divisor makes a shared block of width 1"):
        insert_shared_block(mlp(4, 8, 2), [stage(24), stage(35)])
    with pytest.raises(ValueError, match="no stage"):
        insert_shared_block(mlp(4, 8, 2), [])
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        SharedBlock(0)


def test_share_of_resnet18():
    """The authors' claim of less than 0.4 %, on the real shape."""
    net = ResNet(64, device="meta")
    shapes = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [Block("relu", "relu", width, 1, (1, width, 8, 8), (1, width, 8, 8)) for width in shapes]
    block = insert_shared_block(net, blocks)
    assert block.weight.is_meta
    assert block.width == 64
    mapped = sum(p.numel() for name, p in net.named_parameters() if p.ndim > 1 and not name.startswith(NAME))
    assert mapped == backbone_weights(net) == 11_164_352
    assert block_share(net) == (64 * 64 + 64) / mapped < 0.004


def test_the_block_takes_type_and_device_of_the_network():
    net = mlp(4, 8, 2).bfloat16()
    block = insert_shared_block(net, [Block("1", "1", 8, -1, (1, 8), (1, 8))])
    assert block.weight.dtype == torch.bfloat16
    assert net(torch.zeros(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


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
