import csv

import numpy as np
import pytest
import torch

import lightning_cim as cim
from recipes.gaussian_image.chips import (
    MEMORY,
    METRIC,
    NETWORKS,
    Decoder,
    OfSpread,
    Point,
    StudyOptions,
    on_chips,
    row_of,
    study,
)
from recipes.gaussian_image.codec.decoder import decode
from recipes.gaussian_image.codec.encoder import encode
from recipes.gaussian_image.module import CROSSBARS, SgiModule
from recipes.gaussian_image.rasterizers import rasterizer
from recipes.gaussian_image.structured import KINDS
from tests.recipes.gaussian_image.codec.small import CONFIG, small_model

pytestmark = pytest.mark.filterwarnings("ignore:.*chips are few.*")

PARTS = NETWORKS | MEMORY
DRAW = rasterizer("torch")


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("constriction")
    return encode(small_model())


@pytest.fixture
def decoder(data):
    return Decoder(decode(data), DRAW)


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(CONFIG.height, CONFIG.width, 3, generator=torch.Generator().manual_seed(1))


def decibels(picture, pixels):
    error = np.clip(picture.numpy().astype(np.float64), 0, 1) - pixels.numpy()
    return -10 * np.log10((error**2).mean())


def test_only_what_a_part_names_lies_on_devices(decoder):
    names = {part: sorted(target.name for target in mapping.resolve(decoder)) for part, mapping in PARTS.items()}
    colour = ["structured.color_mlp.0.weight", "structured.color_mlp.2.weight"]
    covariance = ["structured.shape_mlp.0.weight", "structured.shape_mlp.2.weight"]
    assert names == {
        "both networks": colour + covariance,
        "colour network": colour,
        "covariance network": covariance,
        "attributes": ["memory.d", "memory.f", "memory.s"],
    }


def test_training_injects_into_nothing_of_the_entropy_model():
    for hidden, layers in ((0, (0,)), (16, (0, 2))):
        module = SgiModule(torch.rand(16, 16, 3), num_seeds=8, levels=1, hidden=hidden)
        names = [target.name for target in CROSSBARS.resolve(module)]
        assert names == [f"structured.{net}_mlp.{layer}.weight" for net in ("color", "shape") for layer in layers]


@pytest.mark.parametrize("part", PARTS)
def test_the_file_decodes_to_the_same_numbers_on_any_chip(decoder, part):
    context = decoder.structured.context
    before = context.coding_stats()
    variation = OfSpread(10.0) if part in MEMORY else cim.Gaussian(10.0)
    with torch.inference_mode():
        clean = decoder()
        with cim.on_chip(decoder, cim.ChipPopulation(decoder, variation, mapping=PARTS[part])[0]):
            assert not torch.equal(decoder(), clean)
            on_chip = context.coding_stats()
        assert torch.equal(decoder(), clean)
    for kind in KINDS:
        assert all(np.array_equal(one, other) for one, other in zip(before[kind], on_chip[kind], strict=True))


def test_a_clean_decoder_draws_what_the_file_says(data, decoder, pixels):
    found = on_chips(decoder, pixels, cim.Gaussian(0.0), CROSSBARS, chips=1)
    assert found.of(METRIC).tolist() == pytest.approx([decibels(decode(data).render(draw=DRAW), pixels)], abs=1e-4)


def test_psnr_of_a_chip_is_that_of_weights_disturbed_by_hand(data, decoder, pixels):
    found = on_chips(decoder, pixels, cim.Gaussian(0.1), CROSSBARS, chips=3, seed=5)
    chip = cim.ChipPopulation(decoder, cim.Gaussian(0.1), 5, CROSSBARS)[2]
    by_hand = decode(data)
    for name, weight in Decoder(by_hand).named_parameters():
        if name in {target.name for target in CROSSBARS.resolve(decoder)}:
            weight += 0.1 * weight.abs().max() * chip.draw(name, weight)
    assert found.of(METRIC)[2] == pytest.approx(decibels(by_hand.render(draw=DRAW), pixels), abs=1e-4)


