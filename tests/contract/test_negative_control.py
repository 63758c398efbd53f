"""The checks of this folder fail for a callback that adds noise in place and subtracts it again."""

import pytest

from tests.helpers.boring import FLAVOURS
from tests.helpers.broken import broken, broken_without_variation
from tests.helpers.checks import (
    PLACES,
    check_clean_after_error,
    check_clean_after_fit,
    check_clean_for_others,
    check_invisible,
    check_resume,
)

# Before the noise is there, and after it was subtracted, an error finds weights that are off by rounding only if a
# batch ran before; these places are where the noise itself is left behind.
WHILE_NOISY = ("training_step", "backward", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


@pytest.mark.parametrize("flavour", FLAVOURS)
class TestBroken:
    def test_is_visible_at_sigma_zero(self, flavour):
        with pytest.raises(AssertionError, match="losses differ"):
            check_invisible(broken_without_variation, flavour)

    def test_leaves_rounding_behind(self, flavour):
        with pytest.raises(AssertionError, match="changed by"):
            check_clean_after_fit(broken, flavour)

    def test_is_seen_by_the_optimizer(self, flavour):
        with pytest.raises(AssertionError, match="weights outside the step"):
            check_clean_for_others(broken, flavour)

    @pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
    @pytest.mark.parametrize("place", WHILE_NOISY)
    def test_leaves_noise_behind_after_an_error(self, place, error, flavour):
        assert place in PLACES
        with pytest.raises(AssertionError, match="changed by"):
            check_clean_after_error(broken, flavour, place, error)

    def test_does_not_resume(self, flavour, tmp_path):
        with pytest.raises(AssertionError, match="losses differ"):
            check_resume(broken, flavour, tmp_path)
