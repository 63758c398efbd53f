"""The tiny shared block: folding, sharing, insertion and width."""

import copy

import pytest
import torch
from torch.nn import functional as F

from lightning_cim.chip.shared_block import (
    NAME,
    SharedBlock,
    backbone_weights,
    block_share,
    call_sites,
    insert_shared_block,
)
from lightning_cim.chip.stages import Block, trace_blocks
from tests.chip.shared_block_toys import IMAGES, randomised, reference, with_block
from tests.helpers.stage_nets import Recurrent, ResNet, mlp, vgg8


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


def test_stages_are_the_same_with_a_block():
    for net in (vgg8(), ResNet()):
        blocks, _ = with_block(net, *IMAGES)
        assert trace_blocks(net, lambda net=net: net(torch.zeros(IMAGES))) == blocks


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
