"""Which parameters lie on crossbars, over every layer that multiplies a matrix."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import lightning_cim as cim
from lightning_cim.chip.mapping import check_finite, matches, output_dim


def names(model, mapping=None):
    return [target.name for target in (mapping or cim.Mapping()).resolve(model)]


def layers(*pairs):
    return nn.ModuleDict(dict(pairs))


@pytest.mark.parametrize(
    ("layer", "mapped"),
    [
        (nn.Linear(3, 2), ["weight"]),
        (nn.Linear(3, 2, bias=False), ["weight"]),
        (nn.Bilinear(2, 3, 4), ["weight"]),
        (nn.Conv1d(4, 6, 3, groups=2, dilation=2), ["weight"]),
        (nn.Conv2d(4, 4, 3, groups=4), ["weight"]),
        (nn.Conv3d(2, 3, 2, dilation=(1, 2, 1)), ["weight"]),
        (nn.ConvTranspose1d(4, 6, 3, groups=2), ["weight"]),
        (nn.ConvTranspose2d(2, 3, 3, dilation=2), ["weight"]),
        (nn.ConvTranspose3d(2, 3, 2), ["weight"]),
        (nn.RNN(3, 4), ["weight_ih_l0", "weight_hh_l0"]),
        (nn.GRU(3, 4, bidirectional=True), [f"weight_{k}_l0{end}" for end in ("", "_reverse") for k in ("ih", "hh")]),
        (nn.LSTM(3, 4, 2), [f"weight_{k}_l{layer}" for layer in (0, 1) for k in ("ih", "hh")]),
        (nn.LSTM(3, 4, proj_size=2), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
        (nn.RNNCell(3, 4), ["weight_ih", "weight_hh"]),
        (nn.LSTMCell(3, 4), ["weight_ih", "weight_hh"]),
        (nn.GRUCell(3, 4), ["weight_ih", "weight_hh"]),
        (nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"]),
        (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
            ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, nn.Module) else "",
)
def test_weight_matrices_of_every_layer(layer, mapped):
    assert names(layer) == mapped


def test_biases_norms_and_embeddings_are_digital():
    model = layers(
        ("embedding", nn.Embedding(5, 4)),
        ("bag", nn.EmbeddingBag(5, 4)),
        ("conv", nn.Conv1d(4, 4, 3)),
        ("bn", nn.BatchNorm1d(4)),
        ("norm", nn.LayerNorm([4, 4])),
    )
    assert names(model) == ["conv.weight"]


def test_embeddings_when_asked_for():
    model = layers(("embedding", nn.Embedding(5, 4)), ("fc", nn.Linear(4, 2)))
    assert names(model, cim.Mapping(targets=["embedding"])) == ["embedding.weight"]
    assert names(model, cim.Mapping(include=["embedding"])) == ["embedding.weight", "fc.weight"]


@pytest.mark.parametrize(
    ("target", "mapped"),
    [
        ("linear", ["fc.weight"]),
        ("conv", ["conv.weight"]),
        ("recurrent", ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]),
        ("attention", ["mha.in_proj_weight", "mha.out_proj.weight"]),
        ("Conv1d", ["conv.weight"]),
        ("LSTM", ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]),
    ],
)
def test_targets_by_kind_and_class_name(target, mapped):
    model = layers(
        ("conv", nn.Conv1d(2, 2, 1)),
        ("fc", nn.Linear(2, 2)),
        ("rnn", nn.LSTM(2, 2)),
        ("mha", nn.MultiheadAttention(2, 1)),
    )
    found = names(model, cim.Mapping(targets=[target]))
    # The output projection is a subclass of nn.Linear and so a linear layer too.
    assert [name for name in found if not (target == "linear" and name == "mha.out_proj.weight")] == mapped


class Codebook(nn.Module):
    """A layer of the user's own with a matrix, a bias and a buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2))
        self.shift = nn.Parameter(torch.randn(2, 2))
        self.bias = nn.Parameter(torch.randn(3))
        self.register_buffer("weight_mask", torch.ones(3, 2))


def test_own_layers_by_class_name_and_by_parameter():
    model = layers(("book", Codebook()), ("fc", nn.Linear(2, 2)))
    assert names(model) == ["fc.weight"]
    assert names(model, cim.Mapping(targets=["Codebook"])) == ["book.weight"]
    assert names(model, cim.Mapping(targets=(), include=["book.shift"])) == ["book.shift"]
    assert names(model, cim.Mapping(targets=(), include=["book"])) == ["book.weight"]
    assert names(model, cim.Mapping(include=["book.*"])) == ["book.weight", "book.shift", "book.bias", "fc.weight"]


def test_include_and_exclude_by_globs():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(11)))
    assert names(model, cim.Mapping(exclude=["1"])) == [f"{i}.weight" for i in range(11) if i != 1]
    assert names(model, cim.Mapping(exclude=["1*"])) == [f"{i}.weight" for i in range(11) if i not in (1, 10)]
    assert names(model, cim.Mapping(targets=(), include=["[02].weight"])) == ["0.weight", "2.weight"]


def test_exclude_wins_and_reaches_below_a_module():
    model = layers(
        ("encoder", nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))), ("head", nn.Linear(2, 2))
    )
    assert names(model, cim.Mapping(exclude=["encoder"])) == ["head.weight"]
    assert names(model, cim.Mapping(include=["encoder"], exclude=["encoder.1"])) == ["encoder.0.weight", "head.weight"]


