"""Snapshot heads of NeFT's IRS: published sizes, and shapes of other layouts."""

import pytest
import torch
from torch import nn

from lightning_cim.chip.snapshots import FEATURES, SHARE, SnapshotHead, pooled_size, recorded, snapshot_heads
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


VGG8 = [(64, 32), (128, 16), (256, 8)]
RESNET18 = [(64, 32), (64, 32), (128, 16), (256, 8)]


def blocks_of(maps, width=1.0):
    return [block((2, int(c * width), s, s), 1) for c, s in maps]


def weights_of(heads):
    return sum(parameter.numel() for parameter in heads.parameters() if parameter.ndim == 2)


@pytest.mark.parametrize(("maps", "network"), [(VGG8, 12_964_544), (RESNET18, 11_164_352)])
def test_published_networks_get_the_published_heads(maps, network):
    heads = snapshot_heads(blocks_of(maps), 10, network)
    assert [head.layers[1].out_features for head in heads] == [512] * len(maps)
    assert [head.layers[1].in_features for head in heads] == [c * pooled_size(c, (s, s)) ** 2 for c, s in maps]


@pytest.mark.parametrize(("width", "network"), [(1 / 8, 202_000), (1 / 4, 810_000)])
def test_heads_shrink_with_their_network(width, network):
    heads = snapshot_heads(blocks_of(VGG8, width), 10, network)
    assert 0.2 * network < weights_of(heads) <= SHARE * network
    assert all(
        head(torch.randn(b.shape)).shape == (2, 10) for head, b in zip(heads, blocks_of(VGG8, width), strict=True)
    )


def test_heads_are_never_narrower_than_their_outputs():
    [head] = snapshot_heads([block((2, 4, 2, 2), 1)], 3, network=10)
    assert (head.layers[1].in_features, head.layers[1].out_features) == (4, 3)


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
