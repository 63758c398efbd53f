"""Maps as .mrc files, which ChimeraX and every program of the field open.

Data is float32 in the order z, y, x (MRC2014 mode 2). The header holds the voxel size, and as origin the position of
the first voxel when the box's centre, voxel D//2, lies at (0, 0, 0): maps of any box and voxel size then overlay, and
atoms centred at 0 with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def write_map(path: str | Path, volume: Tensor, pixel_size: float) -> None:
    """Write one map.

    Args:
        path: Where; its folder is made.
        volume: (D, D, D), z, y, x; finite.
        pixel_size: Angstrom, above 0.

    Raises:
        ValueError: No cube, values that are not finite, or no pixel size.
        ImportError: mrcfile is missing.
    """
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise ValueError(f"{path}: a map is a cube (D, D, D), got {tuple(volume.shape)}")
    if not pixel_size > 0:
        raise ValueError(f"{path}: pixel_size={pixel_size}: want Angstrom, above 0")
    if not volume.isfinite().all():
        raise ValueError(f"{path}: the map holds NaN or infinite values, {int((~volume.isfinite()).sum())} voxels")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    corner = -(volume.shape[0] // 2) * pixel_size
    with _mrcfile().new(path, overwrite=True) as file:
        file.set_data(volume.detach().cpu().numpy().astype(np.float32))
        file.set_volume()
        file.voxel_size = pixel_size
        file.header.origin = (corner, corner, corner)


def read_map(path: str | Path) -> tuple[Tensor, float]:
    """Read one map.

    Args:
        path: An .mrc file.

    Returns:
        The map, float32 (D, D, D), z, y, x, and its voxel size in Angstrom (0 where the header has none).

    Raises:
        ValueError: No such file, not an .mrc file, no cube, or voxels that are no cubes.
        ImportError: mrcfile is missing.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    mrcfile = _mrcfile()
    try:
        with mrcfile.open(path, mode="r") as file:
            data, order = file.data, tuple(int(file.header[name]) for name in ("mapc", "mapr", "maps"))
            sides = [float(file.voxel_size[axis]) for axis in ("x", "y", "z")]
            volume = torch.from_numpy(np.array(data, dtype=np.float32)) if data is not None else torch.empty(0)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not an .mrc file that can be read: {error}") from error
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        raise ValueError(f"{path}: want a map (D, D, D), got {tuple(volume.shape)}; a stack of images ends in .mrcs")
    if order != (1, 2, 3):
        raise ValueError(f"{path}: its axes are stored in the order {order}, want columns x, rows y, sections z")
    if max(sides) - min(sides) > 1e-3 * max(sides):
        raise ValueError(f"{path}: its voxels are no cubes: {sides} Angstrom")
    return volume, sides[0]


def _mrcfile() -> Any:
    try:
        import mrcfile
    except ImportError as error:
        raise ImportError("maps need mrcfile: pip install 'lightning-cim[cryo]'") from error
    return mrcfile
