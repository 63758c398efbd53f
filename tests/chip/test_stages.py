"""Stages of the networks that people use, against lists written by hand."""

import pytest
import torch
from torch import nn

from lightning_cim.chip.stages import Block, first_tensor, named_blocks, snapshot_paths, trace_blocks
from tests.helpers.stage_nets import Recurrent, ResNet, mlp, vgg8


def blocks_of(net, *shape, **kwargs):
    net.eval()
    with torch.no_grad():
        return trace_blocks(net, lambda: net(torch.zeros(shape)), **kwargs)


def test_vgg8_has_a_block_a_convolution():
    blocks = blocks_of(vgg8(), 2, 3, 32, 32)
    assert [(b.path, b.pooled, b.channels) for b in blocks] == [
        ("2", "2", 4),
        ("5", "6", 8),
        ("9", "9", 16),
        ("12", "13", 16),
        ("16", "16", 32),
        ("19", "20", 32),
    ]
    assert all(block.channel_dim == 1 and not block.is_compound for block in blocks)
    assert blocks[1].shape == (2, 8, 32, 32)
    assert blocks[1].pooled_shape == (2, 8, 16, 16)


def test_snapshots_of_vgg8_are_the_published_ones():
    assert [block.pooled for block in snapshot_paths(blocks_of(vgg8(), 1, 3, 32, 32))] == ["2", "6", "13"]


def test_resnet_has_its_stem_and_every_residual_block():
    blocks = blocks_of(ResNet(), 2, 3, 32, 32)
    layers = [f"layer{stage}.{index}" for stage in (1, 2, 3, 4) for index in (0, 1)]
    assert [block.path for block in blocks] == ["relu", *layers]
    assert [block.channels for block in blocks] == [4, 4, 4, 8, 8, 16, 16, 32, 32]
    assert [block.is_compound for block in blocks] == [False] + [True] * 8
    assert (blocks[-1].pooled, blocks[-1].pooled_shape) == ("pool", (2, 32, 1, 1))


def test_snapshots_of_resnet_are_the_published_ones():
    found = snapshot_paths(blocks_of(ResNet(), 1, 3, 32, 32))
    assert [block.pooled for block in found] == ["relu", "layer1.1", "layer2.1", "layer3.1"]


@pytest.mark.parametrize(("count", "kept"), [(1, [2]), (2, [1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])])
def test_count_limits_snapshots_evenly(count, kept):
    blocks = blocks_of(ResNet(), 1, 3, 32, 32)
    every = snapshot_paths(blocks)
    assert snapshot_paths(blocks, count) == [every[index] for index in kept]


def test_a_vit_is_cut_in_four():
    timm = pytest.importorskip("timm")
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=12, num_heads=2, depth=12, num_classes=3
    )
    blocks = blocks_of(net, 2, 3, 32, 32)
    assert [block.path for block in blocks] == [f"blocks.{index}" for index in range(12)]
    assert {(block.channel_dim, block.channels, block.shape) for block in blocks} == {(-1, 12, (2, 17, 12))}
    assert [block.path for block in snapshot_paths(blocks)] == ["blocks.2", "blocks.5", "blocks.8"]
    assert [block.path for block in snapshot_paths(blocks, 1)] == ["blocks.5"]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", ["maxpool", "layer1.1", "layer2.1", "layer3.1"]),
        ("convnext_atto", ["stem.1", "stages.0", "stages.1", "stages.2"]),
    ],
)
def test_snapshots_of_timm_models(name, stages):
    timm = pytest.importorskip("timm")
    blocks = blocks_of(timm.create_model(name, num_classes=3), 1, 3, 64, 64)
    assert [block.pooled for block in snapshot_paths(blocks)] == stages


def test_an_odd_block_among_repeated_ones_counts_as_a_whole():
    timm = pytest.importorskip("timm")
    paths = [block.path for block in blocks_of(timm.create_model("mobilenetv3_small_050"), 1, 3, 64, 64)]
    assert paths[:3] == ["bn1", "blocks.0.0", "blocks.1.0"]


def test_hidden_features_count_without_maps_only():
    assert [block.path for block in blocks_of(mlp(4, 8, 8, 8, 2), 2, 4)] == ["1", "3", "5"]
    assert "22" not in [block.path for block in blocks_of(vgg8(), 1, 3, 32, 32)]


