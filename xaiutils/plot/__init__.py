"""Draw heatmaps so that they can be compared, printed in grey, and read aloud.

Every figure of the book goes through `show`, which stores an alternative text beside the picture.
"""

from xaiutils.plot._colours import MAGNITUDE, PALETTE, SIGNED
from xaiutils.plot._curves import curves
from xaiutils.plot._describe import describe
from xaiutils.plot._heatmaps import (
    colour_bar,
    colour_limit,
    grid,
    heatmap,
    picture,
    pixel_relevance,
    row,
)
from xaiutils.plot._intervals import intervals
from xaiutils.plot._show import alternative_text, png, save, set_alternative_text, show
from xaiutils.plot._stack import show_stack

__all__ = [
    "MAGNITUDE",
    "PALETTE",
    "SIGNED",
    "alternative_text",
    "colour_bar",
    "colour_limit",
    "curves",
    "describe",
    "grid",
    "heatmap",
    "intervals",
    "picture",
    "pixel_relevance",
    "png",
    "row",
    "save",
    "set_alternative_text",
    "show",
    "show_stack",
]
