"""Promise 1: sigma = 0, and evaluation at any sigma, are bit-identical to no callback."""

import pytest

from tests.helpers.boring import FLAVOURS
from tests.helpers.cases import INVISIBLE
from tests.helpers.checks import check_invisible


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", INVISIBLE)
def test_run_is_bit_identical(arrange, flavour):
    check_invisible(arrange, flavour)
