"""Numpy's files of strangers: plain arrays or a ValueError, whatever numpy, zipfile or zlib say to a damaged one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def load_npz(path: Path | str) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz, by name; pickled objects are refused.

    Raises:
        ValueError: It cannot be read as one; names the file.
        FileNotFoundError: There is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: not an npz of plain arrays ({error})") from error


def load_npy(path: Path | str) -> NDArray[Any]:
    """The array of an .npy, whatever the file's name ends with; pickled objects are refused.

    Raises:
        ValueError: It cannot be read as one; names the file.
        FileNotFoundError: There is no such file.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: not a file with an array ({error})") from error
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{path}: holds several arrays; one is expected")
    return found
