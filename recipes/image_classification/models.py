"""The papers' networks with a width multiplier, a small ResNet, and any timm model by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def build_network(
    arch: str, classes: int, channels: int = 3, size: int = 32, width: float = 1.0, pretrained: bool = False
) -> nn.Module:
    """Build a network that maps images (B, channels, size, size) to logits (B, classes).

    Args:
        arch: ``lenet``, ``vgg8``, ``resnet18``, ``resnet-small``, or ``timm:`` and the name of a timm model.
        classes: How many, at least 2.
        channels: Of the images.
        size: Height and width of the images.
        width: Channels are this share of the published ones, at least 1 channel each; not for timm models.
        pretrained: Start from timm's weights, which timm downloads; only for timm models.

    Raises:
        ValueError: Unknown architecture, or images that it cannot take.
        ImportError: A timm model without timm.

    Example:
        >>> build_network("vgg8", classes=10, channels=1, width=1 / 8)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])
    """
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    if arch.startswith("timm:"):
        if width != 1.0:
            raise ValueError(f"model.width={width:g} has no effect on {arch}: choose a narrower timm model instead")
        return _timm(arch.removeprefix("timm:"), classes, channels, size, pretrained)
    if arch not in NETWORKS:
        raise ValueError(f"model.arch must be one of {', '.join(NETWORKS)} or timm:NAME, got {arch!r}")
    if pretrained:
        raise ValueError(f"there are no pretrained weights for {arch}; pretrained belongs to timm:NAME")
    if not 0 < width <= 8:
        raise ValueError(f"model.width must lie in (0, 8], got {width!r}")
    least = SMALLEST[arch]
    if size < least:
        raise ValueError(f"{arch} needs images of at least {least}x{least} pixels, got {size}x{size}; set data.size")
    network = NETWORKS[arch](classes, channels, size, width)
    network.apply(_kaiming)
    return network


def count_weights(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def default_width(arch: str) -> float:
    """What a CPU trains in minutes: 1/8 for VGG-8, 1/4 for ResNet-18, the published width for the small ones."""
    return {"vgg8": 1 / 8, "resnet18": 1 / 4}.get(arch, 1.0)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max pooling: two 5x5 convolutions, FC 120-84-classes."""

    def __init__(self, classes: int, channels: int, size: int, width: float) -> None:
        super().__init__()
        first, second, third, fourth = (_scaled(count, width) for count in (6, 16, 120, 84))
        self.features = nn.Sequential(
            nn.Conv2d(channels, first, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        side = ((size - 4) // 2 - 4) // 2
        self.classifier = nn.Sequential(
            nn.Linear(second * side**2, third),
            nn.ReLU(),
            nn.Linear(third, fourth),
            nn.ReLU(),
            nn.Linear(fourth, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


class VGG8(nn.Module):
    """VGG-8 of NeFT_CIM: 64-128-P-256-256-P-512-512-P, FC 8192-1024-classes for 32x32 images."""

    def __init__(self, classes: int, channels: int, size: int, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for position, published in enumerate((64, 128, 256, 256, 512, 512)):
            outputs = _scaled(published, width)
            layers += [*_conv_bn(inputs, outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if position % 2 else []
            inputs = outputs
        hidden = _scaled(1024, width)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs * (size // 8) ** 2, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which has a 1x1 convolution only where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv_bn(inputs, outputs, stride=stride), nn.ReLU(), *_conv_bn(outputs, outputs))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_bn(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, outputs, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet with the stem for small images: 3x3, stride 1, no pooling.

    Args:
        classes: Size of the output.
        channels: Of the images.
        size: Of the images; any.
        width: Multiplies ``widths``.
        widths: Channels of the stages; each but the first halves the image.
        blocks: Basic blocks of each stage.
    """

    def __init__(
        self, classes: int, channels: int, size: int, width: float, widths: tuple[int, ...], blocks: int
    ) -> None:
        super().__init__()
        outputs = [_scaled(count, width) for count in widths]
        self.stem = nn.Sequential(*_conv_bn(channels, outputs[0]), nn.ReLU())
        stages = []
        inputs = outputs[0]
        for stage, count in enumerate(outputs):
            parts = []
            for block in range(blocks):
                parts.append(BasicBlock(inputs, count, 2 if stage and not block else 1))
                inputs = count
            stages.append(nn.Sequential(*parts))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))
        return logits


NETWORKS: dict[str, Callable[[int, int, int, float], nn.Module]] = {
    "lenet": LeNet,
    "vgg8": VGG8,
    "resnet18": partial(ResNet, widths=(64, 128, 256, 512), blocks=2),
    "resnet-small": partial(ResNet, widths=(16, 32, 64), blocks=1),
}
SMALLEST = {"lenet": 16, "vgg8": 8, "resnet18": 8, "resnet-small": 4}


def _kaiming(module: nn.Module) -> None:
    """Kaiming fan-out, as NeFT_CIM initialises convolutions and linear layers."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _timm(name: str, classes: int, channels: int, size: int, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError("timm models need timm: pip install 'lightning-cim[vision]'") from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "see timm.list_models()"
        raise ValueError(f"timm has no model {name!r}; similar: {near}")
    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels, "pretrained": pretrained}
    try:
        network = timm.create_model(name, img_size=size, **options)
    except TypeError as error:  # convolutional models take any size and know no such argument
        if "img_size" not in str(error):
            raise
        network = timm.create_model(name, **options)
    assert isinstance(network, nn.Module)
    return network
