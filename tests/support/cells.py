"""One cell of the support matrix: try it, and say what came out."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import lightning_cim
from lightning_cim._compat import MisconfigurationException

WORKS, DIGITAL, REFUSED, FAILS, UNTESTED = "yes", "digital", "refused", "fails", "untested"


@dataclass(frozen=True)
class Cell:
    """What came out: a word, and the message of a refusal or the kind of error of a failure."""

    word: str
    message: str = ""


def tried(check: Callable[[], str | None]) -> Cell:
    """Run a check.

    A check returns nothing, or a word to show in place of "yes". A refusal is an error that this package raises on
    purpose. What a check itself asserts is passed on: then the feature does something else than it should.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Cell(check() or WORKS)
        except AssertionError:
            raise
        except Exception as error:
            refused = isinstance(error, (ValueError, MisconfigurationException)) and _is_ours(error)
            return Cell(REFUSED, " ".join(str(error).split())) if refused else Cell(FAILS, type(error).__name__)


def _is_ours(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get("__name__", "").startswith(lightning_cim.__name__)