def test_psnr_of_analog_memory_is_that_of_attributes_disturbed_by_hand(data, decoder, pixels):
    variation, mapping = OfSpread(0.2), MEMORY["attributes"]
    found = on_chips(decoder, pixels, variation, mapping, chips=2)
    chip = cim.ChipPopulation(decoder, variation, 0, mapping)[1]
    image = decode(data)
    numbers = [
        x + 0.2 * float(np.std(x.numpy())) * chip.draw(f"memory.{kind}", x)
        for kind, x in zip(KINDS, image.attributes, strict=True)
    ]
    picture = image.model.render(type(image.attributes)(*numbers), 0, DRAW)
    assert found.of(METRIC)[1] == pytest.approx(decibels(picture, pixels), abs=1e-3)


def test_deviations_relative_to_the_spread():
    x = torch.linspace(-3, 11, 5000).view(50, 100)
    sample = OfSpread(0.3).sample(x, torch.Generator().manual_seed(0))
    assert float(sample.std()) == pytest.approx(0.3 * float(np.std(x.numpy())), rel=0.05)
    assert abs(float(sample.mean())) < 0.05
    assert torch.allclose(OfSpread(0.1).scaled(3.0).sample(x, torch.Generator().manual_seed(0)), sample)
    assert str(OfSpread(0.3)) == "OfSpread(sigma=0.3)"
    assert OfSpread(0.0).is_null
    assert not OfSpread(0.3).is_null
    with pytest.raises(ValueError, match="sigma must be"):
        OfSpread(-0.1)


def test_a_study_measures_every_part_on_the_same_chips_and_goes_on_where_it_was_killed(data, pixels, tmp_path):
    options = StudyOptions(sigmas=(0.02, 0.1), memory_sigmas=(0.1,), chips=3)
    found = study({"plain": data}, pixels, options, tmp_path, DRAW)
    assert len(found) == 3 * 3 + 2
    clean = found[Point("plain", "both networks", 0.0)].of(METRIC)
    for point, result in found.items():
        assert len(result.of(METRIC)) == (3 if point.sigma else 1)
        if point.sigma == 0:
            assert result.of(METRIC).tolist() == clean.tolist()
    # Chip r holds the same random numbers at every sigma, so its loss grows with sigma.
    weak, strong = (found[Point("plain", "both networks", sigma)].of(METRIC) for sigma in options.sigmas)
    assert len(set(weak)) == 3
    assert (abs(strong - clean) > abs(weak - clean)).all()
    path = tmp_path / "plain-both-networks-0.1.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]))  # killed after chip 0, which is marked to see that it is kept
    path.write_text(path.read_text().replace(next(csv.reader([lines[2]]))[1], "12.5"))
    again = study({"plain": data}, pixels, options, tmp_path, DRAW)[Point("plain", "both networks", 0.1)].of(METRIC)
    assert again.tolist() == [12.5, *strong[1:]]


def test_a_row_is_statistics_of_the_chips():
    sample = np.linspace(20, 30, 201)
    row = row_of(Point("plain", "both networks", 0.1), cim.ChipResult({METRIC: sample}, list(range(201))))
    assert row["mean"] == pytest.approx(25)
    assert row["percentiles"]["25"] == pytest.approx(22.5)
    assert row["worst"] == 20
    assert row["kpp"][1] <= row["kpp"][0] <= row["kpp"][2]
    few = row_of(Point("plain", "both networks", 0.0), cim.ChipResult({METRIC: sample[:1]}, [0]))
    assert few["std"] == 0
    assert None in few["kpp"]  # JSON has no infinity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chips": 0}, "chips=0"),
        ({"sigmas": [0.0]}, "above 0"),
        ({"memory_sigmas": [float("nan")]}, "above 0"),
        ({"parts": ["hash grid"]}, "unknown parts \\['hash grid'\\]"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StudyOptions(**options)


def test_another_image_than_the_files_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="plain: the file's image is \\(70, 99\\), the original \\(70, 98\\)"):
        study({"plain": data}, torch.zeros(70, 98, 3), StudyOptions(chips=1), tmp_path, DRAW)