class Tied(nn.Module):
    """An embedding whose matrix is the output layer's."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_weights_are_one_target_with_two_sites():
    (target,) = cim.Mapping().resolve(Tied())
    assert target.name == "embedding.weight"
    assert [(site.path, site.attribute) for site in target.sites] == [("embedding", "weight"), ("head", "weight")]


@pytest.mark.parametrize("name", ["embedding", "embedding.weight", "head", "head.weight"])
def test_excluding_either_name_of_a_tied_weight_excludes_it(name):
    model = nn.ModuleDict({"tied": Tied(), "fc": nn.Linear(2, 2)})
    assert names(model, cim.Mapping(exclude=[f"tied.{name}"])) == ["fc.weight"]


def test_shared_module_is_one_target():
    shared = nn.Linear(3, 3)
    assert names(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(3, 1))) == ["0.weight", "3.weight"]


def test_order_is_that_of_the_parameters():
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.LSTM(2, 3), nn.Linear(3, 1))
    every = [name for name, _ in model.named_parameters()]
    assert names(model) == [name for name in every if name in set(names(model))]


def test_lazy_parameters_are_left_out_until_they_have_a_shape():
    model = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2))
    assert names(model) == ["0.weight"]
    with pytest.raises(ValueError, match=r"1\.weight, 1\.bias are not initialised yet. Run one batch"):
        cim.ChipPopulation(model, cim.Gaussian(0.1))
    model(torch.ones(1, 3))
    assert names(model) == ["0.weight", "1.weight"]


def test_compiled_submodules_keep_their_plain_names():
    model = nn.Sequential(nn.Linear(3, 4), torch.compile(nn.Sequential(nn.Linear(4, 2)), backend="eager"))
    assert names(model) == ["0.weight", "1.0.weight"]
    assert names(torch.compile(nn.Linear(2, 2), backend="eager")) == ["weight"]


def test_computed_weights_are_warned_about_and_can_be_named():
    model = nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    with pytest.warns(UserWarning, match=r"0: its weight is computed .* not mapped to a crossbar"):
        assert names(model) == ["1.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = "0.parametrizations.weight.original1"
        assert names(model, cim.Mapping(include=[original])) == [original, "1.weight"]


def test_integer_parameters_are_not_mapped():
    model = nn.Linear(2, 2)
    model.codes = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    assert names(model, cim.Mapping(include=["codes", "weight"])) == ["weight"]


def test_mapping_is_hashable_and_takes_lists():
    assert cim.Mapping(targets=["conv"]) == cim.Mapping(targets=("conv",))
    assert hash(cim.Mapping(exclude=["a"])) == hash(cim.Mapping(exclude=("a",)))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (cim.Mapping(targets=["cnov"]), r"unknown target 'cnov' \(nearest: 'conv'\).*classes in this model: .*Linear"),
        (cim.Mapping(targets=["Conv2d"]), r"unknown target 'Conv2d'"),
        (cim.Mapping(include=["haed"]), r"include names 'haed'.*nearest: 'head'"),
        (cim.Mapping(exclude=["encoder.9"]), r"exclude names 'encoder.9'"),
        (cim.Mapping(targets=["conv"]), r"maps no parameter of ModuleDict, whose layers are Linear\. Name layers in"),
        (cim.Mapping(exclude=["*"]), r"maps no parameter"),
    ],
)
def test_names_that_fit_nothing_are_refused(mapping, message):
    model = layers(("encoder", nn.Linear(2, 2)), ("head", nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=message):
        mapping.resolve(model)


@pytest.mark.parametrize("field", ["targets", "include", "exclude"])
def test_a_string_in_place_of_a_list_is_refused(field):
    with pytest.raises(ValueError, match=rf"{field} must be a list of names, got the string 'conv'; write \['conv'\]"):
        cim.Mapping(**{field: "conv"})


def test_unknown_meaning_of_pruned_is_refused():
    with pytest.raises(ValueError, match="pruned must be 'absent' or 'stored', got 'gone'"):
        cim.Mapping(pruned="gone")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_no_device_stores_are_refused(value):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    with torch.no_grad():
        model[1].weight[0, 1] = value
    with pytest.raises(ValueError, match=r"parameter '1.weight' has 1 NaN or infinite of 6 values"):
        check_finite(model, cim.Mapping().resolve(model))
    with pytest.raises(ValueError, match=r"1\.weight"):
        cim.ChipPopulation(model, cim.Gaussian(0.1))
    check_finite(model, cim.Mapping(exclude=["1"]).resolve(model))


def test_output_axis_of_transposed_convolutions():
    assert output_dim(nn.ConvTranspose2d(2, 3, 1)) == 1
    assert output_dim(nn.Conv2d(2, 3, 1)) == output_dim(nn.Linear(2, 3)) == 0


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("a.b.weight", "a", True),
        ("a.b.weight", "a.b", True),
        ("a.b.weight", "b", False),
        ("a.b.weight", "*", True),
        ("ab.weight", "a", False),
        ("ab.weight", "a?", True),
    ],
)
def test_matches(name, pattern, expected):
    assert matches(name, pattern) is expected
