"""The scope: transformed weights inside, bit for bit the same model outside."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.func import functional_call

import lightning_cim as cim
from lightning_cim.callbacks.variation_injection import SwitchedProgram
from lightning_cim.chip.quantise import QuantiseWeights, quantise_weight
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.sparsity import Mask
from lightning_cim.chip.transform import ChannelsLast, Program, Stage, Stored

VARIATION = cim.Gaussian(0.1)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def chip(model, index=0, variation=VARIATION, **options):
    return cim.ChipPopulation(model, variation, mapping=cim.Mapping(**options))[index]


def snapshot(model):
    return {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}


def assert_clean(model, before):
    now = snapshot(model)
    assert list(now) == list(before)
    for name, (identity, value) in before.items():
        assert now[name][0] == identity
        assert torch.equal(now[name][1], value)


CASES = {
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2, dilation=2), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 4, 3, groups=4), (2, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5)),
    "transposed2d": (lambda: nn.ConvTranspose2d(2, 3, 3), (1, 2, 4, 4)),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 3, 2), (1, 2, 2, 2, 2)),
    "rnn": (lambda: nn.RNN(3, 4), (5, 2, 3)),
    "gru": (lambda: nn.GRU(3, 4, bidirectional=True), (5, 2, 3)),
    "lstm": (lambda: nn.LSTM(3, 4, 2), (5, 2, 3)),
    "rnn_cell": (lambda: nn.RNNCell(3, 4), (2, 3)),
    "lstm_cell": (lambda: nn.LSTMCell(3, 4), (2, 3)),
    "gru_cell": (lambda: nn.GRUCell(3, 4), (2, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_layer_computes_with_the_chips_weights(case):
    """The scope against torch's own functional call with the chip's weights, forward and backward."""
    torch.manual_seed(0)
    make, shape = CASES[case]
    layer, x = make(), torch.randn(shape)
    this = chip(layer, 3)
    first = lambda output: output[0] if isinstance(output, tuple) else output  # noqa: E731
    layer(x)  # recurrent layers have filled their list of weights by now
    swapped = {**dict(layer.named_parameters()), **cim.chip_weights(layer, this)}
    leaves = {name: value.detach().clone().requires_grad_() for name, value in swapped.items()}
    expected = first(functional_call(layer, leaves, (x,)))
    gradients = torch.autograd.grad(expected.square().sum(), list(leaves.values()))
    before = snapshot(layer)
    with cim.on_chip(layer, this):
        found = first(layer(x))
        found.square().sum().backward()
    assert torch.equal(found, expected)
    for (_, parameter), gradient in zip(layer.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert_clean(layer, before)
    clean = first(layer(x))
    assert not torch.equal(clean, found)
    assert torch.equal(clean, first(functional_call(layer, {n: v for n, (_, v) in before.items()}, (x,))))


@pytest.mark.parametrize("make", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_list_their_clean_weights_afterwards(make):
    """They keep a list of their weights beside the parameters; a stale one would keep the chip's alive."""
    layer = make(3, 4)
    with cim.on_chip(layer, chip(layer)):
        layer(torch.randn(5, 2, 3))
    assert all(held is own for held, own in zip(layer._flat_weights, layer.parameters(), strict=True))


@pytest.mark.parametrize("kdim", [None, 3])
def test_attention_computes_with_the_chips_weights(kdim):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, kdim=kdim, batch_first=True).eval()
    query, key = torch.randn(2, 5, 4), torch.randn(2, 6, kdim or 4)
    value = torch.randn(2, 6, 4)
    this = chip(layer)
    weights = {**dict(layer.named_parameters()), **cim.chip_weights(layer, this)}
    expected = functional_call(layer, weights, (query, key, value))[0]
    with cim.on_chip(layer, this):
        found = layer(query, key, value)[0]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, layer(query, key, value)[0], atol=1e-3)


def test_bilinear_computes_with_the_chips_weights():
    layer, x, y = nn.Bilinear(2, 3, 4), torch.randn(5, 2), torch.randn(5, 3)
    weights = cim.chip_weights(layer, chip(layer))["weight"]
    with cim.on_chip(layer, chip(layer)):
        torch.testing.assert_close(layer(x, y), torch.einsum("bi,oij,bj->bo", x, weights, y) + layer.bias)


def test_transformer_encoder_layer_in_eval_mode():
    """Its fast path reads the weights from the modules, not through their forward."""
    torch.manual_seed(0)
    layer, x = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(), torch.randn(2, 3, 4)
    weights = {**dict(layer.named_parameters()), **cim.chip_weights(layer, chip(layer))}
    with torch.no_grad():
        expected = functional_call(layer, weights, (x,))
        with cim.on_chip(layer, chip(layer)):
            torch.testing.assert_close(layer(x), expected)


