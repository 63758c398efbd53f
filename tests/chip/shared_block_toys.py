"""Networks with a shared block that does something, and the block's output by a loop."""

import torch

from lightning_cim.chip.shared_block import insert_shared_block
from lightning_cim.chip.stages import trace_blocks

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
