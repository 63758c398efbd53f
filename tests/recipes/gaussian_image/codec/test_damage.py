import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.gaussian_image.codec import container
from recipes.gaussian_image.codec.container import SECTIONS, Container
from recipes.gaussian_image.codec.decoder import decode
from recipes.gaussian_image.codec.encoder import encode
from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.codec.fields import pack, unpack
from recipes.gaussian_image.codec.settings import FileSettings, check_limits
from recipes.gaussian_image.hash_grid import HashConfig
from recipes.gaussian_image.structured import SgiConfig
from tests.recipes.gaussian_image.codec.small import CONFIG, small_model

pytest.importorskip("constriction")

FILE = encode(small_model(), seeds_per_block=40)
ATTRIBUTES = decode(FILE).attributes


def read(data):
    """All that a file holds."""
    return decode(data).attributes


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(position, change):
    data = bytearray(FILE)
    data[position] ^= change
    with pytest.raises(CodecError):
        read(bytes(data))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(FILE) - 1))
def test_any_cut_is_found_when_the_file_is_opened(length):
    with pytest.raises(CodecError):
        decode(FILE[:length])


def test_bytes_behind_the_file_are_found():
    with pytest.raises(CodecError, match="goes on behind its blocks"):
        decode(FILE + b"\0")


@settings(max_examples=50)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused(data, begins_well):
    with pytest.raises(CodecError):
        decode(FILE[:5] + data if begins_well else data)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SECTIONS), st.data())
def test_forged_sections_are_read_or_refused(name, draw):
    """Checksums that fit the damage: what is left are the checks behind them."""
    parts = container.split(FILE)
    content = bytearray(parts.sections[name])
    for _ in range(draw.draw(st.integers(1, 3))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    try:
        attributes = read(container.join(Container({**parts.sections, name: bytes(content)}, parts.blocks)))
    except CodecError:
        return
    assert all(part.dtype == torch.float32 for part in attributes)


def test_damage_in_a_block_is_found_when_it_is_needed():
    image = decode(FILE)
    data = bytearray(FILE)
    data[-1] ^= 1
    damaged = decode(bytes(data))
    last = len(image.blocks) - 1
    with pytest.raises(CodecError, match=rf"block {last}, bytes \d+ to {len(FILE)}: damaged"):
        damaged.attributes  # noqa: B018
    assert damaged.decoded == frozenset(range(last))


def test_another_entropy_model_is_told_from_damage(monkeypatch):
    image = decode(FILE)
    original = image.model.context.coding_stats

    def shifted(seeds):
        return {kind: part._replace(mean=part.mean + 256) for kind, part in original(seeds).items()}

    monkeypatch.setattr(image.model.context, "coding_stats", shifted)
    with pytest.raises(CodecError, match=r"other numbers than were written|coded numbers are damaged"):
        image.attributes  # noqa: B018


def forged(**changes):
    """The file with other settings of the model."""
    parts = container.split(FILE)
    found = unpack(FileSettings, parts.sections["settings"], {})
    altered = dataclasses.replace(found, image=dataclasses.replace(found.image, **changes))
    return container.join(Container({**parts.sections, "settings": pack(altered)}, parts.blocks))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 70_000}, "height = 70000"),
        ({"num_seeds": 100_000}, "100000 seeds in"),
        ({"height": 16_000, "width": 16_000}, "pixels at the coarsest level"),
        ({"position_seed": 1}, "seeds: drawn elsewhere"),
        ({"hidden": 8}, "weights in the file"),
        ({"density": (1, 2)}, "density map of 2 values"),
        ({"step_f": float("inf")}, "quantisation steps"),
        ({"hash": HashConfig((3000, 3000, 3000), 1 << 23, 2)}, "a hash grid of 3 levels"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_named(changes, message):
    with pytest.raises(CodecError, match=message):
        decode(forged(**changes))


def test_an_endless_number_of_levels_is_refused_before_it_is_used():
    with pytest.raises(CodecError, match=r"levels = 1000000000000"):
        decode(forged_levels(10**12))


def forged_levels(levels):
    @dataclasses.dataclass(frozen=True)
    class Unchecked(SgiConfig):
        def __post_init__(self):
            pass

    parts = container.split(FILE)
    found = unpack(FileSettings, parts.sections["settings"], {})
    image = Unchecked(**{**{f.name: getattr(CONFIG, f.name) for f in dataclasses.fields(CONFIG)}, "levels": levels})
    altered = pack(dataclasses.replace(found, image=image))
    return container.join(Container({**parts.sections, "settings": altered}, parts.blocks))


def test_honest_large_images_are_within_the_limits():
    large = HashConfig((18, 24, 33, 44, 59, 80, 108, 148, 201, 275, 376, 514), 1 << 13, 4)
    check_limits(SgiConfig(4096, 4096, num_seeds=350_000, k=10, feat_dim=50, hidden=50, hash=large), 1 << 20)
    check_limits(SgiConfig(16_000, 16_000, num_seeds=1_000_000), 1 << 24)