def test_compiled_submodule_runs_on_the_chip():
    model = nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Linear(4, 2), backend="eager"))
    x = torch.randn(3, 4)
    clean = model(x)
    plain = nn.Sequential(model[0], model[1]._orig_mod)
    outputs = []
    for index in (0, 1):
        with cim.on_chip(model, chip(model, index)):
            outputs.append(model(x))
        with cim.on_chip(plain, chip(plain, index)):
            torch.testing.assert_close(outputs[-1], plain(x))
    assert not torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(model(x), clean)


def test_tied_weights_share_one_deviation():
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embedding"].weight
    with cim.on_chip(model, chip(model)):
        assert model["head"].weight is model["embedding"].weight
        inside = model["head"].weight.detach().clone()
        (model["embedding"](torch.tensor([1])) + model["head"].weight.sum()).sum().backward()
    assert model["head"].weight is model["embedding"].weight
    assert not torch.equal(inside, model["head"].weight)
    assert model["head"].weight.grad is not None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_clean_after_an_exception_inside(error):
    model = net()
    before = snapshot(model)
    with pytest.raises(error), cim.on_chip(model, chip(model)):
        raise error
    assert_clean(model, before)
    assert not scope_of(model).is_open
    assert scope_of(model).chain == ()


def test_nested_chips_are_refused_and_the_outer_one_survives():
    model = net()
    before = snapshot(model)
    with cim.on_chip(model, chip(model, 0)):
        outer = model[0].weight.detach().clone()
        with (
            pytest.raises(ValueError, match=r"Sequential is on a chip already"),
            cim.on_chip(model, chip(model, 1)),
        ):
            pass
        assert torch.equal(model[0].weight, outer)
    assert_clean(model, before)


def test_sigma_zero_swaps_nothing():
    model = net()
    before = snapshot(model)
    with cim.on_chip(model, chip(model, variation=cim.Gaussian(0.0))):
        assert_clean(model, before)


def test_state_dict_pickle_and_deepcopy_know_nothing_of_it():
    model = net()
    plain = list(model.state_dict())
    scope_of(model)
    with cim.on_chip(model, chip(model)):
        assert list(model.state_dict()) == plain
    assert_clean(model, snapshot(model))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(copied.state_dict()) == plain
        assert scope_of(copied) is not scope_of(model)


def test_reopening_does_not_stack_and_closing_twice_is_harmless():
    model = net()
    before = snapshot(model)
    scope, program = scope_of(model), Program(chip(model))
    scope.add(program)
    scope.open()
    once = model[0].weight.detach().clone()
    scope.open()
    assert torch.equal(model[0].weight, once)
    assert scope.is_open
    scope.close()
    scope.close()
    assert_clean(model, before)
    scope.remove(program)


class Counting(cim.Gaussian):
    """Counts its draws."""

    draws = 0

    def draw(self, shape, generator):
        type(self).draws += 1
        return super().draw(shape, generator)


def test_held_chip_is_drawn_once():
    model = net()
    scope, program = scope_of(model), Program(chip(model, variation=Counting(0.1)))
    scope.add(program)
    scope.hold()
    Counting.draws = 0
    for _ in range(3):
        scope.open()
        held = model[0].weight
        scope.close()
    assert Counting.draws == 2  # two parameters, one draw each
    scope.release()
    scope.open()
    assert Counting.draws == 4
    assert torch.equal(model[0].weight, held)
    scope.remove(program)
    assert not scope.is_open


def test_targets_follow_replaced_parameters_and_submodules():
    model = net()
    scope, program = scope_of(model), Program(chip(model))
    scope.add(program)
    model[0].weight = nn.Parameter(2 * model[0].weight.detach())
    model[2] = nn.Linear(6, 5)
    before = snapshot(model)
    scope.open()
    for name, layer in (("0.weight", model[0]), ("2.weight", model[2])):
        clean = before[name][1]
        torch.testing.assert_close(layer.weight, clean + program.chip.deviation(name, clean))
    scope.close()
    assert_clean(model, before)
    del model[2]
    scope.open()
    scope.close()
    assert list(scope.transformed()) == ["0.weight"]
    scope.remove(program)


def test_a_tie_made_later_is_found():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    scope, program = scope_of(model), Program(chip(model))
    scope.add(program)
    model["b"].weight = model["a"].weight
    scope.open()
    assert model["a"].weight is model["b"].weight
    scope.close()
    scope.remove(program)


