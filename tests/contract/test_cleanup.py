"""Promise 3: after an error, an interrupt or a normal end, weights are clean and the module is unwrapped."""

import pytest

from tests.helpers.boring import FLAVOURS
from tests.helpers.cases import ALL, everything, precision, strategy
from tests.helpers.checks import PLACES, check_clean_after_error, check_clean_after_fit, check_clean_for_others


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", ALL)
def test_after_a_normal_end(arrange, flavour):
    check_clean_after_fit(arrange, flavour)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", ALL)
def test_after_an_error_in_a_step(arrange, flavour):
    for place in ("training_step", "validation_step", "backward"):
        check_clean_after_error(arrange, flavour, place, RuntimeError("boom"))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", ALL)
def test_after_an_interrupt(arrange, flavour):
    check_clean_after_error(arrange, flavour, "training_step", KeyboardInterrupt())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("arrange", [everything, strategy, precision])
def test_wherever_the_error_is(arrange, place):
    check_clean_after_error(arrange, FLAVOURS[0], place, ValueError("boom"))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", ALL)
def test_others_see_clean_weights(arrange, flavour):
    check_clean_for_others(arrange, flavour)
