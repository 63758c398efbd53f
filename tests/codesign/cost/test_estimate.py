"""Energy, latency and area: an independent slow reference, monotony, many designs at once."""

import dataclasses
import math

import numpy as np
import pytest

from lightning_cim.codesign.cost import (
    CELLS,
    MODELS,
    Hardware,
    LayerShape,
    adc_area_um2,
    adc_energy_pj,
    cost_of,
    design_cost,
    estimate,
    hardware_of,
    lossless_bits,
    network_of,
)
from lightning_cim.codesign.space import Slot, Space

CONV = LayerShape("conv", 64, 128, taps=9, positions=196, bit_density=0.2)


def slow_neurosim(layers, hw):
    """Energy in pJ and time of the crossbars in ns in plain Python, from the formulas as documented; one copy each."""
    energy = core = 0.0
    for layer in layers:
        rows, slices = layer.taps * layer.c_in, math.ceil(8 / hw.cell_bits)
        tiles = math.ceil(rows / hw.xbar)
        conversions = layer.positions * 8 * tiles * layer.c_out * slices
        adc_um2 = 7.906 * math.exp(0.78019 * hw.adc_bits)
        each = (
            (rows / tiles * layer.bit_density) * (23.96 + 1.815 * hw.mux) / hw.cell.on_ohm
            + 0.007457 + 0.0016982 * 2**hw.adc_bits
            + 0.02055 + 0.004617 * hw.adc_bits
            + 0.08239 + 4.556e-5 * adc_um2 + 1.767e-4 * hw.mux**2
        )  # fmt: skip
        energy += conversions * each
        core += layer.positions * 8 * hw.mux * 2.04
    return energy, core


@pytest.mark.parametrize("device", ["rram", "rram-hrs", "fefet"])
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_formulas_against_plain_python(device, bits):
    hardware = Hardware(xbar=64, adc_bits=bits, cell=CELLS[device], mux=16, duplication=1)
    layers = [CONV, LayerShape("fc", 512, 10)]
    cost = estimate(layers, hardware)
    energy, core = slow_neurosim(layers, hardware)
    assert cost.energy_pj == pytest.approx(energy, rel=1e-9)
    assert cost.latency_parts["crossbars"] == pytest.approx(core, rel=1e-9)
    assert sum(layer.energy_pj for layer in cost.layers) == pytest.approx(cost.energy_pj, rel=1e-12)
    assert cost.tops_per_w == pytest.approx(2 * cost.macs / cost.energy_pj)
    assert cost.fps == pytest.approx(1e9 / cost.latency_ns)


@pytest.mark.parametrize("preset", MODELS)
def test_energy_and_area_rise_and_fall_as_they_must(preset):
    def cost(layer=CONV, **changes):
        return estimate([layer], dataclasses.replace(Hardware(duplication=1), **changes), preset)

    base = cost()
    for bits in (6, 7, 8):
        assert cost(adc_bits=bits).energy_pj > cost(adc_bits=bits - 1).energy_pj
        assert cost(adc_bits=bits).area_mm2 > cost(adc_bits=bits - 1).area_mm2
    assert cost(cell_bits=1).energy_pj > base.energy_pj > cost(cell_bits=4).energy_pj
    assert cost(signed="differential").energy_pj > base.energy_pj
    more = dataclasses.replace(CONV, positions=400)
    assert cost(more).energy_pj > base.energy_pj
    assert cost(more).latency_ns > base.latency_ns
    assert cost(duplication=4).latency_ns == pytest.approx(base.latency_ns / 4)
    assert cost(duplication=4).area_mm2 > base.area_mm2
    ohms = [cost(cell=CELLS[name]).energy_pj for name in ("rram", "rram-hrs", "fefet")]
    if preset == "neurosim22":
        assert ohms[0] > ohms[1] > ohms[2]
        assert cost(tech_nm=45).energy_pj > cost(tech_nm=32).energy_pj > base.energy_pj
        assert cost(adc="sar").latency_ns > base.latency_ns
        assert cost(mux=16).latency_ns == 2 * base.latency_ns
    else:
        assert ohms[0] == ohms[1] == ohms[2]  # its crossbar's power is a constant
        with pytest.raises(ValueError, match="32 nm only"):
            cost(tech_nm=22)


