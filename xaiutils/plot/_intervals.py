"""Draw means with their intervals, one line for each name, so that overlaps can be seen."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from xaiutils.plot._colours import PALETTE

_MARKERS = "osD^v"
_HEIGHT = 0.28  # inches for each name
_SPREAD = 0.5  # of the distance between two names: over which several series are spread


def intervals(
    series: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    xlabel: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw means as dots and intervals as bars, with a line at zero.

    Args:
        series: By the name in the legend, and by the name of the line, (mean, low, high). All
            series have the same lines, or some of them; the first decides their order, from the
            top down.
        xlabel: What the values are, with the unit.
        ax: Where to draw; a new figure if omitted.

    Returns:
        The axes.

    Raises:
        ValueError: There is nothing to draw, or a later series has a line that the first has not.
    """
    names = list(next(iter(series.values()), {}))
    unknown = {name for rows in series.values() for name in rows} - set(names)
    if not names or unknown:
        raise ValueError(f"The first series must have all lines; it lacks {sorted(unknown)}.")
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 0.9 + _HEIGHT * len(names)), layout="constrained")
    ax.axvline(0, color="0.6", linewidth=0.8)
    for i, (label, rows) in enumerate(series.items()):
        shift = _SPREAD * ((i + 0.5) / len(series) - 0.5)
        places = [names.index(name) + shift for name in rows]
        mean, low, high = zip(*rows.values(), strict=True)
        colour = PALETTE[i % len(PALETTE)]
        ax.hlines(places, low, high, color=colour, linewidth=1.5)
        ax.plot(mean, places, _MARKERS[i % len(_MARKERS)], color=colour, markersize=4, label=label)
    ax.set(xlabel=xlabel, yticks=range(len(names)), yticklabels=names)
    ax.invert_yaxis()
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    if len(series) > 1:
        ax.legend(frameon=False)
    return ax
