import math

import numpy as np
import pytest

from recipes._tables import markdown, text
from recipes.image_classification.methods import METHODS, with_control
from recipes.image_classification.tables import Over, difference, difference_table, main_table, row_of


def job(method, seed, accuracy, sigma=0.2, **changes):
    accuracy = np.array(accuracy)
    at = {
        "chips": len(accuracy),
        "mean": accuracy.mean(),
        "std": accuracy.std(ddof=1),
        "kpp": accuracy.min(),
        "kpp_low": -math.inf,
        "kpp_high": accuracy.max(),
        "worst": accuracy.min(),
        "accuracy": accuracy.tolist(),
        "ekl": 0.5,
        "ekl_fitted": 0.25,
        "write": {"nwc": 0.3, "nwc_total": 0.37, "met": 1.0},
        **changes,
    }
    about = {"clean": 0.9, "worst_case": 0.1, "train_seconds": 50.0, "epochs": 20, "beta": None, "curve": []}
    return {"job": {"method": method, "sigma": sigma, "seed": seed}, **about, "at": {f"{sigma:g}": at}}


def test_over_seeds():
    over = Over((0.1, 0.2, 0.6))
    assert over.mean == pytest.approx(0.3)
    assert over.spread == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert over.half == pytest.approx(4.303 * over.spread / math.sqrt(3))
    assert over.text(100) == "30.0 ± 26.5"
    assert Over((0.5,)).text(100) == "50.0"


@pytest.mark.parametrize("seeds", range(2, 40))
def test_t_quantiles(seeds):
    t = pytest.importorskip("scipy.stats").t.ppf(0.975, seeds - 1)
    values = tuple(float(value) for value in range(seeds))
    assert Over(values).half == pytest.approx(t * Over(values).spread / math.sqrt(seeds), rel=0.012)


def test_differences_are_paired_by_seed_and_by_chip():
    gaussian = row_of("gaussian", 0.2, [job("gaussian", seed, [0.2, 0.4, 0.9]) for seed in (0, 1)])
    tsb = row_of("tsb", 0.2, [job("tsb", 1, [0.5, 0.6]), job("tsb", 0, [0.4, 0.6])])
    assert difference(tsb, gaussian).values == pytest.approx((0.25, 0.2))  # on the first two chips


def test_an_interval_without_zero_is_marked():
    rows = [
        row_of("gaussian", 0.2, [job("gaussian", seed, [0.2, 0.4]) for seed in range(3)]),
        row_of("trice", 0.2, [job("trice", seed, [0.5, 0.7 + 0.01 * seed]) for seed in range(3)]),
    ]
    header, body = difference_table(rows)
    assert header == ["method", "against Gaussian injection"]
    assert body[0] == ["Gaussian injection", ""]
    assert body[1][1].startswith("+30.5 ± 1.2")
    assert body[1][1].endswith("*")
    assert difference_table(rows[1:]) is None


def test_main_table_shows_what_is_known_and_a_dash_for_the_rest():
    many = np.linspace(0.5, 0.9, 100)
    rows = [
        row_of("gaussian", 0.2, [job("gaussian", seed, many) for seed in (0, 1)]),
        row_of("tsb", 0.2, [job("tsb", 0, [0.5, 0.6], ekl=None, ekl_fitted=None, tune_seconds=4.0)]),
        row_of("none", 0.2, [job("none", 0, many, write={"nwc": 1.0, "nwc_total": 1.0, "met": 0.25})]),
    ]
    header, body = main_table(rows)
    by_name = [dict(zip(header, line, strict=True)) for line in body]
    assert by_name[0]["KPP 1 % [95 %]"] == "50.0 ± 0.0 [?, 90.0]"
    assert by_name[0]["write cycles (NWC)"] == "0.300 ± 0.000"
    assert by_name[1]["KPP 1 % [95 %]"] == "-"
    assert by_name[1]["EKL"] == "-"
    assert by_name[1]["training CPU s"] == "50 + 4.0 a chip"
    assert by_name[2]["write cycles (NWC)"] == "1.000 (25 % met)"
    assert len(text((header, body)).splitlines()) == 5
    assert markdown((header, body)).splitlines()[1].count("---") == len(header)


def test_the_control_joins_every_feedback_method():
    assert with_control(["gaussian", "neft-irs"]) == ["gaussian", "temperature", "neft-irs"]
    assert with_control(["temperature", "neft-irs"]) == ["temperature", "neft-irs"]
    assert with_control(["gaussian"]) == ["gaussian"]
    assert [name for name, method in METHODS.items() if method.sigma_free] == ["none", "correctnet"]