@pytest.mark.parametrize(("node", "energy", "area", "clock"), [(32, 1.59, 2.15, 2.49), (45, 2.82, 4.49, 3.12)])
def test_nodes_scale_energy_area_and_clock_as_the_runs_did(node, energy, area, clock):
    base, other = (estimate([CONV], Hardware(tech_nm=nm)) for nm in (22, node))
    assert other.energy_pj / base.energy_pj == pytest.approx(energy)
    assert other.latency_ns / base.latency_ns == pytest.approx(clock / 2.04)
    assert other.buffer_ns / base.buffer_ns == pytest.approx(clock / 2.04)
    # The cells are 48 F2 at every node; all else scales as the whole chip did.
    for part in ("adc", "accumulation", "other"):
        assert other.area_parts[part] / base.area_parts[part] == pytest.approx(area)
    assert other.area_parts["cells"] / base.area_parts["cells"] == pytest.approx((node / 22) ** 2)


def test_isaac_crossbars_of_other_sides_scale_as_their_components():
    """Twice the side: four times the cells and twice of all else on an array, and no more converted bits a column."""
    layer = LayerShape("fc", 256, 32)
    small, large = (estimate([layer], Hardware(xbar=side, adc_bits=8, duplication=1), "isaac32") for side in (128, 256))
    assert (small.layers[0].crossbars, large.layers[0].crossbars, large.crossbars) == (2, 1, 8)
    assert large.area_parts["cells"] == pytest.approx(4 * small.area_parts["cells"])
    assert large.area_parts["adc"] == pytest.approx(2 * small.area_parts["adc"])
    assert large.area_parts["other"] == pytest.approx(2 * small.area_parts["other"])
    assert large.energy_parts["adc"] == pytest.approx(small.energy_parts["adc"] / 2)
    drivers, crossbar = (4.0 + 0.01) * 100 / 1024, 2.4 * 100 / 1024  # pJ a conversion at 128 rows
    assert large.energy_parts["read"] / large.layers[0].conversions == pytest.approx(drivers + 2 * crossbar)


@pytest.mark.parametrize("preset", MODELS)
def test_a_larger_kernel_costs_energy_and_no_read_time(preset):
    """The misconception that LCDA reports of its LLM: on crossbars the kernel's taps are rows, not cycles."""
    hardware = Hardware(duplication=1)
    small, large = (
        estimate([LayerShape("conv", 128, 128, taps=k * k, positions=256)], hardware, preset) for k in (3, 7)
    )
    assert large.latency_parts["crossbars"] == small.latency_parts["crossbars"]
    tiles = math.ceil(49 * 128 / 128) / math.ceil(9 * 128 / 128)
    assert large.energy_pj / small.energy_pj == pytest.approx(tiles, rel=0.01)


@pytest.mark.parametrize("preset", MODELS)
@pytest.mark.parametrize("name", ["lcda", "tab", "digits"])
def test_one_design_and_many_agree(name, preset):
    space = Space.preset(name)
    if preset == "isaac32":
        space = Space(tuple(slot for slot in space.slots if slot.name != "tech"), name)
    rng = np.random.default_rng(0)
    designs = [space.sample(rng) for _ in range(40)]
    for conventions in ({}, {"mapping": "kernel-split", "duplication": 1, "adc": "survey"}):
        many = cost_of(space, np.array([space.encode(design) for design in designs]), preset=preset, **conventions)
        for place, design in enumerate(designs):
            one = design_cost(design, name, preset, **conventions)
            for field in many._fields:
                assert getattr(many, field)[place] == pytest.approx(getattr(one, field), rel=1e-9), field


