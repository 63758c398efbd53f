"""Layers on crossbars: hand values and a count of cells one by one."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim.codesign.cost import CELLS, Hardware, LayerShape, hardware_of, network_of, place
from lightning_cim.codesign.cost.mapping import allocate
from lightning_cim.codesign.cost.reference_networks import mini, vgg8

SPLIT = Hardware(mapping="kernel-split")


def test_hand_values_of_the_specification():
    full = place(LayerShape("conv", 128, 256, taps=9), Hardware())
    assert (full.row_tiles, full.column_tiles, full.crossbars, full.utilisation) == (9, 8, 72, 1)
    first = place(LayerShape("conv", 3, 128, taps=9), SPLIT)
    assert (first.row_tiles, first.column_tiles) == (1, 4)
    assert first.utilisation == pytest.approx(0.2109, abs=5e-5)


def test_conversions_and_active_rows_by_hand():
    found = place(LayerShape("conv", 64, 128, taps=9, positions=16, bit_density=0.25), SPLIT)
    assert found.conversions == 16 * 8 * 9 * 128 * 4
    assert found.active_rows == 64 * 0.25
    unrolled = place(LayerShape("conv", 64, 128, taps=9, positions=16, bit_density=0.25), Hardware())
    assert unrolled.conversions == 16 * 8 * 5 * 128 * 4
    assert unrolled.active_rows == pytest.approx(576 / 5 * 0.25)


def test_signed_pairs_take_twice_the_columns():
    layer = LayerShape("fc", 128, 64)
    assert place(layer, Hardware(signed="differential")).column_tiles == 2 * place(layer, Hardware()).column_tiles


def test_groups_have_matrices_of_their_own():
    grouped = place(LayerShape("conv", 32, 32, taps=9, groups=32, positions=4), Hardware())
    alone = place(LayerShape("conv", 1, 1, taps=9, positions=4), Hardware())
    assert grouped.crossbars == 32 * alone.crossbars
    assert grouped.conversions == 32 * alone.conversions
    assert grouped.utilisation == alone.utilisation


def test_fewer_rows_at_once_take_more_reads_of_the_same_rows():
    layer = LayerShape("fc", 128, 64, bit_density=0.5)
    whole, parts = place(layer, Hardware()), place(layer, Hardware(parallel_rows=32))
    assert parts.conversions == 4 * whole.conversions
    assert parts.conversions * parts.active_rows == whole.conversions * whole.active_rows


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 20), st.sampled_from([1, 4, 9]), st.sampled_from([8, 16]),
    st.sampled_from([1, 2, 4]), st.sampled_from(["im2col", "kernel-split"]),
)  # fmt: skip
def test_tiles_hold_every_cell_one_by_one(c_in, c_out, taps, side, cell_bits, mapping):
    """Put each cell of the matrix on its crossbar and count crossbars, cells and column reads."""
    layer = LayerShape("layer", c_in, c_out, taps=taps, positions=3, bit_density=1.0)
    found = place(layer, Hardware(xbar=side, cell_bits=cell_bits, mapping=mapping))
    slices = math.ceil(8 / cell_bits)
    split = mapping == "kernel-split" and taps > 1 and taps * c_in > side
    cells = {}
    for tap in range(taps):
        for channel in range(c_in):
            row = (tap, channel // side) if split else ((tap * c_in + channel) // side,)
            for column in range(c_out * slices):
                cells.setdefault((row, column // side), []).append(column % side)
    assert found.crossbars == len(cells)
    assert found.utilisation == pytest.approx(sum(map(len, cells.values())) / (len(cells) * side * side))
    reads = sum(len(set(columns)) for columns in cells.values())
    assert found.conversions == 3 * 8 * reads
    assert found.conversions * found.active_rows == pytest.approx(3 * 8 * sum(map(len, cells.values())))


@pytest.mark.parametrize(
    ("layers", "changes", "crossbars"),
    [(mini(), {}, 320), (mini(), {"xbar": 64}, 560), (mini(), {"cell_bits": 4}, 104), (vgg8(padded=False), {}, 4048)],
)
def test_whole_tiles_are_those_of_the_reference_runs(layers, changes, crossbars):
    hardware = replace(SPLIT, **changes)
    found = allocate(layers, [place(layer, hardware) for layer in layers], hardware)
    assert sum(found.crossbars) == crossbars


def test_vgg8_has_the_tiles_and_copies_of_the_manual():
    layers = vgg8(padded=False)
    placements = [place(layer, SPLIT) for layer in layers]
    found = allocate(layers, placements, SPLIT, capped=False)
    assert [int(n) for n in found.tiles] == [1, 1, 2, 2, 4, 4, 32, 1]
    assert [int(n) for n in found.duplicates] == [16, 4, 4, 2, 2, 1, 1, 8]
    assert allocate(layers, placements, SPLIT).duplicates[-1] == 1  # one position has no use for eight copies


def test_copies_asked_for_take_further_tiles_where_they_do_not_fit():
    layers = [LayerShape("fc", 128, 32, positions=100)]
    one = replace(SPLIT, duplication=1)
    placements = [place(layers[0], one)]
    assert [sum(allocate(layers, placements, replace(one, duplication=n)).crossbars) for n in (1, 2, 5)] == [1, 2, 5]


def test_copies_that_fit_into_the_layers_own_tile_take_no_further_one():
    layers = [LayerShape("small", 128, 32, positions=100), LayerShape("large", 1024, 256)]  # tiles of 8x8 crossbars
    placements = [place(layer, SPLIT) for layer in layers]
    found = {n: allocate(layers, placements, replace(SPLIT, duplication=n)).crossbars[0] for n in (1, 64, 65)}
    assert found == {1: 64, 64: 64, 65: 128}


def test_depthwise_groups_share_tiles():
    layers = [LayerShape("fc", 1024, 1024), LayerShape("depthwise", 64, 64, taps=9, groups=64, positions=4)]
    found = allocate(layers, [place(layer, Hardware()) for layer in layers], Hardware())
    assert found.crossbars[1] == 64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerShape("a", 0, 1), "layer 'a': c_in must be positive"),
        (lambda: LayerShape("a", 3, 4, groups=2), "no multiple of 2 groups"),
        (lambda: LayerShape("a", 3, 4, bit_density=2), "bit_density is a share"),
        (lambda: Hardware(xbar=1), "xbar must be at least 2"),
        (lambda: Hardware(mapping="novel"), "mapping is one of im2col, kernel-split"),
        (lambda: Hardware(parallel_rows=0), "parallel_rows"),
        (lambda: Hardware(duplication=0), "duplication"),
        (lambda: Hardware(duplication="all"), "duplication"),
        (lambda: Hardware(cell=CELLS["sram"]), "cell_bits=1"),
        (lambda: hardware_of({"device": "flash"}), "no device 'flash': known are rram"),
        (lambda: hardware_of({}, colour=1), "hardware has no colour"),
        (lambda: network_of({"c12": 3}), "neither a slot 'k1' nor 'k12'"),
        (lambda: network_of({}, "resnet"), "no network 'resnet'"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_networks_of_tied_and_free_slots_agree():
    tied = dict(c12=16, c34=32, c56=48, k12=3, k34=5, k56=7)
    free = {f"{a}{n}": tied[f"{a}{p}"] for a in "ck" for p in ("12", "34", "56") for n in p}
    assert network_of(tied, "tab") == network_of(free, "lcda")
    digits = network_of(tied, "digits")
    assert [layer.positions for layer in digits] == [64, 64, 16, 16, 4, 4, 1, 1]
    assert digits[6].c_in == 48
    assert digits[0].c_in == 1
