"""First-order IR drop against an exact solution of the network of resistors."""

import itertools

import numpy as np
import pytest
import torch

from lightning_cim.chip.circuit import Circuit
from lightning_cim.chip.ir_drop import dropped_weight, largest_drop, relative_drop


def exact_currents(conductance, voltages, resistance):
    """Currents at the sensed ends of all bit lines, by Kirchhoff's current law at every node.

    Word line k is driven at column 0's side, bit line j sensed at row 0's side at 0 V.
    """
    rows, cols = conductance.shape
    word = {cell: number for number, cell in enumerate(itertools.product(range(rows), range(cols)))}
    bit = {cell: number + rows * cols for cell, number in word.items()}
    matrix, source = np.zeros((2 * rows * cols, 2 * rows * cols)), np.zeros(2 * rows * cols)

    def connect(a, b, g):
        for one, other in ((a, b), (b, a)):
            matrix[one, one] += g
            matrix[one, other] -= g

    def connect_to_voltage(node, voltage, g):
        matrix[node, node] += g
        source[node] += g * voltage

    wire = 1 / resistance
    for k, j in word:
        connect(word[k, j], bit[k, j], conductance[k, j])
        if j == 0:
            connect_to_voltage(word[k, j], voltages[k], wire)
        else:
            connect(word[k, j], word[k, j - 1], wire)
        if k == 0:
            connect_to_voltage(bit[k, j], 0.0, wire)
        else:
            connect(bit[k, j], bit[k - 1, j], wire)
    found = np.linalg.solve(matrix, source)
    return np.array([found[bit[0, j]] * wire for j in range(cols)])


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (6, 1), (1, 6), (5, 4), (7, 9)])
def test_error_falls_with_the_square_of_the_resistance(rows, cols):
    draw = np.random.default_rng(0)
    conductance = draw.uniform(1e-6, 25e-6, (rows, cols))
    voltages = draw.uniform(-0.2, 0.2, rows)
    ideal = voltages @ conductance
    errors, drops = [], []
    for resistance in (40.0, 20.0, 10.0):
        effective = conductance * (1 - relative_drop(torch.from_numpy(conductance), resistance).numpy())
        exact = exact_currents(conductance, voltages, resistance)
        errors.append(np.abs(voltages @ effective - exact).max())
        drops.append(np.abs(ideal - exact).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)
    assert drops[1] / drops[2] == pytest.approx(2, rel=0.1)  # the effect itself is of first order
    assert errors[2] < 0.05 * drops[2]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("rows", "cols"), [(None, None), (4, 3), (5, 2), (100, 100)])
def test_weights_of_a_layer_are_those_of_its_arrays(rows, cols, groups):
    """A grouped convolution whose arrays are cut out by hand, each solved exactly."""
    torch.manual_seed(0)
    weight = torch.randn(6, 3, 2, 2, dtype=torch.float64)
    circuit = Circuit(rows, cols, wire_resistance=0.5, g_max=25e-6, g_min=1e-6)
    found = dropped_weight(weight, circuit, groups)
    assert found.shape == weight.shape
    span, scale = circuit.g_max - circuit.g_min, float(weight.abs().max())
    outputs = 6 // groups
    for group in range(groups):
        matrix = weight[group * outputs : (group + 1) * outputs].reshape(outputs, 12).T.numpy()
        mine = found[group * outputs : (group + 1) * outputs].reshape(outputs, 12).T.numpy()
        for top, left in itertools.product(range(0, 12, rows or 12), range(0, outputs, cols or outputs)):
            block = np.s_[top : top + (rows or 12), left : left + (cols or outputs)]
            pair = [circuit.g_min + np.maximum(sign * matrix[block], 0) / scale * span for sign in (1, -1)]
            for k in range(len(pair[0])):  # one word line at 1 V: the column of effective weights
                volts = np.eye(len(pair[0]))[k]
                currents = [exact_currents(array, volts, 0.5) for array in pair]
                exact = (currents[0] - currents[1]) / span * scale
                ideal = matrix[block][k]
                drop = np.abs(exact - ideal).max()
                assert np.abs(mine[block][k] - exact).max() < max(0.02 * drop, 1e-8)


def test_cells_far_from_both_ends_lose_most():
    drop = relative_drop(torch.full((4, 5), 1e-5), 2.0)
    assert (drop.diff(dim=0) > 0).all()
    assert (drop.diff(dim=1) > 0).all()
    # Next to both ends: the currents of 4 cells of the bit line and of 5 of the word line.
    assert drop[0, 0].item() == pytest.approx(2.0 * 1e-5 * (4 + 5))


def test_gradient_is_that_of_the_formula():
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        weight[0, 0] = 5.0  # the largest, whose role as scale is a constant
    circuit = Circuit(3, 2, wire_resistance=100.0, g_max=25e-6)
    toward = torch.randn(4, 6, dtype=torch.float64)
    (found,) = torch.autograd.grad(dropped_weight(weight, circuit), weight, toward)
    for row, column in itertools.product(range(4), range(6)):
        if (row, column) == (0, 0):
            continue
        moved = []
        for step in (1e-6, -1e-6):
            other = weight.detach().clone()
            other[row, column] += step
            moved.append((dropped_weight(other, circuit) * toward).sum().item())
        assert found[row, column].item() == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_is_kept_and_zeros_stay_zeros(dtype):
    circuit = Circuit(wire_resistance=1.0, g_max=25e-6, g_min=1e-6)
    found = dropped_weight(torch.zeros(3, 4, dtype=dtype), circuit)
    assert found.dtype == dtype
    assert not found.any()
    assert largest_drop(torch.zeros(3, 4, dtype=dtype), Circuit(wire_resistance=1.0, g_max=25e-6)) == 0.0


def test_largest_drop_is_that_of_the_worst_cell():
    weight = torch.ones(1, 100)
    circuit = Circuit(wire_resistance=1.0, g_max=1e-5)
    cells = torch.full((100, 1), 1e-5)
    assert largest_drop(weight, circuit) == pytest.approx(relative_drop(cells, 1.0).max().item())
    assert largest_drop(weight, Circuit(rows=10, wire_resistance=1.0, g_max=1e-5)) < largest_drop(weight, circuit)
