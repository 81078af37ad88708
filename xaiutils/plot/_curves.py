"""Draw curves with their intervals: what falls, how fast, and how surely."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from xaiutils.plot._colours import PALETTE

Values = ArrayLike | Tensor

_DASHES = ("-", "--", "-.", ":")


def curves(
    lines: Mapping[str, Values],
    *,
    bands: Mapping[str, tuple[ArrayLike, Values]] | None = None,
    x: Values | None = None,
    xlabel: str = "",
    ylabel: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw named curves, told apart by colour and by dashes, each with an optional band.

    Args:
        lines: Names with values, each of shape (K,).
        bands: For some of the names, the lower and upper end of an interval, each of shape (K,).
        x: Positions, shape (K,); 0, 1, 2, ... if omitted.
        xlabel: What the positions are, with the unit.
        ylabel: What the values are, with the unit.
        ax: Where to draw; a new figure if omitted.

    Returns:
        The axes.

    Raises:
        ValueError: A band names no line.
    """
    bands = bands or {}
    if not set(bands) <= set(lines):
        raise ValueError(f"Bands without a line: {sorted(set(bands) - set(lines))}.")
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for i, (name, values) in enumerate(lines.items()):
        heights = _array(values)
        places = np.arange(len(heights)) if x is None else _array(x)
        colour = PALETTE[i % len(PALETTE)]
        ax.plot(places, heights, _DASHES[i % len(_DASHES)], color=colour, label=name)
        if name in bands:
            low, high = (_array(end) for end in bands[name])
            ax.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


def _array(values: Values) -> NDArray[np.float64]:
    """Numbers in any form, a tensor with gradients included, as an array."""
    if isinstance(values, Tensor):
        return values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
