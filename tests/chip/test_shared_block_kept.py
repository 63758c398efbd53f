"""A shared block survives copying, saving, loading and compiling, and its removal leaves nothing."""

import copy
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_cim.chip.shared_block import (
    NAME,
    block_share,
    call_sites,
    insert_shared_block,
    remove_shared_block,
    shared_block_of,
)
from tests.chip.shared_block_toys import IMAGES, randomised, with_block
from tests.helpers.stage_nets import ResNet, mlp, vgg8


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
