import pytest
import torch

from recipes.cryo_em.maps import read_map, write_map

mrcfile = pytest.importorskip("mrcfile")


def test_a_map_comes_back_with_its_voxels_and_its_centre_at_the_origin(tmp_path):
    volume = torch.rand(6, 6, 6)
    write_map(tmp_path / "deep" / "map.mrc", volume, 3.5)
    again, pixel_size = read_map(tmp_path / "deep" / "map.mrc")
    assert torch.equal(again, volume)
    assert pixel_size == pytest.approx(3.5)
    with mrcfile.open(tmp_path / "deep" / "map.mrc") as file:
        assert file.is_volume()
        assert int(file.header.mode) == 2
        # Voxel (z, y, x) = (D//2, D//2, D//2) lies at 0, as atoms' coordinates do.
        for axis in "xyz":
            assert float(file.header.origin[axis]) + 3 * float(file.voxel_size[axis]) == pytest.approx(0, abs=1e-5)
        assert float(file.data[1, 2, 3]) == float(volume[1, 2, 3])
    assert mrcfile.validate(tmp_path / "deep" / "map.mrc")


def test_maps_of_different_boxes_overlay(tmp_path):
    places = []
    for size, pixel_size in ((8, 3.0), (16, 1.5)):
        volume = torch.zeros(size, size, size)
        centre = size // 2
        # A blob 6 Angstrom from the centre along x.
        volume[centre, centre, centre + round(6 / pixel_size)] = 1
        write_map(tmp_path / "map.mrc", volume, pixel_size)
        with mrcfile.open(tmp_path / "map.mrc") as file:
            x = int(file.data.argmax()) % size
            places.append(float(file.header.origin["x"]) + x * float(file.voxel_size["x"]))
    assert places == pytest.approx([6.0, 6.0])


@pytest.mark.parametrize(
    ("volume", "pixel_size", "message"),
    [
        (torch.zeros(4, 4, 5), 1.0, "cube"),
        (torch.zeros(4, 4, 4), 0.0, "pixel_size"),
        (torch.full((4, 4, 4), torch.nan), 1.0, "NaN"),
    ],
)
def test_what_is_no_map_is_not_written(tmp_path, volume, pixel_size, message):
    with pytest.raises(ValueError, match=message):
        write_map(tmp_path / "map.mrc", volume, pixel_size)
    assert not (tmp_path / "map.mrc").exists()


def test_what_is_no_map_is_not_read(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_map(tmp_path / "map.mrc")
    (tmp_path / "map.mrc").write_bytes(b"not a map at all" * 100)
    with pytest.raises(ValueError, match=r"map\.mrc"):
        read_map(tmp_path / "map.mrc")
    (tmp_path / "short.mrc").write_bytes(b"MAP")
    with pytest.raises(ValueError, match=r"short\.mrc"):
        read_map(tmp_path / "short.mrc")
    with mrcfile.new(tmp_path / "stack.mrc") as file:
        file.set_data(torch.zeros(3, 4, 4).numpy())
    with pytest.raises(ValueError, match="want a map"):
        read_map(tmp_path / "stack.mrc")
    with mrcfile.new(tmp_path / "turned.mrc") as file:
        file.set_data(torch.zeros(4, 4, 4).numpy())
        file.header.mapc, file.header.maps = 3, 1
    with pytest.raises(ValueError, match="order"):
        read_map(tmp_path / "turned.mrc")
