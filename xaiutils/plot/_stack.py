"""Several figures in one place, of which the reader chooses one: works without a kernel."""

import base64
import html
from collections.abc import Mapping

import matplotlib.pyplot as plt
from IPython.display import HTML, display
from matplotlib.figure import Figure

from xaiutils.plot._show import alternative_text, png


def show_stack(figures: Mapping[str, Figure], name: str, question: str) -> None:
    """Display figures with a row of buttons that choose one; the first is chosen.

    The buttons are radio buttons, so the arrow keys move between them, and a style sheet shows the
    picture of the chosen one: there is no script, and a stored page needs no kernel.

    Args:
        figures: What stands on each button, with its figure; each is closed afterwards.
        name: Letters, digits and hyphens; unlike that of any other stack on the page.
        question: Stands before the buttons, such as "latent".

    Raises:
        ValueError: There is no figure, or one has no alternative text.
    """
    if not figures:
        raise ValueError("A stack needs at least one figure.")
    silent = [label for label, figure in figures.items() if not alternative_text(figure)]
    if silent:
        raise ValueError(f"No alternative text on {silent}: call set_alternative_text.")
    buttons = [_button(name, i, label) for i, label in enumerate(figures)]
    panes = [_pane(figure) for figure in figures.values()]
    content = (
        f'<div id="{name}" role="group" aria-label="{html.escape(question)}">'
        f"<style>{_style(name, len(panes))}</style>"
        f"<span>{html.escape(question)}</span> {''.join(buttons)}"
        f'<div class="panes">{"".join(panes)}</div></div>'
    )
    display(HTML(content))  # type: ignore[no-untyped-call]


def _button(name: str, number: int, label: str) -> str:
    chosen = " checked" if number == 0 else ""
    return (
        f'<input type="radio" name="{name}" id="{name}-{number}"{chosen}>'
        f'<label for="{name}-{number}">{html.escape(label)}</label> '
    )


def _pane(figure: Figure) -> str:
    picture = base64.b64encode(png(figure)).decode("ascii")
    text = html.escape(alternative_text(figure))
    plt.close(figure)
    return f'<div><img alt="{text}" src="data:image/png;base64,{picture}"></div>'


def _style(name: str, number: int) -> str:
    chosen = ", ".join(f"#{name}-{i}:checked ~ .panes > :nth-child({i + 1})" for i in range(number))
    return (
        f"#{name} label {{ display: inline; margin: 0 0.6em 0 0.2em; white-space: nowrap; }} "
        f"#{name} img {{ max-width: 100%; }} "
        f"#{name} .panes > * {{ display: none; }} {chosen} {{ display: block; }}"
    )
