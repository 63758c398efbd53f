"""The integer net against a fake-quantised float model that is written here, independently of the export."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recipes.arrhythmia.integer import (
    LAYERS,
    ActivationQuantiser,
    IntegerNet,
    QuantisedWeight,
    agreement,
    export_integer,
)
from recipes.arrhythmia.model import ChipNet

LENGTH = 64
BITS = {"conv1": 8, "conv2": 4, "conv3": 2, "conv4": 1, "fc": 8}


def random_net(seed=0):
    """A ChipNet whose batch norms shift, scale, flip and kill channels."""
    torch.manual_seed(seed)
    net = ChipNet().eval()
    for i in range(1, 5):
        bn = getattr(net, f"bn{i}")
        bn.running_mean.normal_(0, 0.2)
        bn.running_var.uniform_(0.02, 0.5)
        with torch.no_grad():
            bn.weight.normal_(0.8, 0.5)
            bn.bias.normal_(0, 0.3)
            bn.weight[3] = 0.0
            bn.weight[4] = -1.0
    return net


def quantise_weights(net, bits=BITS):
    weights = {}
    for name in LAYERS:
        w = getattr(net, name).weight.detach()
        rows = w.flatten(1)
        largest = max(1, 2 ** (bits[name] - 1) - 1)
        scale = rows.abs().amax(1) / largest
        q = torch.clamp(torch.round(rows / scale[:, None]), -largest, largest)
        q[:, 1::2] = 0 if name in ("conv2", "conv3") else q[:, 1::2]
        weights[name] = QuantisedWeight(q.reshape(w.shape).to(torch.int8), scale, bits[name])
    return weights


def fake_quantised(net, weights, x, scales=None, dtype=torch.float64):
    """Logits and the largest input of every layer; `scales` None: no activation quantiser."""
    seen, h = {}, x.to(dtype)

    def quantise(h, name):
        seen[name] = h.abs().max().item()
        if scales is None:
            return h
        low, high = (-127, 127) if name == "conv1" else (0, 255)
        step = torch.tensor(scales[name], dtype=torch.float32).to(dtype)
        return torch.clamp(torch.round(h / step), low, high) * step

    def weight(name):
        scale = weights[name].scale.to(dtype).reshape(-1, *[1] * (weights[name].integers.ndim - 1))
        return weights[name].integers.to(dtype) * scale

    for i in range(1, 5):
        w = weight(f"conv{i}")
        h = F.conv1d(quantise(h, f"conv{i}"), w, padding=w.shape[2] // 2)
        bn = getattr(net, f"bn{i}")
        statistics = (v.to(dtype) for v in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
        h = F.max_pool1d(F.relu(F.batch_norm(h, *statistics, eps=bn.eps)), 2)
    return quantise(h.mean(2), "fc") @ weight("fc").T + net.fc.bias.detach().to(dtype), seen


def setup(seed=0, n=400, length=LENGTH, bits=BITS):
    net = random_net(seed)
    weights = quantise_weights(net, bits)
    x = torch.randn(n, 1, length) * torch.rand(n, 1, 1) * 2
    # Scales below the largest value, so that both ends of every quantiser clip.
    _, largest = fake_quantised(net, weights, x)
    scales = {name: float(np.float32(0.7 * largest[name] / (127 if name == "conv1" else 255))) for name in LAYERS}
    inputs = {name: ActivationQuantiser(scale, 8, name == "conv1") for name, scale in scales.items()}
    return net, weights, inputs, scales, x


def relative(a, b):
    """Largest logit difference over the largest logit of all windows."""
    return np.abs(a - b).max() / np.abs(b).max()


def test_agrees_with_the_float64_model():
    for seed in range(3):
        net, weights, inputs, scales, x = setup(seed)
        expected = fake_quantised(net, weights, x, scales)[0].detach().numpy()
        exported = export_integer(net, weights, inputs, LENGTH, multiplier_bits=32)
        got = exported.run(exported.quantise(x.double()))
        assert relative(got, expected) < 1e-7
        assert (got.argmax(1) == expected.argmax(1)).all()


def test_default_width_meets_the_bar():
    net, weights, inputs, scales, x = setup(n=1000)
    exported = export_integer(net, weights, inputs, LENGTH)
    got = exported.run(exported.quantise(x.double()))
    double, single = (
        fake_quantised(net, weights, x, scales, dtype)[0].detach().numpy() for dtype in (torch.float64, torch.float32)
    )
    result = agreement(got, double)
    assert result["argmax"] >= 0.999
    assert result["max_relative"] == relative(got, double) < 1e-3
    assert agreement(got, single)["argmax"] >= 0.999


def test_agreement_counts_decisions_and_refuses_other_shapes():
    assert agreement([[0, 1], [1, 0], [3, 1]], [[1, 0], [1, 0], [4, 1]]) == {
        "argmax": pytest.approx(2 / 3),
        "max_relative": 0.25,
    }
    with pytest.raises(ValueError, match="alike"):
        agreement([[0, 1]], [0, 1])


def test_a_narrow_multiplier_is_worse_so_the_width_matters():
    net, weights, inputs, scales, x = setup()
    expected = fake_quantised(net, weights, x, scales)[0].detach().numpy()
    errors = []
    for width in (6, 14, 24):
        exported = export_integer(net, weights, inputs, LENGTH, width)
        assert all(np.abs(layer.multiplier).max() < 2 ** (width - 1) for layer in exported.layers)
        errors.append(np.abs(exported.run(exported.quantise(x)) - expected).mean())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_other_lengths_fold_their_own_mean():
    net, weights, inputs, scales, x = setup(length=48, n=50)
    expected = fake_quantised(net, weights, x, scales)[0].detach().numpy()
    exported = export_integer(net, weights, inputs, 48, multiplier_bits=32)
    assert relative(exported.run(exported.quantise(x.double())), expected) < 1e-7
    with pytest.raises(ValueError, match=r"\(N, 48\)"):
        exported.run(np.zeros((1, 64), dtype=np.int8))


def test_the_datapath_is_integer_only():
    net, weights, inputs, _, x = setup(n=5)
    exported = export_integer(net, weights, inputs, LENGTH)
    q = exported.quantise(x)
    logits = exported.run_integer(q)
    assert logits.dtype == np.int64
    for layer in exported.layers:
        assert layer.products(np.ones((1, layer.weight.shape[1], 16), np.int32)).dtype == np.int64
        assert layer.weight.dtype == np.int8
        assert layer.multiplier.dtype == layer.bias.dtype == layer.shift.dtype == np.int64
    shift = exported.layers[-1].shift
    assert len(set(shift.tolist())) == 1
    np.testing.assert_array_equal(exported.run(q), logits / 2.0 ** shift[0])


def test_products_equal_a_slow_convolution():
    net, weights, inputs, _, _ = setup(n=5)
    layer = export_integer(net, weights, inputs, LENGTH).layers[1]
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 9)).astype(np.int32)
    got = layer.products(x)
    for n, o, t in ((0, 0, 0), (1, 31, 8), (0, 7, 4)):
        acc = sum(
            int(x[n, c, t + k - 2]) * int(layer.weight[o, c, k])
            for c in range(16)
            for k in range(5)
            if 0 <= t + k - 2 < 9
        )
        assert got[n, o, t] == acc * int(layer.multiplier[o]) + int(layer.bias[o])


def test_worst_case_inputs_do_not_overflow():
    """Full-scale inputs at 32 bits, checked with Python's unbounded integers."""
    net, weights, inputs, _, _ = setup(n=5)
    for layer, name in zip(export_integer(net, weights, inputs, LENGTH, 32).layers, LAYERS, strict=True):
        reach = np.abs(layer.weight.astype(int)).sum((1, 2)) * (127 if name == "conv1" else 255)
        terms = LENGTH // 16 if name == "conv4" else 1
        for r, m, b in zip(reach.tolist(), layer.multiplier.tolist(), layer.bias.tolist(), strict=True):
            assert r < 2**31
            assert terms * (r * abs(m) + abs(b)) < 2**63


