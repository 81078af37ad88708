"""Colours that keep their order in greyscale and for colour-blind readers.

A diverging map that is dark at both ends, or pale at both, loses the sign when it is printed in
grey. `SIGNED` therefore rises in lightness all the way: dark blue, neutral grey at zero, pale
yellow. Blue against yellow is the pair that all common kinds of colour blindness keep apart.
"""

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap

_NEGATIVE = ("#03152e", "#0b3a75", "#2f6cad")
_ZERO = "#9a9a9a"
_POSITIVE = ("#d9a441", "#f6cf52", "#fffbc9")

SIGNED = LinearSegmentedColormap.from_list("xaiutils_signed", [*_NEGATIVE, _ZERO, *_POSITIVE])
"""For relevance with a sign: zero is the neutral grey in the middle."""

MAGNITUDE = mpl.colormaps["cividis"]
"""For maps without a sign, such as sensitivity: zero is the dark end."""

PALETTE = ("#0b3a75", "#c27c0e", "#00795c", "#8c2d62", "#5b5b5b", "#3f8fd2", "#7a6a00", "#d1495b")
"""Line colours, alike in neither lightness nor hue; each line also gets a dash pattern."""
