"""A small movie of maps of states: three views, and how they change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from recipes.cryo_em.figures import CHANGE, bare, sections

FRAMES = 16
"""Per direction; states between the given ones are interpolated linearly."""


def write_movie(path: Path, volumes: Tensor, title: str = "", frames: int = FRAMES, fps: int = 10) -> None:
    """Write a GIF that runs through states and back.

    Args:
        path: Where, ending in .gif.
        volumes: (K, D, D, D), K >= 2, in order.
        title: Above the pictures.
        frames: Of one direction, at least 2.
        fps: Frames a second.

    Raises:
        ValueError: Fewer than two states or frames.
    """
    if len(volumes) < 2 or frames < 2:
        raise ValueError(f"a movie wants at least 2 states and frames, got {len(volumes)} and {frames}")
    volumes = volumes.float().cpu()
    views = [torch.stack([torch.from_numpy(sections(volume)[axis]) for volume in volumes]) for axis in range(3)]
    inside = torch.stack([view.mean(0).abs() > 0.02 * float(view.mean(0).abs().max()) for view in views])
    half = _reach(inside.any(0))
    centre = volumes.shape[-1] // 2
    box = slice(max(centre - half, 0), centre + half + 1)
    views = [view[:, box, box] for view in views]
    changes = [view - view.mean(0) for view in views]
    top = max(float(view.quantile(0.9995)) for view in views)
    widest = max(float(change.abs().quantile(0.9995)) for change in changes) or 1.0
    figure = Figure(figsize=(6.6, 4.9), layout="constrained", dpi=72)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    images = []
    for column in range(3):
        shape = views[column][0].numpy()
        images.append(axes[0, column].imshow(shape, cmap="gray_r", vmin=0, vmax=top, **_PLAIN))
        images.append(axes[1, column].imshow(shape, cmap=CHANGE, vmin=-widest, vmax=widest, **_PLAIN))
        axes[0, column].set_title("along " + "zyx"[column])
    axes[0, 0].set_ylabel("projected density")
    axes[1, 0].set_ylabel("change from the mean")
    for ax in axes.flat:
        bare(ax)
    heading = figure.suptitle(title or " ")
    canvas.draw()  # type: ignore[no-untyped-call]
    figure.set_layout_engine("none")  # placed once: doing it for every frame takes most of the time
    pictures = []
    for at in torch.linspace(0, len(volumes) - 1, frames).tolist():
        for column in range(3):
            images[2 * column].set_data(_between(views[column], at))
            images[2 * column + 1].set_data(_between(changes[column], at))
        heading.set_text(f"{title}  {at / (len(volumes) - 1):.2f}".strip())
        canvas.draw()  # type: ignore[no-untyped-call]
        drawn = np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        pictures.append(Image.fromarray(drawn).convert("RGB"))
    path.parent.mkdir(parents=True, exist_ok=True)
    course = [*pictures, *pictures[-2:0:-1]]
    course[0].save(path, save_all=True, append_images=course[1:], duration=round(1000 / fps), loop=0)


_PLAIN = {"origin": "lower", "interpolation": "bilinear"}


def _between(stack: Tensor, at: float) -> NDArray[np.float32]:
    low = min(int(at), len(stack) - 2)
    return torch.lerp(stack[low], stack[low + 1], at - low).numpy()


def _reach(inside: Tensor) -> int:
    """Pixels from the centre to the farthest that is inside, and two more."""
    if not inside.any():
        return inside.shape[-1] // 2
    return int((inside.nonzero() - inside.shape[-1] // 2).abs().max()) + 2
