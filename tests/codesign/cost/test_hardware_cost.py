"""Costs of modules: shapes by hooks, bits by counting."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_cim.codesign.cost import Hardware, bit_density, hardware_cost


class Net(nn.Module):
    """Layers of each kind, one of them twice, and a dropout that would tell train from eval mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x, scale=1.0):
        x = F.relu(self.norm(self.conv(x))) * scale
        x = self.up(F.relu(self.depthwise(x)))
        return self.head(self.head(self.drop(x.permute(0, 2, 3, 1))))


def test_shapes_are_those_of_the_layers():
    torch.manual_seed(0)
    found = hardware_cost(Net(), torch.randn(5, 3, 16, 16))
    shapes = {s.name: (s.c_in, s.c_out, s.taps, s.positions, s.groups) for s in found.shapes}
    assert shapes == {
        "conv": (3, 8, 9, 64, 1),
        "depthwise": (8, 8, 9, 64, 8),
        "up": (8, 16, 1, 64, 1),
        "head": (4, 4, 1, 2 * 256, 1),
    }
    assert found.uncovered == ("unused",)
    assert found.cost.macs == 64 * 27 * 8 + 64 * 9 * 8 + 64 * 8 * 16 + 512 * 16


def test_batches_cost_as_one_sample():
    torch.manual_seed(0)
    model, x = Net(), torch.randn(1, 3, 16, 16)
    one, many = hardware_cost(model, x), hardware_cost(model, x.repeat(3, 1, 1, 1))
    assert many.energy_pj == pytest.approx(one.energy_pj)
    assert many.latency_ns == one.latency_ns


def test_the_model_comes_back_as_it_was():
    torch.manual_seed(0)
    model = Net().train()
    model.drop.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    hardware_cost(model, {"x": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), "scale": 2.0})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model.drop.training
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError):
        hardware_cost(model, torch.randn(2, 4, 16, 16))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("bits", [1, 3, 8, 16])
def test_bits_are_counted_as_they_are_written(bits):
    torch.manual_seed(0)
    x = torch.rand(200)
    codes = [round(float(value) / float(x.max()) * (2**bits - 1)) for value in x]
    assert bit_density(x, bits) == pytest.approx(sum(bin(code).count("1") for code in codes) / (bits * 200), abs=1e-3)


def test_signed_values_are_twos_complement():
    x = torch.tensor([-4.0, -1.0, 0.0, 3.0])
    codes = [round(v / 4 * 7) for v in x.tolist()]
    ones = sum(bin(code & 0b1111).count("1") for code in codes)
    assert bit_density(x, bits=4) == ones / 16


def test_densities_of_the_synthetic_traces_of_the_reference_runs():
    """Uniform in (-1, 1), and half zeros and half half-normal with sigma 0.35, on a signed grid of 8 bits."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(100_000, generator=generator) * 2 - 1
    assert bit_density(uniform, 8, largest=1.0) == pytest.approx(0.50, abs=0.005)
    normal = torch.randn(100_000, generator=generator).abs() * 0.35
    later = normal * (torch.rand(100_000, generator=generator) > 0.5)
    later[0] = -1e-6  # no value is negative, but the grid is signed
    assert bit_density(later, 8, largest=1.0) == pytest.approx(0.18, abs=0.005)


def test_sparse_activations_cost_less_where_reading_costs():
    model = nn.Sequential(nn.Linear(128, 64))
    dense, sparse = torch.rand(16, 128), torch.rand(16, 128) * (torch.rand(16, 128) > 0.9)
    assert hardware_cost(model, sparse).energy_pj < hardware_cost(model, dense).energy_pj
    assert hardware_cost(model, sparse, "isaac32").energy_pj == hardware_cost(model, dense, "isaac32").energy_pj


def test_hardware_by_words_of_designs_fields_or_whole():
    model, x = nn.Linear(300, 40), torch.rand(2, 300)
    words = hardware_cost(model, x, hardware={"xbar": 64, "device": "fefet", "tech": 32, "signed": "differential"})
    assert words.hardware.cell.on_ohm == 240e3
    assert (words.hardware.xbar, words.hardware.tech_nm, words.hardware.signed) == (64, 32, "differential")
    whole = hardware_cost(model, x, hardware=words.hardware)
    assert whole.cost == words.cost
    assert hardware_cost(model, x, "isaac32").hardware.weight_bits == 16
    assert hardware_cost(model, x).hardware == Hardware()


def test_the_table_tells_layers_totals_and_what_is_missing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.LSTM(16, 4))
    text = str(hardware_cost(model, torch.randn(3, 8)))
    assert "neurosim22" in text
    assert "NOT in these numbers (no cost model, or did not run): 1" in text
    assert text.splitlines()[2].startswith("0 ")
    sram = hardware_cost(model, torch.randn(3, 8), hardware={"device": "sram", "cell_bits": 1}).table()
    assert "no area of this memory cell" in sram


def test_plot_has_a_bar_a_layer():
    pytest.importorskip("matplotlib").use("Agg")
    figure, axes = hardware_cost(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), torch.rand(2, 8)).plot()
    assert len(axes.patches) == 2
    assert axes.figure is figure


@pytest.mark.parametrize(
    ("model", "x", "keywords", "message"),
    [
        (nn.ReLU(), torch.ones(2, 3), {}, "ran no convolution and no linear layer"),
        (nn.LSTM(3, 4), torch.ones(2, 3), {}, "not covered: LSTM"),
        (nn.Linear(3, 4), "text", {}, "holds no tensor"),
        (nn.Linear(3, 4), torch.ones(0, 3), {}, "holds no tensor whose first dimension counts samples"),
        (nn.Linear(3, 4), torch.full((2, 3), torch.nan), {}, "layer '': NaN or infinity"),
        (nn.Linear(3, 4), torch.ones(2, 3), {"preset": "tpu"}, "no cost preset"),
        (nn.Linear(3, 4), torch.ones(2, 3), {"hardware": {"colour": 1}}, "hardware has no colour"),
    ],
)
def test_what_cannot_be_counted_is_refused(model, x, keywords, message):
    with pytest.raises(ValueError, match=message):
        hardware_cost(model, x, **keywords)