def test_batches_and_shapes_do_not_matter():
    net, weights, inputs, _, x = setup(n=23)
    exported = export_integer(net, weights, inputs, LENGTH)
    q = exported.quantise(x)
    np.testing.assert_array_equal(exported.run(q, batch_size=5), exported.run(q[:, 0].astype(np.int8)))


def test_a_single_scale_serves_all_channels():
    net, weights, inputs, scales, x = setup(n=20)
    weights["conv4"] = dataclasses.replace(weights["conv4"], scale=torch.tensor(0.05))
    expected = fake_quantised(net, weights, x, scales)[0].detach().numpy()
    exported = export_integer(net, weights, inputs, LENGTH, 32)
    assert relative(exported.run(exported.quantise(x.double())), expected) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_input_quantiser_rounds_and_clips_like_torch(dtype):
    quantiser = ActivationQuantiser(0.1, 8, signed=True)
    x = torch.arange(-4000, 4001).to(dtype) / 200  # many halves of a step, which the two precisions round apart
    expected = torch.clamp(torch.round(x / torch.tensor(0.1, dtype=dtype)), -127, 127).to(torch.int16)
    np.testing.assert_array_equal(quantiser(x.numpy()), expected.numpy())


def test_save_and_load(tmp_path):
    net, weights, inputs, _, x = setup(n=9)
    exported = export_integer(net, weights, inputs, LENGTH)
    exported.save(tmp_path / "net.npz")
    again = IntegerNet.load(tmp_path / "net.npz")
    np.testing.assert_array_equal(again.run(again.quantise(x)), exported.run(exported.quantise(x)))
    assert again.input_quantiser == exported.input_quantiser
    assert [layer.bits for layer in again.layers] == list(BITS.values())