@pytest.mark.parametrize(
    ("widths", "stages"), [((4, 8, 8, 8, 8, 8, 2), ["1", "5", "7"]), ((4, 8, 8, 2), ["1"]), ((4, 16, 8, 8, 2), ["1"])]
)
def test_snapshots_of_an_mlp(widths, stages):
    assert [block.path for block in snapshot_paths(blocks_of(mlp(*widths), 2, 4))] == stages


def test_a_recurrent_layer_gives_its_sequence():
    gru, hidden = blocks_of(Recurrent(), 2, 5, 3)
    assert (gru.path, gru.shape, gru.channel_dim, gru.channels) == ("gru", (2, 5, 8), -1, 8)
    assert (hidden.path, hidden.shape) == ("act", (2, 6))


def test_a_transformer_encoder_without_its_embedding():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoder(layer, 3), nn.Linear(8, 2))
    assert [block.path for block in blocks_of(net, 2, 5, 4)] == ["1.layers.0", "1.layers.1", "1.layers.2"]


def test_modules_called_twice_are_never_chosen():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
            self.bn, self.relu, self.pool, self.fc = nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Linear(4, 2)

        def forward(self, x):
            x = self.pool(self.relu(self.bn(self.conv1(x))))
            x = self.pool(self.relu(self.conv2(x)))
            return self.fc(self.conv3(self.conv3(x)).mean((2, 3)))

    assert [(block.path, block.pooled) for block in blocks_of(Net(), 1, 1, 64, 64)] == [
        ("bn", "bn"),
        ("conv2", "conv2"),
    ]


def test_the_run_leaves_no_hooks_even_after_an_error():
    net = mlp(4, 8, 2)
    with pytest.raises(RuntimeError, match="boom"):
        trace_blocks(net, lambda: (_ for _ in ()).throw(RuntimeError("boom")))
    assert not any(module._forward_hooks for module in net.modules())


def test_hooks_are_seen_in_compiled_modules():
    net = nn.Sequential(torch.compile(mlp(4, 8, 8, 2)[:4], backend="eager"), nn.Linear(8, 2))
    net(torch.zeros(2, 4))  # compiled before
    assert [block.channels for block in blocks_of(net, 2, 4)] == [8, 8]


def test_errors_say_to_name_stages():
    with pytest.raises(ValueError, match=r"Sequential: found no stage.* Name stages yourself"):
        blocks_of(mlp(4, 2), 1, 4)
    with pytest.raises(ValueError, match=r"no stage before the last one .*\(1 in all\)"):
        snapshot_paths(blocks_of(mlp(4, 8, 2), 1, 4))
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        snapshot_paths(blocks_of(mlp(4, 8, 8, 2), 1, 4), 0)


def test_named_stages():
    net = ResNet().eval()
    found = named_blocks(net, lambda: net(torch.zeros(1, 3, 32, 32)), ["layer3", "bn1", "fc"])
    assert [(block.path, block.pooled, block.channels, block.channel_dim) for block in found] == [
        ("layer3", "layer3", 16, 1),
        ("bn1", "bn1", 4, 1),
        ("fc", "fc", 10, -1),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layer5", "ResNet has no submodule 'layer5' to use as a stage .*nearest: 'layer4'"),
        ("layer1.0.relu", "stage 'layer1.0.relu' was called 2 times"),
        ("spare", "stage 'spare' was called 0 times"),
    ],
)
def test_wrong_names_are_refused(name, message):
    net = ResNet().eval()
    net.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=message):
        named_blocks(net, lambda: net(torch.zeros(1, 3, 32, 32)), [name])


def test_first_tensor():
    x = torch.ones(2)
    assert first_tensor(x) is x
    assert first_tensor((torch.tensor([1]), [x, None])) is x
    assert first_tensor({"loss": None, "logits": x}) is x
    assert first_tensor((None, "text")) is None


def test_kind():
    assert Block("a", "a", 4, 1, (1, 4, 2), (1, 4, 2)).kind == "map"
    assert Block("a", "a", 4, -1, (1, 2, 4), (1, 2, 4)).kind == "sequence"
    assert Block("a", "a", 4, -1, (1, 4), (1, 4)).kind == "features"
