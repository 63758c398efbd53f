"""The cost table: the recipe's acceptance figures, the formulas against loops, and refusals."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from recipes.arrhythmia.hardware import Accelerator, aspdac2025, hardware_report, reference_energy_uj, trace
from recipes.arrhythmia.model import ChipNet, IEGMNet

SPARSE = ("conv2", "conv3", "conv4")


def default_report(**kwargs):
    return hardware_report(
        ChipNet(),
        (1, 512),
        dict.fromkeys(SPARSE, 4),
        dict.fromkeys(SPARSE, 0.5),
        dict.fromkeys(SPARSE, (2, 4)),
        **kwargs,
    )


def test_acceptance_figures_of_the_default_net():
    total = default_report().total
    assert total.macs == 2_809_984
    assert total.effective_macs == 1_433_728
    assert total.weight_bits == 52_096
    assert total.index_bits == 25_088
    assert total.cycles == 2944
    assert total.latency_us == pytest.approx(40.2, abs=0.05)
    assert total.gops == pytest.approx(139.8, abs=0.05)
    assert [row.cycles for row in default_report().layers] == [224, 640, 1280, 768, 32]


def test_dense_eight_bit_memory():
    total = hardware_report(ChipNet(), (1, 512)).total
    assert total.weight_bits / 8 / 1024 == pytest.approx(25328 / 1024)
    assert total.index_bits == 0
    assert total.density == 1
    assert total.effective_gops == pytest.approx(total.gops)


def test_preset_reproduces_the_published_power_by_calibration():
    chip = aspdac2025()
    assert chip.power_uw(reference_energy_uj(chip)) == pytest.approx(10.60)
    edited = aspdac2025(mac_pj=1.0)
    assert edited.power_uw(reference_energy_uj(edited)) == pytest.approx(10.60)
    assert edited.leakage_uw < chip.leakage_uw
    assert "calibrated" in default_report().table()
    with pytest.raises(ValueError, match="leakage_uw"):
        aspdac2025(leakage_uw=1.0)


def test_peak_at_half_density_is_the_published_throughput():
    # Fully used array: channel and position counts are multiples of the parallelism.
    report = hardware_report(nn.Conv1d(2, 16, 5, padding=2), (2, 64), density={"": 0.5})
    assert report.total.gops == pytest.approx(150)


def test_energy_and_power_by_hand():
    chip = Accelerator(mac_pj=0.5, weight_pj_per_bit=0.1, activation_pj_per_bit=0.2, leakage_uw=3.0, window_s=2.0)
    report = hardware_report(nn.Linear(6, 4), (6,), {"": 2}, {"": 0.5}, {"": (1, 2)}, chip)
    picojoule = 12 * 0.5 * (2 / 8) + (12 * 2 + 12 * 1) * 0.1 + 6 * 8 * 0.2
    assert report.total.energy_uj == pytest.approx(picojoule * 1e-6)
    assert report.power_uw == pytest.approx(picojoule * 1e-6 / 2 + 3)
    assert report.power_density_uw_per_mm2 == pytest.approx(report.power_uw / (10.60 / 0.57))


def test_position_index_without_a_pattern_and_rounding_up_of_cycles():
    report = hardware_report(nn.Conv1d(3, 5, 7, padding=3), (3, 20), density={"": 20 / 105})
    row = report.layers[0]
    assert row.index_bits == 20 * 5  # one of 21 positions
    assert row.cycles == 6  # 1 x 2 x 2 tiles of 7 taps at 20/105 are 5.33
    assert row.effective_macs == 20 * 20


@pytest.mark.parametrize(("bits", "cells", "pairs"), [(8, 4, 2), (8, 7, 1), (4, 1, 3), (4, 4, 1), (2, 1, 1), (1, 1, 1)])
def test_differential_cells(bits, cells, pairs):
    chip = Accelerator(cell_bits=cells)
    row = hardware_report(nn.Linear(8, 3), (8,), {"": bits}, {"": 0.5}, {"": (2, 4)}, chip).layers[0]
    assert (row.cells, row.cells_dense) == (2 * pairs * 12, 2 * pairs * 24)


def test_macs_equal_counting_on_the_contest_net():
    report = hardware_report(IEGMNet(), (1, 1250))
    lengths, length, expected = (6, 5, 4, 4, 4), 1250, 0
    for kernel, (c_in, c_out) in zip(lengths, ((1, 3), (3, 5), (5, 10), (10, 20), (20, 20)), strict=True):
        length = (length - kernel) // 2 + 1
        expected += length * kernel * c_in * c_out
    assert report.total.macs == expected + 740 * 10 + 10 * 2


def test_trace_leaves_the_model_as_it_was():
    net = ChipNet()
    net.bn2.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    shapes = trace(net, (1, 512))
    assert [s.positions for s in shapes] == [512, 256, 128, 64, 1]
    assert net.training
    assert not net.bn2.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not net.conv1._forward_hooks


def test_rows_and_table():
    report = default_report()
    rows = report.rows()
    assert [row["name"] for row in rows] == ["conv1", "conv2", "conv3", "conv4", "fc", "total"]
    for key in (
        "macs",
        "effective_macs",
        "ops",
        "weight_bits",
        "index_bits",
        "cycles",
        "energy_uj",
        "latency_us",
        "cells",
    ):
        assert rows[-1][key] == pytest.approx(sum(row[key] for row in rows[:-1]))
    lines = report.table().splitlines()
    assert len({len(line) for line in lines[:7]}) == 1
    assert "2,809,984" in lines[6]


def test_constants_are_editable_and_checked():
    fast = default_report(accelerator=replace(aspdac2025(), clock_hz=146.484375e6))
    assert fast.total.latency_us == pytest.approx(default_report().total.latency_us / 2)
    with pytest.raises(ValueError, match="clock_hz"):
        Accelerator(clock_hz=0)
    with pytest.raises(ValueError, match="mac_pj"):
        Accelerator(mac_pj=-1)
    assert Accelerator(mac_pj=0).mac_pj == 0


class _Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)

    def forward(self, x):
        return self.shared(self.shared(x))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 8, 8), "Conv2d"),
        (nn.Sequential(nn.LSTM(4, 4)), (5, 4), "LSTM"),
        (nn.Conv1d(4, 4, 3, groups=2), (4, 16), "groups=2"),
        (_Twice(), (4,), "more than once"),
        (nn.ReLU(), (4,), "no Conv1d or Linear"),
    ],
)
def test_models_without_a_cost_model_are_refused(model, shape, message):
    with pytest.raises(ValueError, match=message):
        trace(model, shape)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"bits": {"conv9": 4}}, "conv9"),
        ({"bits": {"conv2": 3}}, "conv2.*one of"),
        ({"density": {"conv2": 0.0}}, r"density must be in \(0, 1\]"),
        ({"density": {"conv2": 1.5}}, "density"),
        ({"density": {"fc": 1e-6}}, "keeps none"),
        ({"pattern": {"conv2": (4, 2)}}, "1 <= n <= m"),
    ],
)
def test_bad_layer_settings_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        hardware_report(ChipNet(), (1, 512), **kwargs)
