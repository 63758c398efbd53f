from dataclasses import replace

import pytest
import torch

from recipes.cryo_em import figures
from recipes.cryo_em.evaluate import Options, evaluate
from recipes.cryo_em.half_maps import half_map_fsc
from recipes.cryo_em.movie import write_movie
from tests.recipes.cryo_em.fake import Knowing, hinge


@pytest.fixture(scope="module")
def found():
    particles = hinge(count=60)
    return evaluate(Knowing(particles), particles, Options(states=4, nearest=5))


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_latents_with_labels_are_coloured_and_without_are_counted(found):
    figure = figures.latents(found)
    dots = figure.axes[0].collections[0]
    assert dots.get_array().data.tolist() == pytest.approx(found.labels.tolist())
    assert f"{found.scores['spearman']:.3f}" in texts(figure)
    blind = figures.latents(replace(found, labels=None))
    assert sum(patch.get_height() for patch in blind.axes[1].patches) == 60


def test_one_curve_a_state_one_mean_and_the_baseline(found):
    curves = found.by_label.scores.curves
    axes = figures.fsc_of_states(curves, {"homogeneous": curves}).axes[0]
    drawn = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == len(curves.frequency)]
    assert len(drawn) == 4 + 1 + 1
    assert list(drawn[1]) == pytest.approx(curves.correlation[1].tolist())
    assert list(drawn[4]) == pytest.approx(curves.correlation.mean(0).tolist())
    assert axes.get_xticklabels()[-1].get_text() == "12.0"  # Nyquist of 6 Angstrom pixels


def test_half_maps_have_four_curves_and_a_resolution():
    volume = torch.randn(16, 16, 16)
    halves = half_map_fsc(volume, volume + torch.randn(16, 16, 16), 3.0, torch.ones(16, 16, 16))
    figure = figures.fsc_of_half_maps(halves)
    assert sum(len(line.get_xdata()) == 9 for line in figure.axes[0].lines) == 4
    assert f"{halves.resolution():.2f}" in texts(figure)


def test_sections_show_maps_beside_the_truth(found):
    support = torch.ones(16, 16, 16, dtype=torch.bool)
    with_truth = figures.slices(found.by_label, support)
    assert len(with_truth.axes) == 3 * 4
    assert len(figures.slices(replace(found.by_label, truth=None), support).axes) == 3 * 2
    maps, changes = (with_truth.axes[i].images[0] for i in (0, 1))
    assert maps.get_clim()[0] == 0
    assert changes.get_clim()[0] == -changes.get_clim()[1]


def test_the_section_is_where_density_moves():
    moved = torch.zeros(2, 8, 8, 8)
    moved[0, 3, :, :], moved[1, 3, :, :] = 1, -1
    assert figures._most_moving(moved) == (0, 3)


def test_flexibility_has_a_row_a_map(found):
    figure = figures.flexibility(found.flexibility, torch.ones(16, 16, 16), found.scores["flexibility"])
    assert len(figure.axes) == 9
    assert f"AUROC of mobile voxels {found.scores['flexibility']['density']['auroc']:.2f}" in texts(figure)


def test_a_movie_runs_through_the_states_and_back(tmp_path, found):
    image = pytest.importorskip("PIL.Image")
    write_movie(tmp_path / "movie.gif", found.path.volumes, "along PC 1", frames=4)
    with image.open(tmp_path / "movie.gif") as movie:
        assert movie.n_frames == 6
        pictures = []
        for number in range(6):
            movie.seek(number)
            pictures.append(movie.convert("L").tobytes())
    assert len(set(pictures)) == 4  # four on the way there, of which two come again


@pytest.mark.parametrize(("states", "frames"), [(1, 4), (3, 1)])
def test_a_movie_of_nothing_is_refused(tmp_path, states, frames):
    with pytest.raises(ValueError, match="at least 2"):
        write_movie(tmp_path / "movie.gif", torch.rand(states, 8, 8, 8), frames=frames)
