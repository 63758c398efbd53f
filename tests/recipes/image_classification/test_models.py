import pytest
import torch
from torch import nn

from recipes.image_classification.classifier import ImageClassifier
from recipes.image_classification.models import build_network, count_weights


@pytest.mark.parametrize("arch", ["lenet", "vgg8", "resnet18", "resnet-small"])
@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 16)])
def test_networks_map_images_to_logits(arch, channels, size):
    network = build_network(arch, 7, channels, size, width=1 / 8)
    assert network(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_vgg8_has_the_published_layers():
    network = build_network("vgg8", 10, 3, 32, 1.0)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == [64, 128, 256, 256, 512, 512]
    assert all(module.bias is None for module in convolutions)
    linear = [
        (module.in_features, module.out_features) for module in network.modules() if isinstance(module, nn.Linear)
    ]
    assert linear == [(8192, 1024), (1024, 10)]


def test_published_and_small_sizes():
    assert count_weights(build_network("resnet18", 10, 3)) == 11_173_962
    assert 75_000 < count_weights(build_network("resnet-small", 10, 3)) < 85_000
    assert count_weights(build_network("lenet", 10, 1)) == 61_706


def test_unused_shortcuts_have_no_weights():
    network = build_network("resnet18", 10, 3, 32, 1 / 8)
    kernels = [module.kernel_size for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert kernels.count((1, 1)) == 3


def test_weights_start_kaiming_fan_out():
    torch.manual_seed(0)
    layer = build_network("vgg8", 10, 3).features[3]
    assert layer.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


def test_any_timm_model_fits_the_images():
    pytest.importorskip("timm")
    assert build_network("timm:vit_tiny_patch16_224", 5, 1, 32)(torch.zeros(1, 1, 32, 32)).shape == (1, 5)
    assert build_network("timm:resnet10t", 5, 3, 40)(torch.zeros(1, 3, 40, 40)).shape == (1, 5)


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("vgg16", {}, "must be one of lenet, vgg8"),
        ("lenet", {"size": 12}, "at least 16x16"),
        ("vgg8", {"width": 0}, r"model.width must lie in \(0, 8\]"),
        ("vgg8", {"pretrained": True}, "no pretrained weights for vgg8"),
        ("vgg8", {"classes": 1}, "at least 2 classes"),
        ("timm:vit_tiny_patch16_224", {"width": 0.5}, "no effect on timm:"),
    ],
)
def test_bad_arguments_say_what_is_wrong(arch, options, message):
    with pytest.raises(ValueError, match=message):
        build_network(arch, **{"classes": 10, **options})


def test_an_unknown_timm_model_names_similar_ones():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"no model 'vit_tinny'; similar: .*vit"):
        build_network("timm:vit_tinny", 10)


def test_the_classifier_knows_nothing_about_chips():
    import inspect

    from recipes.image_classification import classifier

    source = inspect.getsource(classifier)
    assert "lightning_cim" not in source
    assert "import cim" not in source
    assert ImageClassifier("vgg8").network.classifier[1].out_features == 128
