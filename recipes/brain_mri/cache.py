"""Volumes on disk, so that they are made once; the key holds every option and the version of what made them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recipes.brain_mri.volume import Volume

_FORMAT = 1


def cached(folder: Path | str | None, name: str, key: Mapping[str, Any], make: Callable[[], Volume]) -> Volume:
    """A volume from the cache, or made and put there.

    Images are kept at half precision, so a new volume is rounded to it, too: both ways give the same one, and without
    a folder it is the same again. `source` and `native` are not kept.

    Args:
        folder: Of the cache; None for none.
        name: For people who look into the folder.
        key: Whatever the volume depends on, the version of its maker included; must go into JSON.
        make: Makes the volume.

    Example:
        >>> from recipes.brain_mri.phantom import phantom
        >>> volume = cached(None, "phantom-0", {"seed": 0}, phantom)
        >>> bool((volume.image == volume.image.astype("float16")).all())
        True
    """
    if folder is None:
        return _rounded(make())
    digest = hashlib.sha256(json.dumps([_FORMAT, key], sort_keys=True).encode()).hexdigest()[:16]
    path = Path(folder) / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:80]}-{digest}.npz"
    try:
        return _load(path)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        volume = _rounded(make())  # not there yet, or cut off
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside it and moved: a reader sees the whole file or none, and two writers do not mix.
    handle, part = tempfile.mkstemp(suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            _save(file, volume)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return volume


def _rounded(volume: Volume) -> Volume:
    half = [None if each is None else each.astype(np.float16).astype(np.float32) for each in
            (volume.image, volume.healthy)]  # fmt: skip
    image, healthy = half
    assert image is not None
    return replace(volume, image=image, healthy=healthy)


def _save(file: Any, volume: Volume) -> None:
    arrays: dict[str, Any] = {"image": volume.image.astype(np.float16), "affine": volume.affine}
    arrays["mask"] = np.packbits(volume.mask)
    if volume.seg is not None:
        arrays["seg"] = np.packbits(volume.seg)
    if volume.healthy is not None:
        arrays["healthy"] = volume.healthy.astype(np.float16)
    names = np.array([volume.name, volume.lesion or ""])
    np.savez_compressed(file, names=names, **arrays)


def _load(path: Path) -> Volume:
    with np.load(path, allow_pickle=False) as arrays:
        image = arrays["image"].astype(np.float32)
        mask, seg = (
            np.unpackbits(arrays[name], count=image.size).astype(bool).reshape(image.shape) if name in arrays else None
            for name in ("mask", "seg")
        )
        if mask is None:
            raise KeyError("mask")
        healthy = arrays["healthy"].astype(np.float32) if "healthy" in arrays else None
        name, lesion = (str(each) for each in arrays["names"])
        return Volume(name, image, mask, seg, arrays["affine"], healthy, lesion or None)
