"""Where plots are drawn. Any room may use it; matplotlib is imported when something is plotted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure_and_axes(ax: Axes | None = None, figsize: tuple[float, float] = (6, 3.5)) -> tuple[Figure, Axes]:
    """The axes given with their figure, or new ones.

    Args:
        ax: Draw here instead of on a new figure.
        figsize: Inches of a new figure.

    Raises:
        ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'lightning-cim[plot]'") from error

    if ax is None:
        return plt.subplots(figsize=figsize, layout="constrained")
    figure = ax.get_figure()
    assert figure is not None
    return figure, ax  # type: ignore[return-value]
