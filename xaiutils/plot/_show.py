"""Show a figure together with its alternative text."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

_DPI = 110


def set_alternative_text(figure: Figure, text: str) -> Figure:
    """Attach the words that stand for a figure where it cannot be seen.

    Args:
        figure: The figure.
        text: One or two sentences that say what is drawn.

    Returns:
        The same figure.

    Raises:
        ValueError: The text is empty.
    """
    if not text.strip():
        raise ValueError("An alternative text must say something: describe what is drawn.")
    figure.set_label(text)
    return figure


def alternative_text(figure: Figure) -> str:
    """The words attached to a figure, or an empty string."""
    return str(figure.get_label())


def show(figure: Figure, alt: str | None = None) -> None:
    """Display a figure in a notebook; its alternative text is stored beside the picture.

    In a script it opens a window, where there is a screen for one, and prints the words.

    Args:
        figure: The figure; it is closed afterwards, so that it is not shown twice.
        alt: Its alternative text; may be omitted for a figure that already carries one.

    Raises:
        ValueError: The figure has no alternative text and none is given.
    """
    if alt is not None:
        set_alternative_text(figure, alt)
    text = alternative_text(figure)
    if not text:
        raise ValueError("This figure has no alternative text: call show(figure, alt='...').")
    if InteractiveShell.initialized():
        content = {"image/png": png(figure), "text/plain": text}
        display(content, metadata={"image/png": {"alt": text}}, raw=True)  # type: ignore[no-untyped-call]
    else:
        print(text)
        if getattr(figure.canvas, "required_interactive_framework", None):
            plt.show()
    plt.close(figure)


def save(figure: Figure, path: str | Path) -> None:
    """Store a figure as a PNG file, just as `show` displays it, whole or not at all.

    Args:
        figure: The figure; it is closed afterwards.
        path: The file, replaced if it exists; its folder must exist.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_bytes(png(figure))
    part.replace(path)
    plt.close(figure)


def png(figure: Figure) -> bytes:
    """The figure as a PNG in at most 256 colours: a third of the size, so notebooks stay small."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI, bbox_inches="tight")
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(
        small, format="png", optimize=True
    )
    return small.getvalue()
