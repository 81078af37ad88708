"""A Sphinx extension with the four things that the book needs and its toolchain does not do.

1. A figure's alternative text, made by `xaiutils.plot` from what it draws and stored beside the
   picture in the notebook, reaches the page. myst-nb reads a text that is written into the cell's
   metadata by hand, but not the one in the output's. A picture without one is a warning, which
   the build turns into a failure.
2. A widget is followed by its static twin, the picture that its output holds too (see
   xaiutils.widgets). assets/book.css shows it on paper, and a style of its own where scripts
   are off.
3. Where assets/vendor/ could not be filled, the scripts come from their usual addresses.
4. Exercises are numbered by chapter: the second one of chapter 13 is 13.2, wherever it is named.
"""

import re
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from myst_nb.core.config import ipywidgets_js_factory
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.ext.mathjax import MATHJAX_URL
from sphinx.util import logging
from vendor import is_filled

logger = logging.getLogger(__name__)
WIDGET = "application/vnd.jupyter.widget-view+json"
WITHOUT_SCRIPTS = (
    "<noscript><style>img.static-twin { display: inline !important; }</style></noscript>"
)


def copy_alternative_texts(app: Sphinx, document: nodes.document) -> None:
    """Give each picture that a cell drew the text stored in its output's metadata."""
    source = Path(document["source"])
    if source.suffix != ".ipynb":
        return
    cells = nbformat.read(source, as_version=4).cells
    for node in document.findall(nodes.container):
        if node.get("nb_element") == "cell_code":
            _label_pictures(node, cells[node["cell_index"]].outputs)


def _label_pictures(cell: nodes.container, outputs: list[Any]) -> None:
    shown = [output for output in outputs if "data" in output]
    bundles = [n for n in cell.findall(nodes.container) if n.get("nb_element") == "mime_bundle"]
    for bundle, output in zip(bundles, shown, strict=True):
        for alternative in bundle.children:
            metadata = output.metadata.get(alternative["mime_type"], {})
            for image in alternative.findall(nodes.image):
                image.setdefault("alt", metadata.get("alt", ""))
                if not image["alt"]:
                    logger.warning("a picture without alternative text", location=bundle)


def add_static_twins(app: Sphinx, document: nodes.document) -> None:
    """Put behind each widget the picture that stands for it."""
    for bundle in document.findall(nodes.container):
        if bundle.get("nb_element") != "mime_bundle":
            continue
        formats = {alternative["mime_type"]: alternative for alternative in bundle.children}
        if WIDGET in formats and "image/png" in formats:
            for image in formats["image/png"].findall(nodes.image):
                twin = image.deepcopy()
                twin["classes"].append("static-twin")
                formats[WIDGET] += [twin, nodes.raw(text=WITHOUT_SCRIPTS, format="html")]


def fall_back_to_cdn(app: Sphinx, config: Config) -> None:
    """Take back the vendored addresses of _config.yml where there is nothing behind them."""
    if not is_filled(Path(app.srcdir)):
        config["mathjax_path"] = MATHJAX_URL
        config["nb_ipywidgets_js"] = ipywidgets_js_factory()


def number_exercises_by_chapter(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Replace the numbers that count through all pages; no page has to be read again for it."""
    for page, numbers in env.toc_fignumbers.items():
        chapter = re.fullmatch(r"notebooks/(\d\d)_\w+", page)
        if chapter and "exercise" in numbers:
            in_order = sorted(numbers["exercise"], key=numbers["exercise"].__getitem__)
            numbers["exercise"] = {
                label: (int(chapter[1]), place) for place, label in enumerate(in_order, 1)
            }
    return []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all of it with Sphinx."""
    app.connect("config-inited", fall_back_to_cdn)
    app.connect("env-get-updated", number_exercises_by_chapter, priority=900)  # once they are given
    app.connect("doctree-read", copy_alternative_texts)
    app.connect("doctree-read", add_static_twins, priority=600)  # with their alternative texts
    return {"version": "1", "parallel_read_safe": True}