def test_the_whole_space_is_finite_and_in_the_order_of_its_designs():
    space = Space.preset("tab")
    costs = cost_of(space)
    for column in costs:
        assert column.shape == (space.cardinality,)
        assert np.isfinite(column).all()
        assert (column > 0).all()
    shape = [len(slot.values) for slot in space.slots]
    for place in np.random.default_rng(1).integers(space.cardinality, size=20):
        design = space.decode([int(code) for code in np.unravel_index(place, shape)])
        assert costs.energy_pj[place] == pytest.approx(design_cost(design).energy_pj, rel=1e-9)
        assert costs.area_mm2[place] == pytest.approx(design_cost(design).area_mm2, rel=1e-9)


def test_area_is_unknown_for_sram_and_energy_is_not():
    cost = estimate([CONV], Hardware(cell=CELLS["sram"], cell_bits=1))
    assert math.isnan(cost.area_mm2)
    assert math.isfinite(cost.energy_pj)
    assert math.isfinite(cost.latency_ns)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: estimate([]), "no layers"),
        (lambda: estimate([CONV], preset="tpu"), "no cost preset 'tpu': presets are neurosim22, isaac32"),
        (lambda: estimate([CONV], Hardware(adc_bits=9)), "'flash' ADC is known from 4 to 8 bits"),
        (lambda: estimate([CONV], Hardware(adc="delta")), "no ADC 'delta'"),
        (lambda: estimate([CONV], Hardware(tech_nm=7)), "22 to 45 nm"),
        (lambda: cost_of(Space.preset("tab"), np.zeros((3, 2), dtype=int)), r"shape \[designs, 10\]"),
        (lambda: cost_of(Space((Slot("a", (1,)),), "tab")), "neither a slot 'c1'"),
        (lambda: cost_of(Space((Slot("a", (1,)),), "mine")), "no network 'mine'"),
    ],
)
def test_what_is_not_known_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("bits", "pj"), [(4, 0.923), (6, 1.064), (8, 1.846), (10, 15.7)])
def test_survey_bound_as_evaluated_in_the_specification(bits, pj):
    assert float(adc_energy_pj("survey", bits, tech_nm=32, hertz=1.2e9)) == pytest.approx(pj, rel=0.005)


def test_adcs_differ_and_grow_with_bits():
    for kind in ("flash", "sar", "isaac", "survey"):
        energies = [float(adc_energy_pj(kind, bits)) for bits in range(4, 9)]
        areas = [float(adc_area_um2(kind, bits)) for bits in range(4, 9)]
        assert energies == sorted(set(energies))
        assert areas == sorted(set(areas))
    assert float(adc_energy_pj("isaac", 8, tech_nm=32)) == 1.67
    assert float(adc_energy_pj("survey", 8)) / float(adc_energy_pj("flash", 8)) > 1.5


@pytest.mark.parametrize(
    ("rows", "cell", "dac", "flipped", "bits"),
    [
        (128, 2, 1, True, 9),
        (128, 2, 1, False, 10),
        (128, 1, 1, False, 8),
        (64, 4, 1, False, 11),
        (100, 1, 2, False, 10),
    ],
)
def test_lossless_bits(rows, cell, dac, flipped, bits):
    assert lossless_bits(rows, cell, dac, flipped) == bits


def test_hardware_of_many_designs_keeps_devices_apart():
    names = np.array([["rram"], ["fefet"]])
    found = hardware_of({"device": names, "xbar": np.array([64, 128])})
    assert found.cell.on_ohm.tolist() == [[6e3], [240e3]]
    cost = [estimate(network_of(dict(c12=16, c34=16, c56=16, k12=3, k34=3, k56=3)), Hardware(cell=CELLS[n])).energy_pj
            for n in ("rram", "fefet")]  # fmt: skip
    assert cost[0] > cost[1]
