"""A model on crossbars with circuits, in plain PyTorch."""

import copy
import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

import lightning_cim as cim
from lightning_cim.chip.circuit import Circuit
from lightning_cim.chip.converters import Converter
from lightning_cim.chip.crossbar import on_crossbar
from lightning_cim.chip.ir_drop import dropped_weight
from lightning_cim.chip.quantise import ActivationQuantiser
from tests.helpers.unrolled import blocks_of_rows

WIRES = {"wire_resistance": 1.0, "g_max": 25e-6}
EVERYTHING = {"rows": 7, "cols": 2, "adc_bits": 5, "dac_bits": 6, "output_noise": 0.02, **WIRES}


def network(seed=0):
    torch.manual_seed(seed)
    conv = nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")
    return nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 3))


def images(seed=1, batch=3):
    return torch.randn(batch, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def convert(values, full_scale, bits, signed):
    """A converter, one value after another."""
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    step = full_scale / high
    low = -high if signed else 0
    return np.array([min(max(round(v / step), low), high) * step for v in values.ravel()]).reshape(values.shape)


def test_without_circuits_nothing_is_touched():
    model, x = network(), images()
    plain = model(x)
    with on_crossbar(model, Circuit()) as crossbars:
        assert torch.equal(model(x), plain)
        assert "forward" not in model[0].__dict__
    assert crossbars.ranges == []


@pytest.mark.parametrize("rows", [1, 7, 20, 500])
def test_ideal_circuits_are_the_plain_model(rows):
    model, x = network().double(), images().double()
    with on_crossbar(model, Circuit(rows=rows)):
        found = model(x)
    torch.testing.assert_close(found, model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("adc_bits", [3, 6, 10, 16])
@pytest.mark.parametrize("layer", [nn.Linear(40, 6), nn.Conv2d(5, 4, 3), nn.Conv1d(6, 4, 3, groups=2)])
def test_adc_error_is_within_half_a_step_for_each_block(layer, adc_bits):
    shape = {nn.Linear: (8, 40), nn.Conv2d: (2, 5, 6, 6), nn.Conv1d: (2, 6, 12)}[type(layer)]
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    with on_crossbar(layer, Circuit(rows=9, adc_bits=adc_bits, percentile=100)) as crossbars:
        error = (layer(x) - _plain(layer, x)).abs().max()
    (converters,) = crossbars.converters.values()
    rows = layer.weight[0].numel()
    assert len(converters.adc) == -(-rows // 9)
    bound = sum(adc.scale / 2 for adc in converters.adc)
    assert error <= bound * (1 + 1e-9)
    assert error > bound / 20  # it does convert


def _plain(layer, x):
    return type(layer).forward(layer, x)


@pytest.mark.parametrize("rows", [None, 5])
@pytest.mark.parametrize(
    "layer", [nn.Linear(12, 3), nn.Conv2d(4, 4, 2, stride=2, groups=2), nn.Conv1d(3, 2, 3, dilation=2, bias=False)]
)
def test_whole_path_equals_unrolled_loops(layer, rows):
    """DAC, wires, blocks of rows, ADC, bias: against loops in numpy."""
    torch.manual_seed(0)
    shape = {nn.Linear: (6, 12), nn.Conv2d: (2, 4, 4, 4), nn.Conv1d: (2, 3, 8)}[type(layer)]
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    circuit = Circuit(rows, 2, adc_bits=5, dac_bits=4, percentile=100, **WIRES)
    with on_crossbar(layer, circuit) as crossbars:
        found = layer(x)
    driven = torch.from_numpy(convert(x.numpy(), float(x.abs().max().float()), 4, signed=True))
    weight = dropped_weight(layer.weight, circuit, getattr(layer, "groups", 1))
    sums = blocks_of_rows(layer, driven, rows, weight)
    expected = sum(convert(block, float(np.float32(np.abs(block).max())), 5, (block < 0).any()) for block in sums)
    if layer.bias is not None:
        expected = expected + layer.bias.detach().numpy().reshape(-1, *[1] * (layer.weight.ndim - 2))
    (converters,) = crossbars.converters.values()
    # A value on the border of two codes may fall to either.
    off = np.abs(found.detach().numpy() - expected) > 1e-6
    assert off.mean() < 0.02
    assert np.abs(found.detach().numpy() - expected).max() < 1.01 * max(adc.scale for adc in converters.adc)


@given(bits=st.integers(2, 16), seed=st.integers(0, 999), signed=st.booleans(), momentum=st.floats(0.01, 1))
@settings(max_examples=40, deadline=None)
def test_converter_gives_the_values_of_the_activation_quantiser(bits, seed, signed, momentum):
    draw = torch.Generator().manual_seed(seed)
    batches = [torch.randn(50, generator=draw) * scale for scale in (1.0, 3.0)]
    batches = batches if signed else [batch.abs() for batch in batches]
    mine, reference = Converter(bits, momentum, 90.0), ActivationQuantiser(bits, momentum, 90.0)
    for batch in batches:
        # Where clipping comes first, codes at the ends can be one rounding apart.
        torch.testing.assert_close(mine(batch, True), reference(batch, True), rtol=1e-5, atol=0)


def test_gradient_passes_where_the_code_is_not_clipped():
    adc = Converter(4)
    adc(torch.tensor([-1.0, 1.0]), observe=True)
    x = torch.tensor([-3.0, -1.0, 0.0, 0.4, 1.0, 1.06, 1.08, 2.0], requires_grad=True)  # half a step is 1/14
    adc(x, observe=False).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_converted_in_float32(dtype):
    x = torch.rand(64).to(dtype)
    dac = Converter(8)
    expected = Converter(8)(x.float(), observe=True).to(dtype)
    assert torch.equal(dac(x, observe=True), expected)
    assert not Converter(8)(torch.zeros(4, dtype=dtype), observe=True).any()
    layer = nn.Linear(64, 4).to(dtype)
    with on_crossbar(layer, Circuit(rows=8, adc_bits=12)):
        found = layer(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, layer(x), rtol=0.05, atol=0.02)


def test_training_gradients_reach_the_clean_weights():
    model, x = network(), images()
    with on_crossbar(model, Circuit(**EVERYTHING)):
        found = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    with on_crossbar(model, Circuit(rows=7, adc_bits=16, dac_bits=16, percentile=100)):
        fine = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    plain = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for coarse, near, exact in zip(found, fine, plain, strict=True):
        torch.testing.assert_close(near, exact, rtol=0.01, atol=0.01)
        assert torch.nn.functional.cosine_similarity(coarse.flatten(), exact.flatten(), 0) > 0.7


@pytest.mark.parametrize("first", ["chip", "crossbar"])
def test_goes_with_chips_in_either_order(first):
    model, x = network(), images()
    chip = cim.ChipPopulation(model, cim.Gaussian(0.2))[3]
    held = copy.deepcopy(model)
    held.load_state_dict({**model.state_dict(), **cim.chip_weights(model, chip)})
    circuit = Circuit(**EVERYTHING)
    with on_crossbar(held, circuit):
        expected = held(x)
    blocks = [cim.on_chip(model, chip), on_crossbar(model, circuit)]
    outer, inner = blocks if first == "chip" else blocks[::-1]
    with outer, inner:
        assert torch.equal(model(x), expected)


def test_leaving_the_circuits_leaves_the_chip():
    model, x = network(), images()
    with cim.on_chip(model, cim.ChipPopulation(model, cim.Gaussian(0.2))[3]):
        on_chip = model(x)
        with on_crossbar(model, Circuit(rows=7, adc_bits=3)):
            assert not torch.equal(model(x), on_chip)
        assert torch.equal(model(x), on_chip)


def test_wires_follow_weights_that_change_without_gradients():
    layer, x = nn.Linear(8, 3), torch.randn(4, 8)
    circuit = Circuit(rows=4, wire_resistance=100.0, g_max=25e-6)
    held = {"weight": layer.weight.detach().clone(), "bias": layer.bias.detach()}
    with torch.no_grad(), on_crossbar(layer, circuit):
        for change in (lambda: None, lambda: held["weight"].mul_(2), lambda: held.update(weight=torch.rand(3, 8))):
            change()
            for _ in range(2):
                found = torch.func.functional_call(layer, held, (x,))
                expected = nn.functional.linear(x, dropped_weight(held["weight"], circuit), held["bias"])
                torch.testing.assert_close(found, expected)
        for factor in (1, 3):
            layer.weight.data.mul_(factor)
            expected = nn.functional.linear(x, dropped_weight(layer.weight, circuit), layer.bias)
            torch.testing.assert_close(layer(x), expected)


def test_noise_has_its_std_and_repeats_by_seed_without_touching_the_random_state():
    layer, x = nn.Linear(8, 500).double(), torch.randn(200, 8, dtype=torch.float64)
    circuit = Circuit(rows=4, output_noise=0.05, percentile=100)

    def outputs(circuit, n):
        with on_crossbar(layer, circuit) as crossbars, torch.no_grad():
            return [layer(x) for _ in range(n)], [float(found.range) for found in crossbars.ranges]

    state = torch.get_rng_state()
    (first, second), ranges = outputs(circuit, 2)
    (again, _), _ = outputs(circuit, 2)
    (other,), _ = outputs(Circuit(rows=4, output_noise=0.05, percentile=100, seed=1), 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    noise = [(found - layer(x)).detach() for found in (first, second, other)]
    for one in noise:  # of two independent blocks
        assert one.std().item() == pytest.approx(0.05 * np.hypot(*ranges), rel=0.02)
        assert abs(one.mean().item()) < 5 * one.std().item() / one.numel() ** 0.5
    for one, two in itertools.combinations(noise, 2):
        assert abs(np.corrcoef(one.flatten(), two.flatten())[0, 1]) < 0.02


def test_a_copys_circuits_share_ranges_but_no_noise():
    model, x = network(), images()
    twin = copy.deepcopy(model)
    with on_crossbar(model, Circuit(**EVERYTHING)) as crossbars:
        first = model(x)
        crossbars.noise.restart("", 0)
        others = crossbars.for_copy()
        others.attach(twin, cim.Mapping().resolve(twin))
        assert torch.equal(twin(x), first)
        assert not torch.equal(twin(x), first)
        assert torch.equal(model(x), first)
        others.detach()
        assert others.converters is crossbars.converters


def test_noise_comes_before_the_adc():
    layer, x = nn.Linear(8, 5), torch.randn(50, 8)
    with on_crossbar(layer, Circuit(adc_bits=3, output_noise=0.3)) as crossbars, torch.no_grad():
        found = layer(x) - layer.bias
    codes = found / crossbars.ranges[0].scale
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
    assert codes.abs().max() <= 3 + 1e-4


def test_ranges_follow_data_only_when_told_and_travel():
    model = network()
    circuit = Circuit(rows=7, adc_bits=6, dac_bits=6, momentum=0.5)
    with on_crossbar(model, circuit) as crossbars:
        model(images(1))
        first = crossbars.state_dict()
        model(images(2) * 3)
        assert crossbars.state_dict() == first
        crossbars.observing = True
        model(images(2) * 3)
        crossbars.observing = False
        after, expected = crossbars.state_dict(), model(images(5))
    assert list(after) == ["0", "2", "4"]
    assert all(after[name]["dac"]["range"] > first[name]["dac"]["range"] for name in after)
    assert [len(layer["adc"]) for layer in after.values()] == [3, 3, 3]
    with on_crossbar(model, circuit, ranges=after):
        assert torch.equal(model(images(5)), expected)
    with (
        pytest.raises(ValueError, match="ranges of '0' are those of 3 blocks of rows, but with rows=9 the layer has 2"),
        on_crossbar(model, Circuit(rows=9, adc_bits=6), ranges=after),
    ):
        pass
    assert "forward" not in model[0].__dict__


def test_ranges_saved_with_other_converters_serve_where_they_can():
    model, x = network(), images()
    with on_crossbar(model, Circuit(rows=7, dac_bits=6)) as crossbars:
        model(x)
    saved = crossbars.state_dict()
    with on_crossbar(model, Circuit(rows=9, dac_bits=8, adc_bits=8), ranges=saved) as crossbars:
        assert all(found.dac.range is not None for found in crossbars.converters.values())
        model(x)
    with on_crossbar(model, Circuit(rows=9), ranges=crossbars.state_dict()) as crossbars:
        assert crossbars.ranges == []


def test_activation_checkpointing_computes_the_same_twice():
    model, x = network(), images()
    results = []
    before = 3 * images(2)  # so that the range moves at every look at x
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=False)):
        with on_crossbar(model, Circuit(**EVERYTHING, percentile=80)) as crossbars:
            crossbars.observing = True
            model(before)
            gradients = torch.autograd.grad(run(x).square().sum(), list(model.parameters()))
            results.append((gradients, crossbars.state_dict(), run(x)))
    for one, two in zip(results[0][0], results[1][0], strict=True):
        assert torch.equal(one, two)
    assert results[0][1] == results[1][1]
    assert torch.equal(results[0][2], results[1][2])


def test_copies_and_pickles_made_inside_are_plain():
    model, x = network(), images()
    plain, keys = model(x), list(model.state_dict())
    with on_crossbar(model, Circuit(**EVERYTHING)):
        twin = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        assert list(model.state_dict()) == keys
        assert not torch.equal(model(x), plain)
    file.seek(0)
    for other in (twin, copy.deepcopy(twin), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), plain)
        with on_crossbar(other, Circuit(rows=7, adc_bits=3)):
            assert not torch.equal(other(x), plain)
            assert torch.equal(copy.deepcopy(other)(x), plain)
        assert torch.equal(other(x), plain)
    assert torch.equal(copy.deepcopy(model[4]).weight, model[4].weight)


def test_nothing_is_left_even_after_an_error():
    model, x = network(), images()
    plain, before = model(x), [set(module.__dict__) for module in model.modules()]
    with pytest.raises(ValueError, match="should have 16 channels"), on_crossbar(model, Circuit(**EVERYTHING)):
        model(torch.cat([x, x], -1))
    assert [set(module.__dict__) for module in model.modules()] == before
    assert torch.equal(model(x), plain)


def test_a_layer_called_by_keyword_and_a_shared_one():
    layer, x = nn.Linear(9, 9), torch.randn(4, 9)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    plain = model(x)
    with on_crossbar(model, Circuit(rows=4)) as crossbars:
        torch.testing.assert_close(layer(input=x), _plain(layer, x))
        torch.testing.assert_close(model(x), plain)
    assert list(crossbars.converters) == ["0"]


@pytest.mark.parametrize("masked", [False, True])
def test_torchs_transformer_layer_does_not_go_past_its_layers(masked):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    mapping = cim.Mapping(exclude=["self_attn"])
    x = torch.randn(2, 5, 8)
    mask = {"src_key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])} if masked else {}
    with torch.no_grad():
        plain = model(x, **mask)
        with on_crossbar(model, Circuit(rows=4, adc_bits=3), mapping) as crossbars:
            found = model(x, **mask)
    assert all(adc.range is not None for adc in crossbars.ranges)
    assert len(crossbars.ranges) == 2 + 4
    assert not torch.allclose(found, plain, atol=1e-3)
    assert not model._forward_pre_hooks


def test_two_circuits_and_unfit_layers_are_refused():
    model = network()
    with on_crossbar(model, Circuit(rows=4)):
        with (
            pytest.raises(ValueError, match="Sequential has circuits around its layers already"),
            on_crossbar(model, Circuit(rows=4)),
        ):
            pass
        assert "forward" in model[0].__dict__
    recurrent = nn.ModuleDict({"rnn": nn.GRU(2, 2), "fc": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"not around rnn \(GRU\)"), on_crossbar(recurrent, Circuit(rows=4)):
        pass
    with on_crossbar(recurrent, Circuit(rows=4), cim.Mapping(exclude=["rnn"])):
        assert "forward" in recurrent["fc"].__dict__


def test_wires_beyond_first_order_are_refused_or_warned_of():
    model = nn.Linear(400, 4)
    with torch.no_grad():
        model.weight.fill_(1.0)
    with (
        pytest.raises(ValueError, match="the wires take 2 times the current of a cell of the model itself: far"),
        on_crossbar(model, Circuit(wire_resistance=1.0, g_max=25e-6)),
    ):
        pass
    with (
        pytest.warns(UserWarning, match=r"take 50% of the current .* wrong by about 25%.*fewer rows"),
        on_crossbar(model, Circuit(rows=200, wire_resistance=1.0, g_max=25e-6)),
    ):
        pass
    with on_crossbar(model, Circuit(rows=50, wire_resistance=1.0, g_max=25e-6)):
        found = model(torch.ones(1, 400))
    assert (0.9 * model(torch.ones(1, 400)) < found).all()
    assert (found < model(torch.ones(1, 400))).all()
