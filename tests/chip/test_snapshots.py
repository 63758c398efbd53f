"""Snapshot heads of NeFT's IRS: published sizes, and shapes of other layouts."""

import pytest
import torch
from torch import nn

from lightning_cim.chip.snapshots import FEATURES, SnapshotHead, pooled_size, recorded
from lightning_cim.chip.stages import Block


def block(shape, dim, path="0"):
    return Block(path, path, shape[dim], dim, shape, shape)


@pytest.mark.parametrize(
    ("channels", "side", "pooled", "inputs"),
    [(64, 32, 6, 2304), (128, 16, 4, 2048), (256, 8, 3, 2304), (8, 4, 4, 128)],
)
def test_published_sizes(channels, side, pooled, inputs):
    assert pooled_size(channels, (side, side)) == pooled
    head = SnapshotHead(block((2, channels, side, side), 1), outputs=10)
    assert [tuple(p.shape) for p in head.parameters()] == [(512, inputs), (512,), (10, 512), (10,)]
    assert head(torch.randn(2, channels, side, side)).shape == (2, 10)


@pytest.mark.parametrize(
    ("shape", "dim"), [((2, 16, 100), 1), ((2, 50, 48), -1), ((2, 20), -1), ((2, 4, 5, 6, 7), 1), ((2, 5000), -1)]
)
def test_other_layouts(shape, dim):
    head = SnapshotHead(block(shape, dim), outputs=3)
    assert head(torch.randn(shape)).shape == (2, 3)
    if len(shape) > 2:
        assert head.layers[1].in_features <= FEATURES


def test_sequences_are_pooled_along_their_length():
    head = SnapshotHead(block((1, 4000, 3), -1), outputs=1)
    sequence = torch.randn(1, 4000, 3)
    pooled = nn.functional.adaptive_avg_pool1d(sequence.transpose(1, 2), 768)
    torch.testing.assert_close(head(sequence), head.layers(pooled))


def test_records_in_the_order_of_the_blocks_and_the_latest_pass():
    net = nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 4, batch_first=True))
    blocks = [block((1, 5, 4), -1, "1"), block((1, 5, 3), -1, "0")]
    with recorded(net, blocks) as found:
        net(torch.zeros(1, 5, 2))
        x = torch.randn(1, 5, 2)
        out, _ = net(x)
    assert torch.equal(found[0], out)
    assert torch.equal(found[1], net[0](x))
    assert not net[0]._forward_hooks
