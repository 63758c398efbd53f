"""Promise 4: a resumed run equals an uninterrupted one bit for bit on the CPU."""

import pytest

from tests.helpers.boring import FLAVOURS, nothing
from tests.helpers.cases import ALL
from tests.helpers.checks import check_resume


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", [nothing, *ALL])
def test_resumed_run_is_bit_identical(arrange, flavour, tmp_path):
    check_resume(arrange, flavour, tmp_path)