def test_chain_order_is_mask_quantise_program_layout_whatever_the_order_of_adding():
    model = nn.Sequential(nn.Conv2d(4, 3, 2))
    clean = model[0].weight.detach().clone()
    mask, quantise, program = Mask((2, 4), 0.5), QuantiseWeights(4), Program(chip(model))
    mask.update(model)
    scope = scope_of(model)
    links = [ChannelsLast(), program, quantise, mask]
    for link in links:
        scope.add(link)
    assert [link.stage for link in scope.chain] == [Stage.MASK, Stage.QUANTISE, Stage.PROGRAM, Stage.LAYOUT]
    assert list(Stage) == sorted(Stage)
    scope.open()
    kept = mask.masks["0.weight"]
    levels, step = quantise_weight(clean * kept, 4, 0, kept)
    stored = levels * step
    expected = stored + program.chip.deviation("0.weight", stored) * kept
    torch.testing.assert_close(model[0].weight.detach(), expected)
    assert torch.equal(model[0].weight == 0, ~kept)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    scope.close()
    for link in links:
        scope.remove(link)
    assert torch.equal(model[0].weight, clean)


def test_one_transform_a_stage():
    model = net()
    scope, first = scope_of(model), QuantiseWeights(8)
    scope.add(first)
    with pytest.raises(ValueError, match="has a QuantiseWeights for the stage 'quantise' already; one each"):
        scope.add(QuantiseWeights(4))
    scope.remove(first)
    scope.add(first)
    scope.remove(first)


@pytest.mark.parametrize("pruned", ["absent", "stored"])
def test_pruned_weights_deviate_only_if_a_device_stores_them(pruned):
    weight = torch.randn(3, 4)
    mask = torch.rand(3, 4) > 0.5
    program = Program(chip(nn.Linear(2, 2), pruned=pruned))
    stored = Stored("w", nn.Linear(4, 3), weight * mask, mask)
    program.apply(stored)
    assert ((stored.value == 0) == ~mask).all() if pruned == "absent" else (stored.value != 0).all()
    expected = weight * mask + program.chip.deviation("w", weight * mask)
    torch.testing.assert_close(stored.value[mask], expected[mask])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_every_dtype_are_deviated_in_float32_or_wider_and_rounded_once(dtype):
    layer = nn.Linear(8, 5).to(dtype)
    clean = layer.weight.detach().clone()
    exact = clean.double() + chip(layer).deviation("weight", clean).double()
    with cim.on_chip(layer, chip(layer)):
        assert layer.weight.dtype == dtype
        error = (layer.weight.double() - exact).abs() / clean.abs().max()
    # Half a unit in the last place, plus what float32 loses of the deviation itself.
    assert error.max() <= 0.75 * torch.finfo(dtype).eps + 1e-7
    assert torch.equal(layer.weight, clean)


def test_a_model_dies_after_use():
    model = net()
    with cim.on_chip(model, chip(model)):
        model(torch.ones(1, 4)).sum().backward()
    dead = [weakref.ref(model), weakref.ref(model[0].weight), weakref.ref(scope_of(model))]
    del model
    gc.collect()
    assert [reference() for reference in dead] == [None, None, None]


def test_chips_weights_are_the_clean_ones_plus_the_deviation():
    model = net()
    this = chip(model, 4)
    for name, value in cim.chip_weights(model, this).items():
        clean = model.get_parameter(name).detach()
        torch.testing.assert_close(value, clean + this.deviation(name, clean))


def test_chip_weights_change_nothing_and_equal_what_the_scope_holds():
    model = net()
    before = snapshot(model)
    stored = cim.chip_weights(model, chip(model))
    assert_clean(model, before)
    assert not any(value.requires_grad for value in stored.values())
    with cim.on_chip(model, chip(model)):
        assert torch.equal(model[0].weight, stored["0.weight"])


def test_an_idle_injection_makes_room_for_a_chip_and_comes_back():
    model = nn.Linear(4, 2)
    idle = SwitchedProgram(cim.Chip(cim.Gaussian(0.1), 0, 0), keep=False)
    scope = scope_of(model)
    scope.add(idle)
    chip = cim.ChipPopulation(model, cim.Gaussian(0.2))[3]
    assert torch.equal(cim.chip_weights(model, chip)["weight"], cim.chip_weights(copy.deepcopy(model), chip)["weight"])
    assert scope.chain == (idle,)
    scope.remove(idle)