def test_the_runtime_needs_no_torch():
    code = "import sys; from recipes.arrhythmia import integer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_load_names_the_file_at_fault(tmp_path):
    with pytest.raises(FileNotFoundError):
        IntegerNet.load(tmp_path / "none.npz")
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    other = tmp_path / "other.npz"
    np.savez(other, a=1)
    net, weights, inputs, _, _ = setup(n=2)
    good = tmp_path / "good.npz"
    export_integer(net, weights, inputs, LENGTH).save(good)
    truncated = tmp_path / "truncated.npz"
    truncated.write_bytes(good.read_bytes()[:-100])
    arrays = dict(np.load(good))
    newer, floats = tmp_path / "newer.npz", tmp_path / "floats.npz"
    np.savez(newer, **{**arrays, "format": 99})
    np.savez(floats, **{**arrays, "conv1_multiplier": arrays["conv1_multiplier"].astype(float)})
    array = tmp_path / "array.npz"
    with array.open("wb") as file:
        np.save(file, np.zeros(3))
    for path in (text, other, truncated, newer, floats, array):
        with pytest.raises(ValueError, match=path.name):
            IntegerNet.load(path)


def test_run_refuses_what_is_not_quantised():
    net, weights, inputs, _, x = setup(n=2)
    exported = export_integer(net, weights, inputs, LENGTH)
    with pytest.raises(ValueError, match="quantise"):
        exported.run(x.numpy())
    with pytest.raises(ValueError, match="outside"):
        exported.run(np.full((1, LENGTH), 200))
    with pytest.raises(ValueError, match="no windows"):
        exported.run(np.zeros((0, LENGTH), dtype=np.int8))


def change(weights, name, **fields):
    return {**weights, name: dataclasses.replace(weights[name], **fields)}


def test_export_refuses_bad_layers_and_names_them():
    net, weights, inputs, _, _ = setup(n=2)
    w = weights["conv2"]
    too_large = w.integers.clone()
    too_large[0, 0, 0] = 8
    cases = [
        ({k: v for k, v in weights.items() if k != "fc"}, "weights must name"),
        (change(weights, "conv2", integers=too_large), "conv2.*7"),
        (change(weights, "conv2", integers=w.integers[:4]), "conv2.*shape"),
        (change(weights, "conv2", integers=w.integers.float()), "conv2.*int8"),
        (change(weights, "conv2", bits=5), "conv2.*bits"),
        (change(weights, "conv2", scale=w.scale[:3]), "conv2.*scale"),
        (change(weights, "conv2", scale=w.scale * float("nan")), "conv2.*scale"),
        (change(weights, "conv2", scale=w.scale * 1e30), "conv2.*does not fit"),
    ]
    for bad, message in cases:
        with pytest.raises(ValueError, match=message):
            export_integer(net, bad, inputs, LENGTH)
    with pytest.raises(ValueError, match="inputs must name"):
        export_integer(net, weights, {}, LENGTH)
    with pytest.raises(ValueError, match="length"):
        export_integer(net, weights, inputs, 100)
    with pytest.raises(ValueError, match="multiplier_bits"):
        export_integer(net, weights, inputs, LENGTH, 40)
    with pytest.raises(ValueError, match="scale"):
        ActivationQuantiser(0.0)
    with pytest.raises(ValueError, match="bits"):
        ActivationQuantiser(1.0, bits=16)
    net.bn3.running_mean[0] = float("nan")
    with pytest.raises(ValueError, match=r"conv3.*NaN"):
        export_integer(net, weights, inputs, LENGTH)
