"""The rule of every operation against the operation's full Jacobian, squared elementwise."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_cim.programming.sensitivity import sensitivity
from tests.programming.references import (
    Through,
    assert_close,
    built,
    cross_entropy_h,
    inputs,
    labels,
    squared_jacobian_recursion,
)

IMAGE, SEQUENCE, VOLUME = (2, 7, 6), (2, 9), (2, 5, 4, 4)
LAYERS = {
    "stride and padding": (IMAGE, nn.Conv2d(2, 4, 3, stride=2, padding=1)),
    "dilation, one side": (IMAGE, nn.Conv2d(2, 4, (1, 3), dilation=(1, 2), padding=(0, 1))),
    "groups": (IMAGE, nn.Conv2d(2, 4, 3, groups=2)),
    "same": (IMAGE, nn.Conv2d(2, 4, (2, 5), padding="same")),
    "valid": (IMAGE, nn.Conv2d(2, 4, 2, padding="valid")),
    "reflecting": (IMAGE, nn.ReflectionPad2d(1)),
    "circular": (IMAGE, nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")),
    "conv1d": (SEQUENCE, nn.Conv1d(2, 4, 3, padding=1)),
    "conv3d": (VOLUME, nn.Conv3d(2, 4, 3, padding=1)),
    "transposed": (IMAGE, nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1)),
    "transposed 1d": (SEQUENCE, nn.ConvTranspose1d(2, 4, 3, groups=2, dilation=2)),
    "transposed 3d": (VOLUME, nn.ConvTranspose3d(2, 4, 2)),
    "rows": ((3, 4), nn.Linear(4, 5, bias=False)),
    "batch norm": (IMAGE, nn.BatchNorm2d(2)),
    "batch norm, plain": (SEQUENCE, nn.BatchNorm1d(2, affine=False)),
    "batch norm of features": ((6,), nn.BatchNorm1d(6)),
    "average": (IMAGE, nn.AvgPool2d(2)),
    "average, overlapping": (IMAGE, nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True)),
    "average, inner": (IMAGE, nn.AvgPool2d((3, 2), stride=1, padding=1, count_include_pad=False)),
    "average, divisor": (IMAGE, nn.AvgPool2d(2, divisor_override=3)),
    "average 1d": (SEQUENCE, nn.AvgPool1d(3, stride=2, padding=1, ceil_mode=True)),
    "average 1d, inner": (SEQUENCE, nn.AvgPool1d(3, padding=1, count_include_pad=False)),
    "average 3d": (VOLUME, nn.AvgPool3d(2, padding=1)),
    "global average": (IMAGE, nn.AdaptiveAvgPool2d(1)),
    "adaptive average": (IMAGE, nn.AdaptiveAvgPool2d((3, None))),
    "adaptive average 1d": (SEQUENCE, nn.AdaptiveAvgPool1d(4)),
    "adaptive average 3d": (VOLUME, nn.AdaptiveAvgPool3d((2, 3, 1))),
    "mean": (IMAGE, Through(lambda x: x.mean((2, 3)))),
    "mean, kept": (IMAGE, Through(lambda x: torch.mean(x, dim=1, keepdim=True))),
    "max": (IMAGE, nn.MaxPool2d(3, stride=2, padding=1)),
    "max 1d": (SEQUENCE, nn.MaxPool1d(2)),
    "adaptive max": (IMAGE, nn.AdaptiveMaxPool2d(2)),
    "maximum of a row": (IMAGE, Through(lambda x: x.max(2).values)),
    "relu in place": (IMAGE, Through(lambda x: (x * 1.5).relu_())),
    "relu6": (IMAGE, nn.ReLU6()),
    "clamp": (IMAGE, Through(lambda x: x.clamp(-0.5, 0.5))),
    "leaky": (IMAGE, nn.LeakyReLU(0.2)),
    "leaky in place": (IMAGE, Through(lambda x: F.leaky_relu(x + 0.1, 0.2, inplace=True))),
    "prelu": (IMAGE, nn.PReLU(2)),
    "arithmetic": (IMAGE, Through(lambda x: -(2 - 3 * x) / 4 - x.new_tensor([[[1.0]], [[2.0]]]))),
    "arithmetic in place": (IMAGE, Through(lambda x: x.clone().mul_(3).div_(2).sub_(1).add_(2))),
    "broadcast product": (SEQUENCE, Through(lambda x: x.unsqueeze(-1) * x.new_tensor([1.0, -2.0]))),
    "weighted sum": (IMAGE, Through(lambda x: torch.add(x[:, :1], x[:, 1:], alpha=-3))),
    "difference": (IMAGE, Through(lambda x: torch.sub(x[:, :1], x[:, 1:], alpha=2))),
    "fixed matrix": ((3, 4), Through(lambda x: x @ torch.arange(8.0).double().view(4, 2))),
    "einsum": (IMAGE, Through(lambda x: torch.einsum("nchw,cd->ndhw", x, torch.arange(6.0).double().view(2, 3)))),
    "shuffle": ((4, 3, 3), nn.PixelShuffle(2)),
    "upsample": (IMAGE, nn.Upsample(scale_factor=2)),
    "pad": (IMAGE, nn.ReplicationPad2d(1)),
    "unfold": (IMAGE, nn.Unfold(2)),
    "cut and paste": (IMAGE, Through(lambda x: torch.cat([x[:, 1:], x.flip(1).permute(0, 1, 3, 2).reshape_as(x)], 1))),
    "dropout": (IMAGE, nn.Dropout(0.5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_rule_is_the_squared_jacobian(name):
    shape, layer = LAYERS[name]
    before = {1: nn.Linear, 2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}[len(shape)]
    first = before(shape[0], shape[0], 1) if before is not nn.Linear else nn.Linear(shape[0], shape[0])
    x = inputs(2, *shape)
    net = built(first, layer, nn.Flatten(), nn.LazyLinear(3))
    net(x)
    y = labels(2)
    # samples one by one, and the layer itself mapped where it has a weight
    one = [squared_jacobian_recursion(list(net), sample.unsqueeze(0), cross_entropy_h) for sample in x]
    expected = {f"{index}.weight": sum(part[index] for part in one) / len(x) for index in one[0]}
    assert_close(sensitivity(net, [(x, y)], "recursion").values, expected)
