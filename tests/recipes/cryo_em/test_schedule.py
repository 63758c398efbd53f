import pytest

from recipes.cryo_em.schedule import LAST, Schedule


def test_rates_rise_and_fall():
    schedule = Schedule(200, decoder=1.0, rise=0.05)
    rates = [schedule.lr("decoder", step) for step in range(200)]
    peak = rates.index(max(rates))
    assert peak in (9, 10)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(LAST, rel=0.01)


def test_poses_wait():
    assert Schedule(100, pose_from=0.4).pose_begin == 40


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"encoder": 0.0}, {"base": -1.0}, {"pose_from": 1.5}, {"rise": -0.1}]
)
def test_out_of_range(options):
    with pytest.raises(ValueError, match=str(next(iter(options)))):
        Schedule(**{"steps": 10, **options})
