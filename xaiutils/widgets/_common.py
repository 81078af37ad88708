"""What all widgets share: their scripts joined to one, arrays on their way there, a static twin.

A widget is a subclass of `Widget`::

    class Counter(Widget):
        _esm = script("counter.js")  # or several files; dom.js comes first by itself
        _css = style()
        steps = traitlets.Int().tag(sync=True)

        def static_twin(self) -> Figure:
            ...

**The page without a kernel.** nbclient stores the widget's state in the notebook, its script and
its style included, and the widget manager of the built page starts from it. So whatever the widget
needs is a trait with ``sync=True``: numbers, texts, lists and dictionaries of them, and arrays
packed by `pack`, which ``unpack`` in dom.js reads.

**The static twin.** A displayed widget hands the notebook two things: the widget, and a picture of
it drawn by `xaiutils.plot`, with an alternative text. GitHub shows the picture, because it knows
no widgets. In the book, book/_tools/book_extension.py puts the picture behind the widget, and
assets/book.css shows it in print and where scripts are off, and only there. To display a widget in
a chapter it is enough that it stands on the last line of a cell.
"""

import base64
from importlib.resources import files
from typing import Any, TypedDict

import anywidget
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from xaiutils import plot

_FOLDER = files("xaiutils.widgets")
_DTYPES = ("float32", "float16", "uint8")


class Packed(TypedDict):
    """An array as text: ``shape``, ``dtype``, and ``data`` in base64, little endian."""

    shape: list[int]
    dtype: str
    data: str


def pack(array: ArrayLike, dtype: str = "float32") -> Packed:
    """Pack an array for a script, which reads it by ``unpack`` of dom.js.

    Args:
        array: Numbers, any shape.
        dtype: ``"float32"``, ``"float16"`` (half the size, three digits) or ``"uint8"``.

    Raises:
        ValueError: Another dtype, or a value that is NaN, infinite or beyond what the dtype holds.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"The scripts read arrays of {_DTYPES}, not {dtype!r}.")
    values = np.asarray(array)
    if not np.isfinite(values).all():
        raise ValueError("The array holds NaN or infinity, which a widget can't show.")
    with np.errstate(over="ignore"):
        packed = values.astype(np.dtype(dtype).newbyteorder("<"))
    if not np.allclose(packed.astype(float), values, rtol=1e-3, atol=1e-6):
        raise ValueError(f"Values from {values.min()} to {values.max()} don't fit into {dtype}.")
    data = base64.b64encode(packed.tobytes()).decode("ascii")
    return {"shape": list(values.shape), "dtype": dtype, "data": data}


def script(*names: str) -> str:
    """Join the named scripts to the one module that anywidget takes, dom.js before them.

    Args:
        names: Files of this folder, in order; only the last says ``export default { render }``.
    """
    parts = [_colours(), *(_read(name) for name in ("dom.js", *names))]
    return "\n".join(parts)


def style() -> str:
    """The look that all widgets share."""
    return _read("widgets.css")


class Widget(anywidget.AnyWidget):
    """A widget with a static twin; see the head of this module."""

    def static_twin(self) -> Figure:
        """Draw what stands for the widget on paper; with an alternative text (`plot`)."""
        raise NotImplementedError(f"{type(self).__name__} has no static twin yet.")

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        figure = self.static_twin()
        text = plot.alternative_text(figure)
        if not text:
            raise ValueError(f"The static twin of {type(self).__name__} has no alternative text.")
        data = {**data, "image/png": _base64_png(figure), "text/plain": text}
        plt.close(figure)
        return data, {**metadata, "image/png": {"alt": text}}


def _read(name: str) -> str:
    return _FOLDER.joinpath(name).read_text(encoding="utf-8")


def _base64_png(figure: Figure) -> str:
    return base64.b64encode(plot.png(figure)).decode("ascii")


def _colours() -> str:
    """The package's two colour maps as constants of the script, 256 times red, green and blue."""
    maps = {"SIGNED_COLOURS": plot.SIGNED, "MAGNITUDE_COLOURS": plot.MAGNITUDE}
    return "\n".join(f'const {name} = "{_table(colours)}";' for name, colours in maps.items())


def _table(colours: Colormap) -> str:
    levels = colours(np.arange(256), bytes=True)[:, :3]
    return base64.b64encode(np.ascontiguousarray(levels).tobytes()).decode("ascii")
